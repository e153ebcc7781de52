#include "graph.h"

#include "record.h"
#include "status.h"
#include "stored_thresholds.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { HEADER = 6 }; /* words of every record */

static void codes_of_channels(struct record *r, unsigned channels) {
  RULE(r, r->op->out.kind == BFCN_CODES, "must be described as codes");
  bfcn_record_same(r, (struct value){BFCN_CODES, channels, r->op->out.bits, r->op->out.zero_point});
}

static void image_codes(struct record *r) {
  codes_of_channels(r, 3);
  for (int i = 0; i < 3; i++) r->op->order[i] = bfcn_record_within(r, "order", 0, 2);
  r->op->table = bfcn_record_table(r, 256, 3);
}

/* Bits past `length` of every plane must be 0. */
static void padding_bits(struct record *r, const struct term *t, const char *suffix) {
  if (t->length % 64 == 0) return;
  const size_t planes = (size_t)r->op->out.channels * t->bits;
  for (size_t i = 0; i < planes && r->failed == BFCN_OK; i++) {
    uint64_t last;
    memcpy(&last, t->weight + (i * t->words + t->words - 1) * 8, 8);
    RULE(r, last >> t->length % 64 == 0, "tensor '%s%s': bits past code %zu must be 0", r->op->name,
         suffix, t->length);
  }
}

static void term_geometry(struct record *r, struct term *t) {
  bfcn_record_pair(r, "kernel", &t->window.kh, &t->window.kw, 1);
  bfcn_record_pair(r, "stride", &t->window.sh, &t->window.sw, 1);
  bfcn_record_pair(r, "padding", &t->window.ph, &t->window.pw, 0);
  bfcn_record_pair(r, "dilation", &t->window.dh, &t->window.dw, 1);
  t->groups = bfcn_record_within(r, "groups", 1, MAX_CHANNELS);
  t->bits = bfcn_record_within(r, "weight bits", 1, 8);
  t->form = bfcn_record_within(r, "form", 1, 2);
  RULE(r, t->form == 2 || t->bits > 1, "1-bit weights must have form 2 (bipolar), got 1");
}

/* Weights and bound of a term whose filters have `length` weights: up to 2^40, so that 32 bits do
 * not count them. A tensor of that shape is in the file, and the bound fits 31 bits, before
 * anything is narrowed. */
static void term_weights(struct record *r, struct term *t, unsigned index, uint64_t length) {
  const struct value from = bfcn_record_value(r, t->source);
  const unsigned channels = r->op->out.channels, top = (1u << from.bits) - 1;
  const unsigned span =
      from.zero_point > top - from.zero_point ? from.zero_point : top - from.zero_point;
  const uint64_t words = length / 64 + (length % 64 > 0);
  t->z = t->form == 2 ? (1 << t->bits) - 1 : 1 << (t->bits - 1);
  t->bound = (int64_t)(length * (unsigned)t->z * span); /* below 2^56 */
  char suffix[24] = ".weight";
  if (index) snprintf(suffix, sizeof suffix, ":%u.weight", index);
  t->weight = bfcn_record_tensor(r, suffix, TENSOR_I64, words, t->bits, channels);
  RULE(r, t->bound <= INT32_MAX - 1,
       "accumulator may reach %" PRId64 ", more than 2^31 - 2: use fewer bits", t->bound);
  if (r->failed != BFCN_OK) return;
  t->length = (size_t)length;
  t->words = (size_t)words;
  padding_bits(r, t, suffix);
}

static void term(struct record *r, struct term *t, unsigned index) {
  t->source = bfcn_record_source(r, BFCN_CODES);
  const struct value from = bfcn_record_value(r, t->source);
  const unsigned channels = r->op->out.channels;
  term_geometry(r, t);
  RULE(r, from.channels % t->groups == 0 && channels % t->groups == 0,
       "groups must divide %u source and %u output channels, got %u", from.channels, channels,
       t->groups);
  if (r->failed != BFCN_OK) return;
  term_weights(r, t, index, (uint64_t)t->window.kh * t->window.kw * (from.channels / t->groups));
  char suffix[24] = ".A";
  if (index) snprintf(suffix, sizeof suffix, ":%u.R", index);
  t->scale = bfcn_record_floats(r, suffix);
}

