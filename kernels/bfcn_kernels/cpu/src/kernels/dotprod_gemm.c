/* int8 kernels for AArch64 with dot products (SDOT: Cortex-A55, A76 and later). */
#if defined(__aarch64__)

#include "../kernels.h"
#include "neon.h"

#include <string.h>

TARGET_BEGIN(DOTPROD_FEATURES)

static inline int8x16_t flipped(uint8x16_t x, uint8x16_t flip) {
  return vreinterpretq_s8_u8(veorq_u8(x, flip));
}

/* 8 pixels x 2 vectors of 4 outputs x 4 channels. Codes of 8 bits become code - 128. */
TILE int8_tile(const struct gemm *g, const int wide) {
  enum { P = 8 };
  const uint8x16_t flip = vdupq_n_u8(wide ? 128 : 0);
  int32x4_t total[2 * P];
  UNROLLED
  for (int i = 0; i < 2 * P; i++) total[i] = vdupq_n_s32(0);
  for (unsigned plane = g->planes; plane-- > 0;) {
    const int8_t *w = (const int8_t *)g->weights + plane * g->plane_bytes;
    UNROLLED
    for (int i = 0; i < 2 * P; i++) total[i] = vaddq_s32(total[i], total[i]);
    for (size_t row = 0; row < g->rows; row++)
      for (size_t column = 0; column < g->columns; column++) {
        const uint8_t *const *pixels = g->pixels + row * g->row_stride;
        const uint8_t *x[P];
        UNROLLED
        for (int i = 0; i < P; i++) x[i] = pixels[i] + g->first_byte + column * g->column_bytes;
        size_t step = 0;
        ROLLED
        for (; step + 3 < g->steps; step += 4) {
          int8x16_t four[P];
          UNROLLED
          for (int i = 0; i < P; i++) four[i] = flipped(vld1q_u8(x[i] + 4 * step), flip);
#define STEP(j)                                                                 \
  UNROLLED                                                                      \
  for (int n = 0; n < 2; n++, w += 16) {                                        \
    const int8x16_t weight = vld1q_s8(w);                                       \
    UNROLLED                                                                    \
    for (int i = 0; i < P; i++)                                                 \
      total[2 * i + n] = vdotq_laneq_s32(total[2 * i + n], weight, four[i], j); \
  }
          STEP(0)
          STEP(1)
          STEP(2)
          STEP(3)
#undef STEP
        }
        ROLLED
        for (; step < g->steps; step++) {
          const int8x16_t weight[2] = {vld1q_s8(w), vld1q_s8(w + 16)};
          w += 32;
          UNROLLED
          for (int i = 0; i < P; i++) {
            uint32_t one;
            memcpy(&one, x[i] + 4 * step, 4);
            const int8x16_t four = flipped(vreinterpretq_u8_u32(vdupq_n_u32(one)), flip);
            UNROLLED
            for (int n = 0; n < 2; n++)
              total[2 * i + n] = vdotq_s32(total[2 * i + n], weight[n], four);
          }
        }
      }
  }
  UNROLLED
  for (int i = 0; i < 2 * P; i++) {
    int32_t *sums = (int32_t *)g->sums + (size_t)(i / 2) * g->sum_stride + i % 2 * 4;
    int32x4_t v = total[i];
    v = vshlq_s32(v, vdupq_n_s32((int32_t)g->shift));
    if (g->accumulate) v = vaddq_s32(v, vld1q_s32(sums));
    vst1q_s32(sums, v);
  }
}

void int8_gemm_8x8__dotprod(const struct gemm *g) {
  if (g->wide)
    int8_tile(g, 1);
  else
    int8_tile(g, 0);
}

TARGET_END
#endif
