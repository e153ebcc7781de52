/* NEON on ARMv7 and on AArch64 from one source: what differs between the two. */
#ifndef BFCN_NEON_H
#define BFCN_NEON_H

/* NEON is part of AArch64; an ARMv7 build has it where its flags say so (cmake/armv7.cmake). */
#if defined(__aarch64__) || (defined(__arm__) && defined(__ARM_NEON))
#define BFCN_NEON 1

#include "../kernels.h"
#include "target.h"

#include <arm_neon.h>

/* Sums of neighbours: a's, then b's. */
static inline uint8x16_t pairs_u8(uint8x16_t a, uint8x16_t b) {
#if defined(__aarch64__)
  return vpaddq_u8(a, b);
#else
  return vcombine_u8(vpadd_u8(vget_low_u8(a), vget_high_u8(a)),
                     vpadd_u8(vget_low_u8(b), vget_high_u8(b)));
#endif
}

static inline uint16x8_t pairs_u16(uint16x8_t a, uint16x8_t b) {
#if defined(__aarch64__)
  return vpaddq_u16(a, b);
#else
  return vcombine_u16(vpadd_u16(vget_low_u16(a), vget_high_u16(a)),
                      vpadd_u16(vget_low_u16(b), vget_high_u16(b)));
#endif
}

static inline int32x4_t pairs_s32(int32x4_t a, int32x4_t b) {
#if defined(__aarch64__)
  return vpaddq_s32(a, b);
#else
  return vcombine_s32(vpadd_s32(vget_low_s32(a), vget_high_s32(a)),
                      vpadd_s32(vget_low_s32(b), vget_high_s32(b)));
#endif
}

/* 8 sums of a pass: shifted, and added to those of the passes before. */
static inline void add_to(uint16_t *sums, uint16x8_t v, const struct gemm *g) {
  v = vshlq_u16(v, vdupq_n_s16((int16_t)g->shift));
  if (g->accumulate) v = vaddq_u16(v, vld1q_u16(sums));
  vst1q_u16(sums, v);
}

/* 4 sums of int8 products, likewise. */
static inline void add_to_s32(int32_t *sums, int32x4_t v, const struct gemm *g) {
  v = vshlq_s32(v, vdupq_n_s32((int32_t)g->shift));
  if (g->accumulate) v = vaddq_s32(v, vld1q_s32(sums));
  vst1q_s32(sums, v);
}

/* The frame of an int8 tile: its `totals` start at 0 and double from one plane of weights to the
 * next; for each tap the statement given finds its p pixels at x and its weights at w, which it
 * moves past them. */
#define INT8_TAPS(g, total, totals, p, ...)                                      \
  UNROLLED                                                                       \
  for (int i = 0; i < (totals); i++) total[i] = vdupq_n_s32(0);                  \
  for (unsigned plane = (g)->planes; plane-- > 0;) {                             \
    const int8_t *w = (const int8_t *)(g)->weights + plane * (g)->plane_bytes;   \
    UNROLLED                                                                     \
    for (int i = 0; i < (totals); i++) total[i] = vaddq_s32(total[i], total[i]); \
    for (size_t row = 0; row < (g)->rows; row++)                                 \
      for (size_t column = 0; column < (g)->columns; column++) {                 \
        const uint8_t *const *pixels = (g)->pixels + row * (g)->row_stride;      \
        const uint8_t *x[p];                                                     \
        UNROLLED                                                                 \
        for (int i = 0; i < (p); i++)                                            \
          x[i] = pixels[i] + (g)->first_byte + column * (g)->column_bytes;       \
        __VA_ARGS__                                                              \
      }                                                                          \
  }

/* neon_rows.c */
void bfcn_argmax_row_neon(const float *top, const float *bottom, float l, unsigned channels,
                          size_t width, uint8_t *labels);

#endif
#endif
