/* Matrix kernels for AVX-512 with VBMI, VNNI and VPOPCNTDQ. The comments count 512-bit operations
 * on Zen 4: two a cycle, but one lookup, load, popcount or dot product. */
#if defined(__x86_64__)

#include "../kernels.h"
#include "target.h"

#include <immintrin.h>

TARGET_BEGIN(AVX512_FEATURES)

/* Split sums of u16 lanes (byte 2i + 256 * byte 2i+1, carried) into the two outputs of each lane
 * and write one pixel's 64. total counts whole lanes modulo 2^16, high their upper bytes. */
static inline void store_lut_sums(const struct gemm *g, uint16_t *sums, __m512i total,
                                  __m512i high) {
  __m512i even = _mm512_sub_epi16(total, _mm512_slli_epi16(high, 8));
  __m512i odd = high;
  even = _mm512_sll_epi16(even, _mm_cvtsi32_si128((int)g->shift));
  odd = _mm512_sll_epi16(odd, _mm_cvtsi32_si128((int)g->shift));
  if (g->accumulate) {
    even = _mm512_add_epi16(even, _mm512_loadu_si512(sums));
    odd = _mm512_add_epi16(odd, _mm512_loadu_si512(sums + 32));
  }
  _mm512_storeu_si512(sums, even);
  _mm512_storeu_si512(sums + 32, odd);
}

/* What the 64 entries of a table sum: 6 channels of 1 bit, 6 of 2 bits, whose table is the sum of
 * two, or 3 channels of 2 bits times weights of 2 bits. */
enum table { SIX_A1, SIX_A2, THREE };

static inline __m512i table_of(const uint16_t *offsets, size_t step, const enum table table) {
  if (table == SIX_A2) { /* nothing is stored: two loads and an addition serve nv lookups or more */
    uint32_t both;
    __builtin_memcpy(&both, offsets + 2 * step, 4);
    return _mm512_add_epi8(_mm512_load_si512(bfcn_lut6[0] + (uint16_t)both),
                           _mm512_load_si512(bfcn_lut6[1] + (both >> 16)));
  }
  return _mm512_load_si512((table == THREE ? bfcn_lut3 : bfcn_lut6[0]) + offsets[step]);
}

/* In place, which gcc 12 does not see: it would copy every sum once a step. */
static inline void add_bytes(__m512i *sum, __m512i v) {
  __asm__("vpaddb %1, %0, %0" : "+v"(*sum) : "v"(v));
}

/* Bytes += lookups of steps first..end - 1 of one tap. */
TILE lut_run(const struct gemm *g, const int p, const int nv, const enum table table,
             const uint16_t *const *x, const uint8_t *w, size_t first, size_t end, __m512i *bytes) {
  ROLLED
  for (; first < end; first++) {
    __m512i index[4];
    UNROLLED
    for (int n = 0; n < nv; n++) index[n] = _mm512_load_si512(w + (size_t)n * g->block_bytes);
    w += 64;
    UNROLLED
    for (int i = 0; i < p; i++) {
      const __m512i found_in = table_of(x[i], first, table);
      UNROLLED
      for (int n = 0; n < nv; n++)
        add_bytes(&bytes[i * nv + n], _mm512_permutexvar_epi8(index[n], found_in));
    }
  }
}

/* The whole sum in one run: bytes are widened only as they are stored. */
TILE lut_short_tile(const struct gemm *g, const int p, const int nv, const enum table table) {
  const uint16_t *x[8];
  __m512i bytes[8];
  UNROLLED
  for (int i = 0; i < p; i++) x[i] = (const uint16_t *)(g->pixels[i] + g->first_byte);
  UNROLLED
  for (int i = 0; i < p * nv; i++) bytes[i] = _mm512_setzero_si512();
  lut_run(g, p, nv, table, x, g->weights, 0, g->steps, bytes);
  UNROLLED
  for (int i = 0; i < p * nv; i++)
    store_lut_sums(g, (uint16_t *)g->sums + (size_t)(i / nv) * g->sum_stride + i % nv * 64,
                   bytes[i], _mm512_srli_epi16(bytes[i], 8));
}

