/* From canonical words to the order in which each kernel reads its weights. */
#include "conv_plan.h"

#include <stdlib.h>
#include <string.h>

/* Codes b of one filter, in the order (ky, kx, channel). */
static void unpack_filter(const struct term *t, unsigned output, uint8_t *codes) {
  const uint8_t *words = t->weight + (size_t)output * t->bits * t->words * 8;
  memset(codes, 0, t->length);
  for (unsigned bit = 0; bit < t->bits; bit++)
    for (size_t i = 0; i < t->words; i++) {
      uint64_t word;
      memcpy(&word, words + (bit * t->words + i) * 8, 8);
      const size_t end = t->length - i * 64 < 64 ? t->length - i * 64 : 64;
      for (size_t j = 0; j < end; j++) codes[i * 64 + j] |= (uint8_t)((word >> j & 1) << bit);
    }
}

/* Where a filter's lane lies in its block: [planes][rows][columns][steps][lanes]. */
struct lane {
  uint8_t *block;
  size_t plane_bytes, step_bytes;
  unsigned index, lanes;
};

/* LUT results are bytes whose even and odd ones are widened apart: lane i of the first half sits at
 * byte 2i, of the second at 2i + 1. */
static unsigned lut_byte(const struct lane *lane) {
  const unsigned half = lane->lanes / 2;
  return lane->index < half ? 2 * lane->index : 2 * (lane->index - half) + 1;
}

/* The index of one step: `together` planes from `plane` on, one after the other. */
static unsigned lut_index(const uint8_t *codes, unsigned count, unsigned plane, unsigned together,
                          unsigned width) {
  unsigned index = 0;
  for (unsigned b = 0; b < together; b++)
    for (unsigned i = 0; i < count; i++) index |= (codes[i] >> (plane + b) & 1u) << (b * width + i);
  return index;
}

static void pack_lut(const struct conv_term *t, const struct lane *lane, const uint8_t *codes) {
  const unsigned width = step_of(t->kernel->form).channels, channels = t->from.channels;
  const unsigned together = t->term->bits / t->planes; /* planes in an index */
  const size_t taps = t->rows * t->columns;
  for (unsigned plane = 0; plane < t->planes; plane++) {
    uint8_t *to = lane->block + plane * lane->plane_bytes + lut_byte(lane);
    for (size_t tap = 0; tap < taps; tap++)
      for (size_t step = 0; step < t->steps; step++, to += lane->step_bytes) {
        const size_t first = step * width;
        if (first >= channels) continue;
        const unsigned left = (unsigned)(channels - first), count = left < width ? left : width;
        *to = (uint8_t)lut_index(codes + tap * channels + first, count, plane, together, width);
      }
  }
}

static void pack_bits(const struct conv_term *t, const struct lane *lane, const uint8_t *codes) {
  const unsigned channels = t->from.channels;
  const size_t taps = t->rows * t->columns;
  for (unsigned plane = 0; plane < t->planes; plane++)
    for (size_t tap = 0; tap < taps; tap++)
      for (size_t step = 0; step < t->steps; step++) {
        uint64_t word = 0;
        for (unsigned i = 0; i < 64 && step * 64 + i < channels; i++)
          word |= (uint64_t)(codes[tap * channels + step * 64 + i] >> plane & 1) << i;
        memcpy(lane->block + plane * lane->plane_bytes +
                   (tap * t->steps + step) * lane->step_bytes + 8 * lane->index,
               &word, 8);
      }
}

/* Where 8-bit bipolar weights pass int8 they become 2 * (b - 128) + 1 on two planes. */
static int16_t number(const struct conv_term *t, unsigned plane, uint8_t code) {
  if (t->planes == 1) return (int16_t)((int)t->term->form * code - t->term->z);
  return plane ? (int16_t)(code - 128) : 1;
}

/* Filter taps lie in runs of the group's channels; columns are merged into one run where they
 * touch. */
