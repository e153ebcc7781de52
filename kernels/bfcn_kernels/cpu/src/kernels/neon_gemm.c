/* Matrix kernels for NEON. The comments count 128-bit operations; a Cortex-A15 issues two a cycle,
 * and of VCNT one. */
#include "neon.h"

#if defined(BFCN_NEON)

#include "../kernels.h"

#include <string.h>

/* Most lookups that a byte can sum: 4 channels of 3 give 12, 4 channels of 1 give 4. */
enum { RUN_A1 = 63, RUN_A2 = 21 };

static inline void add_to(uint16_t *sums, uint16x8_t v, const struct gemm *g) {
  v = vshlq_u16(v, vdupq_n_s16((int16_t)g->shift));
  if (g->accumulate) v = vaddq_u16(v, vld1q_u16(sums));
  vst1q_u16(sums, v);
}

/* 16 outputs from lanes of two bytes: the odd bytes belong to the second 8. */
static inline void add_bytes(uint16_t *sums, uint16x8_t both, uint16x8_t odd,
                             const struct gemm *g) {
  add_to(sums, vsubq_u16(both, vshlq_n_u16(odd, 8)), g);
  add_to(sums + 8, odd, g);
}

/* Add bytes to 16-bit sums: wide[0] counts whole lanes modulo 2^16, wide[1] their upper bytes. On
 * ARMv7, whose registers hold the bytes alone, the sums stay in memory, 32 bytes a load. */
static inline void widen(uint16x8_t wide[2], uint8x16_t bytes, int first) {
  const uint16x8_t both = vreinterpretq_u16_u8(bytes);
  if (first) {
    wide[0] = both;
    wide[1] = vshrq_n_u16(both, 8);
    return;
  }
#if defined(__arm__)
  __asm__("vld1.16 {d16-d19}, [%1]\n\t"
          "vadd.i16 q8, q8, %q2\n\t"
          "vsra.u16 q9, %q2, #8\n\t"
          "vst1.16 {d16-d19}, [%1]"
          : "+m"(*(uint16x8_t(*)[2])wide)
          : "r"(wide), "w"(both)
          : "d16", "d17", "d18", "d19");
#else
  wide[0] = vaddq_u16(wide[0], both);
  wide[1] = vsraq_n_u16(wide[1], both, 8);
#endif
}

/* p pixels x nv vectors of 16 outputs x 4 channels: a lookup and an addition. Bytes are summed for
 * at most `run` lookups, then widened, once at the end where that suffices. */
TILE lut4_tile(const struct gemm *g, const int p, const int nv, const size_t run) {
  const size_t runs = (g->steps + run - 1) / run, even = (g->steps + runs - 1) / runs;
  uint16x8_t wide[8][2];
  uint8x16_t bytes[8];
  UNROLLED
  for (int i = 0; i < p * nv; i++) bytes[i] = vdupq_n_u8(0);
  size_t left = run; /* lookups that a byte can still take */
  int first = 1;
#define WIDEN                                                     \
  UNROLLED                                                        \
  for (int i = 0; i < p * nv; i++) widen(wide[i], bytes[i], first); \
  first = 0;
  for (unsigned plane = g->planes; plane-- > 0;) {
    const uint8_t *w = (const uint8_t *)g->weights + plane * g->plane_bytes;
    if (plane + 1 < g->planes) {
      WIDEN
      UNROLLED
      for (int i = 0; i < p * nv; i++) {
        bytes[i] = vdupq_n_u8(0);
        wide[i][0] = vaddq_u16(wide[i][0], wide[i][0]);
        wide[i][1] = vaddq_u16(wide[i][1], wide[i][1]);
      }
      left = run;
    }
    for (size_t row = 0; row < g->rows; row++) {
      const uint8_t *const *pixels = g->pixels + row * g->row_stride;
      for (size_t column = 0; column < g->columns; column++) {
        const uint16_t *x[4];
        UNROLLED
        for (int i = 0; i < p; i++)
          x[i] = (const uint16_t *)(pixels[i] + g->first_byte + column * g->column_bytes);
        for (size_t done = 0; done < g->steps;) {
          const size_t steps = g->steps - done < even ? g->steps - done : even;
          if (left < steps) {
            WIDEN
            UNROLLED
            for (int i = 0; i < p * nv; i++) bytes[i] = vdupq_n_u8(0);
            left = run;
          }
          left -= steps;
          ROLLED
          for (const size_t stop = done + steps; done < stop; done++, w += 16) {
            uint8x16_t index[4];
            UNROLLED
            for (int n = 0; n < nv; n++) index[n] = vld1q_u8(w + (size_t)n * g->block_bytes);
            UNROLLED
            for (int i = 0; i < p; i++) {
              const uint8x16_t table = vld1q_u8(bfcn_lut4 + x[i][done]);
              UNROLLED
              for (int n = 0; n < nv; n++)
                bytes[i * nv + n] = vaddq_u8(bytes[i * nv + n], look_up(table, index[n]));
            }
          }
        }
      }
    }
  }
  if (first) {
    UNROLLED
    for (int i = 0; i < p * nv; i++)
      add_bytes((uint16_t *)g->sums + (size_t)(i / nv) * g->sum_stride + i % nv * 16,
                vreinterpretq_u16_u8(bytes[i]), vshrq_n_u16(vreinterpretq_u16_u8(bytes[i]), 8), g);
    return;
  }
  WIDEN
  UNROLLED
  for (int i = 0; i < p * nv; i++)
    add_bytes((uint16_t *)g->sums + (size_t)(i / nv) * g->sum_stride + i % nv * 16, wide[i][0],
              wide[i][1], g);
#undef WIDEN
}