/* p pixels x nv vectors of 64 outputs. Bytes are summed for a run of lookups, then widened. */
TILE lut_tile(const struct gemm *g, const int p, const int nv, const enum table table) {
  __m512i total[8], high[8];
  UNROLLED
  for (int i = 0; i < p * nv; i++) total[i] = high[i] = _mm512_setzero_si512();
  for (unsigned plane = g->planes; plane-- > 0;) {
    const uint8_t *w = (const uint8_t *)g->weights + plane * g->plane_bytes;
    UNROLLED
    for (int i = 0; i < p * nv; i++) {
      total[i] = _mm512_add_epi16(total[i], total[i]);
      high[i] = _mm512_add_epi16(high[i], high[i]);
    }
    for (size_t row = 0; row < g->rows; row++) {
      const uint8_t *const *pixels = g->pixels + row * g->row_stride;
      for (size_t column = 0; column < g->columns; column++) {
        const uint16_t *x[8];
        UNROLLED
        for (int i = 0; i < p; i++)
          x[i] = (const uint16_t *)(pixels[i] + g->first_byte + column * g->column_bytes);
        for (size_t done = 0; done < g->steps;) {
          const size_t stop = g->steps - done > g->run ? done + g->run : g->steps;
          __m512i bytes[8];
          UNROLLED
          for (int i = 0; i < p * nv; i++) bytes[i] = _mm512_setzero_si512();
          lut_run(g, p, nv, table, x, w, done, stop, bytes);
          w += 64 * (stop - done);
          done = stop;
          UNROLLED
          for (int i = 0; i < p * nv; i++) {
            total[i] = _mm512_add_epi16(total[i], bytes[i]);
            high[i] = _mm512_add_epi16(high[i], _mm512_srli_epi16(bytes[i], 8));
          }
        }
      }
    }
  }
  UNROLLED
  for (int i = 0; i < p; i++) UNROLLED
  for (int n = 0; n < nv; n++)
    store_lut_sums(g, (uint16_t *)g->sums + (size_t)i * g->sum_stride + n * 64, total[i * nv + n],
                   high[i * nv + n]);
}

TILE lut_tiles(const struct gemm *g, const int p, const int nv, const enum table table) {
  if (g->planes * g->rows * g->columns == 1 && g->steps <= g->run)
    EACH_TILE_IN_MEMORY(g, p, uint16_t, lut_short_tile(&tile, p, nv, table));
  else
    EACH_TILE_IN_MEMORY(g, p, uint16_t, lut_tile(&tile, p, nv, table));
}

/* Three columns of 8 pixels x 64 outputs, for tables that are loaded as they are. The order of the
 * 24 lookups and 24 additions of a step decides how well they share two ports: on Zen 4 this one,
 * the best of a thousand tried, takes 24.3 cycles, the obvious one 30. zmm24 to zmm31 hold tables,
 * indices and what was found; y is 5 pixels after x. */
/* clang-format off */
#define AT(address, offset) "movzwl " address ", %k[" offset "]\n\t"
#define TABLE(offset, table) "vmovdqa64 (%[lut],%[" offset "]), %%zmm" table "\n\t"
#define INDEX(address, index) "vmovdqa64 " address ", %%zmm" index "\n\t"
#define LOOK(table, index, found) "vpermb %%zmm" table ", %%zmm" index ", %%zmm" found "\n\t"
#define ADD(found, sum) "vpaddb %%zmm" found ", %[b" sum "], %[b" sum "]\n\t"
#define STEP \
  INDEX("(%[w])", "24") AT("(%[x])", "a") TABLE("a", "25") LOOK("25", "24", "26")            \
  INDEX("(%[w],%[s])", "27") AT("(%[x],%[cb])", "b") ADD("26", "0") TABLE("b", "28")         \
  LOOK("28", "24", "29") LOOK("28", "27", "30") ADD("29", "1") AT("(%[x],%[cb],2)", "c")     \
  TABLE("c", "31") LOOK("31", "24", "25") ADD("25", "2") LOOK("31", "27", "26")              \
  ADD("30", "0") ADD("26", "1") INDEX("(%[w],%[s],2)", "28") LOOK("31", "28", "29")          \
  ADD("29", "0") AT("(%[x],%[cb3])", "a") TABLE("a", "25") LOOK("25", "24", "30")            \
  LOOK("25", "28", "26") ADD("26", "1") LOOK("25", "27", "31") ADD("31", "2") ADD("30", "3") \
  AT("(%[x],%[cb],4)", "b") AT("(%[y])", "c") TABLE("c", "29") TABLE("b", "26")              \
  LOOK("26", "27", "25") ADD("25", "3") LOOK("26", "28", "31") LOOK("29", "24", "30")        \
  ADD("31", "2") LOOK("29", "27", "25") LOOK("26", "24", "31") ADD("31", "4") ADD("25", "4") \
  LOOK("29", "28", "26") ADD("30", "5") AT("(%[y],%[cb])", "a") TABLE("a", "31")             \
  LOOK("31", "27", "25") LOOK("31", "24", "29") ADD("26", "3") AT("(%[y],%[cb],2)", "c")     \
  ADD("29", "6") ADD("25", "5") LOOK("31", "28", "30") ADD("30", "4") TABLE("c", "26")       \
  LOOK("26", "24", "29") LOOK("26", "27", "25") ADD("29", "7") LOOK("26", "28", "31")        \
  ADD("25", "6") AT("(%[y],%[cb3])", "b") TABLE("b", "30") LOOK("30", "27", "24")            \
  ADD("24", "7") AT("(%[y],%[cb],4)", "a") ADD("31", "5") LOOK("30", "28", "29")             \
  ADD("29", "6") TABLE("a", "26") LOOK("26", "28", "25") ADD("25", "7")
