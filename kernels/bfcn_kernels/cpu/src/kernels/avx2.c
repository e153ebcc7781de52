/* AVX2: shuffles that look 32 outputs up in a table of 4 channels, and 8-bit products. */
#if defined(__x86_64__)

#include "../kernels.h"
#include "target.h"

#include <immintrin.h>
#include <string.h>

TARGET_BEGIN(AVX2_FEATURES)
#include "rows.h"

static inline void add_to(uint16_t *sums, __m256i v, const struct gemm *g) {
  v = _mm256_sll_epi16(v, _mm_cvtsi32_si128((int)g->shift));
  if (g->accumulate) v = _mm256_add_epi16(v, _mm256_loadu_si256((const __m256i *)sums));
  _mm256_storeu_si256((__m256i *)sums, v);
}

/* Sums of even and odd bytes apart: total holds both, high the odd ones. */
static inline void widen(__m256i bytes, __m256i *total, __m256i *high) {
  *total = _mm256_add_epi16(*total, bytes);
  *high = _mm256_add_epi16(*high, _mm256_srli_epi16(bytes, 8));
}

static inline void store_lut_sums(const struct gemm *g, uint16_t *sums, __m256i total,
                                  __m256i high) {
  add_to(sums, _mm256_sub_epi16(total, _mm256_slli_epi16(high, 8)), g);
  add_to(sums + 16, high, g);
}

static inline __m256i lut4_table(uint16_t offset) {
  return _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)(bfcn_lut4 + offset)));
}

/* In place, which gcc 12 does not see: it would copy every sum once a step. */
static inline void add_bytes(__m256i *sum, __m256i v) {
  __asm__("vpaddb %1, %0, %0" : "+x"(*sum) : "x"(v));
}

static inline void add_words(__m256i *sum, __m256i v) {
  __asm__("vpaddw %1, %0, %0" : "+x"(*sum) : "x"(v));
}

static inline void add_dwords(__m256i *sum, __m256i v) {
  __asm__("vpaddd %1, %0, %0" : "+x"(*sum) : "x"(v));
}

/* Loaded once: gcc 12 would load it again for every pixel. */
static inline __m256i load_index(const uint8_t *from) {
  __m256i index = _mm256_load_si256((const __m256i *)from);
  __asm__("" : "+x"(index));
  return index;
}

/* Bytes += lookups of steps first..end - 1 of one tap. */
TILE lut4_run(const struct gemm *g, const int p, const int nv, const uint16_t *const *x,
              const uint8_t *w, size_t first, size_t end, __m256i *bytes) {
  ROLLED
  for (; first < end; first++, w += 32) {
    __m256i table[4];
    UNROLLED
    for (int i = 0; i < p; i++) table[i] = lut4_table(x[i][first]);
    UNROLLED
    for (int n = 0; n < nv; n++) {
      const __m256i index = load_index(w + (size_t)n * g->block_bytes);
      UNROLLED
      for (int i = 0; i < p; i++)
        add_bytes(&bytes[i * nv + n], _mm256_shuffle_epi8(table[i], index));
    }
  }
}

/* The whole sum in one run: bytes are widened only as they are stored. */
TILE lut4_short_tile(const struct gemm *g, const int p, const int nv) {
  const uint16_t *x[4];
  __m256i bytes[8];
  UNROLLED
  for (int i = 0; i < p; i++) x[i] = (const uint16_t *)(g->pixels[i] + g->first_byte);
  UNROLLED
  for (int i = 0; i < p * nv; i++) bytes[i] = _mm256_setzero_si256();
  lut4_run(g, p, nv, x, g->weights, 0, g->steps, bytes);
  UNROLLED
  for (int i = 0; i < p * nv; i++)
    store_lut_sums(g, (uint16_t *)g->sums + (size_t)(i / nv) * g->sum_stride + i % nv * 32,
                   bytes[i], _mm256_srli_epi16(bytes[i], 8));
}

/* p pixels x nv vectors of 32 outputs. Bytes are summed for a run of lookups, then widened. */
TILE lut4_tile(const struct gemm *g, const int p, const int nv) {
  __m256i total[8], high[8];
  UNROLLED
  for (int i = 0; i < p * nv; i++) total[i] = high[i] = _mm256_setzero_si256();
  for (unsigned plane = g->planes; plane-- > 0;) {
    const uint8_t *w = (const uint8_t *)g->weights + plane * g->plane_bytes;
    UNROLLED
    for (int i = 0; i < p * nv; i++) {
      total[i] = _mm256_add_epi16(total[i], total[i]);
      high[i] = _mm256_add_epi16(high[i], high[i]);
    }
    for (size_t row = 0; row < g->rows; row++) {
      const uint8_t *const *pixels = g->pixels + row * g->row_stride;
      for (size_t column = 0; column < g->columns; column++) {
        const uint16_t *x[4];
        UNROLLED
        for (int i = 0; i < p; i++)
          x[i] = (const uint16_t *)(pixels[i] + g->first_byte + column * g->column_bytes);
        for (size_t done = 0; done < g->steps;) {
          const size_t stop = g->steps - done > g->run ? done + g->run : g->steps;
          __m256i bytes[8];
          UNROLLED
          for (int i = 0; i < p * nv; i++) bytes[i] = _mm256_setzero_si256();
          lut4_run(g, p, nv, x, w, done, stop, bytes);
          w += 32 * (stop - done);
          done = stop;
          UNROLLED
          for (int i = 0; i < p * nv; i++) widen(bytes[i], &total[i], &high[i]);
        }
      }
    }
  }
  UNROLLED
  for (int i = 0; i < p * nv; i++)
    store_lut_sums(g, (uint16_t *)g->sums + (size_t)(i / nv) * g->sum_stride + i % nv * 32,
                   total[i], high[i]);
}

