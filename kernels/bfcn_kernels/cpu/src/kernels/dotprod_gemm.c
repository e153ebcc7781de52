/* int8 kernels for AArch64 with dot products (SDOT: Cortex-A55, A76 and later). */
#if defined(__aarch64__)

#include "../kernels.h"
#include "neon.h"

#include <string.h>

TARGET_BEGIN(DOTPROD_FEATURES)

enum { P = 8 };

/* Channels 4j to 4j + 3 of every pixel times 2 vectors of 4 outputs. */
static inline __attribute__((always_inline)) void
multiply(int32x4_t total[2 * P], const int8x16_t four[P], const int8_t *w, const int j) {
  UNROLLED
  for (int n = 0; n < 2; n++) {
    const int8x16_t weight = vld1q_s8(w + 16 * n);
    UNROLLED
    for (int i = 0; i < P; i++) {
      int32x4_t *sum = &total[2 * i + n];
      *sum = j == 0   ? vdotq_laneq_s32(*sum, weight, four[i], 0)
             : j == 1 ? vdotq_laneq_s32(*sum, weight, four[i], 1)
             : j == 2 ? vdotq_laneq_s32(*sum, weight, four[i], 2)
                      : vdotq_laneq_s32(*sum, weight, four[i], 3);
    }
  }
}

/* The next 4, 2 or 1 steps of every pixel; codes of 8 bits become code - 128. */
static inline __attribute__((always_inline)) void
look(int8x16_t four[P], const uint8_t *const x[P], size_t at, const int steps, uint8x16_t flip) {
  UNROLLED
  for (int i = 0; i < P; i++) {
    uint8x16_t codes;
    if (steps == 4) {
      codes = vld1q_u8(x[i] + at);
    } else if (steps == 2) {
      codes = vcombine_u8(vld1_u8(x[i] + at), vdup_n_u8(0));
    } else {
      uint32_t one;
      memcpy(&one, x[i] + at, 4);
      codes = vreinterpretq_u8_u32(vdupq_n_u32(one));
    }
    four[i] = vreinterpretq_s8_u8(veorq_u8(codes, flip));
  }
}

/* 8 pixels x 2 vectors of 4 outputs. */
TILE int8_tile(const struct gemm *g, const int wide) {
  const uint8x16_t flip = vdupq_n_u8(wide ? 128 : 0);
  int32x4_t total[2 * P];
  int8x16_t four[P];
  INT8_TAPS(g, total, 2 * P, P, {
    size_t step = 0;
    ROLLED
    for (; step + 4 <= g->steps; step += 4, w += 128) {
      look(four, x, 4 * step, 4, flip);
      UNROLLED
      for (int j = 0; j < 4; j++) multiply(total, four, w + 32 * j, j);
    }
    if (step + 2 <= g->steps) {
      look(four, x, 4 * step, 2, flip);
      multiply(total, four, w, 0);
      multiply(total, four, w + 32, 1);
      step += 2, w += 64;
    }
    if (step < g->steps) {
      look(four, x, 4 * step, 1, flip);
      multiply(total, four, w, 0);
      w += 32;
    }
  })
  UNROLLED
  for (int i = 0; i < 2 * P; i++)
    add_to_s32((int32_t *)g->sums + (size_t)(i / 2) * g->sum_stride + i % 2 * 4, total[i], g);
}

void bfcn_int8_gemm_8x8__dotprod(const struct gemm *g) {
  if (g->wide)
    EACH_TILE(g, P, int32_t, int8_tile(&tile, 1));
  else
    EACH_TILE(g, P, int32_t, int8_tile(&tile, 0));
}

TARGET_END
#endif