static void pack_numbers(const struct conv_term *t, const struct lane *lane, const uint8_t *codes,
                         size_t shift) {
  const struct step step = step_of(t->kernel->form);
  const size_t taps = t->rows * t->columns, run = t->term->length / taps;
  for (unsigned plane = 0; plane < t->planes; plane++)
    for (size_t tap = 0; tap < taps; tap++)
      for (size_t i = 0; i < run; i++) {
        const size_t at = i + shift;
        const int16_t weight = number(t, plane, codes[tap * run + i]);
        memcpy(lane->block + plane * lane->plane_bytes +
                   (tap * t->steps + at / step.channels) * lane->step_bytes +
                   step.lane_bytes * lane->index + at % step.channels * step.code_bytes,
               &weight, step.code_bytes); /* the low byte is the int8 */
      }
}

/* The bits of an output and 4 channels lie together in a word of 16 outputs. */
static void pack_words(const struct conv_term *t, const struct lane *lane, const uint8_t *codes) {
  const size_t taps = t->rows * t->columns, run = t->term->length / taps;
  const size_t tap_bytes = t->planes * t->steps * lane->step_bytes;
  const size_t tile_bytes = t->kernel->steps * lane->step_bytes; /* of a plane */
  const unsigned tile = t->kernel->steps * step_of(FORM_INT2).channels;
  for (size_t tap = 0; tap < taps; tap++)
    for (size_t i = 0; i < run; i++)
      for (unsigned plane = 0; plane < t->planes; plane++) {
        const size_t word = i % tile / 4, bit = 4 * lane->index + i % 4;
        uint8_t *at = lane->block + tap * tap_bytes + (i / tile * t->planes + plane) * tile_bytes +
                      8 * word + bit / 8;
        *at |= (uint8_t)((codes[tap * run + i] >> plane & 1) << bit % 8);
      }
}

static void pack_filter(const struct conv_term *t, unsigned output, unsigned outputs,
                        const uint8_t *codes, uint8_t *weights) {
  const unsigned lanes = t->kernel->lanes, block = output / lanes;
  const size_t step_bytes = step_of(t->kernel->form).lane_bytes * (size_t)lanes;
  const struct lane lane = {weights + block * t->block_bytes, t->plane_bytes, step_bytes,
                            output % lanes, lanes};
  switch (t->kernel->form) {
  case FORM_BITS:
    pack_bits(t, &lane, codes);
    return;
  case FORM_INT2:
    pack_words(t, &lane, codes);
    return;
  case FORM_INT8:
  case FORM_INT4:
  case FORM_INT16: {
    const unsigned group = output / (outputs / t->term->groups);
    const unsigned channel = group * (t->from.channels / t->term->groups);
    pack_numbers(t, &lane, codes, t->first_channel ? channel - t->first_channel[block] : 0);
    return;
  }
  default:
    pack_lut(t, &lane, codes);
  }
}

/* The code that a kernel's sums count as 0 more than the network does. */
static int zero_shift(const struct conv_term *t) {
  const int wide = t->kernel->form == FORM_INT8 && t->from.bits == 8;
  return (wide ? t->backend->wide_zero : 0) - (int)t->from.zero_point;
}

/* A zero point leaves -zp * sum of the weights: the padding counts as zp and cancels. */
static int32_t zero_point_offset(const struct conv_term *t, const uint8_t *codes) {
  int64_t sum = 0;
  for (size_t i = 0; i < t->term->length; i++)
    sum += (int64_t)t->term->form * codes[i] - t->term->z;
  return (int32_t)(zero_shift(t) * sum);
}

/* No lane of any run of steps sums more than a byte holds. A lookup is at most the sum of its
 * weights times the largest code; kernels that share tables sum all columns at once. */
