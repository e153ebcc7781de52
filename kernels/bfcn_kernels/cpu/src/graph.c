#include "graph.h"

#include "status.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One record being read. `failed` remembers the first broken rule, so that a record is read
 * straight through and checked once. */
struct record {
  const struct gguf *gguf;
  struct bfcn_model *model;
  struct op *op;
  unsigned index; /* of the op; its sources are values 0..index */
  const uint8_t *words;
  size_t count, next;
  bfcn_status failed;
};

#define RULE(r, holds, ...)                                         \
  do {                                                              \
    if ((r)->failed == BFCN_OK && !(holds)) refuse(r, __VA_ARGS__); \
  } while (0)

__attribute__((format(printf, 2, 3))) static void refuse(struct record *r, const char *format,
                                                         ...) {
  char rule[384];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(rule, sizeof rule, format, arguments);
  va_end(arguments);
  r->failed = bfcn_fail(BFCN_ERROR_GRAPH, "op '%s': %s", r->op->name, rule);
}

static int32_t word(struct record *r) {
  int32_t value = 0;
  RULE(r, r->next < r->count, "record ends after %zu words", r->count);
  if (r->failed == BFCN_OK) memcpy(&value, r->words + 4 * r->next++, 4);
  return value;
}

static unsigned within(struct record *r, const char *name, int32_t low, int32_t high) {
  const int32_t value = word(r);
  RULE(r, value >= low && value <= high, "%s must be in %d..%d, got %d", name, low, high, value);
  return r->failed == BFCN_OK ? (unsigned)value : (unsigned)(low > 0 ? low : 0);
}

static float coefficient(struct record *r, const char *name) {
  const int32_t bits = word(r);
  float value;
  memcpy(&value, &bits, 4);
  RULE(r, fabsf(value) <= 0x1p60f, "%s must be finite and at most 2^60, got %g", name,
       (double)value);
  return value;
}

/* A value whose data the op reads; kind is what it must be. */
static unsigned source(struct record *r, bfcn_kind kind) {
  static const char *const kinds[] = {"the image", "codes", "scores", "labels"};
  const unsigned value = within(r, "source", 0, (int32_t)r->index);
  const bfcn_kind got = bfcn_model_value(r->model, value).kind;
  RULE(r, got == kind, "source %u must be %s, got %s", value, kinds[kind], kinds[got]);
  if (r->failed == BFCN_OK) r->op->source[r->op->source_count++] = value;
  return r->failed == BFCN_OK ? value : 0;
}

static struct value value_of(const struct record *r, unsigned value) {
  return bfcn_model_value(r->model, value);
}

/* The bytes of a required tensor of one type and shape; NULL once the record has failed. */
static const uint8_t *tensor(struct record *r, const char *suffix, enum tensor_type type,
                             uint64_t s0, uint64_t s1, uint64_t s2) {
  char name[80];
  snprintf(name, sizeof name, "%s%s", r->op->name, suffix);
  const struct gguf_tensor *t = bfcn_gguf_find_tensor(r->gguf, name);
  RULE(r, t, "tensor '%s' is missing", name);
  if (r->failed != BFCN_OK) return NULL;
  const unsigned dimensions = s2 ? 3 : s1 ? 2 : 1;
  RULE(r, t->type == (uint32_t)type, "tensor '%s' must have type %d, got %u", name, (int)type,
       t->type);
  RULE(r,
       t->dimensions == dimensions && t->shape[0] == s0 && (!s1 || t->shape[1] == s1) &&
           (!s2 || t->shape[2] == s2),
       "tensor '%s' must be [%" PRIu64 ", %" PRIu64 ", %" PRIu64 "], got [%" PRIu64 ", %" PRIu64
       ", %" PRIu64 "]",
       name, s0, s1 ? s1 : 1, s2 ? s2 : 1, t->shape[0], t->shape[1], t->shape[2]);
  return r->failed == BFCN_OK ? t->data : NULL;
}

static const void *copy(struct record *r, const void *bytes, size_t size) {
  if (r->failed != BFCN_OK) return NULL;
  void *kept = bfcn_model_alloc(r->model, size);
  if (kept) return memcpy(kept, bytes, size);
  r->failed = bfcn_fail(BFCN_ERROR_MEMORY, "op '%s': no memory for a tensor", r->op->name);
  return NULL;
}

