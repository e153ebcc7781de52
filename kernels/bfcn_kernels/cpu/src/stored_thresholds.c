#include "stored_thresholds.h"

#include <string.h>

/* code(f32(acc) * A + B) >= j, in the order and roundings of docs/format.md. */
static int reaches(const struct op *op, unsigned c, int64_t acc, unsigned j) {
  const float product = (float)(int32_t)acc * op->terms[0].scale[c];
  const float t = product + op->bias[c];
  return t + 0.5f >= (float)j;
}

int bfcn_stored_thresholds_follow(const struct op *op, const uint8_t *stored) {
  const unsigned steps = (1u << op->out.bits) - 1;
  const int64_t bound = op->terms[0].bound;
  for (unsigned c = 0; c < op->out.channels; c++)
    for (unsigned j = 1; j <= steps; j++, stored += 4) {
      int32_t threshold;
      memcpy(&threshold, stored, 4);
      /* Rises in u = acc, or u = -acc where A is negative: the least u that reaches j. */
      const int64_t sign = op->terms[0].scale[c] < 0 ? -1 : 1, u = sign * threshold;
      if (u < -bound || u > bound + 1) return 0;
      if (u <= bound && !reaches(op, c, sign * u, j)) return 0;
      if (u > -bound && reaches(op, c, sign * (u - 1), j)) return 0;
    }
  return 1;
}
