/* Lookup kernels for NEON: partial sums of 4 channels by VTBL2 or TBL. */
#include "neon.h"

#if defined(BFCN_NEON)

/* Most lookups that a byte can sum: 4 channels of 3 give 12, 4 channels of 1 give 4. */
enum { RUN_A1 = 63, RUN_A2 = 21 };

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
static inline void finish(uint16_t *sums, const uint16x8_t wide[2], uint8x16_t bytes, int first,
                          const struct gemm *g) {
  uint16x8_t both = vreinterpretq_u16_u8(bytes), odd = vshrq_n_u16(both, 8);
  if (!first) {
    both = vaddq_u16(both, wide[0]);
    odd = vaddq_u16(odd, wide[1]);
  }
  const uint16x8_t even = vsubq_u16(both, vshlq_n_u16(odd, 8));
  if (g->accumulate | (int)g->shift) {
    add_to(sums, even, g);
    add_to(sums + 16, odd, g);
  } else {
    vst1q_u16(sums, even);
    vst1q_u16(sums + 16, odd);
  }
}

/* A lookup serves two pixels: its table holds sums of the first in the low nibbles (at most 12) and
 * of the second in the high ones. Of what it finds, whole bytes are summed modulo 256 and the high
 * nibbles exactly; split() then tells the first pixel's sums. */
static inline void split(uint8x16_t *first, uint8x16_t second) {
  *first = vsubq_u8(*first, vshlq_n_u8(second, 4));
}

#if defined(__arm__)
/* Compilers move tables and indices between registers: the two loops are written out. Indices lie
 * in d0..d7, what was found in q6, the table in use in q4 or q5. */
#define LOOK_UP(table, low, high, first, second) \
  "vtbl.8 d12, {" table "}, " low "\n\t"         \
  "vtbl.8 d13, {" table "}, " high "\n\t"        \
  "vadd.i8 %q[" first "], %q[" first "], q6\n\t" \
  "vsra.u8 %q[" second "], q6, #4\n\t"
#define LOAD_TABLE(pixel, table)       \
  "ldrh %[at], [%[" pixel "]], #2\n\t" \
  "add %[at], %[lut], %[at]\n\t"       \
  "vld1.8 {" table "}, [%[at]]\n\t"
#define Q4 "d8, d9"
#define Q5 "d10, d11"
#define Q7 "d14, d15"
#define BYTES                                                                         \
  [b0] "+w"(bytes[0]), [b1] "+w"(bytes[1]), [b2] "+w"(bytes[2]), [b3] "+w"(bytes[3]), \
      [b4] "+w"(bytes[4]), [b5] "+w"(bytes[5]), [b6] "+w"(bytes[6]), [b7] "+w"(bytes[7])
#define CLOBBERED                                                                                \
  "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9", "d10", "d11", "d12", "d13", "d14", \
      "d15", "cc", "memory"

/* A step's table is made while the step before looks up, so that no load is waited for; two steps
 * share the loads of their offsets. Of a step's 17 NEON operations a Cortex-A15 starts two a cycle;
 * all in all it is 27 micro-ops, of which it starts three. */
