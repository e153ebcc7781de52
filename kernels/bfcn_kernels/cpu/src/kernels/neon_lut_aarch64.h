/* The lookups of neon_lut.c on AArch64: the loop of 2 pixels x 64 outputs is written out, since
 * compilers spill in it. */
#ifndef BFCN_NEON_LUT_AARCH64_H
#define BFCN_NEON_LUT_AARCH64_H

#include "neon.h"

/* A step's table is made while the step before looks up; two steps share the loads of their
 * offsets. Of a step's 21 vector micro-ops at 64 outputs (TBL is three) a Cortex-A72 starts two a
 * cycle; all in all it is 32, of which it starts three. At 128 outputs a table serves twice as many
 * lookups. Indices lie in v16..v19, what was found in v20, v21, v28 and v29, the tables in v22 and
 * v26, the second pixel's in v24: pairs of them for 5 channels. */
/* clang-format off */
#define INDICES(low, high, at)           \
  "ldr q16, [" low ", #" at "]\n\t"      \
  "ldr q17, [" low ", #16 + " at "]\n\t" \
  "ldr q18, [" high ", #" at "]\n\t"     \
  "ldr q19, [" high ", #16 + " at "]\n\t"
#define LOOK_UP(table, index, found) "tbl " found ".16b, {" table "}, " index ".16b\n\t"
#define ADD(found, first, second)                             \
  "add %[" first "].16b, %[" first "].16b, " found ".16b\n\t" \
  "usra %[" second "].16b, " found ".16b, #4\n\t"
#define FOUR(table, merge, a, b, c, d, a2, b2, c2, d2) \
  LOOK_UP(table, "v16", "v20")                         \
  LOOK_UP(table, "v17", "v21")                         \
  LOOK_UP(table, "v18", "v28")                         \
  LOOK_UP(table, "v19", "v29")                         \
  ADD("v20", a, a2)                                    \
  merge                                                \
  ADD("v21", b, b2)                                    \
  ADD("v28", c, c2)                                    \
  ADD("v29", d, d2)
#define STEP_64(table, at, merge)   \
  INDICES("%[w0]", "%[w1]", at)     \
  FOUR(table, merge, "b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7")
#define STEP_128(table, at, merge)                                          \
  INDICES("%[w0]", "x13", at)                                               \
  FOUR(table, "", "b0", "b1", "b2", "b3", "b8", "b9", "b10", "b11")         \
  INDICES("x14", "x15", at)                                                 \
  FOUR(table, merge, "b4", "b5", "b6", "b7", "b12", "b13", "b14", "b15")
/* The first step of sums that begin with it. */
#define BEGIN_ONE(table, index, first, second)      \
  LOOK_UP(table, index, "%[" first "]")             \
  "ushr %[" second "].16b, %[" first "].16b, #4\n\t"
#define BEGIN_128(table)                    \
  INDICES("%[w0]", "x13", "0")              \
  BEGIN_ONE(table, "v16", "b0", "b8")       \
  BEGIN_ONE(table, "v17", "b1", "b9")       \
  BEGIN_ONE(table, "v18", "b2", "b10")      \
  BEGIN_ONE(table, "v19", "b3", "b11")      \
  INDICES("x14", "x15", "0")                \
  BEGIN_ONE(table, "v16", "b4", "b12")      \
  BEGIN_ONE(table, "v17", "b5", "b13")      \
  BEGIN_ONE(table, "v18", "b6", "b14")      \
  BEGIN_ONE(table, "v19", "b7", "b15")
#define ONE_OFFSET            \
  "ldrh w9, [%[x0]], #2\n\t"  \
  "ldrh w10, [%[x1]], #2\n\t" \
  "add x11, %[lut], x9\n\t"   \
  "add x12, %[lut], x10\n\t"
#define TWO_OFFSETS(at)           \
  "ldr w9, [%[x0], #" at "]\n\t"  \
  "ldr w10, [%[x1], #" at "]\n\t" \
  "add x11, %[lut], w9, uxth\n\t" \
  "add x12, %[lut], w10, uxth\n\t"
#define SECOND_OFFSET                \
  "add x11, %[lut], x9, lsr #16\n\t" \
  "add x12, %[lut], x10, lsr #16\n\t"
#define MOVE_64(weights)                 \
  "add %[w0], %[w0], #" weights "\n\t"   \
  "add %[w1], %[w1], #" weights "\n\t"
#define MOVE_128(weights)                \
  "add %[w0], %[w0], #" weights "\n\t"   \
  "add x13, x13, #" weights "\n\t"       \
  "add x14, x14, #" weights "\n\t"       \
  "add x15, x15, #" weights "\n\t"
#define MOVE(offsets)                    \
  "add %[x0], %[x0], #" offsets "\n\t"   \
  "add %[x1], %[x1], #" offsets "\n\t"
