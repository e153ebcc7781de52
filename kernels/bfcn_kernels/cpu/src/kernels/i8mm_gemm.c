/* int8 kernels for AArch64 with matrix products (USMMLA: Neoverse V1 and N2, Cortex-A510, A710 and
 * later): 2 pixels x 2 outputs x 8 channels an instruction, codes unsigned, weights signed. */
#if defined(__aarch64__)

#include "../kernels.h"
#include "neon.h"

#include <string.h>

TARGET_BEGIN(I8MM_FEATURES)

/* The next 8 channels of two pixels side by side; `bytes` of each, then zeros. */
static inline uint8x16_t two_pixels(const uint8_t *a, const uint8_t *b, const size_t bytes) {
  if (bytes == 8) return vcombine_u8(vld1_u8(a), vld1_u8(b));
  uint32_t four[2];
  memcpy(&four[0], a, 4);
  memcpy(&four[1], b, 4);
  return vcombine_u8(vcreate_u8(four[0]), vcreate_u8(four[1]));
}

/* Two steps of 4 outputs x 4 channels -> outputs 0 and 1 x 8 channels, outputs 2 and 3. */
static inline int8x16_t low_outputs(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s32(vzip1q_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b)));
}
static inline int8x16_t high_outputs(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s32(vzip2q_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b)));
}

enum { P = 8, PAIRS = P / 2 };

/* 8 pixels x 8 outputs x 8 channels; the last step of an odd number stands alone. */
static inline __attribute__((always_inline)) void step8(int32x4_t total[4 * PAIRS],
                                                        const uint8_t *const x[P], size_t at,
                                                        const int8_t *w, const size_t bytes) {
  int8x16_t weight[4];
  UNROLLED
  for (int n = 0; n < 2; n++) {
    const int8x16_t a = vld1q_s8(w + 16 * n);
    const int8x16_t b = bytes == 8 ? vld1q_s8(w + 32 + 16 * n) : vdupq_n_s8(0);
    weight[2 * n] = low_outputs(a, b);
    weight[2 * n + 1] = high_outputs(a, b);
  }
  UNROLLED
  for (int i = 0; i < PAIRS; i++) {
    const uint8x16_t both = two_pixels(x[2 * i] + at, x[2 * i + 1] + at, bytes);
    UNROLLED
    for (int n = 0; n < 4; n++) total[4 * i + n] = vusmmlaq_s32(total[4 * i + n], both, weight[n]);
  }
}

TILE int8_tile(const struct gemm *g) {
  int32x4_t total[4 * PAIRS]; /* [pixels a, b][outputs 2n, 2n + 1] */
  INT8_TAPS(g, total, 4 * PAIRS, P, {
    size_t step = 0;
    ROLLED
    for (; step + 1 < g->steps; step += 2, w += 64) step8(total, x, 4 * step, w, 8);
    if (step < g->steps) {
      step8(total, x, 4 * step, w, 4);
      w += 32;
    }
  })
  UNROLLED
  for (int i = 0; i < PAIRS; i++) UNROLLED
  for (int h = 0; h < 2; h++) {
    const int64x2_t a = vreinterpretq_s64_s32(total[4 * i + 2 * h]);
    const int64x2_t b = vreinterpretq_s64_s32(total[4 * i + 2 * h + 1]);
    int32_t *sums = (int32_t *)g->sums + (size_t)(2 * i) * g->sum_stride + 4 * h;
    add_to_s32(sums, vreinterpretq_s32_s64(vzip1q_s64(a, b)), g);
    add_to_s32(sums + g->sum_stride, vreinterpretq_s32_s64(vzip2q_s64(a, b)), g);
  }
}

void bfcn_int8_gemm_8x8__i8mm(const struct gemm *g) {
  EACH_TILE(g, P, int32_t, int8_tile(&tile));
}

TARGET_END
#endif
