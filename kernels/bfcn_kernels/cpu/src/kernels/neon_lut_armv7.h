/* The lookups of neon_lut.c on ARMv7, written out. */
#ifndef BFCN_NEON_LUT_ARMV7_H
#define BFCN_NEON_LUT_ARMV7_H

#include "neon.h"

/* Compilers move tables and indices between registers: the two loops are written out. Indices lie
 * in d0..d7, what was found in q6, the table in use in q4 or q5. */
/* clang-format off */
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

/* clang-format on */

/* A step's table is made while the step before looks up, so that no load is waited for; two steps
 * share the loads of their offsets, four a branch. Of a step's 17 NEON operations a Cortex-A15
 * starts two a cycle; all in all it is 26.5 micro-ops, of which it starts three. */
/* clang-format off */
#define STEP(table)             \
  "vld1.8 {d0-d3}, [%[w0]]!\n\t" \
  "vld1.8 {d4-d7}, [%[w1]]!\n\t" \
  LOOK_UP(table, "d0", "d1", "b0", "b4") LOOK_UP(table, "d2", "d3", "b1", "b5") \
  LOOK_UP(table, "d4", "d5", "b2", "b6") LOOK_UP(table, "d6", "d7", "b3", "b7")
#define LOAD_HALF(both, half, table)             \
  "uxtah %[at], %[lut], %[" both "]" half "\n\t" \
  "vld1.8 {" table "}, [%[at]]\n\t"
#define TWO_STEPS                       \
  "ldr %[both0], [%[x0]], #4\n\t"       \
  "ldr %[both1], [%[x1]], #4\n\t"       \
  LOAD_HALF("both0", "", Q5)            \
  LOAD_HALF("both1", "", Q7)            \
  STEP(Q4)                              \
  "vsli.8 q5, q7, #4\n\t"               \
  LOAD_HALF("both0", ", ror #16", Q4)   \
  LOAD_HALF("both1", ", ror #16", Q7)   \
  STEP(Q5)                              \
  "vsli.8 q4, q7, #4\n\t"
#define STEPS                                                                           \
  LOAD_TABLE("x0", Q4)                                                                  \
  LOAD_TABLE("x1", Q5)                                                                  \
  "vsli.8 q4, q5, #4\n\t"                                                               \
  "subs %[steps], %[steps], #5\n\t"                                                     \
  "blt 2f\n"                                                                            \
  "1:\n\t"                                                                              \
  TWO_STEPS                                                                             \
  TWO_STEPS                                                                             \
  "subs %[steps], %[steps], #4\n\t"                                                     \
  "bge 1b\n"                                                                            \
  "2:\n\t"                                                                              \
  "adds %[steps], %[steps], #2\n\t" /* steps left, less 3 */                            \
  "blt 3f\n\t"                                                                          \
  TWO_STEPS                                                                             \
  "3:\n\t"                                                                              \
  "tst %[steps], #1\n\t" /* of one or two steps, two */                                 \
  "beq 4f\n\t"                                                                          \
  STEP(Q4)                                                                              \
  LOAD_TABLE("x0", Q4)                                                                  \
  LOAD_TABLE("x1", Q5)                                                                  \
  "vsli.8 q4, q5, #4\n"                                                                 \
  "4:\n\t"                                                                              \
  STEP(Q4)
/* clang-format on */

static inline __attribute__((always_inline)) void look_up_2x64(uint8x16_t bytes[8],
                                                               const uint16_t *const x[4],
                                                               const uint8_t *w0, const uint8_t *w1,
                                                               size_t steps) {
  const uint16_t *x0 = x[0], *x1 = x[1];
  uintptr_t at, both0, both1;
  __asm__ volatile(STEPS
                   : BYTES, [x0] "+r"(x0), [x1] "+r"(x1), [w0] "+r"(w0), [w1] "+r"(w1),
                     [steps] "+r"(steps), [at] "=&r"(at), [both0] "=&r"(both0), [both1] "=&r"(both1)
                   : [lut] "r"(bfcn_lut4)
                   : CLOBBERED);
}
#undef STEPS
#undef TWO_STEPS
#undef LOAD_HALF
#undef STEP

static inline __attribute__((always_inline)) void
look_up_4x32(uint8x16_t bytes[8], const uint16_t *const x[4], const uint8_t *w, size_t steps) {
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

/* `steps` lookups of 4 channels: 2 pixels x 64 outputs, or 4 x 32. */
static inline __attribute__((always_inline)) void
look_up_run(uint8x16_t bytes[], const int p, const int nv, const int width,
            const uint16_t *const x[4], const uint8_t *w, size_t block_bytes, size_t steps) {
  (void)nv, (void)width;
  if (p == 2)
    look_up_2x64(bytes, x, w, w + block_bytes, steps);
  else
    look_up_4x32(bytes, x, w, steps);
}

#endif