TILE lut4_tiles(const struct gemm *g, const int p, const int nv) {
  if (g->planes * g->rows * g->columns == 1 && g->steps <= g->run)
    EACH_TILE(g, p, uint16_t, lut4_short_tile(&tile, p, nv));
  else
    EACH_TILE(g, p, uint16_t, lut4_tile(&tile, p, nv));
}

/* Three columns at stride 1 share their tables: those of p + 2 neighbouring source pixels serve p
 * output pixels, which are neighbours in one row. */
TILE lut4_tile_k3(const struct gemm *g, const int p, const int nv) {
  enum { COLUMNS = 3 };
  __m256i total[8], high[8];
  UNROLLED
  for (int i = 0; i < p * nv; i++) total[i] = high[i] = _mm256_setzero_si256();
  for (unsigned plane = g->planes; plane-- > 0;) {
    const uint8_t *w = (const uint8_t *)g->weights + plane * g->plane_bytes;
    UNROLLED
    for (int i = 0; i < p * nv; i++) {
      total[i] = _mm256_add_epi16(total[i], total[i]);
      high[i] = _mm256_add_epi16(high[i], high[i]);
    }
    for (size_t row = 0; row < g->rows; row++, w += 2 * g->steps * 32) {
      const uint8_t *x = g->pixels[row * g->row_stride] + g->first_byte;
      for (size_t done = 0; done < g->steps;) {
        const size_t stop = g->steps - done > g->run ? done + g->run : g->steps;
        __m256i bytes[8];
        UNROLLED
        for (int i = 0; i < p * nv; i++) bytes[i] = _mm256_setzero_si256();
        ROLLED
        for (; done < stop; done++, w += 32) {
          __m256i index[COLUMNS][2];
          UNROLLED
          for (int i = 0; i < COLUMNS * nv; i++)
            index[i / nv][i % nv] = load_index(w + (size_t)(i / nv) * g->steps * 32 +
                                               (size_t)(i % nv) * g->block_bytes);
          UNROLLED
          for (int j = 0; j < p + COLUMNS - 1; j++) {
            const __m256i table =
                lut4_table(((const uint16_t *)(x + (size_t)j * g->column_bytes))[done]);
            UNROLLED
            for (int column = 0; column < COLUMNS; column++) {
              const int i = j - column; /* the output pixel that sees source pixel j there */
              if (i < 0 || i >= p) continue;
              UNROLLED
              for (int n = 0; n < nv; n++)
                add_bytes(&bytes[i * nv + n], _mm256_shuffle_epi8(table, index[column][n]));
            }
          }
        }
        UNROLLED
        for (int i = 0; i < p * nv; i++) widen(bytes[i], &total[i], &high[i]);
      }
    }
  }
  UNROLLED
  for (int i = 0; i < p * nv; i++)
    store_lut_sums(g, (uint16_t *)g->sums + (size_t)(i / nv) * g->sum_stride + i % nv * 32,
                   total[i], high[i]);
}

void bfcn_lut4_gemm_a1_4x64__avx2(const struct gemm *g) {
  lut4_tiles(g, 4, 2);
}
void bfcn_lut4_gemm_a2_4x64__avx2(const struct gemm *g) {
  lut4_tiles(g, 4, 2);
}
void bfcn_lut4_gemm_a1_2x128__avx2(const struct gemm *g) {
  lut4_tiles(g, 2, 4);
}
void bfcn_lut4_gemm_a2_2x128__avx2(const struct gemm *g) {
  lut4_tiles(g, 2, 4);
}
void bfcn_lut4_gemm_a1_4x32__avx2(const struct gemm *g) {
  lut4_tiles(g, 4, 1);
}
void bfcn_lut4_gemm_a2_4x32__avx2(const struct gemm *g) {
  lut4_tiles(g, 4, 1);
}
void bfcn_lut4_gemm_a1_4x64k3__avx2(const struct gemm *g) {
  EACH_TILE(g, 4, uint16_t, lut4_tile_k3(&tile, 4, 2));
}
void bfcn_lut4_gemm_a2_4x64k3__avx2(const struct gemm *g) {
  EACH_TILE(g, 4, uint16_t, lut4_tile_k3(&tile, 4, 2));
}
void bfcn_lut4_gemm_a1_8x32k3__avx2(const struct gemm *g) {
  EACH_TILE(g, 8, uint16_t, lut4_tile_k3(&tile, 8, 1));
}
void bfcn_lut4_gemm_a2_8x32k3__avx2(const struct gemm *g) {
  EACH_TILE(g, 8, uint16_t, lut4_tile_k3(&tile, 8, 1));
}