/* clang-format on */
static inline __attribute__((always_inline)) void
lut_run_8x64k3(__m512i bytes[8], const uint8_t *tables, const uint8_t *x, size_t column_bytes,
               const uint8_t *w, size_t tap_bytes, size_t steps) {
  const uint8_t *y = x + 5 * column_bytes, *const end = x + 2 * steps;
  uint64_t a, b, c;
  __asm__("1:\n\t" STEP "add $64, %[w]\n\t"
          "add $2, %[x]\n\t"
          "add $2, %[y]\n\t"
          "cmp %[x], %[end]\n\t"
          "jne 1b"
          : [b0] "+v"(bytes[0]), [b1] "+v"(bytes[1]), [b2] "+v"(bytes[2]), [b3] "+v"(bytes[3]),
            [b4] "+v"(bytes[4]), [b5] "+v"(bytes[5]), [b6] "+v"(bytes[6]), [b7] "+v"(bytes[7]),
            [x] "+r"(x), [y] "+r"(y), [w] "+r"(w), [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c)
          : [lut] "r"(tables), [cb] "r"(column_bytes), [cb3] "r"(3 * column_bytes),
            [s] "r"(tap_bytes), [end] "m"(end)
          : "zmm24", "zmm25", "zmm26", "zmm27", "zmm28", "zmm29", "zmm30", "zmm31", "cc", "memory");
}
#undef STEP
#undef ADD
#undef LOOK
#undef INDEX
#undef TABLE
#undef AT

/* Three columns at stride 1 share their tables: those of 6 neighbouring source pixels serve 4
 * output pixels, so a lookup costs half the loads. Pixels of the tile are neighbours in one row. */
TILE lut_tile_k3(const struct gemm *g, const int p, const int nv, const enum table table) {
  enum { COLUMNS = 3 };
  __m512i total[8], high[8];
  UNROLLED
  for (int i = 0; i < p * nv; i++) total[i] = high[i] = _mm512_setzero_si512();
  for (unsigned plane = g->planes; plane-- > 0;) {
    const uint8_t *w = (const uint8_t *)g->weights + plane * g->plane_bytes;
    UNROLLED
    for (int i = 0; i < p * nv; i++) {
      total[i] = _mm512_add_epi16(total[i], total[i]);
      high[i] = _mm512_add_epi16(high[i], high[i]);
    }
    for (size_t row = 0; row < g->rows; row++, w += 2 * g->steps * 64) {
      const uint8_t *x = g->pixels[row * g->row_stride] + g->first_byte;
      for (size_t done = 0; done < g->steps;) {
        const size_t stop = g->steps - done > g->run ? done + g->run : g->steps;
        __m512i bytes[8];
        UNROLLED
        for (int i = 0; i < p * nv; i++) bytes[i] = _mm512_setzero_si512();
        if (p == 8 && nv == 1 && table != SIX_A2) {
          lut_run_8x64k3(bytes, table == THREE ? bfcn_lut3 : bfcn_lut6[0], x + 2 * done,
                         g->column_bytes, w, g->steps * 64, stop - done);
          w += 64 * (stop - done);
          done = stop;
        }
        ROLLED
        for (; done < stop; done++, w += 64) {
          __m512i index[COLUMNS][2];
          UNROLLED
          for (int i = 0; i < COLUMNS * nv; i++)
            index[i / nv][i % nv] = _mm512_load_si512(w + (size_t)(i / nv) * g->steps * 64 +
                                                      (size_t)(i % nv) * g->block_bytes);
          UNROLLED
          for (int j = 0; j < p + COLUMNS - 1; j++) {
            const uint16_t *pixel = (const uint16_t *)(x + (size_t)j * g->column_bytes);
            const __m512i found_in = table_of(pixel, done, table);
            UNROLLED
            for (int column = 0; column < COLUMNS; column++) {
              const int i = j - column; /* the output pixel that sees source pixel j there */
              if (i < 0 || i >= p) continue;
              UNROLLED
              for (int n = 0; n < nv; n++)
                add_bytes(&bytes[i * nv + n], _mm512_permutexvar_epi8(index[column][n], found_in));
            }
          }
        }
        UNROLLED
        for (int i = 0; i < p * nv; i++) {
          total[i] = _mm512_add_epi16(total[i], bytes[i]);
          high[i] = _mm512_add_epi16(high[i], _mm512_srli_epi16(bytes[i], 8));
        }
      }
    }
  }
  UNROLLED
  for (int i = 0; i < p * nv; i++)
    store_lut_sums(g, (uint16_t *)g->sums + (size_t)(i / nv) * g->sum_stride + i % nv * 64,
                   total[i], high[i]);
}