static int sums_fit(const struct conv_term *t, unsigned padded, const uint8_t *weights,
                    size_t shared, size_t run) {
  const struct gemm_kernel *k = t->kernel;
  const int lut3 = k->form == FORM_LUT3; /* its table of the largest codes tells the product */
  const uint8_t *const largest = lut3 ? &bfcn_lut3[64 * 63] : &bfcn_lut6[0][64 * 63];
  const unsigned most = lut3 ? 255 : 255 / ((1u << k->pass_planes) - 1);
  const size_t tap_bytes = t->steps * k->lanes;
  const uint8_t *const end = weights + padded / k->lanes * t->block_bytes;
  for (const uint8_t *taps = weights; taps < end; taps += shared * tap_bytes)
    for (size_t first = 0; first < t->steps; first += run) {
      const size_t stop = first + run < t->steps ? first + run : t->steps;
      unsigned sums[64] = {0};
      for (size_t column = 0; column < shared; column++)
        for (size_t step = first; step < stop; step++)
          for (unsigned lane = 0; lane < k->lanes; lane++)
            sums[lane] += largest[taps[column * tap_bytes + step * k->lanes + lane]];
      for (unsigned lane = 0; lane < k->lanes; lane++)
        if (sums[lane] > most) return 0;
    }
  return 1;
}

/* The fewest equal runs that a tap's steps may be cut into, where `shared` columns are summed at
 * once. */
static size_t longest_run(const struct conv_term *t, unsigned padded, const uint8_t *weights,
                          size_t shared) {
  for (size_t runs = 1;; runs++) {
    const size_t run = (t->steps + runs - 1) / runs;
    if (run == 1 || sums_fit(t, padded, weights, shared, run)) return run;
  }
}

/* -128 * -128 twice is all that passes int16, for codes of 8 bits less 128. */
static int pairs_fit(const struct conv_term *t, unsigned padded, const uint8_t *weights) {
  const size_t step_bytes = 4ul * t->kernel->lanes, tap_bytes = t->steps * step_bytes;
  const uint8_t *const end = weights + padded / t->kernel->lanes * t->block_bytes;
  if (t->from.bits < 8) return 1;
  for (const uint8_t *tap = weights; tap < end; tap += tap_bytes)
    for (size_t step = 0; step + 1 < t->steps; step += 2)
      for (size_t i = step * step_bytes; i < (step + 1) * step_bytes; i++)
        if (tap[i] == 128 && tap[i + step_bytes] == 128) return 0;
  return 1;
}

struct order bfcn_order_of(const struct conv_term *t) {
  const struct gemm_kernel *k = t->kernel;
  return (struct order){k->form, k->lanes, k->steps, k->pass_planes, zero_shift(t)};
}

uint64_t bfcn_packed_bytes(const struct conv_term *t, unsigned padded) {
  const uint64_t blocks = padded / t->kernel->lanes; /* addressable, as planned */
  return sizeof(struct packed_term) + (t->block_bytes * blocks + 63) / 64 * 64 +
         padded * sizeof(float) + (zero_shift(t) ? padded * sizeof(int32_t) : 0);
}

int bfcn_pack_weights(const struct conv_term *t, unsigned outputs, unsigned padded,
                      struct packed_term *packed) {
  const size_t bytes = t->block_bytes * (padded / t->kernel->lanes);
  uint8_t *codes = malloc(t->term->length), *weights = aligned_alloc(64, round_up(bytes, 64));
  packed->weights = weights;
  packed->offset = zero_shift(t) ? calloc(padded, sizeof *packed->offset) : NULL;
  const int fine = codes && weights && (packed->offset || !zero_shift(t));
  if (fine) memset(weights, 0, bytes);
  for (unsigned output = 0; fine && output < outputs; output++) {
    unpack_filter(t->term, output, codes);
    pack_filter(t, output, outputs, codes, weights);
    if (packed->offset) packed->offset[output] = zero_point_offset(t, codes);
  }
  free(codes);
  const enum form form = t->kernel->form;
  if (fine && !step_of(form).code_bytes && form != FORM_BITS) {
    packed->run = longest_run(t, padded, weights, 1);
    packed->shared_run = longest_run(t, padded, weights, t->columns);
  }
  if (fine && form == FORM_INT8) packed->pairs_fit = pairs_fit(t, padded, weights);
  return fine;
}