/* p pixels x 16 outputs x 2 channels: 16-bit numbers, since 255 * 127 * 2 would pass the 16 bits
 * that products of bytes are summed in. */
TILE int16_tile(const struct gemm *g, const int p) {
  __m256i total[8];
  UNROLLED
  for (int i = 0; i < 2 * p; i++) total[i] = _mm256_setzero_si256();
  const uint8_t *w = g->weights;
  for (size_t row = 0; row < g->rows; row++) {
    const uint8_t *const *pixels = g->pixels + row * g->row_stride;
    for (size_t column = 0; column < g->columns; column++) {
      const uint8_t *x[4];
      UNROLLED
      for (int i = 0; i < p; i++) x[i] = pixels[i] + g->first_byte + column * g->column_bytes;
      ROLLED
      for (size_t step = 0; step < g->steps; step++, w += 64) {
        const __m256i w0 = _mm256_load_si256((const __m256i *)w);
        const __m256i w1 = _mm256_load_si256((const __m256i *)(w + 32));
        UNROLLED
        for (int i = 0; i < p; i++) {
          int32_t two;
          memcpy(&two, x[i] + 4 * step, 4);
          const __m256i both = _mm256_set1_epi32(two);
          add_dwords(&total[2 * i], _mm256_madd_epi16(both, w0));
          add_dwords(&total[2 * i + 1], _mm256_madd_epi16(both, w1));
        }
      }
    }
  }
  UNROLLED
  for (int i = 0; i < 2 * p; i++) {
    int32_t *sums = (int32_t *)g->sums + (size_t)(i / 2) * g->sum_stride + i % 2 * 8;
    _mm256_storeu_si256((__m256i *)sums, total[i]);
  }
}

void bfcn_int16_gemm_4x16__avx2(const struct gemm *g) {
  EACH_TILE(g, 4, int32_t, int16_tile(&tile, 4));
}

/* Products of codes and weights of at most 4 bits: a lane of 16 bits takes 2 * 15 * 15 = 450 a
 * step, so 72 steps before it is widened. 4 pixels x 16 outputs x 4 channels. */
TILE int4_tile(const struct gemm *g) {
  enum { PIXELS = 4, RUN = 72 };
  __m256i total[2 * PIXELS];
  UNROLLED
  for (int i = 0; i < 2 * PIXELS; i++) total[i] = _mm256_setzero_si256();
  const uint8_t *w = g->weights;
  for (size_t row = 0; row < g->rows; row++) {
    const uint8_t *const *pixels = g->pixels + row * g->row_stride;
    for (size_t column = 0; column < g->columns; column++) {
      const uint8_t *x[PIXELS];
      UNROLLED
      for (int i = 0; i < PIXELS; i++) x[i] = pixels[i] + g->first_byte + column * g->column_bytes;
      for (size_t step = 0; step < g->steps;) {
        const size_t stop = g->steps - step > RUN ? step + RUN : g->steps;
        __m256i sums[2 * PIXELS];
        UNROLLED
        for (int i = 0; i < 2 * PIXELS; i++) sums[i] = _mm256_setzero_si256();
        ROLLED
        for (; step < stop; step++, w += 64) {
          const __m256i w0 = load_index(w), w1 = load_index(w + 32);
          UNROLLED
          for (int i = 0; i < PIXELS; i++) {
            int32_t four;
            memcpy(&four, x[i] + 4 * step, 4);
            const __m256i codes = _mm256_set1_epi32(four);
            add_words(&sums[2 * i], _mm256_maddubs_epi16(codes, w0));
            add_words(&sums[2 * i + 1], _mm256_maddubs_epi16(codes, w1));
          }
        }
        UNROLLED
        for (int i = 0; i < 2 * PIXELS; i++)
          total[i] = _mm256_add_epi32(total[i], _mm256_madd_epi16(sums[i], _mm256_set1_epi16(1)));
      }
    }
  }
  UNROLLED
  for (int i = 0; i < 2 * PIXELS; i++) {
    int32_t *sums = (int32_t *)g->sums + (size_t)(i / 2) * g->sum_stride + i % 2 * 8;
    _mm256_storeu_si256((__m256i *)sums, total[i]);
  }
}

void bfcn_int4_gemm_4x16__avx2(const struct gemm *g) {
  EACH_TILE(g, 4, int32_t, int4_tile(&tile));
}

static inline __m128i bytes_of(uint64_t word) {
  return _mm_cvtsi64_si128((long long)word);
}

/* u16 offsets of tables (field * 16) of 64 channels, field = 4 bits of v0, 4 of v1: the lower byte
 * of an offset is 4 bits of v0, its upper one 4 bits of v1. */
static inline void lut4_offsets(uint64_t v0, uint64_t v1, uint16_t out[16]) {
  const __m128i low = bytes_of(v0), high = bytes_of(v1);
  const __m128i first = _mm_set1_epi8(15), second = _mm_set1_epi8((char)240);
  const __m128i even =
      _mm_unpacklo_epi8(_mm_and_si128(_mm_slli_epi16(low, 4), second), _mm_and_si128(high, first));
  const __m128i odd =
      _mm_unpacklo_epi8(_mm_and_si128(low, second), _mm_and_si128(_mm_srli_epi16(high, 4), first));
  _mm_storeu_si128((__m128i *)out, _mm_unpacklo_epi16(even, odd));
  _mm_storeu_si128((__m128i *)(out + 8), _mm_unpackhi_epi16(even, odd));
}