void lut4_gemm_a1_2x64__neon(const struct gemm *g) {
  lut4_tile(g, 2, 4, RUN_A1);
}
void lut4_gemm_a1_4x32__neon(const struct gemm *g) {
  lut4_tile(g, 4, 2, RUN_A1);
}
void lut4_gemm_a2_2x64__neon(const struct gemm *g) {
  lut4_tile(g, 2, 4, RUN_A2);
}
void lut4_gemm_a2_4x32__neon(const struct gemm *g) {
  lut4_tile(g, 4, 2, RUN_A2);
}

/* p pixels x nv vectors of 2 outputs x 64 channels: and, popcount, add for each of `a` activation
 * planes. A byte sums 31 popcounts, then 16-bit lanes, 4 to an output, take over. */
TILE bits_tile(const struct gemm *g, const int p, const int nv, const int a) {
  enum { RUN = 31 };
  const size_t runs = (g->steps + RUN - 1) / RUN, even = (g->steps + runs - 1) / runs;
  uint16x8_t total[16];
  UNROLLED
  for (int i = 0; i < p * nv; i++) total[i] = vdupq_n_u16(0);
  for (unsigned plane = g->planes; plane-- > 0;) {
    const uint8_t *w = (const uint8_t *)g->weights + plane * g->plane_bytes;
    UNROLLED
    for (int i = 0; i < p * nv; i++) total[i] = vaddq_u16(total[i], total[i]);
    uint8x16_t count[16];
    UNROLLED
    for (int i = 0; i < p * a * nv; i++) count[i] = vdupq_n_u8(0);
    size_t left = RUN; /* popcounts that a byte can still take */
    for (size_t row = 0; row < g->rows; row++) {
      const uint8_t *const *pixels = g->pixels + row * g->row_stride;
      for (size_t column = 0; column < g->columns; column++) {
        const uint8_t *x[8];
        UNROLLED
        for (int i = 0; i < p; i++) x[i] = pixels[i] + g->first_byte + column * g->column_bytes;
        for (size_t done = 0; done < g->steps;) {
          const size_t steps = g->steps - done < even ? g->steps - done : even;
          if (left < steps) {
            UNROLLED
            for (int i = 0; i < p * a * nv; i++) {
              uint16x8_t *sum = &total[i / (a * nv) * nv + i % nv];
              const uint16x8_t wide = vpaddlq_u8(count[i]);
              *sum = vaddq_u16(*sum, i / nv % a ? vshlq_n_u16(wide, 1) : wide);
              count[i] = vdupq_n_u8(0);
            }
            left = RUN;
          }
          left -= steps;
          ROLLED
          for (const size_t stop = done + steps; done < stop; done++) {
            uint8x16_t weight[4];
            UNROLLED
            for (int n = 0; n < nv; n++) weight[n] = vld1q_u8(w + 16 * n);
            w += 16 * nv;
            UNROLLED
            for (int i = 0; i < p * a; i++) {
              const uint64_t *word =
                  (const uint64_t *)x[i / a] + (size_t)(i % a) * g->steps + done;
              const uint8x16_t bits = vreinterpretq_u8_u64(vld1q_dup_u64(word));
              UNROLLED
              for (int n = 0; n < nv; n++)
                count[i * nv + n] =
                    vaddq_u8(count[i * nv + n], vcntq_u8(vandq_u8(bits, weight[n])));
            }
          }
        }
      }
    }
    UNROLLED
    for (int i = 0; i < p * a * nv; i++) {
      uint16x8_t *sum = &total[i / (a * nv) * nv + i % nv];
      const uint16x8_t wide = vpaddlq_u8(count[i]);
      *sum = vaddq_u16(*sum, i / nv % a ? vshlq_n_u16(wide, 1) : wide);
    }
  }
  UNROLLED
  for (int i = 0; i < p; i++) {
    const uint16x8_t *t = &total[i * nv]; /* nv is 4: 8 outputs */
    add_to((uint16_t *)g->sums + (size_t)i * g->sum_stride,
           pairs_u16(pairs_u16(t[0], t[1]), pairs_u16(t[2], t[3])), g);
  }
}

