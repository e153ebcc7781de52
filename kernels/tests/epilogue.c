/* Every backend's epilogue, through float32 and through thresholds, against the portable one: the
 * same scores or codes, also where they take the place of the residual, and padding channels that
 * stay 0 whatever their sums hold; and its argmax, of denormal scores, too. */
#include "conv_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* PIXELS x padding channels exceed 2^16 but at 63: each padding sum takes every value there is. The
 * 1060 of a build for an emulator do for that where 62 or 63 channels are padding. */
#ifndef PIXELS
#define PIXELS 4100
#endif
enum { MOST_CHANNELS = 192 };

/* Terms, the width of their sums, whether these are known to be narrow, whether channels have an
 * offset, as zero points leave, and the most that sums reach. */
struct variant {
  unsigned terms, sum_bits;
  int narrow, offset, bound;
};

struct layer {
  unsigned channels, bits, residual_bits; /* 0 residual bits: no residual */
  struct variant variant;
  struct gemm_kernel kernel;
  struct term term;
  struct conv_term planned[2];
  struct op op;
  struct conv conv;
  struct packed_term packed_terms[2];
  struct packed packed;
  float scale[MOST_CHANNELS], bias[MOST_CHANNELS], addends[256];
  int32_t offset[MOST_CHANNELS], wide_sums[PIXELS * MOST_CHANNELS];
  uint16_t sums[PIXELS * MOST_CHANNELS];
  int32_t box[PIXELS];
  uint8_t residual[PIXELS * MOST_CHANNELS + VALUE_SLACK];
};

static uint32_t next(void) {
  static uint64_t state = 88172645463325252ull;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (uint32_t)(state >> 32);
}

/* Of the output: scores, planes, or a byte a code. */
static size_t out_bytes(const struct layer *l) {
  const size_t pixel = l->bits == 0   ? 4ul * l->channels
                       : l->bits <= 4 ? l->bits * l->conv.padded / 8
                                      : l->channels;
  return PIXELS * pixel;
}

/* acc = 2 * sum - box spans -bound..bound; every third channel falls; of each other 32 some are
 * denormal, or so small that no shift stands for a residual's code. */
static void fill(struct layer *l) {
  const unsigned bound = (unsigned)l->variant.bound;
  for (unsigned c = 0; c < l->channels; c++) {
    const unsigned even = c / 32 % 2 == 0;
    l->scale[c] = (c % 3 == 2 ? -1.0f : 1.0f) * ((even ? 1 : 30) + next() % 70) / 60000.0f;
    l->bias[c] = (float)(next() % 400) / 100 - 1;
    if (even && c % 7 == 3) l->scale[c] *= 0x1p-120f; /* flushed to 0 by some vector units */
    if (even && c % 14 == 3) l->bias[c] *= 0x1p-140f;
  }
  for (unsigned code = 0; code < 256; code++) l->addends[code] = 0.37f * (float)(code % 16);
  for (unsigned c = 0; c < l->channels; c++) l->offset[c] = (int32_t)(next() % 999) - 500;
  for (size_t i = 0; i < sizeof l->wide_sums / sizeof *l->wide_sums; i++)
    l->wide_sums[i] = (int32_t)(next() % (2 * bound)) - (int32_t)bound;
  uint16_t garbage = 0;
  for (unsigned p = 0; p < PIXELS; p++) {
    l->box[p] = (int32_t)(next() % bound);
    for (unsigned c = 0; c < l->conv.padded; c++)
      l->sums[p * l->conv.padded + c] =
          c < l->channels ? (uint16_t)(next() % (unsigned)(l->box[p] + 1)) : garbage++;
  }
  for (size_t i = 0; i < sizeof l->residual; i++) l->residual[i] = (uint8_t)next();
}

static int plan(struct layer *l) {
  l->kernel.sum_bits = l->variant.sum_bits;
  l->term.bound = l->variant.bound;
  for (unsigned i = 0; i < 2; i++)
    l->planned[i] = (struct conv_term){.kernel = &l->kernel, .term = &l->term};
  l->op.out = (struct value){l->bits ? BFCN_CODES : BFCN_SCORES, l->channels, l->bits, 0};
  l->op.terms = &l->term;
  l->op.term_count = l->variant.terms;
  l->op.residual_count = l->residual_bits > 0;
  l->conv = (struct conv){.op = &l->op,
                          .outputs = l->channels,
                          .padded = (l->channels + 63) / 64 * 64,
                          .terms = l->planned,
                          .residual = {BFCN_CODES, l->channels, l->residual_bits, 0},
                          .with_thresholds = 1,
                          .with_moves = 1};
  l->packed_terms[0].scale = l->scale;
  l->packed = (struct packed){
      .op = &l->op, .terms = l->packed_terms, .bias = l->bias, .addends = l->addends};
  fill(l);
  const int possible = l->bits >= 1 && l->bits <= 2 && l->residual_bits <= 2 &&
                       l->variant.terms == 1 && l->variant.sum_bits == 16;
  return bfcn_find_thresholds(&l->conv, &l->packed) && !l->packed.thresholds == !possible;
}