#define TWO_STEPS(step, load, merge, a, b, offsets, first, second) \
  TWO_OFFSETS(offsets)                                             \
  load("26", "27")                                                 \
  step(a, first, merge("26", "27"))                                \
  SECOND_OFFSET                                                    \
  load("22", "23")                                                 \
  step(b, second, merge("22", "23"))
/* What is left after the table of its first step has been made, in v22: four steps a round of the
 * loop, or two where they are twice as long. */
#define LAST_STEPS(step, move, load, merge, a)                \
  "tbz %[steps], #0, 4f\n\t" /* of one or two steps, two */   \
  ONE_OFFSET                                                  \
  step(a, "0", "")                                            \
  load("22", "23")                                            \
  merge("22", "23")                                           \
  move("32")                                                  \
  "4:\n\t"                                                    \
  step(a, "0", "")
#define ADD_64(load, merge, a, b)                             \
  ONE_OFFSET                                                  \
  load("22", "23")                                            \
  merge("22", "23")                                           \
  "subs %[steps], %[steps], #5\n\t"                           \
  "b.lt 2f\n"                                                 \
  "1:\n\t"                                                    \
  TWO_STEPS(STEP_64, load, merge, a, b, "0", "0", "32")       \
  TWO_STEPS(STEP_64, load, merge, a, b, "4", "64", "96")      \
  MOVE("8") MOVE_64("128")                                    \
  "subs %[steps], %[steps], #4\n\t"                           \
  "b.ge 1b\n"                                                 \
  "2:\n\t"                                                    \
  "adds %[steps], %[steps], #2\n\t" /* steps left, less 3 */  \
  "b.lt 3f\n\t"                                               \
  TWO_STEPS(STEP_64, load, merge, a, b, "0", "0", "32")       \
  MOVE("4") MOVE_64("64")                                     \
  "3:\n\t"                                                    \
  LAST_STEPS(STEP_64, MOVE_64, load, merge, a)
#define SUM_128(load, merge, a, b)              \
  "add x13, %[w0], %[block]\n\t"                \
  "add x14, x13, %[block]\n\t"                  \
  "add x15, x14, %[block]\n\t"                  \
  ONE_OFFSET                                    \
  load("26", "27")                              \
  merge("26", "27")                             \
  "subs %[steps], %[steps], #1\n\t"             \
  "b.eq 5f\n\t"                                 \
  ONE_OFFSET                                    \
  load("22", "23")                              \
  BEGIN_128(b)                                  \
  merge("22", "23")                             \
  MOVE_128("32")                                \
  "subs %[steps], %[steps], #3\n\t"             \
  "b.lt 3f\n"                                   \
  "1:\n\t"                                      \
  TWO_STEPS(STEP_128, load, merge, a, b, "0", "0", "32") \
  MOVE("4") MOVE_128("64")                      \
  "subs %[steps], %[steps], #2\n\t"             \
  "b.ge 1b\n"                                   \
  "3:\n\t"                                      \
  LAST_STEPS(STEP_128, MOVE_128, load, merge, a) \
  "b 6f\n"                                      \
  "5:\n\t"                                      \
  BEGIN_128(b)                                  \
  "6:\n\t"
#define LOAD4(a, b)       \
  "ldr q" a ", [x11]\n\t" \
  "ldr q24, [x12]\n\t"
#define MERGE4(a, b) "sli v" a ".16b, v24.16b, #4\n\t"
#define LOAD5(a, b)               \
  "ldp q" a ", q" b ", [x11]\n\t" \
  "ldp q24, q25, [x12]\n\t"
#define MERGE5(a, b)                \
  "sli v" a ".16b, v24.16b, #4\n\t" \
  "sli v" b ".16b, v25.16b, #4\n\t"
#define LUT4(run) run(LOAD4, MERGE4, "v22.16b", "v26.16b")
#define LUT5(run) run(LOAD5, MERGE5, "v22.16b, v23.16b", "v26.16b, v27.16b")
/* clang-format on */
#define TEMPORARIES                                                                                \
  "x9", "x10", "x11", "x12", "x13", "x14", "x15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", \
      "v23", "v24", "v25", "v26", "v27", "v28", "v29", "cc", "memory"

/* Adds `steps` lookups to the bytes. */
static inline __attribute__((always_inline)) void look_up_2x64(uint8x16_t bytes[8], const int width,
                                                               const uint16_t *const x[4],
                                                               const uint8_t *w0, const uint8_t *w1,
                                                               size_t steps) {
  const uint16_t *x0 = x[0], *x1 = x[1];
#define RUN(text, tables)                                                                   \
  __asm__ volatile(                                                                         \
      text                                                                                  \
      : [b0] "+w"(bytes[0]), [b1] "+w"(bytes[1]), [b2] "+w"(bytes[2]), [b3] "+w"(bytes[3]), \
        [b4] "+w"(bytes[4]), [b5] "+w"(bytes[5]), [b6] "+w"(bytes[6]), [b7] "+w"(bytes[7]), \
        [x0] "+r"(x0), [x1] "+r"(x1), [w0] "+r"(w0), [w1] "+r"(w1), [steps] "+r"(steps)     \
      : [lut] "r"(tables)                                                                   \
      : TEMPORARIES)
  if (width == 5)
    RUN(LUT5(ADD_64), bfcn_lut5);
  else
    RUN(LUT4(ADD_64), bfcn_lut4);
#undef RUN
}

