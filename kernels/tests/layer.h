/* One bit_conv term as a model of its own, for tests and benchmarks of every kernel: a planned
 * session around random weights and codes, and the same sum written as plainly as it can be. */
#ifndef BFCN_TESTS_LAYER_H
#define BFCN_TESTS_LAYER_H

#include "conv_plan.h"
#include "session.h"

#include <stdlib.h>
#include <string.h>

struct layer {
  unsigned height, width, channels, outputs, kernel, stride, dilation, groups;
  unsigned weight_bits, form, activation_bits, zero_point;
  int scores; /* float scores instead of 2-bit codes */
  int full;   /* 1: every code and weight is the largest, so that sums are; 2: is 0 */
};

struct layer_run {
  struct bfcn_model model;
  struct op ops[2];
  struct term term;
  struct packed *packed[2];
  struct store store;
  struct bfcn_session session;
  struct grid grids[3];
  struct slot slots[3];
  uint64_t *weight;
  uint8_t *codes, *weight_codes; /* a byte each */
  float *scale, *bias;
  struct conv *convs[2], *conv;
};

static uint32_t layer_random(void) {
  static uint64_t state = 88172645463325252ull;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (uint32_t)(state >> 32);
}

static uint32_t layer_code(const struct layer *l) {
  return l->full == 2 ? 0 : l->full ? ~0u : layer_random();
}

static void layer_weights(struct layer_run *r, const struct layer *l) {
  struct term *t = &r->term;
  r->weight_codes = malloc(t->length * l->outputs);
  r->weight = calloc(t->words * t->bits * l->outputs, 8);
  for (size_t o = 0; o < l->outputs; o++)
    for (size_t i = 0; i < t->length; i++) {
      const uint8_t code = (uint8_t)(layer_code(l) & ((1u << t->bits) - 1));
      r->weight_codes[o * t->length + i] = code;
      for (unsigned b = 0; b < t->bits; b++)
        r->weight[(o * t->bits + b) * t->words + i / 64] |= (uint64_t)(code >> b & 1) << i % 64;
    }
  t->weight = (const uint8_t *)r->weight;
}

/* A and B that spread the accumulators over the codes; every fifth channel has a negative A, and
 * some scores are denormal. */
static void layer_coefficients(struct layer_run *r, const struct layer *l) {
  const double span = (double)r->term.z * ((1u << l->activation_bits) - 1);
  r->scale = calloc(l->outputs, sizeof(float));
  r->bias = calloc(l->outputs, sizeof(float));
  for (unsigned c = 0; c < l->outputs; c++) {
    const double unit = 3.0 / (span * __builtin_sqrt((double)r->term.length));
    r->scale[c] = (float)((c % 5 == 4 ? -1 : 1) * unit * (1 + layer_random() % 100 / 100.0));
    r->bias[c] = (float)(1 + layer_random() % 100 / 100.0);
    if (l->scores && c % 5 == 3) r->scale[c] *= 0x1p-130f, r->bias[c] *= 0x1p-135f;
  }
}

/* Plan a layer for one kernel, or for the planner's choice if name is NULL. 0 if it cannot be. */
static int layer_plan(struct layer_run *r, const struct layer *l, enum isa isa, const char *name,
                      unsigned threads) {
  memset(r, 0, sizeof *r);
  bfcn_tables_init();
  const unsigned pad = l->dilation * (l->kernel - 1) / 2;
  r->term =
      (struct term){.source = 1, .groups = l->groups, .bits = l->weight_bits, .form = l->form};
  r->term.window = (struct window){l->kernel, l->kernel, l->stride,   l->stride,
                                   pad,       pad,       l->dilation, l->dilation};
  r->term.length = (size_t)l->kernel * l->kernel * (l->channels / l->groups);
  r->term.words = (r->term.length + 63) / 64;
  r->term.z = l->form == 2 ? (1 << l->weight_bits) - 1 : 1 << (l->weight_bits - 1);
  r->term.bound = (int64_t)r->term.length * r->term.z * ((1 << l->activation_bits) - 1);
  layer_weights(r, l);
  layer_coefficients(r, l);
  r->term.scale = r->scale;
  r->ops[0] = (struct op){.code = OP_TABLE, .name = "source"};
  r->ops[0].out = (struct value){BFCN_CODES, l->channels, l->activation_bits, l->zero_point};
  r->ops[1] = (struct op){.code = OP_BIT_CONV,
                          .name = "layer",
                          .source_count = 1,
                          .source = {1},
                          .term_count = 1,
                          .terms = &r->term,
                          .bias = r->bias};
  r->ops[1].out = l->scores ? (struct value){BFCN_SCORES, l->outputs, 0, 0}
                            : (struct value){BFCN_CODES, l->outputs, 2, 0};
  r->model = (struct bfcn_model){.ops = r->ops, .op_count = 2, .store = &r->store};
  r->store.first = r->packed;
  r->grids[1] = (struct grid){l->height, l->width};
  const unsigned reach = 2 * pad - l->dilation * (l->kernel - 1) - 1;
  r->grids[2] =
      (struct grid){(l->height + reach) / l->stride + 1, (l->width + reach) / l->stride + 1};
  r->session = (struct bfcn_session){.model = &r->model,
                                     .grids = r->grids,
                                     .slots = r->slots,
                                     .convs = r->convs,
                                     .threads = threads,
                                     .isa = isa,
                                     .wanted_kernel = name};
  uint64_t needed;
  const bfcn_status status = bfcn_conv_plan(&r->session, 1, &r->conv);
  r->convs[1] = r->conv;
  if (status != BFCN_OK || bfcn_packed_attach(&r->session, UINT64_MAX, &needed) < 1 ||
      bfcn_packed_fill(&r->model, r->conv) != BFCN_OK)
    return 0;
  return !name || !strcmp(bfcn_conv_kernel(r->conv), name);
}

