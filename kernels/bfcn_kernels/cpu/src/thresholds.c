/* Integer thresholds that say what the float32 epilogue says, found by bisection on it.
 *
 * Without a residual code >= j is acc > T_j. With one, T depends on the residual's code as well:
 * its few codes give a table of thresholds each. acc must fit 16 bits, and one value at each end is
 * kept for "always" and "never". */
#include "conv_plan.h"

#include <stdlib.h>

/* The output code of channel c; addend is f32(q - zp) * R, or NULL without a residual. */
static unsigned code_at(const struct conv *conv, unsigned c, int acc, const float *addend) {
  const unsigned top = (1u << conv->op->out.bits) - 1;
  const float product = (float)acc * conv->terms[0].scale[c];
  float t = product + conv->bias[c];
  if (addend) t = t + *addend;
  const float u = t + 0.5f;
  return u < 1.0f ? 0 : u >= (float)top ? top : (unsigned)u;
}

/* The largest acc in -bound - 1..bound where not yet (code >= j) ^ falling. */
static int bisect(const struct conv *conv, unsigned c, unsigned j, int falling, int bound,
                  const float *addend) {
  int low = -bound - 1, high = bound + 1;
  while (high - low > 1) {
    const int middle = low + (high - low) / 2;
    if ((code_at(conv, c, middle, addend) >= j) != falling)
      high = middle;
    else
      low = middle;
  }
  return low;
}

int find_thresholds(struct conv *conv, const struct value *residual) {
  const struct conv_term *t = &conv->terms[0];
  const struct op *op = conv->op;
  const unsigned steps = (1u << op->out.bits) - 1, codes = residual ? 1u << residual->bits : 1;
  if (op->out.kind != BFCN_CODES || op->out.bits > 2 || op->term_count > 1 ||
      op->residual_count > 1 || (residual && residual->bits > 2) || t->kernel->sum_bits != 16 ||
      t->from.zero_point || t->term->bound > INT16_MAX - 1)
    return 1;
  conv->thresholds = aligned_alloc(64, (size_t)conv->padded * codes * steps * 2);
  conv->flips = calloc(conv->padded / 32, sizeof *conv->flips);
  if (!conv->thresholds || !conv->flips) return 0;
  for (unsigned c = 0; c < conv->padded; c++) {
    const int falling = c < conv->outputs && t->scale[c] < 0;
    if (falling) conv->flips[c / 32] |= 1u << c % 32;
    for (unsigned r = 0; r < codes; r++)
      for (unsigned j = 1; j <= steps; j++)
        conv->thresholds[((c / 32 * codes + r) * steps + j - 1) * 32 + c % 32] =
            c < conv->outputs ? (int16_t)bisect(conv, c, j, falling, (int)t->term->bound,
                                                residual ? &conv->addends[r] : NULL)
                              : INT16_MAX;
  }
  return 1;
}