/* in_place: the output takes the residual's place, as it may where both have one form. */
static uint8_t *run(const struct layer *l, const struct backend *backend, int thresholds,
                    int in_place) {
  const int wide = l->variant.sum_bits == 32;
  const struct epilogue_term first = {.sums = wide ? (const void *)l->wide_sums : l->sums,
                                      .sum_stride = l->conv.padded,
                                      .sum_bits = l->variant.sum_bits,
                                      .narrow = l->variant.narrow,
                                      .k = wide ? 1 : 2,
                                      .box_scale = wide ? 0 : -1,
                                      .box = l->box,
                                      .offset = l->variant.offset ? l->offset : NULL,
                                      .scale = l->scale};
  struct epilogue_term terms[2] = {first, first};
  if (!wide) terms[1].k = 1, terms[1].box_scale = -3;
  uint8_t *out = malloc(out_bytes(l) + VALUE_SLACK);
  if (in_place)
    memcpy(out, l->residual, out_bytes(l) + VALUE_SLACK);
  else
    memset(out, 0xa5, out_bytes(l));
  const struct epilogue_residual residual = {in_place ? out : l->residual, l->residual_bits,
                                             l->addends};
  const struct epilogue e = {.pixels = PIXELS,
                             .channels = l->channels,
                             .all_channels = l->channels,
                             .terms = l->variant.terms,
                             .residuals = l->residual_bits > 0,
                             .term = terms,
                             .residual = &residual,
                             .bias = l->bias,
                             .bits = l->bits,
                             .out = out,
                             .thresholds = l->packed.thresholds,
                             .flips = l->packed.flips,
                             .moves = l->packed.moves,
                             .moved = l->packed.moved};
  (thresholds ? backend->epilogue_threshold : backend->epilogue)(&e);
  return out;
}

/* Of 8 channels each: whose thresholds residuals choose, and whose they move. */
static unsigned groups[2];

static int test(unsigned channels, unsigned bits, unsigned residual_bits, struct variant variant) {
  struct layer *l = calloc(1, sizeof *l);
  l->channels = channels, l->bits = bits, l->residual_bits = residual_bits;
  l->variant = variant;
  if (!plan(l)) return printf("%u channels: thresholds amiss\n", channels), 1;
  for (unsigned i = 0; l->packed.moved && i < channels / 8; i++) groups[l->packed.moved[i]]++;
  int failed = 0;
  uint8_t *expected = run(l, &bfcn_backend_portable, 0, 0);
  const int ways = bits && bits == residual_bits ? 2 : 1;
  for (int isa = ISA_PORTABLE; isa <= (int)bfcn_best_isa(); isa++) {
    const struct backend *backend = bfcn_backend((enum isa)isa);
    const int paths = 1 + (l->packed.thresholds != NULL && backend->epilogue_threshold != NULL);
    for (int i = 0; i < paths * ways; i++) {
      const int thresholds = i % paths, in_place = i / paths;
      uint8_t *got = run(l, backend, thresholds, in_place);
      if (memcmp(got, expected, out_bytes(l))) {
        printf(
            "%s, %s%s: codes differ at %u channels, %u bits, residual of %u bits, %u terms of %u\n",
            backend->name, thresholds ? "thresholds" : "float32", in_place ? " in place" : "",
            channels, bits, residual_bits, variant.terms, variant.sum_bits);
        failed = 1;
      }
      free(got);
    }
  }
  free(expected);
  free(l->packed.thresholds);
  free(l->packed.flips);
  free(l->packed.moves);
  free(l->packed.moved);
  free(l);
  return failed;
}

/* Labels of rows of scores, some of them 0, of a magnitude of about `unit`. */
static int test_argmax(unsigned channels, size_t width, float unit, float l) {
  enum { MOST = 21 * 40 };
  float top[MOST], bottom[MOST];
  for (size_t i = 0; i < channels * width; i++) {
    top[i] = next() % 4 ? ((float)(next() % 2001) - 1000) * unit : 0;
    bottom[i] = next() % 4 ? ((float)(next() % 2001) - 1000) * unit : top[i];
  }
  uint8_t expected[40], labels[40];
  int failed = 0;
  bfcn_backend_portable.argmax_row(top, bottom, l, channels, width, expected);
  for (int isa = 0; isa <= (int)bfcn_best_isa(); isa++) {
    const struct backend *backend = bfcn_backend((enum isa)isa);
    memset(labels, 0xa5, sizeof labels);
    backend->argmax_row(top, bottom, l, channels, width, labels);
    if (!memcmp(labels, expected, width)) continue;
    printf("%s: argmax of %u channels x %zu differs, scores of %g, l %g\n", backend->name, channels,
           width, unit, l);
    failed = 1;
  }
  return failed;
}

int main(void) {
  static const unsigned channels[] = {1, 19, 63, 64, 65, 130}, bits[] = {0, 1, 2, 3, 4, 5, 8};
  static const struct variant variants[] = {
      {1, 16, 1, 0, 2000}, {1, 16, 0, 0, 9000}, {2, 16, 1, 0, 9000}, {2, 16, 0, 0, 9000},
      {1, 32, 0, 1, 9000}, {2, 32, 0, 1, 9000}, {2, 16, 1, 1, 9000}};
  enum { VARIANTS = sizeof variants / sizeof *variants };
  int failures = 0, tested = 0;
  for (size_t i = 0; i < sizeof channels / sizeof *channels; i++)
    for (size_t b = 0; b < sizeof bits / sizeof *bits; b++)
      for (size_t r = 0; r < sizeof bits / sizeof *bits; r++)
        for (size_t v = 0; v < (channels[i] == 19 || channels[i] == 64 ? VARIANTS : 1);
             v++, tested++)
          failures += test(channels[i], bits[b], bits[r], variants[v]);
  static const unsigned widths[] = {1, 7, 8, 9, 16, 33, 40};
  static const float units[] = {1, 0x1p-105f, 0x1p-126f, 0x1p-140f},
                     fractions[] = {0, 0.3f, 0x1p-25f};
  for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
    for (size_t u = 0; u < 4 * 3; u++)
      failures += test_argmax(1 + 20 * (w % 2), widths[w], units[u / 3], fractions[u % 3]);
  printf("%d epilogues, thresholds chosen for %u groups of channels and moved for %u, against %s\n",
         tested, groups[0], groups[1], bfcn_isas());
  return failures != 0 || !groups[0] || !groups[1];
}