static void expand_lut4(const struct expand *e) {
  const size_t steps = (e->channels + 3) / 4, whole = steps / 16;
  uint16_t *out = e->out;
  const uint64_t *codes = e->codes;
  for (size_t p = 0; p < e->pixels; p++)
    for (unsigned b = 0; b < e->planes; b += e->pass_planes, out += steps) {
      const int pair = e->pass_planes == 2 && b + 1 < e->planes;
      const uint64_t *low = codes, *high = codes + e->words;
      codes += pair ? 2 * e->words : e->words;
      for (size_t i = 0; i < whole; i++) lut4_offsets(low[i], pair ? high[i] : 0, out + 16 * i);
      if (whole == e->words) continue;
      uint16_t rest[16];
      lut4_offsets(low[whole], pair ? high[whole] : 0, rest);
      memcpy(out + 16 * whole, rest, 2 * (steps - 16 * whole));
    }
}

/* Bytes 1 << bit where the word's bits are set. */
static inline __m256i spread(uint32_t bits, int value) {
  const __m256i which =
      _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
  const __m256i select = _mm256_set1_epi64x((long long)0x8040201008040201);
  const __m256i bytes =
      _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), which), select);
  return _mm256_and_si256(_mm256_cmpeq_epi8(bytes, select), _mm256_set1_epi8((char)value));
}

/* Codes of channels c..c + 31 of a pixel. */
static inline __m256i codes_at(const uint64_t *planes, unsigned bits, unsigned words, unsigned c) {
  __m256i v = _mm256_setzero_si256();
  for (unsigned b = 0; b < bits; b++)
    v = _mm256_or_si256(v, spread((uint32_t)(planes[b * words + c / 64] >> c % 64), 1 << b));
  return v;
}

static void unpack(const uint64_t *planes, unsigned bits, unsigned words, size_t pixels,
                   unsigned channels, uint8_t *codes) {
  for (size_t p = 0; p < pixels; p++, planes += bits * words, codes += channels)
    for (unsigned c = 0; c < channels; c += 32) {
      const __m256i v = codes_at(planes, bits, words, c);
      uint8_t bytes[32];
      const unsigned left = channels - c;
      _mm256_storeu_si256((__m256i *)(left < 32 ? bytes : codes + c), v);
      if (left < 32) memcpy(codes + c, bytes, left);
    }
}

static void pack(const uint8_t *codes, unsigned channels, size_t pixels, unsigned bits,
                 unsigned words, uint64_t *planes) {
  for (size_t p = 0; p < pixels; p++, planes += bits * words, codes += channels) {
    memset(planes, 0, 8ul * bits * words);
    for (unsigned c = 0; c < channels; c += 32) {
      uint8_t bytes[32] = {0};
      const unsigned left = channels - c;
      if (left < 32) memcpy(bytes, codes + c, left);
      const __m256i v = _mm256_loadu_si256((const __m256i *)(left < 32 ? bytes : codes + c));
      for (unsigned b = 0; b < bits; b++)
        planes[b * words + c / 64] |=
            (uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(v, 7 - (int)b)) << c % 64;
    }
  }
}

static void expand_int4(const struct expand *e) {
  unpack(e->codes, e->planes, e->words, e->pixels, e->channels, e->out);
}

static void expand_int16(const struct expand *e) {
  const uint64_t *planes = e->codes;
  uint16_t *out = e->out;
  for (size_t p = 0; p < e->pixels; p++, planes += e->planes * e->words, out += e->channels)
    for (unsigned c = 0; c < e->channels; c += 32) {
      const __m256i v = codes_at(planes, e->planes, e->words, c);
      __m256i numbers[2];
      numbers[0] = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(v));
      numbers[1] = _mm256_cvtepu8_epi16(_mm256_extracti128_si256(v, 1));
      const unsigned left = e->channels - c;
      memcpy(out + c, numbers, 2 * (left < 32 ? left : 32));
    }
}

static void expand_bits(const struct expand *e) {
  bfcn_backend_portable.expand[FORM_BITS](e);
}

/* (k * sum + shift) * scale of 8 lanes; the width of the sums is a constant. */
static inline __m256 product_of(const struct epilogue_term *t, const int sum_bits, size_t p,
                                unsigned c, __m256i shift, __m256 scale) {
  const size_t at = p * t->sum_stride + c;
  __m256i acc;
  if (sum_bits == 16)
    acc = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)((const uint16_t *)t->sums + at)));
  else
    acc = _mm256_loadu_si256((const __m256i *)((const int32_t *)t->sums + at));
  if (t->k == 2) acc = _mm256_add_epi32(acc, acc);
  return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(acc, shift)), scale);
}

/* box_scale * box of `count` pixels. */
static void scale_box(const struct epilogue_term *t, size_t first, size_t count, int32_t *out) {
  for (size_t p = 0; p < count; p++)
    out[p] = t->box_scale ? (int32_t)((uint32_t)t->box_scale * (uint32_t)t->box[first + p]) : 0;
}