static const float *coefficients(struct record *r, const char *suffix) {
  const unsigned channels = r->op->out.channels;
  const float *values = copy(r, tensor(r, suffix, TENSOR_F32, channels, 0, 0), channels * 4ul);
  for (unsigned c = 0; values && c < channels; c++)
    RULE(r, fabsf(values[c]) <= 0x1p60f,
         "tensor '%s%s' must be finite and at most 2^60, got %g in channel %u", r->op->name, suffix,
         (double)values[c], c);
  return values;
}

static const uint8_t *table(struct record *r, uint64_t entries, uint64_t tables) {
  const size_t count = entries * (tables ? tables : 1);
  const uint8_t *codes = copy(r, tensor(r, ".table", TENSOR_I8, entries, tables, 0), count);
  for (size_t i = 0; codes && i < count; i++)
    RULE(r, codes[i] < 1u << r->op->out.bits, "table must hold codes of %u bits, got %u",
         r->op->out.bits, codes[i]);
  return codes;
}

static void pair(struct record *r, const char *name, unsigned *first, unsigned *second,
                 int32_t low) {
  *first = within(r, name, low, MAX_EXTENT);
  *second = within(r, name, low, MAX_EXTENT);
}

/* The output must be described as what follows from the sources. */
static void same_value(struct record *r, struct value must) {
  const struct value *out = &r->op->out;
  RULE(r,
       out->kind == must.kind && out->channels == must.channels && out->bits == must.bits &&
           out->zero_point == must.zero_point,
       "output must be kind %d, %u channels, %u bits, zero point %u; got %d, %u, %u, %u", must.kind,
       must.channels, must.bits, must.zero_point, out->kind, out->channels, out->bits,
       out->zero_point);
}

static void codes_of_channels(struct record *r, unsigned channels) {
  RULE(r, r->op->out.kind == BFCN_CODES, "output must be codes");
  same_value(r, (struct value){BFCN_CODES, channels, r->op->out.bits, r->op->out.zero_point});
}

static void image_codes(struct record *r) {
  codes_of_channels(r, 3);
  for (int i = 0; i < 3; i++) r->op->order[i] = within(r, "order", 0, 2);
  r->op->table = table(r, 256, 3);
}

/* Bits past `length` of every plane must be 0. */
static void padding_bits(struct record *r, const struct term *t) {
  if (t->length % 64 == 0) return;
  const size_t planes = (size_t)r->op->out.channels * t->bits;
  for (size_t i = 0; i < planes && r->failed == BFCN_OK; i++) {
    uint64_t last;
    memcpy(&last, t->weight + (i * t->words + t->words - 1) * 8, 8);
    RULE(r, last >> t->length % 64 == 0, "weights must be padded with 0 bits");
  }
}

static void term_geometry(struct record *r, struct term *t) {
  pair(r, "kernel", &t->window.kh, &t->window.kw, 1);
  pair(r, "stride", &t->window.sh, &t->window.sw, 1);
  pair(r, "padding", &t->window.ph, &t->window.pw, 0);
  pair(r, "dilation", &t->window.dh, &t->window.dw, 1);
  t->groups = within(r, "groups", 1, MAX_CHANNELS);
  t->bits = within(r, "weight bits", 1, 8);
  t->form = within(r, "weight form", 1, 2);
  RULE(r, t->form == 2 || t->bits > 1, "1-bit weights must have form 2 (bipolar), got 1");
}

static void term(struct record *r, struct term *t, unsigned index) {
  t->source = source(r, BFCN_CODES);
  const struct value from = value_of(r, t->source);
  const unsigned channels = r->op->out.channels;
  term_geometry(r, t);
  RULE(r, from.channels % t->groups == 0 && channels % t->groups == 0,
       "groups must divide %u source and %u output channels, got %u", from.channels, channels,
       t->groups);
  if (r->failed != BFCN_OK) return;
  t->length = (size_t)t->window.kh * t->window.kw * (from.channels / t->groups);
  t->words = (t->length + 63) / 64;
  t->z = t->form == 2 ? (1 << t->bits) - 1 : 1 << (t->bits - 1);
  const unsigned top = (1u << from.bits) - 1;
  const unsigned span =
      from.zero_point > top - from.zero_point ? from.zero_point : top - from.zero_point;
  RULE(r, t->length <= INT32_MAX, "a filter must have at most 2^31 weights, got %zu", t->length);
  t->bound = (int64_t)t->length * t->z * span;
  RULE(r, t->bound <= INT32_MAX - 1,
       "accumulator may reach %" PRId64 ", more than 2^31 - 2: use fewer bits", t->bound);
  char suffix[24] = ".weight";
  if (index) snprintf(suffix, sizeof suffix, ":%u.weight", index);
  t->weight = tensor(r, suffix, TENSOR_I64, t->words, t->bits, channels);
  if (t->weight) padding_bits(r, t);
  strcpy(suffix, ".A");
  if (index) snprintf(suffix, sizeof suffix, ":%u.R", index);
  t->scale = coefficients(r, suffix);
}