static inline void look_up_2x64(uint8x16_t bytes[8], const uint16_t *const x[4], const uint8_t *w0,
                                const uint8_t *w1, size_t steps) {
  const uint16_t *x0 = x[0], *x1 = x[1];
  uintptr_t at, both0, both1;
#define STEP(table)                                                                 \
  "vld1.8 {d0-d3}, [%[w0]]!\n\t"                                                    \
  "vld1.8 {d4-d7}, [%[w1]]!\n\t" LOOK_UP(table, "d0", "d1", "b0", "b4")             \
      LOOK_UP(table, "d2", "d3", "b1", "b5") LOOK_UP(table, "d4", "d5", "b2", "b6") \
          LOOK_UP(table, "d6", "d7", "b3", "b7")
#define LOAD_HALF(both, half, table)             \
  "uxtah %[at], %[lut], %[" both "]" half "\n\t" \
  "vld1.8 {" table "}, [%[at]]\n\t"
  __asm__ volatile(
      LOAD_TABLE("x0", Q4) LOAD_TABLE(
          "x1",
          Q5) "subs %[steps], %[steps], #3\n\t"
              "vsli.8 q4, q5, #4\n\t"
              "blt 2f\n"
              "1:\n\t"
              "ldr %[both0], [%[x0]], #4\n\t"
              "ldr %[both1], [%[x1]], #4\n\t" LOAD_HALF("both0", "", Q5) LOAD_HALF("both1", "", Q7)
                  STEP(Q4) "vsli.8 q5, q7, #4\n\t" LOAD_HALF("both0", ", ror #16", Q4)
                      LOAD_HALF("both1", ", ror #16", Q7) "subs %[steps], %[steps], #2\n\t" STEP(
                          Q5) "vsli.8 q4, q7, #4\n\t"
                              "bge 1b\n"
                              "2:\n\t"
                              "cmn %[steps], #1\n\t" /* steps is -1 where one more than the last is
                                                        left, or -2 */
                              "bne 3f\n\t" LOAD_TABLE("x0", Q5) LOAD_TABLE("x1", Q7)
                                  STEP(Q4) "vsli.8 q5, q7, #4\n\t"
                                           "vmov q4, q5\n"
                                           "3:\n\t" STEP(Q4)
      : BYTES, [x0] "+r"(x0), [x1] "+r"(x1), [w0] "+r"(w0), [w1] "+r"(w1), [steps] "+r"(steps),
        [at] "=&r"(at), [both0] "=&r"(both0), [both1] "=&r"(both1)
      : [lut] "r"(bfcn_lut4)
      : CLOBBERED);
#undef STEP
#undef LOAD_HALF
}

static inline void look_up_4x32(uint8x16_t bytes[8], const uint16_t *const x[4], const uint8_t *w,
                                size_t steps) {
  const uint16_t *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
  uintptr_t at;
  __asm__ volatile(
      "1:\n\t" LOAD_TABLE("x0", Q4) LOAD_TABLE(
          "x1", Q5) "vsli.8 q4, q5, #4\n\t"
                    "vld1.8 {d0-d3}, [%[w]]!\n\t" LOOK_UP(Q4, "d0", "d1", "b0", "b2")
                        LOOK_UP(Q4, "d2", "d3", "b1", "b3") LOAD_TABLE("x2", Q4)
                            LOAD_TABLE("x3", Q5) "vsli.8 q4, q5, #4\n\t"
                                                 "subs %[steps], %[steps], #1\n\t" LOOK_UP(
                                                     Q4, "d0", "d1", "b4", "b6")
                                                     LOOK_UP(Q4, "d2", "d3", "b5", "b7") "bne 1b"
      : BYTES, [x0] "+r"(x0), [x1] "+r"(x1), [x2] "+r"(x2), [x3] "+r"(x3), [w] "+r"(w),
        [steps] "+r"(steps), [at] "=&r"(at)
      : [lut] "r"(bfcn_lut4)
      : CLOBBERED);
}
#endif

/* `steps` lookups of every pair of pixels in every vector, which are two to a block of weights. */
static inline __attribute__((always_inline)) void
look_up_run(uint8x16_t bytes[16], const int p, const int nv, const uint16_t *const x[4],
            const uint8_t *w, size_t block_bytes, size_t steps) {
#if defined(__arm__)
  (void)nv;
  if (p == 2)
    look_up_2x64(bytes, x, w, w + block_bytes, steps);
  else
    look_up_4x32(bytes, x, w, steps);
#else
  ROLLED
  for (size_t step = 0; step < steps; step++, w += 32) {
    uint8x16_t index[4];
    UNROLLED
    for (int n = 0; n < nv; n++)
      index[n] = vld1q_u8(w + (size_t)(n / 2) * block_bytes + n % 2 * 16);
    UNROLLED
    for (int i = 0; i < p; i += 2) {
      const uint8x16_t table =
          vsliq_n_u8(vld1q_u8(bfcn_lut4 + x[i][step]), vld1q_u8(bfcn_lut4 + x[i + 1][step]), 4);
      UNROLLED
      for (int n = 0; n < nv; n++) {
        const uint8x16_t found = vqtbl1q_u8(table, index[n]);
        uint8x16_t *first = &bytes[i * nv + n], *second = first + nv;
        *first = vaddq_u8(*first, found);
        *second = vsraq_n_u8(*second, found, 4);
      }
    }
  }
#endif
}