static inline __m256i add_box(const struct epilogue_term *t, size_t p, __m256i offset) {
  int32_t box;
  scale_box(t, p, 1, &box);
  return _mm256_add_epi32(offset, _mm256_set1_epi32(box));
}

/* 8 lanes of A * acc + B, with a second term where there is one. */
static inline __m256 pre_activation(const struct epilogue *e, const int sum_bits, size_t p,
                                    unsigned c, const __m256i offset[2], const __m256 scale[2],
                                    __m256 bias) {
  __m256 t = bias;
  for (unsigned i = 0; i < e->terms; i++)
    t = _mm256_add_ps(
        t, product_of(&e->term[i], sum_bits, p, c, add_box(&e->term[i], p, offset[i]), scale[i]));
  return t;
}

/* 8 lanes of the scores of every pixel, without residuals. */
TILE score_block(const struct epilogue *e, unsigned c, const int sum_bits) {
  const unsigned channel = e->first + c, left = e->channels - c;
  const __m256 bias = _mm256_loadu_ps(e->bias + channel);
  __m256 scale[2];
  __m256i offset[2];
  for (unsigned i = 0; i < e->terms; i++) {
    scale[i] = _mm256_loadu_ps(e->term[i].scale + channel);
    offset[i] = e->term[i].offset
                    ? _mm256_loadu_si256((const __m256i *)(e->term[i].offset + channel))
                    : _mm256_setzero_si256();
  }
  float *scores = (float *)e->out + channel;
  for (size_t p = 0; p < e->pixels; p++, scores += e->all_channels) {
    const __m256 t = pre_activation(e, sum_bits, p, c, offset, scale, bias);
    if (left >= 8)
      _mm256_storeu_ps(scores, t);
    else
      memcpy(scores, &t, 4 * left);
  }
}

enum { SPAN_PIXELS = 128 };

static inline __m256 reaches(__m256 t, float least) {
  return _mm256_cmp_ps(t, _mm256_set1_ps(least), _CMP_GE_OQ);
}

/* Codes of 1 or 2 bits of 32 lanes of `count` pixels from `first` on, without residuals: t + 0.5
 * reaches 1, 2 or 3. 0.5 - 2^-25 is the least that rounds to 1. box: box_scale * box. */
TILE low_bit_block(const struct epilogue *e, unsigned c, size_t first, size_t count,
                   const int32_t box[2][SPAN_PIXELS], const unsigned bits, const unsigned terms,
                   const int sum_bits) {
  const size_t plane = (e->all_channels + 63) / 64 * 8;
  const unsigned channel = e->first + c;
  uint8_t *out = (uint8_t *)e->out + first * bits * plane + channel / 8;
  for (size_t p = 0; p < count; p++, out += bits * plane) {
    uint32_t low = 0, high = 0;
    UNROLLED
    for (unsigned q = 0; q < 32; q += 8) {
      __m256 t = _mm256_loadu_ps(e->bias + channel + q);
      UNROLLED
      for (unsigned i = 0; i < terms; i++) {
        const struct epilogue_term *term = &e->term[i];
        __m256i shift = _mm256_set1_epi32(box[i][p]);
        if (term->offset)
          shift = _mm256_add_epi32(
              shift, _mm256_loadu_si256((const __m256i *)(term->offset + channel + q)));
        const __m256 scale = _mm256_loadu_ps(term->scale + channel + q);
        t = _mm256_add_ps(t, product_of(term, sum_bits, first + p, c + q, shift, scale));
      }
      const __m256 one = reaches(t, 0x1.fffffep-2f);
      if (bits == 1) {
        low |= (uint32_t)_mm256_movemask_ps(one) << q;
        continue;
      }
      const __m256 two = reaches(t, 1.5f), three = reaches(t, 2.5f);
      low |= (uint32_t)_mm256_movemask_ps(_mm256_xor_ps(_mm256_xor_ps(one, two), three)) << q;
      high |= (uint32_t)_mm256_movemask_ps(two) << q;
    }
    memcpy(out, &low, 4);
    if (bits == 2) memcpy(out + plane, &high, 4);
  }
}

static void low_bit_blocks(const struct epilogue *e) {
  const unsigned wide = e->term[0].sum_bits == 32;
  for (size_t first = 0; first < e->pixels; first += SPAN_PIXELS) {
    const size_t left = e->pixels - first, count = left < SPAN_PIXELS ? left : SPAN_PIXELS;
    int32_t box[2][SPAN_PIXELS];
    for (unsigned i = 0; i < e->terms; i++) scale_box(&e->term[i], first, count, box[i]);
    for (unsigned c = 0; c < e->channels; c += 32)
      switch ((e->bits - 1) * 4 + (e->terms - 1) * 2 + wide) {
      case 0:
        low_bit_block(e, c, first, count, box, 1, 1, 16);
        break;
      case 1:
        low_bit_block(e, c, first, count, box, 1, 1, 32);
        break;
      case 2:
        low_bit_block(e, c, first, count, box, 1, 2, 16);
        break;
      case 3:
        low_bit_block(e, c, first, count, box, 1, 2, 32);
        break;
      case 4:
        low_bit_block(e, c, first, count, box, 2, 1, 16);
        break;
      case 5:
        low_bit_block(e, c, first, count, box, 2, 1, 32);
        break;
      case 6:
        low_bit_block(e, c, first, count, box, 2, 2, 16);
        break;
      default:
        low_bit_block(e, c, first, count, box, 2, 2, 32);
      }
  }
}

