// A layer of packed codes on one-bit tensor cores: plane_conv.py says what is computed and why.
//
// The compiler is given FIELD (bits that a source code takes: 1, 2, 4), PLANES (those in use),
// WEIGHT_PLANES, TERMS, RESIDUALS, SCORES, STAGES, MT, NT and WGMMA. A block of 4 warps makes BM
// pixels x BN channels, a warp 16 * MT x 8 * NT. One step is k = 256: four chunks of 64 channels of
// a tap, one for each lane of a quad.

enum {
  THREADS = 128,
  BM = 64 * MT,
  BN = 8 * NT,
  LEVELS = PLANES + WEIGHT_PLANES - 1, // sums by the power of two that they count for
  CHUNK = 2 * FIELD,                   // words of 64 channels
  ROW = 4 * CHUNK,                     // words of a pixel in a step
  ROWS = BM / 32,                      // pixels that a thread copies
  B_WORDS = 64 * WEIGHT_PLANES,        // of 8 channels in a step
  STAGE = BM * ROW + NT * B_WORDS,     // words
  ONES = WGMMA ? 64 : 0,               // words of 8 columns of ones
  TILE_ROW = BN + 4,                   // bytes of a row of codes: a bank further each row
};

struct Term {
  const unsigned *source; // (pixels, words)
  const unsigned *weight; // (channels / 8, steps, WEIGHT_PLANES, 64), see pack_planes
  const float *scale;
  const unsigned *correction;
  int words, height, width; // of the source
  int kernel_width, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
  int tap_chunks, chunks, steps;
  unsigned form, offset, outside; // a weight is form * b - offset; the word outside of the map
};

struct Residual {
  const unsigned *source;
  int words, field_log, zero; // a code takes 1 << field_log bits
  float scale;
};

struct Layer {
  void *out;
  const float *bias;
  int pixels, height, width, channels, channel_tiles;
  int bits, words, field_log, zero; // of the codes, unless SCORES
  Term term[TERMS];
  Residual residual[RESIDUALS + 1];
};

__device__ __forceinline__ unsigned shared_address(const void *p) {
  return (unsigned)__cvta_generic_to_shared(p);
}

template <int BYTES>
__device__ __forceinline__ void copy_async(unsigned *to, const unsigned *from) {
  if (BYTES == 8)
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared_address(to)), "l"(from));
  else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from));
}