/* Sets the bytes to the sum of `steps` lookups: an asm statement's operands may be 30, and those
 * that it changes count twice. */
static inline __attribute__((always_inline)) void
look_up_2x128(uint8x16_t bytes[16], const int width, const uint16_t *const x[4], const uint8_t *w,
              size_t block, size_t steps) {
  const uint16_t *x0 = x[0], *x1 = x[1];
#define RUN(text, tables)                                                                       \
  __asm__ volatile(                                                                             \
      text                                                                                      \
      : [b0] "=&w"(bytes[0]), [b1] "=&w"(bytes[1]), [b2] "=&w"(bytes[2]), [b3] "=&w"(bytes[3]), \
        [b4] "=&w"(bytes[4]), [b5] "=&w"(bytes[5]), [b6] "=&w"(bytes[6]), [b7] "=&w"(bytes[7]), \
        [b8] "=&w"(bytes[8]), [b9] "=&w"(bytes[9]), [b10] "=&w"(bytes[10]),                     \
        [b11] "=&w"(bytes[11]), [b12] "=&w"(bytes[12]), [b13] "=&w"(bytes[13]),                 \
        [b14] "=&w"(bytes[14]), [b15] "=&w"(bytes[15]), [x0] "+r"(x0), [x1] "+r"(x1),           \
        [w0] "+r"(w), [steps] "+r"(steps)                                                       \
      : [block] "r"(block), [lut] "r"(tables)                                                   \
      : TEMPORARIES)
  if (width == 5)
    RUN(LUT5(SUM_128), bfcn_lut5);
  else
    RUN(LUT4(SUM_128), bfcn_lut4);
#undef RUN
}
#undef INDICES
#undef LOOK_UP
#undef ADD
#undef FOUR
#undef STEP_64
#undef STEP_128
#undef BEGIN_ONE
#undef BEGIN_128
#undef ONE_OFFSET
#undef TWO_OFFSETS
#undef SECOND_OFFSET
#undef MOVE_64
#undef MOVE_128
#undef MOVE
#undef TWO_STEPS
#undef LAST_STEPS
#undef ADD_64
#undef SUM_128
#undef LOAD4
#undef MERGE4
#undef LOAD5
#undef MERGE5
#undef LUT4
#undef LUT5
#undef TEMPORARIES

static inline __attribute__((always_inline)) void look_up_4x32(uint8x16_t bytes[8], const int width,
                                                               const uint16_t *const x[4],
                                                               const uint8_t *w, size_t steps) {
  ROLLED
  for (size_t step = 0; step < steps; step++, w += 32) {
    const uint8x16_t index[2] = {vld1q_u8(w), vld1q_u8(w + 16)};
    UNROLLED
    for (int i = 0; i < 4; i += 2) {
      uint8x16x2_t table;
      UNROLLED
      for (int half = 0; half < width - 3; half++) {
        const uint8_t *lut = (width == 5 ? bfcn_lut5 : bfcn_lut4) + 16 * half;
        table.val[half] = vsliq_n_u8(vld1q_u8(lut + x[i][step]), vld1q_u8(lut + x[i + 1][step]), 4);
      }
      UNROLLED
      for (int n = 0; n < 2; n++) {
        const uint8x16_t found =
            width == 5 ? vqtbl2q_u8(table, index[n]) : vqtbl1q_u8(table.val[0], index[n]);
        uint8x16_t *first = &bytes[2 * i + n], *second = first + 2;
        *first = vaddq_u8(*first, found);
        *second = vsraq_n_u8(*second, found, 4);
      }
    }
  }
}

/* `steps` lookups of `width` channels: 2 pixels x 64 outputs, or 4 x 32, added to the bytes; or
 * 2 x 128, which replace them. */
static inline __attribute__((always_inline)) void
look_up_run(uint8x16_t bytes[], const int p, const int nv, const int width,
            const uint16_t *const x[4], const uint8_t *w, size_t block_bytes, size_t steps) {
  if (nv == 8)
    look_up_2x128(bytes, width, x, w, block_bytes, steps);
  else if (p == 2)
    look_up_2x64(bytes, width, x, w, w + block_bytes, steps);
  else
    look_up_4x32(bytes, width, x, w, steps);
}

#endif