static void bit_conv(struct record *r) {
  struct op *op = r->op;
  RULE(r, op->out.kind == BFCN_CODES || op->out.kind == BFCN_SCORES,
       "output must be codes or scores");
  op->term_count = within(r, "terms", 1, MAX_TERMS);
  op->residual_count = within(r, "residuals", 0, MAX_TERMS);
  op->terms = bfcn_model_alloc(r->model, op->term_count * sizeof *op->terms);
  op->residuals = bfcn_model_alloc(r->model, (op->residual_count + 1ul) * sizeof *op->residuals);
  if (!op->terms || !op->residuals) {
    r->failed = bfcn_fail(BFCN_ERROR_MEMORY, "op '%s': no memory for its terms", op->name);
    return;
  }
  for (unsigned i = 0; i < op->term_count; i++) term(r, &op->terms[i], i);
  for (unsigned i = 0; i < op->residual_count; i++) {
    op->residuals[i].source = source(r, BFCN_CODES);
    op->residuals[i].scale = coefficient(r, "R");
    RULE(r, value_of(r, op->residuals[i].source).channels == op->out.channels,
         "residual must have %u channels, got %u", op->out.channels,
         value_of(r, op->residuals[i].source).channels);
  }
  op->bias = coefficients(r, ".B");
}

static void max_pool(struct record *r, struct value from) {
  struct window *w = &r->op->window;
  pair(r, "kernel", &w->kh, &w->kw, 1);
  pair(r, "stride", &w->sh, &w->sw, 1);
  pair(r, "padding", &w->ph, &w->pw, 0);
  pair(r, "dilation", &w->dh, &w->dw, 1);
  r->op->ceil = (int)within(r, "ceil", 0, 1);
  same_value(r, from);
}

static void avg_pool(struct record *r, struct value from) {
  struct window *w = &r->op->window;
  pair(r, "kernel", &w->kh, &w->kw, 1);
  pair(r, "stride", &w->sh, &w->sw, 1);
  pair(r, "padding", &w->ph, &w->pw, 0);
  w->dh = w->dw = 1;
  r->op->ceil = (int)within(r, "ceil", 0, 1);
  r->op->include_pad = (int)within(r, "count_include_pad", 0, 1);
  r->op->A = coefficient(r, "A");
  r->op->B = coefficient(r, "B");
  codes_of_channels(r, from.channels);
}

static void adaptive_avg_pool(struct record *r, struct value from) {
  r->op->extent[0] = within(r, "size", 1, MAX_SIDE);
  r->op->extent[1] = within(r, "size", 1, MAX_SIDE);
  r->op->A = coefficient(r, "A");
  r->op->B = coefficient(r, "B");
  codes_of_channels(r, from.channels);
}

static void resize(struct record *r) {
  struct op *op = r->op;
  /* Codes or scores: peek at the source's kind. */
  const unsigned from = within(r, "source", 0, (int32_t)r->index);
  const struct value value = value_of(r, from);
  RULE(r, value.kind == BFCN_CODES || value.kind == BFCN_SCORES, "source must be codes or scores");
  op->source[op->source_count++] = from;
  op->mode = (enum mode)within(r, "mode", 0, MODES - 1);
  op->target = (enum target)within(r, "target", 0, TARGETS - 1);
  const int32_t low[] = {0, 1, 1}, high[] = {(int32_t)r->index, MAX_SIDE, 64};
  op->extent[0] = within(r, "target's extent", low[op->target], high[op->target]);
  op->extent[1] = op->target == TARGET_LIKE
                      ? within(r, "t1", 0, 0)
                      : within(r, "target's extent", low[op->target], high[op->target]);
  op->A = coefficient(r, "A");
  op->B = coefficient(r, "B");
  if (value.kind == BFCN_CODES) {
    codes_of_channels(r, value.channels);
    return;
  }
  RULE(r, op->A == 1.0f && op->B == 0.0f, "a resize of scores must have A 1 and B 0, got %g and %g",
       (double)op->A, (double)op->B);
  same_value(r, value);
}