__device__ __forceinline__ void and_popcount(int (&d)[4], const unsigned (&a)[4], uint2 b) {
  asm volatile("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

#if WGMMA
// A warpgroup's products with 8 columns each of d, which are on their way until they are waited
// for.
__device__ __forceinline__ void and_popcount_group(int (&d)[1][4], const unsigned (&a)[4],
                                                   unsigned long long b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n8k256.s32.b1.b1.and.popc "
               "{%0, %1, %2, %3}, "
               "{%4, %5, %6, %7}, %8, 1;"
               : "+r"(d[0][0]), "+r"(d[0][1]), "+r"(d[0][2]), "+r"(d[0][3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ __forceinline__ void and_popcount_group(int (&d)[4][4], const unsigned (&a)[4],
                                                   unsigned long long b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k256.s32.b1.b1.and.popc "
               "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
               "{%16, %17, %18, %19}, %20, 1;"
               : "+r"(d[0][0]), "+r"(d[0][1]), "+r"(d[0][2]), "+r"(d[0][3]), "+r"(d[1][0]),
                 "+r"(d[1][1]), "+r"(d[1][2]), "+r"(d[1][3]), "+r"(d[2][0]), "+r"(d[2][1]),
                 "+r"(d[2][2]), "+r"(d[2][3]), "+r"(d[3][0]), "+r"(d[3][1]), "+r"(d[3][2]),
                 "+r"(d[3][3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ __forceinline__ void and_popcount_group(int (&d)[8][4], const unsigned (&a)[4],
                                                   unsigned long long b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k256.s32.b1.b1.and.popc "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, 1;"
      : "+r"(d[0][0]), "+r"(d[0][1]), "+r"(d[0][2]), "+r"(d[0][3]), "+r"(d[1][0]), "+r"(d[1][1]),
        "+r"(d[1][2]), "+r"(d[1][3]), "+r"(d[2][0]), "+r"(d[2][1]), "+r"(d[2][2]), "+r"(d[2][3]),
        "+r"(d[3][0]), "+r"(d[3][1]), "+r"(d[3][2]), "+r"(d[3][3]), "+r"(d[4][0]), "+r"(d[4][1]),
        "+r"(d[4][2]), "+r"(d[4][3]), "+r"(d[5][0]), "+r"(d[5][1]), "+r"(d[5][2]), "+r"(d[5][3]),
        "+r"(d[6][0]), "+r"(d[6][1]), "+r"(d[6][2]), "+r"(d[6][3]), "+r"(d[7][0]), "+r"(d[7][1]),
        "+r"(d[7][2]), "+r"(d[7][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// Registers that asynchronous products use are neither written nor read across this point.
template <typename T> __device__ __forceinline__ void hold(T *registers, int count) {
#pragma unroll
  for (int i = 0; i < count; ++i) asm volatile("" : "+r"(registers[i])::"memory");
}

// Rows of 32 bytes, their halves swapped in rows 4 to 7 of 8; `stride` bytes from 8 rows to the
// next.
__device__ __forceinline__ unsigned long long operand(const unsigned *p, unsigned stride) {
  unsigned long long start = (shared_address(p) & 0x3ffff) >> 4;
  return 3ull << 62 | (unsigned long long)(stride >> 4) << 32 | 1ull << 16 | start;
}
#endif

// Where the pixels of a thread begin in a term's source.
struct Origin {
  int y[ROWS], x[ROWS], image[ROWS];

  __device__ __forceinline__ Origin(const Layer &layer, const Term &term, int first_pixel) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      int m = first_pixel + r * 32 + (int)threadIdx.x / 4;
      int row = m / layer.width;
      y[r] = m < layer.pixels ? row % layer.height * term.stride_y - term.pad_y : -(1 << 30);
      x[r] = m % layer.width * term.stride_x - term.pad_x;
      image[r] = row / layer.height * term.height * term.width;
    }
  }
};

// Activations and weights of a step, on their way to shared memory.
__device__ __forceinline__ void fetch(const Term &term, const Origin &origin, int step, int first,
                                      unsigned *stage) {
  int chunk = step * 4 + threadIdx.x % 4, tap = chunk / term.tap_chunks;
  int dy = tap / term.kernel_width * term.dilation_y,
      dx = tap % term.kernel_width * term.dilation_x;
  bool real = chunk < term.chunks;
  unsigned outside = real ? term.outside : 0;
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    int y = origin.y[r] + dy, x = origin.x[r] + dx;
    unsigned *to = stage + (r * 32 + threadIdx.x / 4) * ROW + threadIdx.x % 4 * CHUNK;
    if (real && (unsigned)y < (unsigned)term.height && (unsigned)x < (unsigned)term.width) {
      int pixel = origin.image[r] + y * term.width + x;
      const unsigned *from = term.source + pixel * term.words + chunk % term.tap_chunks * CHUNK;
#pragma unroll
      for (int i = 0; i < CHUNK; i += 4) copy_async<CHUNK == 2 ? 8 : 16>(to + i, from + i);
    } else {
#pragma unroll
      for (int i = 0; i < CHUNK; ++i) to[i] = outside;
    }
  }
  unsigned *to = stage + BM * ROW;
#pragma unroll
  for (int i = threadIdx.x * 4; i < NT * B_WORDS; i += THREADS * 4) {
    int tile = (first / 8 + i / B_WORDS) * term.steps + step;
    copy_async<16>(to + i, term.weight + tile * B_WORDS + i % B_WORDS);
  }
}

// Plane p of 32 channels whose codes are fields of FIELD words; weights have the same order of
// channels.
__device__ __forceinline__ unsigned plane(const unsigned *words, int p) {
  const unsigned ones = FIELD == 1 ? ~0u : FIELD == 2 ? 0x55555555u : 0x11111111u;
  unsigned bits = 0;
#pragma unroll
  for (int i = 0; i < FIELD; ++i) bits |= (words[i] >> p & ones) << i;
  return bits;
}

// The first row of a warp's i-th 16.
__device__ __forceinline__ int tile_row(int warp, int i) {
  return WGMMA ? i * 64 + warp * 16 : (warp * MT + i) * 16;
}

// A warp's products of one step. totals: of activations alone, the product with columns of ones.
__device__ __forceinline__ void multiply(const unsigned *stage, const unsigned *ones,
                                         int (&sums)[LEVELS][MT][NT][4],
                                         int (&totals)[PLANES][MT][4]) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  unsigned a[PLANES][MT][4];
#pragma unroll
  for (int i = 0; i < 2 * MT; ++i) {
    int row = tile_row(warp, i / 2) + i % 2 * 8 + lane / 4;
    const unsigned *from = stage + row * ROW + lane % 4 * CHUNK;
    unsigned words[CHUNK];
    if (CHUNK == 2) {
      *(uint2 *)words = *(const uint2 *)from;
    } else {
#pragma unroll
      for (int j = 0; j < CHUNK; j += 4) *(uint4 *)(words + j) = *(const uint4 *)(from + j);
    }
#pragma unroll
    for (int p = 0; p < PLANES; ++p) {
      a[p][i / 2][i % 2] = plane(words, p);
      a[p][i / 2][i % 2 + 2] = plane(words + FIELD, p);
    }
  }
#if WGMMA
  const unsigned *weight = stage + BM * ROW;
  hold(&a[0][0][0], PLANES * MT * 4);
  hold(&sums[0][0][0][0], LEVELS * MT * NT * 4);
  hold(&totals[0][0][0], PLANES * MT * 4);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
  for (int p = 0; p < PLANES; ++p)
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      and_popcount_group((int (&)[1][4])totals[p][i], a[p][i], operand(ones, 256));
#pragma unroll
      for (int q = 0; q < WEIGHT_PLANES; ++q)
        and_popcount_group(sums[p + q][i], a[p][i], operand(weight + q * 64, 4 * B_WORDS));
    }
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  hold(&sums[0][0][0][0], LEVELS * MT * NT * 4);
  hold(&totals[0][0][0], PLANES * MT * 4);
#else
#pragma unroll
  for (int p = 0; p < PLANES; ++p)
#pragma unroll
    for (int i = 0; i < MT; ++i) and_popcount(totals[p][i], a[p][i], make_uint2(~0u, ~0u));
  const uint2 *weight = (const uint2 *)(stage + BM * ROW) + lane;
#pragma unroll
  for (int j = 0; j < NT; ++j)
#pragma unroll
    for (int q = 0; q < WEIGHT_PLANES; ++q) {
      uint2 b = weight[(j * WEIGHT_PLANES + q) * 32];
#pragma unroll
      for (int p = 0; p < PLANES; ++p)
#pragma unroll
        for (int i = 0; i < MT; ++i) and_popcount(sums[p + q][i][j], a[p][i], b);
    }
#endif
}

// Sums of every step, STAGES - 1 of them on their way while one is multiplied.
__device__ __forceinline__ void accumulate(const Layer &layer, const Term &term, int first_pixel,
                                           int first, unsigned *memory,
                                           int (&sums)[LEVELS][MT][NT][4],
                                           int (&totals)[PLANES][MT][4]) {
  Origin origin(layer, term, first_pixel);
  for (int step = 0; step < STAGES - 1; ++step) {
    if (step < term.steps) fetch(term, origin, step, first, memory + step * STAGE);
    asm volatile("cp.async.commit_group;");
  }
  for (int step = 0; step < term.steps; ++step) {
    asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
#if WGMMA
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
    __syncthreads();
    int next = step + STAGES - 1;
    if (next < term.steps) fetch(term, origin, next, first, memory + next % STAGES * STAGE);
    asm volatile("cp.async.commit_group;");
    multiply(memory + step % STAGES * STAGE, memory + STAGES * STAGE, sums, totals);
  }
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  __syncthreads();
}

// t + (q - zero point) * scale of two neighbouring channels, the first one even
__device__ __forceinline__ void join(const Residual &residual, int pixel, int channel,
                                     float (&t)[2]) {
  int log = residual.field_log, i = channel & (32 >> log) - 1;
  unsigned word = residual.source[pixel * residual.words + (channel >> 5 - log)];
  word >>= (i & 3) * 8 + (i >> 2 << log);
#pragma unroll
  for (int c = 0; c < 2; ++c, word >>= 8) {
    int code = log == 3 ? (signed char)word : (int)(word & (1u << (1 << log)) - 1);
    t[c] = __fadd_rn(t[c], __fmul_rn(__int2float_rn(code - residual.zero), residual.scale));
  }
}

// Codes of a tile from bytes in shared memory to packed words.
__device__ __forceinline__ void pack(const Layer &layer, const unsigned char *codes,
                                     int first_pixel, int first) {
  int log = layer.field_log, words = BN / 32 << log;
  for (int i = threadIdx.x; i < BM * words; i += THREADS) {
    int row = i / words, word = i % words, at = (first / 32 << log) + word;
    const unsigned *quads = (const unsigned *)(codes + row * TILE_ROW + word * (32 >> log));
    unsigned packed = 0;
    for (int j = 0; j < 8 >> log; ++j) packed |= quads[j] << (j << log);
    if (first_pixel + row < layer.pixels && at < layer.words)
      ((unsigned *)layer.out)[(first_pixel + row) * layer.words + at] = packed;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    plane_conv(const __grid_constant__ Layer layer) {
  __shared__ __align__(256) unsigned memory[STAGES * STAGE + ONES];
  if (WGMMA && threadIdx.x < 64) memory[STAGES * STAGE + threadIdx.x] = ~0u;
  int first_pixel = blockIdx.x / layer.channel_tiles * BM;
  int first = blockIdx.x % layer.channel_tiles * BN;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float t[MT][NT][4];
#pragma unroll
  for (int i = 0; i < TERMS; ++i) {
    const Term &term = layer.term[i];
    int sums[LEVELS][MT][NT][4] = {}, totals[PLANES][MT][4] = {};
    accumulate(layer, term, first_pixel, first, memory, sums, totals);
#pragma unroll
    for (int j = 0; j < NT; ++j)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        int n = min(first + j * 8 + lane % 4 * 2 + c, layer.channels - 1);
        float scale = term.scale[n], bias = layer.bias[n];
        unsigned correction = term.correction[n];
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
          for (int r = c; r < 4; r += 2) {
            unsigned sum = 0, total = 0;
#pragma unroll
            for (int p = 0; p < LEVELS; ++p) sum += (unsigned)sums[p][m][j][r] << p;
#pragma unroll
            for (int p = 0; p < PLANES; ++p) total += (unsigned)totals[p][m][r] << p;
            int acc = (int)(term.form * sum - term.offset * total + correction);
            float part = __fmul_rn(__int2float_rn(acc), scale);
            t[m][j][r] = __fadd_rn(i ? t[m][j][r] : part, i ? part : bias);
          }
      }
  }
  unsigned char *codes = (unsigned char *)memory;
  float most = (float)((1 << layer.bits) - 1);
#pragma unroll
  for (int i = 0; i < 2 * MT; ++i) {
    int row = tile_row(warp, i / 2) + i % 2 * 8 + lane / 4, pixel = first_pixel + row;
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      int column = j * 8 + lane % 4 * 2, n = first + column;
      float value[2] = {t[i / 2][j][i % 2 * 2], t[i / 2][j][i % 2 * 2 + 1]};
      if (RESIDUALS > 0 && pixel < layer.pixels && n < layer.channels) {
#pragma unroll
        for (int k = 0; k < RESIDUALS; ++k) join(layer.residual[k], pixel, n, value);
      }
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        bool inside = n + c < layer.channels;
        if (SCORES) {
          if (inside && pixel < layer.pixels)
            ((float *)layer.out)[pixel * layer.channels + n + c] = value[c];
        } else {
          int code = (int)fminf(fmaxf(__fadd_rn(value[c], 0.5f), 0.0f), most);
          int field = inside ? code - (layer.bits == 8 ? 128 : 0) : layer.zero;
          codes[row * TILE_ROW + column + c] = field & (1 << (1 << layer.field_log)) - 1;
        }
      }
    }
  }
  if (!SCORES) {
    __syncthreads();
    pack(layer, codes, first_pixel, first);
  }
}