void bfcn_lut6_gemm_a1_8x64__avx512(const struct gemm *g) {
  lut_tiles(g, 8, 1, SIX_A1);
}
void bfcn_lut6_gemm_a1_4x128__avx512(const struct gemm *g) {
  lut_tiles(g, 4, 2, SIX_A1);
}
void bfcn_lut6_gemm_a2_8x64__avx512(const struct gemm *g) {
  lut_tiles(g, 8, 1, SIX_A2);
}
void bfcn_lut6_gemm_a2_4x128__avx512(const struct gemm *g) {
  lut_tiles(g, 4, 2, SIX_A2);
}
void bfcn_lut6_gemm_a2_2x256__avx512(const struct gemm *g) {
  lut_tiles(g, 2, 4, SIX_A2);
}

void bfcn_lut6_gemm_a2_2x192__avx512(const struct gemm *g) {
  lut_tiles(g, 2, 3, SIX_A2);
}
void bfcn_lut6_gemm_a2_4x128k3__avx512(const struct gemm *g) {
  EACH_TILE(g, 4, uint16_t, lut_tile_k3(&tile, 4, 2, SIX_A2));
}
void bfcn_lut6_gemm_a2_8x64k3__avx512(const struct gemm *g) {
  EACH_TILE(g, 8, uint16_t, lut_tile_k3(&tile, 8, 1, SIX_A2));
}
void bfcn_lut6_gemm_a2_4x64k3__avx512(const struct gemm *g) {
  EACH_TILE(g, 4, uint16_t, lut_tile_k3(&tile, 4, 1, SIX_A2));
}
void bfcn_lut6_gemm_a1_8x64k3__avx512(const struct gemm *g) {
  EACH_TILE(g, 8, uint16_t, lut_tile_k3(&tile, 8, 1, SIX_A1));
}

void bfcn_lut3_gemm_a2_8x64__avx512(const struct gemm *g) {
  lut_tiles(g, 8, 1, THREE);
}
void bfcn_lut3_gemm_a2_4x128__avx512(const struct gemm *g) {
  lut_tiles(g, 4, 2, THREE);
}
void bfcn_lut3_gemm_a2_8x64k3__avx512(const struct gemm *g) {
  EACH_TILE(g, 8, uint16_t, lut_tile_k3(&tile, 8, 1, THREE));
}

static inline void store_i32(const struct gemm *g, int32_t *sums, __m512i sum) {
  sum = _mm512_sll_epi32(sum, _mm_cvtsi32_si128((int)g->shift));
  if (g->accumulate) sum = _mm512_add_epi32(sum, _mm512_loadu_si512(sums));
  _mm512_storeu_si512(sums, sum);
}

/* p pixels x nv vectors of 8 outputs x 64 channels: and, popcount, add for each activation plane.
 */