/* Thresholds that the file carries must be those that A and B give. */
static void stored_thresholds(struct record *r) {
  const struct op *op = r->op;
  if (op->out.kind != BFCN_CODES || op->term_count > 1 || op->residual_count) return;
  const unsigned steps = (1u << op->out.bits) - 1;
  const uint8_t *stored =
      bfcn_record_optional(r, ".thresholds", TENSOR_I32, steps, op->out.channels);
  RULE(r, !stored || bfcn_stored_thresholds_follow(op, stored),
       "tensor '%s.thresholds' must follow from A and B, and does not", op->name);
}

static void bit_conv(struct record *r) {
  struct op *op = r->op;
  RULE(r, op->out.kind == BFCN_CODES || op->out.kind == BFCN_SCORES,
       "must be described as codes or scores");
  op->term_count = bfcn_record_within(r, "terms", 1, MAX_TERMS);
  op->residual_count = bfcn_record_within(r, "residuals", 0, MAX_TERMS);
  op->terms = bfcn_model_alloc(r->model, op->term_count * sizeof *op->terms);
  op->residuals = bfcn_model_alloc(r->model, (op->residual_count + 1ul) * sizeof *op->residuals);
  if (!op->terms || !op->residuals) {
    bfcn_record_no_memory(r, "its terms");
    return;
  }
  for (unsigned i = 0; i < op->term_count; i++) term(r, &op->terms[i], i);
  for (unsigned i = 0; i < op->residual_count; i++) {
    op->residuals[i].source = bfcn_record_source(r, BFCN_CODES);
    op->residuals[i].scale = bfcn_record_coefficient(r, "R");
    RULE(r, bfcn_record_value(r, op->residuals[i].source).channels == op->out.channels,
         "residual must have %u channels, got %u", op->out.channels,
         bfcn_record_value(r, op->residuals[i].source).channels);
  }
  op->bias = bfcn_record_floats(r, ".B");
  op->summands = 1;
  if (r->failed == BFCN_OK) stored_thresholds(r);
}

static void max_pool(struct record *r, struct value from) {
  struct window *w = &r->op->window;
  bfcn_record_pair(r, "kernel", &w->kh, &w->kw, 1);
  bfcn_record_pair(r, "stride", &w->sh, &w->sw, 1);
  bfcn_record_pair(r, "padding", &w->ph, &w->pw, 0);
  bfcn_record_pair(r, "dilation", &w->dh, &w->dw, 1);
  r->op->ceil = (int)bfcn_record_within(r, "ceil", 0, 1);
  bfcn_record_same(r, from);
}

static void avg_pool(struct record *r, struct value from) {
  struct window *w = &r->op->window;
  bfcn_record_pair(r, "kernel", &w->kh, &w->kw, 1);
  bfcn_record_pair(r, "stride", &w->sh, &w->sw, 1);
  bfcn_record_pair(r, "padding", &w->ph, &w->pw, 0);
  w->dh = w->dw = 1;
  r->op->ceil = (int)bfcn_record_within(r, "ceil", 0, 1);
  r->op->include_pad = (int)bfcn_record_within(r, "count_include_pad", 0, 1);
  r->op->A = bfcn_record_coefficient(r, "A");
  r->op->B = bfcn_record_coefficient(r, "B");
  codes_of_channels(r, from.channels);
}

static void adaptive_avg_pool(struct record *r, struct value from) {
  r->op->extent[0] = bfcn_record_within(r, "size", 1, MAX_SIDE);
  r->op->extent[1] = bfcn_record_within(r, "size", 1, MAX_SIDE);
  r->op->A = bfcn_record_coefficient(r, "A");
  r->op->B = bfcn_record_coefficient(r, "B");
  codes_of_channels(r, from.channels);
}