static inline void store_bits(uint8_t *out, uint32_t bits) {
  memcpy(out, &bits, 4);
}

/* Addends of 8 channels by their codes. */
static inline __m256 residual_addend(const struct epilogue_residual *r, const uint8_t *codes) {
  const __m256i code = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)codes));
  if (r->bits > 4) return _mm256_i32gather_ps(r->addend, code, 4);
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(r->addend), code);
  if (r->bits < 4) return low;
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(r->addend + 8), code);
  return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(code, 28)));
}

/* The residuals' codes of channels c..c + 31 of pixel p, a byte each; those past the channels are
 * read where planes hold them, but not past the end of bytes. */
static inline void residual_codes(const struct epilogue *e, size_t p, unsigned c,
                                  uint8_t codes[][32]) {
  const unsigned channel = e->first + c, words = (e->all_channels + 63) / 64;
  const unsigned left = c < e->channels ? e->channels - c : 0;
  for (unsigned i = 0; i < e->residuals; i++) {
    const struct epilogue_residual *r = &e->residual[i];
    if (r->bits <= 4) {
      const uint64_t *planes = (const uint64_t *)r->codes + p * r->bits * words;
      _mm256_storeu_si256((__m256i *)codes[i], codes_at(planes, r->bits, words, channel));
    } else {
      const uint8_t *bytes = (const uint8_t *)r->codes + p * e->all_channels + channel;
      memcpy(codes[i], bytes, left < 32 ? left : 32);
    }
  }
}

/* 8 lanes, whatever the terms and residuals. */
static inline __m256 any_pre_activation(const struct epilogue *e, size_t p, unsigned c,
                                        uint8_t residuals[][32]) {
  const unsigned channel = e->first + c;
  __m256 t = _mm256_loadu_ps(e->bias + channel);
  for (unsigned i = 0; i < e->terms; i++) {
    const struct epilogue_term *term = &e->term[i];
    const __m256i offset = term->offset
                               ? _mm256_loadu_si256((const __m256i *)(term->offset + channel))
                               : _mm256_setzero_si256();
    const __m256 scale = _mm256_loadu_ps(term->scale + channel);
    t = _mm256_add_ps(t,
                      product_of(term, (int)term->sum_bits, p, c, add_box(term, p, offset), scale));
  }
  for (unsigned i = 0; i < e->residuals; i++)
    t = _mm256_add_ps(t, residual_addend(&e->residual[i], residuals[i] + c % 32));
  return t;
}

/* clip(floor(t + 0.5), 0, top): truncation of what is not negative. */
static inline __m256i to_codes(__m256 t, unsigned bits) {
  const __m256 u = _mm256_add_ps(t, _mm256_set1_ps(0.5f));
  const __m256 top = _mm256_set1_ps((float)((1u << bits) - 1));
  return _mm256_cvttps_epi32(_mm256_min_ps(_mm256_max_ps(u, _mm256_setzero_ps()), top));
}

/* Codes of channels c..c + 31 of pixel p as bytes. */
static inline __m256i any_codes(const struct epilogue *e, size_t p, unsigned c,
                                uint8_t residuals[][32]) {
  __m256i codes[4];
  UNROLLED
  for (unsigned q = 0; q < 4; q++)
    codes[q] = to_codes(any_pre_activation(e, p, c + 8 * q, residuals), e->bits);
  const __m256i packed = _mm256_packus_epi16(_mm256_packus_epi32(codes[0], codes[1]),
                                             _mm256_packus_epi32(codes[2], codes[3]));
  return _mm256_permutevar8x32_epi32(packed, _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0));
}

/* Channels c..c + 31 of pixel p, or as many as are left; the bits of planes past them are 0. */
static void any_lanes(const struct epilogue *e, size_t p, unsigned c) {
  const size_t words = (e->all_channels + 63) / 64, at = p * e->all_channels + e->first + c;
  const unsigned left = c < e->channels ? e->channels - c : 0, some = left < 32 ? left : 32;
  uint8_t residuals[MOST_RESIDUALS][32];
  residual_codes(e, p, c, residuals);
  if (e->bits == 0) {
    float scores[32];
    for (unsigned q = 0; q < some; q += 8)
      _mm256_storeu_ps(scores + q, any_pre_activation(e, p, c + q, residuals));
    memcpy((float *)e->out + at, scores, 4 * some);
    return;
  }
  const __m256i codes = any_codes(e, p, c, residuals);
  if (e->bits > 4) {
    uint8_t bytes[32];
    _mm256_storeu_si256((__m256i *)bytes, codes);
    memcpy((uint8_t *)e->out + at, bytes, some);
    return;
  }
  const uint32_t inside = some < 32 ? (1u << some) - 1 : ~0u;
  uint8_t *out = (uint8_t *)e->out + p * e->bits * words * 8 + (e->first + c) / 8;
  for (unsigned b = 0; b < e->bits; b++) {
    const __m256i bit = _mm256_slli_epi16(codes, 7 - (int)b);
    store_bits(out + b * words * 8, (uint32_t)_mm256_movemask_epi8(bit) & inside);
  }
}