TILE bits_tile(const struct gemm *g, const int p, const int nv, const int a) {
  __m512i total[16];
  UNROLLED
  for (int i = 0; i < p * nv; i++) total[i] = _mm512_setzero_si512();
  for (unsigned plane = g->planes; plane-- > 0;) {
    const uint8_t *w = (const uint8_t *)g->weights + plane * g->plane_bytes;
    __m512i count[16];
    UNROLLED
    for (int i = 0; i < p * a * nv; i++) count[i] = _mm512_setzero_si512();
    for (size_t row = 0; row < g->rows; row++) {
      const uint8_t *const *pixels = g->pixels + row * g->row_stride;
      for (size_t column = 0; column < g->columns; column++) {
        const int64_t *x[8];
        UNROLLED
        for (int i = 0; i < p; i++)
          x[i] = (const int64_t *)(pixels[i] + g->first_byte + column * g->column_bytes);
        ROLLED
        for (size_t step = 0; step < g->steps; step++) {
          __m512i weight[2];
          UNROLLED
          for (int n = 0; n < nv; n++)
            weight[n] = _mm512_load_si512(w + (size_t)n * g->block_bytes);
          w += 64;
          UNROLLED
          for (int i = 0; i < p * a; i++) {
            __m512i bits = _mm512_set1_epi64(x[i / a][(size_t)(i % a) * g->steps + step]);
            UNROLLED
            for (int n = 0; n < nv; n++)
              count[i * nv + n] = _mm512_add_epi64(
                  count[i * nv + n], _mm512_popcnt_epi64(_mm512_and_si512(bits, weight[n])));
          }
        }
      }
    }
    UNROLLED
    for (int i = 0; i < p; i++) UNROLLED
    for (int n = 0; n < nv; n++) {
      __m512i sum = count[i * a * nv + n];
      if (a == 2) sum = _mm512_add_epi64(sum, _mm512_slli_epi64(count[(i * a + 1) * nv + n], 1));
      total[i * nv + n] = _mm512_add_epi64(_mm512_slli_epi64(total[i * nv + n], 1), sum);
    }
  }
  UNROLLED
  for (int i = 0; i < p * nv; i++) {
    uint16_t *sums = (uint16_t *)g->sums + (size_t)(i / nv) * g->sum_stride + i % nv * 8;
    __m128i sum = _mm512_cvtepi64_epi16(total[i]);
    sum = _mm_sll_epi16(sum, _mm_cvtsi32_si128((int)g->shift));
    if (g->accumulate) sum = _mm_add_epi16(sum, _mm_loadu_si128((const __m128i *)sums));
    _mm_storeu_si128((__m128i *)sums, sum);
  }
}

void bfcn_bits_gemm_a1_8x16__avx512(const struct gemm *g) {
  EACH_TILE(g, 8, uint16_t, bits_tile(&tile, 8, 2, 1));
}
void bfcn_bits_gemm_a2_8x8__avx512(const struct gemm *g) {
  EACH_TILE(g, 8, uint16_t, bits_tile(&tile, 8, 1, 2));
}
void bfcn_bits_gemm_a2_4x16__avx512(const struct gemm *g) {
  EACH_TILE(g, 4, uint16_t, bits_tile(&tile, 4, 2, 2));
}

/* p pixels x nv vectors of 16 outputs x 4 channels. planes is 1, or 2 where weights pass int8. */
TILE int8_tile(const struct gemm *g, const int p, const int nv) {
  __m512i total[16];
  UNROLLED
  for (int i = 0; i < p * nv; i++) total[i] = _mm512_setzero_si512();
  for (unsigned plane = g->planes; plane-- > 0;) {
    const uint8_t *w = (const uint8_t *)g->weights + plane * g->plane_bytes;
    UNROLLED
    for (int i = 0; i < p * nv; i++) total[i] = _mm512_add_epi32(total[i], total[i]);
    for (size_t row = 0; row < g->rows; row++) {
      const uint8_t *const *pixels = g->pixels + row * g->row_stride;
      for (size_t column = 0; column < g->columns; column++) {
        const uint8_t *x[8];
        UNROLLED
        for (int i = 0; i < p; i++) x[i] = pixels[i] + g->first_byte + column * g->column_bytes;
        ROLLED
        for (size_t step = 0; step < g->steps; step++) {
          __m512i weight[4];
          UNROLLED
          for (int n = 0; n < nv; n++)
            weight[n] = _mm512_load_si512(w + (size_t)n * g->block_bytes);
          w += 64;
          UNROLLED
          for (int i = 0; i < p; i++) {
            int32_t four;
            __builtin_memcpy(&four, x[i] + step * 4, 4);
            __m512i activation = _mm512_set1_epi32(four);
            UNROLLED
            for (int n = 0; n < nv; n++)
              total[i * nv + n] = _mm512_dpbusd_epi32(total[i * nv + n], activation, weight[n]);
          }
        }
      }
    }
  }
  UNROLLED
  for (int i = 0; i < p; i++) UNROLLED
  for (int n = 0; n < nv; n++)
    store_i32(g, (int32_t *)g->sums + (size_t)i * g->sum_stride + n * 16, total[i * nv + n]);
}

void bfcn_int8_gemm_4x64__avx512(const struct gemm *g) {
  EACH_TILE_IN_MEMORY(g, 4, int32_t, int8_tile(&tile, 4, 4));
}
void bfcn_int8_gemm_8x16__avx512(const struct gemm *g) {
  EACH_TILE(g, 8, int32_t, int8_tile(&tile, 8, 1));
}

TARGET_END
#endif
