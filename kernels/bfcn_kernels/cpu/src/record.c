#include "record.h"

#include "status.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const kinds[] = {"image", "codes", "scores", "labels"};

void bfcn_record_refuse(struct record *r, const char *format, ...) {
  char rule[384];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(rule, sizeof rule, format, arguments);
  va_end(arguments);
  r->failed = bfcn_fail(BFCN_ERROR_GRAPH, "op '%s': %s", r->op->name, rule);
}

void bfcn_record_no_memory(struct record *r, const char *what) {
  if (r->failed == BFCN_OK)
    r->failed = bfcn_fail(BFCN_ERROR_MEMORY, "op '%s': no memory for %s", r->op->name, what);
}

static int32_t word(struct record *r, const char *name) {
  int32_t value = 0;
  RULE(r, r->next < r->count, "record must hold %s, got %zu words", name, r->count);
  if (r->failed == BFCN_OK) memcpy(&value, r->words + 4 * r->next++, 4);
  return value;
}

unsigned bfcn_record_within(struct record *r, const char *name, int32_t low, int32_t high) {
  const int32_t value = word(r, name);
  RULE(r, value >= low && value <= high, "%s must be an int in %d..%d, got %d", name, low, high,
       value);
  return r->failed == BFCN_OK ? (unsigned)value : (unsigned)(low > 0 ? low : 0);
}

void bfcn_record_pair(struct record *r, const char *name, unsigned *first, unsigned *second,
                      int32_t low) {
  *first = bfcn_record_within(r, name, low, MAX_EXTENT);
  *second = bfcn_record_within(r, name, low, MAX_EXTENT);
}

float bfcn_record_coefficient(struct record *r, const char *name) {
  const int32_t bits = word(r, name);
  float value;
  memcpy(&value, &bits, 4);
  RULE(r, fabsf(value) <= 0x1p60f, "%s must be finite and at most 2^60, got %g", name,
       (double)value);
  return value;
}

unsigned bfcn_record_source(struct record *r, bfcn_kind kind) {
  const unsigned value = bfcn_record_within(r, "source", 0, (int32_t)r->index);
  const bfcn_kind got = bfcn_record_value(r, value).kind;
  RULE(r, got == kind, "source must be %s, got %s of value %u", kinds[kind], kinds[got], value);
  if (r->failed == BFCN_OK) r->op->source[r->op->source_count++] = value;
  return r->failed == BFCN_OK ? value : 0;
}

struct value bfcn_record_value(const struct record *r, unsigned value) {
  return bfcn_model_value(r->model, value);
}

void bfcn_record_same(struct record *r, struct value must) {
  const struct value *out = &r->op->out;
  RULE(r,
       out->kind == must.kind && out->channels == must.channels && out->bits == must.bits &&
           out->zero_point == must.zero_point,
       "must be described as %s of %u channels, %u bits, zero point %u; got %s, %u, %u, %u",
       kinds[must.kind], must.channels, must.bits, must.zero_point, kinds[out->kind], out->channels,
       out->bits, out->zero_point);
}

static const uint8_t *data_of(struct record *r, const char *name, const struct gguf_tensor *t,
                              enum tensor_type type, const uint64_t shape[3]) {
  const unsigned dimensions = shape[2] ? 3 : shape[1] ? 2 : 1;
  int same = t->type == (uint32_t)type && t->dimensions == dimensions;
  for (unsigned i = 0; i < dimensions; i++) same &= t->shape[i] == shape[i];
  RULE(r, same,
       "tensor '%s' must be of type %d and [%" PRIu64 ", %" PRIu64 ", %" PRIu64
       "], got %u and [%" PRIu64 ", %" PRIu64 ", %" PRIu64 "]",
       name, (int)type, shape[0], dimensions > 1 ? shape[1] : 1, dimensions > 2 ? shape[2] : 1,
       t->type, t->shape[0], t->shape[1], t->shape[2]);
  return r->failed == BFCN_OK ? t->data : NULL;
}

static const struct gguf_tensor *find(const struct record *r, const char *suffix, char name[80]) {
  snprintf(name, 80, "%s%s", r->op->name, suffix);
  return bfcn_gguf_find_tensor(r->gguf, name);
}

const uint8_t *bfcn_record_tensor(struct record *r, const char *suffix, enum tensor_type type,
                                  uint64_t s0, uint64_t s1, uint64_t s2) {
  char name[80];
  const struct gguf_tensor *t = find(r, suffix, name);
  RULE(r, t, "tensor '%s' is missing", name);
  return r->failed == BFCN_OK ? data_of(r, name, t, type, (uint64_t[]){s0, s1, s2}) : NULL;
}

const uint8_t *bfcn_record_optional(struct record *r, const char *suffix, enum tensor_type type,
                                    uint64_t s0, uint64_t s1) {
  char name[80];
  const struct gguf_tensor *t = find(r, suffix, name);
  return t && r->failed == BFCN_OK ? data_of(r, name, t, type, (uint64_t[]){s0, s1, 0}) : NULL;
}

static const void *copy(struct record *r, const void *bytes, size_t size) {
  if (r->failed != BFCN_OK) return NULL;
  void *kept = bfcn_model_alloc(r->model, size);
  if (kept) return memcpy(kept, bytes, size);
  bfcn_record_no_memory(r, "a tensor");
  return NULL;
}

const float *bfcn_record_floats(struct record *r, const char *suffix) {
  const unsigned channels = r->op->out.channels;
  const float *values =
      copy(r, bfcn_record_tensor(r, suffix, TENSOR_F32, channels, 0, 0), channels * sizeof *values);
  for (unsigned c = 0; values && c < channels; c++)
    RULE(r, fabsf(values[c]) <= 0x1p60f,
         "tensor '%s%s' must be finite and at most 2^60, got %g in channel %u", r->op->name, suffix,
         (double)values[c], c);
  return values;
}

const uint8_t *bfcn_record_table(struct record *r, uint64_t entries, uint64_t tables) {
  const size_t count = (size_t)(entries * (tables ? tables : 1)); /* 768 at most */
  const uint8_t *codes =
      copy(r, bfcn_record_tensor(r, ".table", TENSOR_I8, entries, tables, 0), count);
  const unsigned top = (1u << r->op->out.bits) - 1;
  for (size_t i = 0; codes && i < count; i++)
    RULE(r, codes[i] <= top, "table must hold codes in 0..%u, got %u", top, codes[i]);
  return codes;
}
