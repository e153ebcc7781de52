/* Bit-serial and int8 kernels for NEON. */
#include "neon.h"

#if defined(BFCN_NEON)

#include <string.h>

/* p pixels x nv vectors of 2 outputs x 64 channels: and, popcount, add for each of `a` activation
 * planes. A byte sums 31 popcounts, then 16-bit lanes, 4 to an output, take over. */
TILE bits_tile(const struct gemm *g, const int p, const int nv, const int a) {
  enum { RUN = 31 };
  const size_t most = g->steps < RUN ? g->steps : RUN; /* steps at a time */
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
          const size_t steps = g->steps - done < most ? g->steps - done : most;
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
              const uint64_t *word = (const uint64_t *)x[i / a] + (size_t)(i % a) * g->steps + done;
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

void bfcn_bits_gemm_a1_2x8__neon(const struct gemm *g) {
  EACH_TILE(g, 2, uint16_t, bits_tile(&tile, 2, 4, 1));
}
void bfcn_bits_gemm_a2_1x8__neon(const struct gemm *g) {
  EACH_TILE(g, 1, uint16_t, bits_tile(&tile, 1, 4, 2));
}
#if defined(__aarch64__)
void bfcn_bits_gemm_a1_4x8__neon(const struct gemm *g) {
  EACH_TILE(g, 4, uint16_t, bits_tile(&tile, 4, 4, 1));
}
void bfcn_bits_gemm_a2_2x8__neon(const struct gemm *g) {
  EACH_TILE(g, 2, uint16_t, bits_tile(&tile, 2, 4, 2));
}
#endif

/* 8 channels of a pixel; codes of 8 bits pass int8 and become code - 128. */
static inline int8x8_t eight(const uint8_t *x, uint8x8_t flip) {
  return vreinterpret_s8_u8(veor_u8(vld1_u8(x), flip));
}

/* Half h of 8 channels, four times. */
static inline int8x16_t four_times(int8x8_t x, const int h) {
  const int32x2_t both = vreinterpret_s32_s8(x);
  return vreinterpretq_s8_s32(h ? vdupq_lane_s32(both, 1) : vdupq_lane_s32(both, 0));
}

/* Products of half h; of two pairs, added. */
static inline int16x8_t product(int8x16_t w, int8x16_t x, const int h) {
#if defined(__aarch64__)
  if (h) return vmull_high_s8(w, x);
#endif
  return vmull_s8(h ? vget_high_s8(w) : vget_low_s8(w), vget_low_s8(x));
}
static inline int16x8_t products(int8x16_t w0, int8x16_t x0, int8x16_t w1, int8x16_t x1,
                                 const int h) {
#if defined(__aarch64__)
  if (h) return vmlal_high_s8(vmull_high_s8(w0, x0), w1, x1);
#endif
  return vmlal_s8(product(w0, x0, h), h ? vget_high_s8(w1) : vget_low_s8(w1), vget_low_s8(x1));
}

/* p pixels x 8 outputs x 4 channels: products of 8 bits in 16, of which two may fit (`twice`),
 * whose neighbours are added to 32. */
TILE int8_tile(const struct gemm *g, const int p, const int wide, const int twice) {
  const uint8x8_t flip = vdup_n_u8(wide ? 128 : 0);
  int32x4_t total[16];
  INT8_TAPS(g, total, 4 * p, p, {
    size_t step = 0;
    ROLLED
    for (const size_t pairs = g->steps & ~(size_t)1; step < pairs; step += 2, w += 64) {
      int8x16_t a[4], b[4];
      UNROLLED
      for (int i = 0; i < p; i++) {
        const int8x8_t both = eight(x[i] + 4 * step, flip);
        a[i] = four_times(both, 0), b[i] = four_times(both, 1);
      }
      UNROLLED
      for (int n = 0; n < 4; n++) {
        const int8x16_t w0 = vld1q_s8(w + n / 2 * 16), w1 = vld1q_s8(w + 32 + n / 2 * 16);
        UNROLLED
        for (int i = 0; i < p; i++) {
          int32x4_t *sum = &total[4 * i + n];
          if (twice)
            *sum = vpadalq_s16(*sum, products(w0, a[i], w1, b[i], n % 2));
          else
            *sum =
                vpadalq_s16(vpadalq_s16(*sum, product(w0, a[i], n % 2)), product(w1, b[i], n % 2));
        }
      }
    }
    if (step == g->steps) continue;
    UNROLLED
    for (int i = 0; i < p; i++) {
      uint32_t four;
      memcpy(&four, x[i] + 4 * step, 4);
      const uint8x8_t both = vreinterpret_u8_u32(vdup_n_u32(four));
      UNROLLED
      for (int n = 0; n < 4; n++)
        total[4 * i + n] =
            vpadalq_s16(total[4 * i + n],
                        vmull_s8(vld1_s8(w + 8 * n), vreinterpret_s8_u8(veor_u8(both, flip))));
    }
    w += 32;
  })
  UNROLLED
  for (int i = 0; i < p; i++) UNROLLED
  for (int h = 0; h < 2; h++) {
    int32_t *sums = (int32_t *)g->sums + (size_t)i * g->sum_stride + 4 * h;
    add_to_s32(sums, pairs_s32(total[4 * i + 2 * h], total[4 * i + 2 * h + 1]), g);
  }
}

void bfcn_int8_gemm_2x8__neon(const struct gemm *g) {
  if (!g->wide)
    EACH_TILE_IN_MEMORY(g, 2, int32_t, int8_tile(&tile, 2, 0, 1));
  else if (g->pairs_fit)
    EACH_TILE_IN_MEMORY(g, 2, int32_t, int8_tile(&tile, 2, 1, 1));
  else
    EACH_TILE_IN_MEMORY(g, 2, int32_t, int8_tile(&tile, 2, 1, 0));
}
#if defined(__aarch64__)
void bfcn_int8_gemm_4x8__neon(const struct gemm *g) {
  if (!g->wide)
    EACH_TILE_IN_MEMORY(g, 4, int32_t, int8_tile(&tile, 4, 0, 1));
  else if (g->pairs_fit)
    EACH_TILE_IN_MEMORY(g, 4, int32_t, int8_tile(&tile, 4, 1, 1));
  else
    EACH_TILE_IN_MEMORY(g, 4, int32_t, int8_tile(&tile, 4, 1, 0));
}
#endif

#endif