/* Where the resize ends: the grid of a value, a size, or factors. */
static void resize_target(struct record *r) {
  static const char *const names[] = {"source", "size", "factor"};
  struct op *op = r->op;
  op->target = (enum target)bfcn_record_within(r, "target", 0, TARGETS - 1);
  const int32_t low[] = {0, 1, 1}, high[] = {(int32_t)r->index, MAX_SIDE, 64};
  const int like = op->target == TARGET_LIKE;
  op->extent[0] = bfcn_record_within(r, names[op->target], low[op->target], high[op->target]);
  op->extent[1] = bfcn_record_within(r, like ? "t1" : names[op->target], low[op->target],
                                     like ? 0 : high[op->target]);
}

static void resize(struct record *r) {
  struct op *op = r->op;
  /* Codes or scores: peek at the source's kind. */
  const unsigned from = bfcn_record_within(r, "source", 0, (int32_t)r->index);
  const struct value value = bfcn_record_value(r, from);
  RULE(r, value.kind == BFCN_CODES || value.kind == BFCN_SCORES, "source must be codes, got image");
  op->source[op->source_count++] = from;
  op->mode = (enum mode)bfcn_record_within(r, "mode", 0, MODES - 1);
  resize_target(r);
  op->A = bfcn_record_coefficient(r, "A");
  op->B = bfcn_record_coefficient(r, "B");
  if (value.kind == BFCN_CODES) {
    codes_of_channels(r, value.channels);
    return;
  }
  RULE(r, op->A == 1.0f && op->B == 0.0f, "a resize of scores must have A 1, B 0, got %g and %g",
       (double)op->A, (double)op->B);
  bfcn_record_same(r, value);
  if (r->failed == BFCN_OK) op->summands = r->model->ops[from - 1].summands;
}

/* Each output of a convolution is below 2^96; with so few summed, no score gets infinite. */
static void two_scores(struct record *r) {
  const unsigned a = bfcn_record_source(r, BFCN_SCORES), b = bfcn_record_source(r, BFCN_SCORES);
  const struct value first = bfcn_record_value(r, a), second = bfcn_record_value(r, b);
  RULE(r, first.channels == second.channels, "sources must have equal channels, got %u and %u",
       first.channels, second.channels);
  bfcn_record_same(r, first);
  if (r->failed != BFCN_OK) return;
  const unsigned sum = r->model->ops[a - 1].summands + r->model->ops[b - 1].summands;
  RULE(r, sum <= MAX_SUMMANDS, "scores must add at most %d maps, got %u", MAX_SUMMANDS, sum);
  r->op->summands = sum;
}

static void concat(struct record *r) {
  const unsigned count = bfcn_record_within(r, "n", 1, MAX_SOURCES);
  struct value sum = {BFCN_CODES, 0, 0, 0};
  for (unsigned i = 0; i < count; i++) {
    const struct value from = bfcn_record_value(r, bfcn_record_source(r, BFCN_CODES));
    if (i == 0) sum.bits = from.bits, sum.zero_point = from.zero_point;
    RULE(r, from.bits == sum.bits && from.zero_point == sum.zero_point,
         "sources must share bits and zero point, got %u, %u and %u, %u", sum.bits, sum.zero_point,
         from.bits, from.zero_point);
    sum.channels += from.channels;
  }
  bfcn_record_same(r, sum);
}

static void argmax(struct record *r) {
  const struct value from = bfcn_record_value(r, bfcn_record_source(r, BFCN_SCORES));
  r->op->mode = (enum mode)bfcn_record_within(r, "mode", 0, MODES - 1);
  RULE(r, r->index + 1 == r->model->op_count, "an argmax must be the last op");
  RULE(r, from.channels <= 256, "classes must be at most 256, got %u", from.channels);
  bfcn_record_same(r, (struct value){BFCN_LABELS, from.channels, 0, 0});
}

