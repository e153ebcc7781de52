/* Lookup kernels for NEON: partial sums of 4 or 5 channels by VTBL2 or TBL. */
#include "neon.h"

#if defined(BFCN_NEON)

/* Add bytes to 16-bit sums: wide[0] counts whole lanes modulo 2^16, wide[1] their upper bytes. On
 * ARMv7, whose registers hold the bytes alone, the sums stay in memory, 32 bytes a load. */
static inline void widen(uint16x8_t wide[2], uint8x16_t bytes, int first) {
  const uint16x8_t both = vreinterpretq_u16_u8(bytes);
#if defined(__arm__)
  if (first)
    __asm__("vmov q0, %q2\n\t"
            "vshr.u16 q1, %q2, #8\n\t"
            "vst1.16 {d0-d3}, [%1]"
            : "=m"(*(uint16x8_t(*)[2])wide)
            : "r"(wide), "w"(both)
            : "d0", "d1", "d2", "d3");
  else
    __asm__("vld1.16 {d0-d3}, [%1]\n\t"
            "vadd.i16 q0, q0, %q2\n\t"
            "vsra.u16 q1, %q2, #8\n\t"
            "vst1.16 {d0-d3}, [%1]"
            : "+m"(*(uint16x8_t(*)[2])wide)
            : "r"(wide), "w"(both)
            : "d0", "d1", "d2", "d3");
#else
  wide[0] = first ? both : vaddq_u16(wide[0], both);
  wide[1] = first ? vshrq_n_u16(both, 8) : vsraq_n_u16(wide[1], both, 8);
#endif
}

/* Write 16 outputs, 8 at `sums` and 8 at sums + 16, from the widened sums, if any, and the bytes
 * since: the odd bytes belong to the second 8. */
static inline void finish(uint16_t *sums, const uint16x8_t wide[2], uint8x16_t bytes,
                          const int first, const int plain, const struct gemm *g) {
  uint16x8_t even, odd;
  if (first) {
    even = vandq_u16(vreinterpretq_u16_u8(bytes), vdupq_n_u16(255));
    odd = vshrq_n_u16(vreinterpretq_u16_u8(bytes), 8);
  } else {
    const uint16_t *held = (const uint16_t *)wide;
#if defined(__arm__) /* 16 bytes a load: gcc makes two of what it knows to lie on the stack */
    __asm__("" : "+r"(held) : "m"(*(const uint16x8_t(*)[2])wide));
#endif
    even = vaddq_u16(vld1q_u16(held), vreinterpretq_u16_u8(bytes));
    odd = vsraq_n_u16(vld1q_u16(held + 8), vreinterpretq_u16_u8(bytes), 8);
    even = vsubq_u16(even, vshlq_n_u16(odd, 8));
  }
  if (plain) {
    vst1q_u16(sums, even);
    vst1q_u16(sums + 16, odd);
  } else {
    add_to(sums, even, g);
    add_to(sums + 16, odd, g);
  }
}

/* A lookup serves two pixels: its table holds sums of the first in the low nibbles (at most 15) and
 * of the second in the high ones. Of what it finds, whole bytes are summed modulo 256 and the high
 * nibbles exactly; split() then tells the first pixel's sums. */
static inline void split(uint8x16_t *first, uint8x16_t second, const int width) {
  if (width == 5) /* such cores multiply as fast as they shift, and on the other pipeline */
    *first = vmlsq_u8(*first, second, vdupq_n_u8(16));
  else
    *first = vsubq_u8(*first, vshlq_n_u8(second, 4));
}

#if !defined(__clang__) /* `wide` is written where `first` says so */
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#if defined(__arm__)
#include "neon_lut_armv7.h"
#else
#include "neon_lut_aarch64.h"
#endif

/* p pixels x nv vectors of 16 outputs x `width` channels: for two pixels a lookup and two
 * additions. Bytes are summed for a run of a tap's steps, or (but for 128 outputs) for as many as
 * fit whatever is found (codes of up to `top`), then widened, once at the end where that suffices.
 */