static void two_scores(struct record *r) {
  const struct value a = value_of(r, source(r, BFCN_SCORES));
  const struct value b = value_of(r, source(r, BFCN_SCORES));
  RULE(r, a.channels == b.channels, "sources must have equal channels, got %u and %u", a.channels,
       b.channels);
  same_value(r, a);
}

static void concat(struct record *r) {
  const unsigned count = within(r, "number of sources", 1, MAX_SOURCES);
  struct value sum = {BFCN_CODES, 0, 0, 0};
  for (unsigned i = 0; i < count; i++) {
    const struct value from = value_of(r, source(r, BFCN_CODES));
    if (i == 0) sum.bits = from.bits, sum.zero_point = from.zero_point;
    RULE(r, from.bits == sum.bits && from.zero_point == sum.zero_point,
         "sources must share bits and zero point, got %u, %u and %u, %u", sum.bits, sum.zero_point,
         from.bits, from.zero_point);
    sum.channels += from.channels;
  }
  same_value(r, sum);
}

static void argmax(struct record *r) {
  const struct value from = value_of(r, source(r, BFCN_SCORES));
  r->op->mode = (enum mode)within(r, "mode", 0, MODES - 1);
  RULE(r, r->index + 1 == r->model->op_count, "an argmax must be the last op");
  RULE(r, from.channels <= 256, "classes must be at most 256, got %u", from.channels);
  same_value(r, (struct value){BFCN_LABELS, from.channels, 0, 0});
}

static void one_source(struct record *r) {
  struct op *op = r->op;
  const struct value from = value_of(r, source(r, BFCN_CODES));
  if (r->failed != BFCN_OK) return;
  switch (op->code) {
  case OP_TABLE:
    codes_of_channels(r, from.channels);
    op->table = table(r, 1u << from.bits, 0);
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
  r->op->code = (enum opcode)within(r, "opcode", 1, OP_CODES_END - 1);
  const unsigned words = within(r, "record length", 6, INT32_MAX);
  RULE(r, words <= r->count, "record length must be at most %zu, got %u", r->count, words);
  r->count = words;
  out->kind = (bfcn_kind)within(r, "kind", BFCN_CODES, BFCN_LABELS);
  out->channels = within(r, "channels", 1, MAX_CHANNELS);
  out->bits = within(r, "bits", out->kind == BFCN_CODES, out->kind == BFCN_CODES ? 8 : 0);
  out->zero_point = within(r, "zero_point", 0, (1 << out->bits) - 1);
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
    r->op->dilation = within(r, "dilation", 0, MAX_EXTENT);
    break;
  case OP_ARGMAX:
    argmax(r);
    break;
  default:
    one_source(r);
  }
  RULE(r, r->next == r->count, "record must have %zu words, got %zu", r->next, r->count);
}

static bfcn_status all_read(const struct bfcn_model *model) {
  for (unsigned i = 0; i + 1 < model->op_count; i++) {
    int read = 0;
    for (unsigned j = i + 1; j < model->op_count && !read; j++) {
      const struct op *op = &model->ops[j];
      read = op->code == OP_RESIZE && op->target == TARGET_LIKE && op->extent[0] == i + 1;
      for (unsigned s = 0; s < op->source_count; s++) read |= op->source[s] == i + 1;
    }
    if (!read)
      return bfcn_fail(BFCN_ERROR_GRAPH, "op '%s': its value must be read by a later op",
                       model->ops[i].name);
  }
  return BFCN_OK;
}

bfcn_status bfcn_graph_decode(const struct gguf *gguf, struct bfcn_model *model) {
  const struct gguf_tensor *graph = bfcn_gguf_find_tensor(gguf, "bfcn.graph");
  if (!graph || graph->type != TENSOR_I32 || graph->dimensions != 1)
    return bfcn_fail(BFCN_ERROR_GRAPH, "tensor 'bfcn.graph' must be there, I32 [words]");
  size_t at = 0;
  for (unsigned i = 0; i < model->op_count; i++) {
    struct record r = {.gguf = gguf,
                       .model = model,
                       .op = &model->ops[i],
                       .index = i,
                       .words = graph->data + 4 * at,
                       .count = graph->shape[0] - at};
    header(&r);
    if (r.failed == BFCN_OK) body(&r);
    TRY(r.failed);
    at += r.count;
  }
  if (at != graph->shape[0])
    return bfcn_fail(BFCN_ERROR_GRAPH, "graph must end after %zu words, got %" PRIu64, at,
                     graph->shape[0]);
  return all_read(model);
}