static void one_source(struct record *r) {
  struct op *op = r->op;
  const struct value from = bfcn_record_value(r, bfcn_record_source(r, BFCN_CODES));
  if (r->failed != BFCN_OK) return;
  switch (op->code) {
  case OP_TABLE:
    codes_of_channels(r, from.channels);
    op->table = bfcn_record_table(r, 1u << from.bits, 0);
    return;
  case OP_MAX_POOL:
    max_pool(r, from);
    break;
  case OP_AVG_POOL:
    avg_pool(r, from);
    break;
  default:
    adaptive_avg_pool(r, from);
    return;
  }
  RULE(r, 2 * op->window.ph <= op->window.kh && 2 * op->window.pw <= op->window.kw,
       "padding must be at most half the kernel, got %u x %u for %u x %u", op->window.ph,
       op->window.pw, op->window.kh, op->window.kw);
}

static void header(struct record *r) {
  struct value *out = &r->op->out;
  RULE(r, r->count >= HEADER, "record must have %d words, got %zu left", HEADER, r->count);
  const int32_t left = r->count < INT32_MAX ? (int32_t)r->count : INT32_MAX;
  r->op->code = (enum opcode)bfcn_record_within(r, "opcode", 1, OP_CODES_END - 1);
  r->count = bfcn_record_within(r, "record length", HEADER, left);
  out->kind = (bfcn_kind)bfcn_record_within(r, "kind", BFCN_CODES, BFCN_LABELS);
  out->channels = bfcn_record_within(r, "channels", 1, MAX_CHANNELS);
  const int codes = out->kind == BFCN_CODES;
  out->bits = bfcn_record_within(r, "bits", codes, codes ? 8 : 0);
  out->zero_point = bfcn_record_within(r, "zero_point", 0, (1 << out->bits) - 1);
}

static void body(struct record *r) {
  switch (r->op->code) {
  case OP_IMAGE_CODES:
    image_codes(r);
    break;
  case OP_BIT_CONV:
    bit_conv(r);
    break;
  case OP_RESIZE:
    resize(r);
    break;
  case OP_ADD:
    two_scores(r);
    break;
  case OP_CONCAT:
    concat(r);
    break;
  case OP_MASK:
    two_scores(r);
    r->op->dilation = bfcn_record_within(r, "dilation", 0, MAX_EXTENT);
    break;
  case OP_ARGMAX:
    argmax(r);
    break;
  default:
    one_source(r);
  }
  RULE(r, r->next == r->count, "record must end after %zu words, got %zu", r->next, r->count);
}

static bfcn_status all_read(const struct bfcn_model *model) {
  for (unsigned i = 0; i < model->op_count; i++) {
    const struct op *op = &model->ops[i];
    for (unsigned s = 0; s < op->source_count; s++)
      if (op->source[s]) model->ops[op->source[s] - 1].is_read = 1;
    if (op->code == OP_RESIZE && op->target == TARGET_LIKE && op->extent[0])
      model->ops[op->extent[0] - 1].is_read = 1;
  }
  for (unsigned i = 0; i + 1 < model->op_count; i++)
    if (!model->ops[i].is_read)
      return bfcn_fail(BFCN_ERROR_GRAPH, "op '%s': its value must be read by a later op",
                       model->ops[i].name);
  return BFCN_OK;
}

bfcn_status bfcn_graph_decode(const struct gguf *gguf, struct bfcn_model *model) {
  const struct gguf_tensor *graph = bfcn_gguf_find_tensor(gguf, "bfcn.graph");
  if (!graph) return bfcn_fail(BFCN_ERROR_FORMAT, "tensor 'bfcn.graph' is missing");
  if (graph->type != TENSOR_I32 || graph->dimensions != 1)
    return bfcn_fail(BFCN_ERROR_FORMAT, "tensor 'bfcn.graph' must be I32 [words]");
  const size_t words = (size_t)graph->shape[0]; /* which the file holds */
  size_t at = 0;
  for (unsigned i = 0; i < model->op_count; i++) {
    struct record r = {.gguf = gguf,
                       .model = model,
                       .op = &model->ops[i],
                       .index = i,
                       .words = graph->data + 4 * at,
                       .count = words - at};
    header(&r);
    if (r.failed == BFCN_OK) body(&r);
    TRY(r.failed);
    at += r.count;
  }
  if (at != words)
    return bfcn_fail(BFCN_ERROR_GRAPH, "graph must end at word %zu, got %zu", at, words);
  return all_read(model);
}