TILE lut_tile(const struct gemm *g, const int p, const int nv, const int width, const int top) {
  const int n = p * nv;
  const size_t any = 255 / (size_t)(width * top), most = nv < 8 && any > g->run ? any : g->run;
  uint16x8_t wide[16][2];
  uint8x16_t bytes[16];
  if (width == 4) __asm__ volatile("" : : "r"(wide) : "memory"); /* else gcc takes pairs apart */
  UNROLLED
  for (int i = 0; i < n; i++) bytes[i] = vdupq_n_u8(0);
  size_t left = most; /* lookups that a byte can still take */
  int first = 1;
#define SPLIT                 \
  UNROLLED                    \
  for (int i = 0; i < n; i++) \
    if (i / nv % 2 == 0) split(&bytes[i], bytes[i + nv], width);
#define WIDEN                        \
  SPLIT                              \
  UNROLLED                           \
  for (int i = 0; i < n; i++) {      \
    widen(wide[i], bytes[i], first); \
    bytes[i] = vdupq_n_u8(0);        \
  }                                  \
  left = most;                       \
  first = 0;
#define FINISH(first, plain)                                                                  \
  UNROLLED                                                                                    \
  for (int i = 0; i < n; i++)                                                                 \
    finish(sums + (size_t)(i / nv) * stride + i % nv / 2 * 32 + i % 2 * 8, wide[i], bytes[i], \
           first, plain, g);
  for (unsigned plane = g->planes; plane-- > 0;) {
    const uint8_t *w = (const uint8_t *)g->weights + plane * g->plane_bytes;
    if (plane + 1 < g->planes) {
      WIDEN
      UNROLLED
      for (int i = 0; i < n; i++) {
        wide[i][0] = vaddq_u16(wide[i][0], wide[i][0]);
        wide[i][1] = vaddq_u16(wide[i][1], wide[i][1]);
      }
    }
    for (size_t row = 0; row < g->rows; row++) {
      const uint8_t *const *pixels = g->pixels + row * g->row_stride;
      size_t at = g->first_byte;
      for (size_t column = 0; column < g->columns; column++, at += g->column_bytes)
        for (size_t done = 0; done < g->steps;) {
          const size_t steps = g->steps - done < g->run ? g->steps - done : g->run;
          if (left < steps) {
            WIDEN
          }
          const uint16_t *x[4];
          UNROLLED
          for (int i = 0; i < p; i++) x[i] = (const uint16_t *)(pixels[i] + at) + done;
          look_up_run(bytes, p, nv, width, x, w, g->block_bytes, steps);
          left = nv < 8 ? left - steps : 0;
          done += steps;
          w += 32 * steps;
        }
    }
  }
  uint16_t *const sums = g->sums;
  const size_t stride = g->sum_stride;
  SPLIT
  if (g->accumulate | (int)g->shift) {
    if (first) {
      FINISH(1, 0)
    } else {
      FINISH(0, 0)
    }
  } else if (first) {
    FINISH(1, 1)
  } else {
    FINISH(0, 1)
  }
#undef FINISH
#undef WIDEN
#undef SPLIT
}

void bfcn_lut4_gemm_a1_2x64__neon(const struct gemm *g) {
  EACH_TILE(g, 2, uint16_t, lut_tile(&tile, 2, 4, 4, 1));
}
void bfcn_lut4_gemm_a1_4x32__neon(const struct gemm *g) {
  EACH_TILE(g, 4, uint16_t, lut_tile(&tile, 4, 2, 4, 1));
}
void bfcn_lut4_gemm_a2_2x64__neon(const struct gemm *g) {
  EACH_TILE(g, 2, uint16_t, lut_tile(&tile, 2, 4, 4, 3));
}
void bfcn_lut4_gemm_a2_4x32__neon(const struct gemm *g) {
  EACH_TILE(g, 4, uint16_t, lut_tile(&tile, 4, 2, 4, 3));
}

#if defined(__aarch64__)
void bfcn_lut4_gemm_a2_2x128__neon(const struct gemm *g) {
  EACH_TILE(g, 2, uint16_t, lut_tile(&tile, 2, 8, 4, 3));
}

/* Cores with dot products look two registers up as fast as one: 5 channels, whose sums of 2-bit
 * codes are 15 at most. */
void bfcn_lut5_gemm_a1_2x64__dotprod(const struct gemm *g) {
  EACH_TILE(g, 2, uint16_t, lut_tile(&tile, 2, 4, 5, 1));
}
void bfcn_lut5_gemm_a1_2x128__dotprod(const struct gemm *g) {
  EACH_TILE(g, 2, uint16_t, lut_tile(&tile, 2, 8, 5, 1));
}
void bfcn_lut5_gemm_a1_4x32__dotprod(const struct gemm *g) {
  EACH_TILE(g, 4, uint16_t, lut_tile(&tile, 4, 2, 5, 1));
}
void bfcn_lut5_gemm_a2_2x64__dotprod(const struct gemm *g) {
  EACH_TILE(g, 2, uint16_t, lut_tile(&tile, 2, 4, 5, 3));
}
void bfcn_lut5_gemm_a2_2x128__dotprod(const struct gemm *g) {
  EACH_TILE(g, 2, uint16_t, lut_tile(&tile, 2, 8, 5, 3));
}
void bfcn_lut5_gemm_a2_4x32__dotprod(const struct gemm *g) {
  EACH_TILE(g, 4, uint16_t, lut_tile(&tile, 4, 2, 5, 3));
}
#endif

#endif