/* Planes are written to whole words. */
static void any_epilogue(const struct epilogue *e) {
  const int planes = e->bits > 0 && e->bits <= 4;
  const unsigned end = planes ? (e->channels + 63) / 64 * 64 : e->channels;
  for (size_t p = 0; p < e->pixels; p++)
    for (unsigned c = 0; c < end; c += 32) any_lanes(e, p, c);
}

static void epilogue(const struct epilogue *e) {
  const unsigned sum_bits = e->term[0].sum_bits;
  if (e->bits > 2 || e->residuals || e->terms > 2 || (e->bits && e->channels % 64) ||
      (e->terms == 2 && e->term[1].sum_bits != sum_bits)) {
    any_epilogue(e);
    return;
  }
  if (e->bits) {
    low_bit_blocks(e);
    return;
  }
  for (unsigned c = 0; c < e->channels; c += 8)
    if (sum_bits == 16)
      score_block(e, c, 16);
    else
      score_block(e, c, 32);
}

/* One bit of each of 32 16-bit lanes that are all ones or zeros. */
static inline uint32_t bits_of(const __m256i lanes[2]) {
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi16(lanes[0], lanes[1]), 0xd8);
  return (uint32_t)_mm256_movemask_epi8(packed);
}

/* 16 lanes of all ones where the 16 bits are set. */
static inline __m256i lanes(const uint8_t *bits) {
  const __m256i select = _mm256_set_epi16(-32768, 16384, 8192, 4096, 2048, 1024, 512, 256, 128, 64,
                                          32, 16, 8, 4, 2, 1);
  int16_t all;
  memcpy(&all, bits, 2);
  return _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16(all), select), select);
}

/* Half h of the threshold of step j for each lane's residual code. */
static inline __m256i threshold_of(const int16_t *t, int codes, int steps, int j, int h, __m256i r0,
                                   __m256i r1) {
#define THRESHOLD(code) _mm256_load_si256((const __m256i *)(t + ((code) * steps + j) * 32 + 16 * h))
  __m256i chosen = THRESHOLD(0);
  if (codes > 1) chosen = _mm256_blendv_epi8(chosen, THRESHOLD(1), r0);
  if (codes > 2)
    chosen = _mm256_blendv_epi8(chosen, _mm256_blendv_epi8(THRESHOLD(2), THRESHOLD(3), r0), r1);
  return chosen;
#undef THRESHOLD
}

/* 32 channels of `count` pixels from `first` on. Code 1 or 3: an odd number of steps is reached.
 * box: box_scale * box of a pixel, twice. */
TILE threshold_block(const struct epilogue *e, unsigned c, size_t first, size_t count,
                     const uint32_t *box, const int residual_bits, const int bits) {
  const struct epilogue_term *term = &e->term[0];
  const int steps = bits == 2 ? 3 : 1, codes = 1 << residual_bits;
  const size_t plane = (e->all_channels + 63) / 64 * 8, block = (e->first + c) / 32;
  const size_t residual_bytes = (size_t)residual_bits * plane, bytes = (size_t)bits * plane;
  const uint32_t flip = e->flips[block];
  const int16_t *thresholds = e->thresholds + block * (size_t)(steps * codes) * 32;
  const uint8_t *residual = NULL;
  if (residual_bits)
    residual = (const uint8_t *)e->residual[0].codes + first * residual_bytes + 4 * block;
  uint8_t *out = (uint8_t *)e->out + first * bytes + 4 * block;
  const size_t stride = term->sum_stride;
  const uint16_t *sums = (const uint16_t *)term->sums + first * stride + c;
  const int twice = term->k == 2;
  for (size_t p = 0; p < count; p++, sums += stride, out += bytes) {
    const __m256i shift = _mm256_set1_epi32((int)box[p]);
    __m256i reached[3][2];
    UNROLLED
    for (int h = 0; h < 2; h++) {
      __m256i acc = _mm256_loadu_si256((const __m256i *)(sums + 16 * h)), r0 = shift, r1 = shift;
      if (twice) acc = _mm256_add_epi16(acc, acc);
      acc = _mm256_add_epi16(acc, shift);
      if (residual_bits) r0 = lanes(residual + 2 * h);
      if (residual_bits == 2) r1 = lanes(residual + plane + 2 * h);
      UNROLLED
      for (int j = 0; j < steps; j++)
        reached[j][h] =
            _mm256_cmpgt_epi16(acc, threshold_of(thresholds, codes, steps, j, h, r0, r1));
      if (bits == 2)
        reached[0][h] =
            _mm256_xor_si256(reached[0][h], _mm256_xor_si256(reached[1][h], reached[2][h]));
    }
    if (residual_bits) residual += residual_bytes;
    store_bits(out, bits_of(reached[0]) ^ flip);
    if (bits == 2) store_bits(out + plane, bits_of(reached[1]) ^ flip);
  }
}