/* Random codes in, garbage out. */
static void layer_fill(struct layer_run *r, const struct layer *l) {
  const size_t pixels = (size_t)l->height * l->width;
  struct slot *in = &r->slots[1], *out = &r->slots[2];
  in->words = l->activation_bits <= 4 ? (l->channels + 63) / 64 : 0;
  const size_t in_bytes = in->words ? 8ul * in->words * l->activation_bits : l->channels;
  out->words = l->scores ? 0 : (l->outputs + 63) / 64;
  const size_t out_bytes = l->scores ? 4ul * l->outputs : 16ul * out->words;
  in->data = aligned_alloc(64, round_up(pixels * in_bytes + VALUE_SLACK, 64));
  const size_t out_size = round_up(pixels_of(r->grids[2]) * out_bytes + VALUE_SLACK, 64);
  out->data = aligned_alloc(64, out_size);
  memset(out->data, 0xa5, out_size);
  r->codes = malloc(pixels * l->channels);
  for (size_t i = 0; i < pixels * l->channels; i++)
    r->codes[i] = (uint8_t)(layer_code(l) & ((1u << l->activation_bits) - 1));
  bfcn_value_store(&r->session, 1, 0, pixels, r->codes);
  r->session.scratch_bytes = round_up(bfcn_conv_scratch(r->conv) + SCRATCH_SLACK, 64);
  r->session.scratch = aligned_alloc(64, r->session.scratch_bytes * r->session.threads);
  memset(r->session.scratch, 0xa5, r->session.scratch_bytes * r->session.threads);
  r->session.pool = bfcn_pool_create(r->session.threads);
}

static void layer_free(struct layer_run *r) {
  if (r->conv) bfcn_packed_detach(&r->session);
  bfcn_packed_free_all(&r->model);
  bfcn_conv_free(r->conv);
  bfcn_pool_free(r->session.pool);
  free(r->session.scratch);
  free(r->slots[1].data);
  free(r->slots[2].data);
  free(r->codes);
  free(r->weight);
  free(r->weight_codes);
  free(r->scale);
  free(r->bias);
}

/* The accumulator of one output, as docs/format.md writes it. */
static int32_t layer_accumulate(const struct layer_run *r, const struct layer *l, unsigned y,
                                unsigned x, unsigned o) {
  const struct window *w = &r->term.window;
  const unsigned group = l->channels / l->groups, first = o / (l->outputs / l->groups) * group;
  int64_t acc = 0;
  for (unsigned ky = 0; ky < w->kh; ky++)
    for (unsigned kx = 0; kx < w->kw; kx++) {
      const int64_t v = (int64_t)y * w->sh + ky * w->dh - w->ph;
      const int64_t u = (int64_t)x * w->sw + kx * w->dw - w->pw;
      if (v < 0 || u < 0 || v >= l->height || u >= l->width) continue;
      const uint8_t *q = r->codes + (v * l->width + u) * l->channels + first;
      const uint8_t *b = r->weight_codes + o * r->term.length + (ky * w->kw + kx) * group;
      for (unsigned c = 0; c < group; c++)
        acc += ((int)l->form * b[c] - r->term.z) * ((int)q[c] - (int)l->zero_point);
    }
  return (int32_t)acc;
}

/* Outputs that differ from the plain sum. Every `step`-th is looked at. */
static size_t layer_wrong(const struct layer_run *r, const struct layer *l, size_t step) {
  const struct grid grid = r->grids[2];
  const size_t count = pixels_of(grid) * l->outputs;
  uint8_t *codes = malloc(count);
  if (!l->scores) bfcn_value_codes(&r->session, 2, 0, pixels_of(grid), codes);
  size_t wrong = 0;
  for (size_t i = 0; i < count; i += step) {
    const unsigned o = (unsigned)(i % l->outputs), pixel = (unsigned)(i / l->outputs);
    const int32_t acc = layer_accumulate(r, l, pixel / grid.width, pixel % grid.width, o);
    const float product = (float)acc * r->scale[o], t = product + r->bias[o], u = t + 0.5f;
    const unsigned code = u < 1 ? 0 : u >= 3 ? 3 : (unsigned)u;
    wrong += l->scores ? memcmp(&((float *)r->slots[2].data)[i], &t, 4) != 0 : codes[i] != code;
  }
  free(codes);
  return wrong;
}

#endif