/* p pixels x nv vectors of 16 outputs x 4 channels: for two pixels a lookup and two additions.
 * Bytes are summed for at most `run` lookups, then widened, once at the end where that suffices. */
TILE lut4_tile(const struct gemm *g, const int p, const int nv, const size_t run) {
  const size_t runs = (g->steps + run - 1) / run, even = (g->steps + runs - 1) / runs;
  uint16x8_t wide[16][2];
  uint8x16_t bytes[16];
  UNROLLED
  for (int i = 0; i < p * nv; i++) bytes[i] = vdupq_n_u8(0);
  size_t left = run; /* lookups that a byte can still take */
  int first = 1;
#define SPLIT                      \
  UNROLLED                         \
  for (int i = 0; i < p * nv; i++) \
    if (i / nv % 2 == 0) split(&bytes[i], bytes[i + nv]);
#define WIDEN                        \
  SPLIT                              \
  UNROLLED                           \
  for (int i = 0; i < p * nv; i++) { \
    widen(wide[i], bytes[i], first); \
    bytes[i] = vdupq_n_u8(0);        \
  }                                  \
  left = run;                        \
  first = 0;
  for (unsigned plane = g->planes; plane-- > 0;) {
    const uint8_t *w = (const uint8_t *)g->weights + plane * g->plane_bytes;
    if (plane + 1 < g->planes) {
      WIDEN
      UNROLLED
      for (int i = 0; i < p * nv; i++) {
        wide[i][0] = vaddq_u16(wide[i][0], wide[i][0]);
        wide[i][1] = vaddq_u16(wide[i][1], wide[i][1]);
      }
    }
    for (size_t row = 0; row < g->rows; row++) {
      const uint8_t *const *pixels = g->pixels + row * g->row_stride;
      size_t at = g->first_byte;
      for (size_t column = 0; column < g->columns; column++, at += g->column_bytes)
        for (size_t done = 0; done < g->steps;) {
          const size_t steps = g->steps - done < even ? g->steps - done : even;
          if (left < steps) {
            WIDEN
          }
          const uint16_t *x[4];
          UNROLLED
          for (int i = 0; i < p; i++) x[i] = (const uint16_t *)(pixels[i] + at) + done;
          look_up_run(bytes, p, nv, x, w, g->block_bytes, steps);
          left -= steps;
          done += steps;
          w += 32 * steps;
        }
    }
  }
  SPLIT
  UNROLLED
  for (int i = 0; i < p * nv; i++)
    finish((uint16_t *)g->sums + (size_t)(i / nv) * g->sum_stride + i % nv / 2 * 32 + i % 2 * 8,
           wide[i], bytes[i], first, g);
#undef WIDEN
#undef SPLIT
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
#if defined(__aarch64__)
void lut4_gemm_a1_4x64__neon(const struct gemm *g) {
  lut4_tile(g, 4, 4, RUN_A1);
}
void lut4_gemm_a2_4x64__neon(const struct gemm *g) {
  lut4_tile(g, 4, 4, RUN_A2);
}
#endif
void lut4_gemm_a2_4x32__neon(const struct gemm *g) {
  lut4_tile(g, 4, 2, RUN_A2);
}

#if defined(__aarch64__)
void lut4_gemm_a1_2x64__dotprod(const struct gemm *g) {
  lut4_tile(g, 2, 4, RUN_A1);
}
void lut4_gemm_a1_4x32__dotprod(const struct gemm *g) {
  lut4_tile(g, 4, 2, RUN_A1);
}
void lut4_gemm_a2_2x64__dotprod(const struct gemm *g) {
  lut4_tile(g, 2, 4, RUN_A2);
}
void lut4_gemm_a2_4x32__dotprod(const struct gemm *g) {
  lut4_tile(g, 4, 2, RUN_A2);
}
#endif

#endif
