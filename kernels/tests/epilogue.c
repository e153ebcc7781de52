/* Every backend's epilogue, through float32 and through thresholds, against the portable one: the
 * same scores or codes, and padding channels that stay 0 whatever their sums hold; and its argmax,
 * of denormal scores, too. */
#include "conv_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* PIXELS x padding channels exceed 2^16 but at 63: each padding sum takes every value there is. */
enum { PIXELS = 4100, BOUND = 9000, MOST_CHANNELS = 192 };

struct layer {
  unsigned channels, bits, residual_bits; /* 0 residual bits: no residual */
  struct gemm_kernel kernel;
  struct term term;
  struct conv_term planned;
  struct op op;
  struct conv conv;
  float scale[MOST_CHANNELS], bias[MOST_CHANNELS], addends[256];
  uint16_t sums[PIXELS * MOST_CHANNELS];
  int32_t box[PIXELS];
  uint8_t residual[PIXELS * MOST_CHANNELS];
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

/* acc = 2 * sum - box spans -BOUND..BOUND; every third channel falls; some are denormal. */
static void fill(struct layer *l) {
  for (unsigned c = 0; c < l->channels; c++) {
    l->scale[c] = (c % 3 == 2 ? -1.0f : 1.0f) * (1 + next() % 100) / 60000.0f;
    l->bias[c] = (float)(next() % 400) / 100 - 1;
    if (c % 7 == 3) l->scale[c] *= 0x1p-120f; /* denormal: flushed to 0 by some vector units */
    if (c % 14 == 3) l->bias[c] *= 0x1p-140f;
  }
  for (unsigned code = 0; code < 256; code++) l->addends[code] = 0.37f * (float)(code % 16);
  uint16_t garbage = 0;
  for (unsigned p = 0; p < PIXELS; p++) {
    l->box[p] = (int32_t)(next() % BOUND);
    for (unsigned c = 0; c < l->conv.padded; c++)
      l->sums[p * l->conv.padded + c] =
          c < l->channels ? (uint16_t)(next() % (unsigned)(l->box[p] + 1)) : garbage++;
  }
  for (size_t i = 0; i < sizeof l->residual; i++) l->residual[i] = (uint8_t)next();
}

static int plan(struct layer *l) {
  const struct value residual = {BFCN_CODES, l->channels, l->residual_bits, 0};
  l->kernel.sum_bits = 16;
  l->term.bound = BOUND;
  l->planned = (struct conv_term){.kernel = &l->kernel, .term = &l->term, .scale = l->scale};
  l->op.out = (struct value){l->bits ? BFCN_CODES : BFCN_SCORES, l->channels, l->bits, 0};
  l->op.term_count = 1;
  l->op.residual_count = l->residual_bits > 0;
  l->conv = (struct conv){.op = &l->op,
                          .outputs = l->channels,
                          .padded = (l->channels + 63) / 64 * 64,
                          .terms = &l->planned,
                          .bias = l->bias,
                          .addends = l->addends};
  fill(l);
  const int possible = l->bits >= 1 && l->bits <= 2 && l->residual_bits <= 2;
  return find_thresholds(&l->conv, l->residual_bits ? &residual : NULL) &&
         !l->conv.thresholds == !possible;
}

static uint8_t *run(const struct layer *l, const struct backend *backend, int thresholds) {
  const struct epilogue_term term = {.sums = l->sums,
                                     .sum_stride = l->conv.padded,
                                     .sum_bits = 16,
                                     .k = 2,
                                     .box_scale = -1,
                                     .box = l->box,
                                     .scale = l->scale};
  const struct epilogue_residual residual = {l->residual, l->residual_bits, l->addends};
  uint8_t *out = malloc(out_bytes(l));
  memset(out, 0xa5, out_bytes(l));
  const struct epilogue e = {.pixels = PIXELS,
                             .channels = l->channels,
                             .all_channels = l->channels,
                             .terms = 1,
                             .residuals = l->residual_bits > 0,
                             .term = &term,
                             .residual = &residual,
                             .bias = l->bias,
                             .bits = l->bits,
                             .out = out,
                             .thresholds = l->conv.thresholds,
                             .flips = l->conv.flips};
  (thresholds ? backend->epilogue_threshold : backend->epilogue)(&e);
  return out;
}

static int test(unsigned channels, unsigned bits, unsigned residual_bits) {
  struct layer *l = calloc(1, sizeof *l);
  *l = (struct layer){.channels = channels, .bits = bits, .residual_bits = residual_bits};
  if (!plan(l)) return printf("%u channels: thresholds amiss\n", channels), 1;
  int failed = 0;
  uint8_t *expected = run(l, &bfcn_backend_portable, 0);
  for (int isa = ISA_PORTABLE + 1; isa <= (int)bfcn_best_isa(); isa++)
    for (int thresholds = 0; thresholds < 1 + (l->conv.thresholds != NULL); thresholds++) {
      const struct backend *backend = bfcn_backend((enum isa)isa);
      uint8_t *got = run(l, backend, thresholds);
      if (memcmp(got, expected, out_bytes(l))) {
        printf("%s, %s: codes differ at %u channels, %u bits, residual of %u bits\n", backend->name,
               thresholds ? "thresholds" : "float32", channels, bits, residual_bits);
        failed = 1;
      }
      free(got);
    }
  free(expected);
  free(l->conv.thresholds);
  free(l->conv.flips);
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
  int failures = 0, tested = 0;
  for (size_t i = 0; i < sizeof channels / sizeof *channels; i++)
    for (size_t b = 0; b < sizeof bits / sizeof *bits; b++)
      for (size_t r = 0; r < sizeof bits / sizeof *bits; r++, tested++)
        failures += test(channels[i], bits[b], bits[r]);
  static const unsigned widths[] = {1, 7, 8, 9, 16, 33, 40};
  static const float units[] = {1, 0x1p-105f, 0x1p-126f, 0x1p-140f},
                     fractions[] = {0, 0.3f, 0x1p-25f};
  for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
    for (size_t u = 0; u < 4 * 3; u++)
      failures += test_argmax(1 + 20 * (w % 2), widths[w], units[u / 3], fractions[u % 3]);
  printf("%d epilogues against %s\n", tested, bfcn_isas());
  return failures != 0;
}
