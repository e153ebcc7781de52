/* Integer thresholds that say what the float32 epilogue says, found by bisection on it.
 *
 * Without a residual code >= j is acc > T_j. With one, T depends on the residual's code as well:
 * its few codes give a table of thresholds each, or move one by what their bits stand for. acc must
 * fit 16 bits, and one value at each end is kept for "always" and "never". */
#include "conv_plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The output code of channel c; addend is f32(q - zp) * R, or NULL without a residual. */
static unsigned code_at(const struct packed *packed, unsigned c, int acc, const float *addend) {
  const unsigned top = (1u << packed->op->out.bits) - 1;
  const float product = (float)acc * packed->terms[0].scale[c];
  float t = product + packed->bias[c];
  if (addend) t = t + *addend;
  const float u = t + 0.5f;
  return u < 1.0f ? 0 : u >= (float)top ? top : (unsigned)u;
}

/* The largest acc in -bound - 1..bound where not yet (code >= j) ^ falling. */
static int bisect(const struct packed *packed, unsigned c, unsigned j, int falling, int bound,
                  const float *addend) {
  int low = -bound - 1, high = bound + 1;
  while (high - low > 1) {
    const int middle = low + (high - low) / 2;
    if ((code_at(packed, c, middle, addend) >= j) != falling)
      high = middle;
    else
      low = middle;
  }
  return low;
}

/* One threshold a step for every code r of the residual: acc > T[r] if and only if
 * QUARTERS * acc + shift(r) > T, where shift(r) is shifts[0] if bit 0 of r is set, plus shifts[1]
 * if bit 1 is. T[r] is v - r * u cut to an integer, for real numbers v and u: any numbers near
 * QUARTERS * r * u will do whose roundings agree with all those cuts. */
struct moved {
  int shifts[2];
  int thresholds[3];
};

static int shift_of(const int shifts[2], unsigned r) {
  return (r & 1 ? shifts[0] : 0) + (r & 2 ? shifts[1] : 0);
}

/* Whether these shifts do, with t[r * steps + j] and |acc| <= bound; writes the thresholds. */
static int agree(const int *t, unsigned codes, unsigned steps, int bound, struct moved *m) {
  const int most = INT16_MAX - QUARTERS * bound;
  for (unsigned r = 0; r < codes; r++)
    if (abs(shift_of(m->shifts, r)) > most) return 0;
  for (unsigned j = 0; j < steps; j++) {
    int low = INT16_MIN, high = INT16_MAX; /* of the threshold */
    for (unsigned r = 0; r < codes; r++) {
      const int last = t[r * steps + j], shift = shift_of(m->shifts, r);
      const int above = QUARTERS * last + shift, below = above + QUARTERS - 1;
      if (last >= -bound && above > low) low = above;
      if (last < bound && below < high) high = below;
    }
    if (low > high) return 0;
    m->thresholds[j] = low > INT16_MIN ? low : high;
  }
  return 1;
}

static int find_shifts(const int *t, unsigned codes, unsigned steps, int bound, double slope,
                       struct moved *m) {
  enum { NEAR = QUARTERS - 1 };
  if (!(fabs(slope) * (codes - 1) < INT16_MAX)) return 0;
  const int first = (int)lround(slope), second = (int)lround(2 * slope);
  for (int i = -NEAR; i <= NEAR; i++)
    for (int j = codes > 2 ? -NEAR : NEAR; j <= NEAR; j++) {
      m->shifts[0] = first + i, m->shifts[1] = codes > 2 ? second + j : 0;
      if (agree(t, codes, steps, bound, m)) return 1;
    }
  return 0;
}

/* Set channel c's shifts and thresholds, or tell that its 8 channels have none. */
static void move_thresholds(const struct conv *conv, struct packed *packed, unsigned c) {
  const unsigned bits = conv->residual.bits, steps = (1u << conv->op->out.bits) - 1;
  const unsigned codes = 1u << bits, rows = bits + steps;
  int t[4 * 3];
  for (unsigned i = 0; i < codes * steps; i++)
    t[i] = packed->thresholds[(c / 32 * codes * steps + i) * 32 + c % 32];
  const int bound = (int)conv->terms[0].term->bound;
  const double slope = QUARTERS * ((double)packed->addends[1] - (double)packed->addends[0]) /
                       (double)packed->terms[0].scale[c];
  struct moved m = {{0, 0}, {INT16_MAX, INT16_MAX, INT16_MAX}};
  if (c < conv->outputs && !find_shifts(t, codes, steps, bound, slope, &m))
    packed->moved[c / 8] = 0;
  int16_t *out = packed->moves + c / 32 * rows * 32 + c % 32;
  for (unsigned i = 0; i < bits; i++) out[32 * i] = (int16_t)m.shifts[i];
  for (unsigned j = 0; j < steps; j++) out[32 * (bits + j)] = (int16_t)m.thresholds[j];
}

static int has_thresholds(const struct conv *conv) {
  const struct conv_term *t = &conv->terms[0];
  const struct op *op = conv->op;
  return conv->with_thresholds && op->out.kind == BFCN_CODES && op->out.bits <= 2 &&
         op->term_count == 1 && op->residual_count <= 1 && conv->residual.bits <= 2 &&
         t->kernel->sum_bits == 16 && !t->from.zero_point && t->term->bound <= INT16_MAX - 1;
}

uint64_t bfcn_thresholds_bytes(const struct conv *conv) {
  if (!has_thresholds(conv)) return 0;
  const unsigned steps = (1u << conv->op->out.bits) - 1, bits = conv->residual.bits;
  const unsigned each =
      (steps << bits) * 2 + (bits && conv->with_moves ? (bits + steps) * 2 + 1 : 0);
  return (uint64_t)conv->padded * each + conv->padded / 8;
}

int bfcn_find_thresholds(const struct conv *conv, struct packed *packed) {
  if (!has_thresholds(conv)) return 1;
  const unsigned bits = conv->residual.bits; /* 0 without a residual */
  const unsigned steps = (1u << conv->op->out.bits) - 1, codes = 1u << bits;
  const int bound = (int)conv->op->terms[0].bound;
  packed->thresholds = aligned_alloc(64, (size_t)conv->padded * codes * steps * 2);
  packed->flips = calloc(conv->padded / 32, sizeof *packed->flips);
  if (!packed->thresholds || !packed->flips) return 0;
  for (unsigned c = 0; c < conv->padded; c++) {
    const int falling = c < conv->outputs && packed->terms[0].scale[c] < 0;
    if (falling) packed->flips[c / 32] |= 1u << c % 32;
    for (unsigned r = 0; r < codes; r++)
      for (unsigned j = 1; j <= steps; j++)
        packed->thresholds[((c / 32 * codes + r) * steps + j - 1) * 32 + c % 32] =
            c < conv->outputs
                ? (int16_t)bisect(packed, c, j, falling, bound, bits ? &packed->addends[r] : NULL)
                : INT16_MAX;
  }
  if (!bits || !conv->with_moves) return 1;
  packed->moves = aligned_alloc(64, (size_t)conv->padded * (bits + steps) * 2);
  packed->moved = malloc(conv->padded / 8);
  if (!packed->moves || !packed->moved) return 0;
  memset(packed->moved, 1, conv->padded / 8);
  for (unsigned c = 0; c < conv->padded; c++) move_thresholds(conv, packed, c);
  return 1;
}