static void epilogue_threshold(const struct epilogue *e) {
  const unsigned residual_bits = e->residuals ? e->residual[0].bits : 0;
  const unsigned end = (e->channels + 63) / 64 * 64;
  for (size_t first = 0; first < e->pixels; first += SPAN_PIXELS) {
    const size_t left = e->pixels - first, count = left < SPAN_PIXELS ? left : SPAN_PIXELS;
    int32_t scaled[SPAN_PIXELS];
    uint32_t box[SPAN_PIXELS];
    scale_box(&e->term[0], first, count, scaled);
    for (size_t p = 0; p < count; p++) box[p] = 0x10001u * (uint16_t)scaled[p];
    for (unsigned c = 0; c < end; c += 32) switch (residual_bits * 4 + e->bits) {
      case 1:
        threshold_block(e, c, first, count, box, 0, 1);
        break;
      case 2:
        threshold_block(e, c, first, count, box, 0, 2);
        break;
      case 5:
        threshold_block(e, c, first, count, box, 1, 1);
        break;
      case 6:
        threshold_block(e, c, first, count, box, 1, 2);
        break;
      case 9:
        threshold_block(e, c, first, count, box, 2, 1);
        break;
      default:
        threshold_block(e, c, first, count, box, 2, 2);
      }
  }
}

/* 8 columns of one row: by permutation where they read 8 neighbouring floats of it. */
static inline __m256 columns_of(const float *row, const int32_t *x, __m256i index, int near) {
  if (!near) return _mm256_i32gather_ps(row, index, 4);
  return _mm256_permutevar8x32_ps(_mm256_loadu_ps(row + *x), index);
}

static void lerp_columns_wide(const float *row, size_t stride, unsigned channels, const int32_t *x0,
                              const int32_t *x1, const float *l, size_t width, float *out) {
  size_t x = 0;
  for (; x + 8 <= width; x += 8) {
    const int near = x0[x + 7] - x0[x] < 8 && x1[x + 7] - x1[x] < 8;
    const __m256i i0 = _mm256_sub_epi32(_mm256_loadu_si256((const __m256i *)(x0 + x)),
                                        _mm256_set1_epi32(near ? x0[x] : 0));
    const __m256i i1 = _mm256_sub_epi32(_mm256_loadu_si256((const __m256i *)(x1 + x)),
                                        _mm256_set1_epi32(near ? x1[x] : 0));
    const __m256 weight = _mm256_loadu_ps(l + x);
    for (unsigned c = 0; c < channels; c++) {
      const __m256 a = columns_of(row + c * stride, x0 + x, i0, near);
      const __m256 b = columns_of(row + c * stride, x1 + x, i1, near);
      const __m256 step = _mm256_mul_ps(_mm256_sub_ps(b, a), weight);
      _mm256_storeu_ps(out + c * width + x, _mm256_add_ps(a, step));
    }
  }
  for (unsigned c = 0; x < width && c < channels; c++)
    for (size_t i = x; i < width; i++) {
      const float a = row[c * stride + (size_t)x0[i]], b = row[c * stride + (size_t)x1[i]];
      const float step = (b - a) * l[i];
      out[c * width + i] = a + step;
    }
}

/* 16 pixels; loads stay inside the rows, so the last ones of a row may be done twice. */
static void argmax_row_wide(const float *top, const float *bottom, float l, unsigned channels,
                            size_t width, uint8_t *labels) {
  if (width < 16) {
    argmax_row(top, bottom, l, channels, width, labels);
    return;
  }
  const __m256 weight = _mm256_set1_ps(l);
  for (size_t at = 0; at < width; at += 16) {
    const size_t x = at + 16 <= width ? at : width - 16;
    __m256 best[2];
    __m256i index[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (unsigned c = 0; c < channels; c++) {
      UNROLLED
      for (int i = 0; i < 2; i++) {
        const __m256 a = _mm256_loadu_ps(top + c * width + x + 8 * i);
        const __m256 b = _mm256_loadu_ps(bottom + c * width + x + 8 * i);
        const __m256 v = _mm256_add_ps(a, _mm256_mul_ps(_mm256_sub_ps(b, a), weight));
        if (c == 0) best[i] = v;
        const __m256 larger = _mm256_cmp_ps(v, best[i], _CMP_GT_OQ);
        best[i] = _mm256_blendv_ps(best[i], v, larger);
        index[i] =
            _mm256_blendv_epi8(index[i], _mm256_set1_epi32((int)c), _mm256_castps_si256(larger));
      }
    }
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(index[0], index[1]), 0xd8);
    const __m128i bytes =
        _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)(labels + x), bytes);
  }
}

const struct backend bfcn_backend_avx2 = {
    .name = "avx2",
    .expand = {[FORM_BITS] = expand_bits,
               [FORM_LUT4] = expand_lut4,
               [FORM_INT4] = expand_int4,
               [FORM_INT16] = expand_int16},
    .epilogue = epilogue,
    .epilogue_threshold = epilogue_threshold,
    .doubled_sums = 1,
    .sum_codes = sum_codes,
    .unpack = unpack,
    .pack = pack,
    .lerp = lerp,
    .lerp_columns = lerp_columns_wide,
    .argmax_row = argmax_row_wide,
};

TARGET_END
#endif