void bits_gemm_a1_2x8__neon(const struct gemm *g) {
  bits_tile(g, 2, 4, 1);
}
void bits_gemm_a2_1x8__neon(const struct gemm *g) {
  bits_tile(g, 1, 4, 2);
}
#if defined(__aarch64__)
void bits_gemm_a1_4x8__neon(const struct gemm *g) {
  bits_tile(g, 4, 4, 1);
}
void bits_gemm_a2_2x8__neon(const struct gemm *g) {
  bits_tile(g, 2, 4, 2);
}
#endif

static inline int8x8_t four_twice(const uint8_t *x, uint8x8_t flip) {
  uint32_t four;
  memcpy(&four, x, 4);
  return vreinterpret_s8_u8(veor_u8(vreinterpret_u8_u32(vdup_n_u32(four)), flip));
}

/* p pixels x 8 outputs x 4 channels: products of 8 bits in 16, whose pairs are added to 32. Codes
 * above 127 are taken as x - 128, and 128 times the sum of the weights is added at the end. */
TILE int8_tile(const struct gemm *g, const int p, const int wide) {
  const uint8x8_t flip = vdup_n_u8(wide ? 128 : 0);
  int32x4_t total[16], weights[4];
  UNROLLED
  for (int i = 0; i < 4 * p; i++) total[i] = vdupq_n_s32(0);
  UNROLLED
  for (int i = 0; i < 4; i++) weights[i] = vdupq_n_s32(0);
  for (unsigned plane = g->planes; plane-- > 0;) {
    const int8_t *w = (const int8_t *)g->weights + plane * g->plane_bytes;
    UNROLLED
    for (int i = 0; i < 4 * p; i++) total[i] = vaddq_s32(total[i], total[i]);
    UNROLLED
    for (int i = 0; i < 4; i++) weights[i] = vaddq_s32(weights[i], weights[i]);
    for (size_t row = 0; row < g->rows; row++)
      for (size_t column = 0; column < g->columns; column++) {
        const uint8_t *const *pixels = g->pixels + row * g->row_stride;
        const uint8_t *x[4];
        UNROLLED
        for (int i = 0; i < p; i++) x[i] = pixels[i] + g->first_byte + column * g->column_bytes;
        size_t step = 0;
        ROLLED
        for (const size_t pairs = wide ? 0 : g->steps & ~(size_t)1; step < pairs; step += 2, w += 64) {
          int8x8_t a[4], b[4];
          UNROLLED
          for (int i = 0; i < p; i++) {
            a[i] = four_twice(x[i] + 4 * step, flip);
            b[i] = four_twice(x[i] + 4 * step + 4, flip);
          }
          UNROLLED
          for (int n = 0; n < 4; n++) {
            const int8x8_t w0 = vld1_s8(w + 8 * n), w1 = vld1_s8(w + 32 + 8 * n);
            UNROLLED
            for (int i = 0; i < p; i++) /* 127 * 128 * 2 fits 16 bits */
              total[4 * i + n] =
                  vpadalq_s16(total[4 * i + n], vmlal_s8(vmull_s8(w0, a[i]), w1, b[i]));
          }
        }
        ROLLED
        for (; step < g->steps; step++, w += 32) {
          int8x8_t a[4];
          UNROLLED
          for (int i = 0; i < p; i++) a[i] = four_twice(x[i] + 4 * step, flip);
          UNROLLED
          for (int n = 0; n < 4; n++) {
            const int8x8_t w0 = vld1_s8(w + 8 * n);
            UNROLLED
            for (int i = 0; i < p; i++)
              total[4 * i + n] = vpadalq_s16(total[4 * i + n], vmull_s8(w0, a[i]));
            if (wide) weights[n] = vpadalq_s16(weights[n], vmovl_s8(w0));
          }
        }
      }
  }
  UNROLLED
  for (int i = 0; i < p; i++) UNROLLED
  for (int h = 0; h < 2; h++) {
    int32_t *sums = (int32_t *)g->sums + (size_t)i * g->sum_stride + 4 * h;
    int32x4_t v = pairs_s32(total[4 * i + 2 * h], total[4 * i + 2 * h + 1]);
    if (wide)
      v = vaddq_s32(v, vshlq_n_s32(pairs_s32(weights[2 * h], weights[2 * h + 1]), 7));
    v = vshlq_s32(v, vdupq_n_s32((int32_t)g->shift));
    if (g->accumulate) v = vaddq_s32(v, vld1q_s32(sums));
    vst1q_s32(sums, v);
  }
}

void int8_gemm_2x8__neon(const struct gemm *g) {
  if (g->wide)
    int8_tile(g, 2, 1);
  else
    int8_tile(g, 2, 0);
}
#if defined(__aarch64__)
void int8_gemm_4x8__neon(const struct gemm *g) {
  if (g->wide)
    int8_tile(g, 4, 1);
  else
    int8_tile(g, 4, 0);
}
#endif

#endif
