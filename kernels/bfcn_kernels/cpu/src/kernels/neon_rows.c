/* Labels from rows of scores by NEON.
 *
 * ARMv7's NEON flushes denormal floats to zero. It runs where that cannot change a label: every
 * score is 0 or above 2^-100, l is 0 or at least 2^-24. Then b - a is 0 or normal: at least an ulp
 * of a score, 2^-123. Its product with l is denormal only where b - a is below 2^-102, so neither a
 * nor b is 0, and adding less than 2^-126 to an a above 2^-100 leaves a. Otherwise the sum is
 * 0 or normal: where it cancels, it is a multiple of an ulp of a number above 2^-101. */
#include "neon.h"

#if defined(BFCN_NEON)

#include "rows.h"

#if defined(__arm__)
static int far_from_denormal(const float *x, size_t count) {
  const uint32x4_t one = vdupq_n_u32(1);
  uint32x4_t least[4]; /* of twice the magnitude's bits less 1, which 0 has the largest of */
  UNROLLED
  for (int j = 0; j < 4; j++) least[j] = vdupq_n_u32(~0u);
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    UNROLLED
    for (int j = 0; j < 4; j++) {
      const uint32x4_t bits = vreinterpretq_u32_f32(vld1q_f32(x + i + 4 * j));
      least[j] = vminq_u32(least[j], vsubq_u32(vaddq_u32(bits, bits), one));
    }
  }
  const uint32x4_t two = vminq_u32(vminq_u32(least[0], least[1]), vminq_u32(least[2], least[3]));
  const uint32x2_t half = vmin_u32(vget_low_u32(two), vget_high_u32(two));
  const uint32_t bound = 2u * ((127 - 100) << 23);
  int far = vget_lane_u32(half, 0) >= bound && vget_lane_u32(half, 1) >= bound;
  for (; i < count; i++) far &= x[i] == 0 || x[i] > 0x1p-100f || x[i] < -0x1p-100f;
  return far;
}
#endif

/* On ARMv7 gcc makes four comparisons of vcgtq_f32. */
static inline uint32x4_t greater(float32x4_t a, float32x4_t b) {
#if defined(__arm__)
  uint32x4_t mask;
  __asm__("vcgt.f32 %q0, %q1, %q2" : "=w"(mask) : "w"(a), "w"(b));
  return mask;
#else
  return vcgtq_f32(a, b);
#endif
}

static inline float32x4_t between(const float *a, const float *b, float l) {
  const float32x4_t from = vld1q_f32(a);
  return vaddq_f32(from, vmulq_n_f32(vsubq_f32(vld1q_f32(b), from), l));
}

/* 8 pixels, every channel. */
static inline void argmax_8(const float *top, const float *bottom, float l, unsigned channels,
                            size_t width, uint8_t *labels) {
  float32x4_t best[2];
  uint32x4_t index[2] = {vdupq_n_u32(0), vdupq_n_u32(0)};
  UNROLLED
  for (int i = 0; i < 2; i++) best[i] = between(top + 4 * i, bottom + 4 * i, l);
  for (unsigned c = 1; c < channels; c++) {
    const uint32x4_t channel = vdupq_n_u32(c);
    top += width, bottom += width;
    UNROLLED
    for (int i = 0; i < 2; i++) {
      const float32x4_t v = between(top + 4 * i, bottom + 4 * i, l);
      const uint32x4_t larger = greater(v, best[i]);
      best[i] = vbslq_f32(larger, v, best[i]);
      index[i] = vbslq_u32(larger, channel, index[i]);
    }
  }
  vst1_u8(labels, vmovn_u16(vcombine_u16(vmovn_u32(index[0]), vmovn_u32(index[1]))));
}

void bfcn_argmax_row_neon(const float *top, const float *bottom, float l, unsigned channels,
                          size_t width, uint8_t *labels) {
#if defined(__arm__)
  const size_t count = channels * width;
  const int safe = (l == 0 || l >= 0x1p-24f) && far_from_denormal(top, count) &&
                   far_from_denormal(bottom, count);
  if (!safe) {
    argmax_row(top, bottom, l, channels, width, labels);
    return;
  }
#endif
  if (width < 8) {
    argmax_row(top, bottom, l, channels, width, labels);
    return;
  }
  for (size_t x = 0; x < width; x += 8) {
    const size_t at = x + 8 <= width ? x : width - 8; /* the last 8 may overlap those before */
    argmax_8(top + at, bottom + at, l, channels, width, labels + at);
  }
}

#endif
