#include "keys.h"

#include "status.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Types of the keys that a model may have, docs/format.md; others are skipped. */
static const struct {
  const char *name;
  enum gguf_type type, element;
} known_keys[] = {
    {"general.architecture", GGUF_STRING, GGUF_STRING},
    {"general.name", GGUF_STRING, GGUF_STRING},
    {"bfcn.version", GGUF_UINT32, GGUF_UINT32},
    {"bfcn.op_names", GGUF_ARRAY, GGUF_STRING},
    {"bfcn.classes", GGUF_ARRAY, GGUF_STRING},
    {"bfcn.palette", GGUF_ARRAY, GGUF_UINT8},
    {"bfcn.mean", GGUF_ARRAY, GGUF_FLOAT32},
    {"bfcn.std", GGUF_ARRAY, GGUF_FLOAT32},
    {"bfcn.weight_bits", GGUF_UINT32, GGUF_UINT32},
    {"bfcn.activation_bits", GGUF_UINT32, GGUF_UINT32},
    {"bfcn.train_config", GGUF_STRING, GGUF_STRING},
};

static bfcn_status no_memory(void) {
  return bfcn_fail(BFCN_ERROR_MEMORY, "no memory for the model");
}

static const char *type_text(uint32_t type) {
  static const char *const names[] = {"uint8",  "int8",    "uint16", "int16",  "uint32",
                                      "int32",  "float32", "bool",   "string", "array",
                                      "uint64", "int64",   "float64"};
  return type < sizeof names / sizeof *names ? names[type] : "unknown";
}

static bfcn_status check_types(const struct gguf *gguf) {
  for (size_t i = 0; i < sizeof known_keys / sizeof *known_keys; i++) {
    const struct gguf_key *key = bfcn_gguf_find_key(gguf, known_keys[i].name);
    const int array = known_keys[i].type == GGUF_ARRAY;
    if (!key || (key->type == known_keys[i].type && key->element == known_keys[i].element))
      continue;
    return bfcn_fail(BFCN_ERROR_FORMAT, "%s must be of type %s%s, got %s%s", known_keys[i].name,
                     array ? "array of " : "", type_text(known_keys[i].element),
                     key->type == GGUF_ARRAY ? "array of " : "", type_text(key->element));
  }
  return BFCN_OK;
}

static bfcn_status check_version(const struct gguf *gguf) {
  const struct gguf_key *key = bfcn_gguf_find_key(gguf, "general.architecture");
  size_t at = 0;
  if (!key || !bfcn_gguf_equal(bfcn_gguf_next_string(key, &at), "bfcn"))
    return bfcn_fail(BFCN_ERROR_FORMAT, "general.architecture must be 'bfcn'");
  key = bfcn_gguf_find_key(gguf, "bfcn.version");
  uint32_t version = 0;
  if (key) memcpy(&version, key->value, 4);
  if (version != 1) return bfcn_fail(BFCN_ERROR_FORMAT, "bfcn.version must be 1, got %u", version);
  return BFCN_OK;
}

/* All strings of a key, terminated, in one block: no file takes much more than its size. */
static char *copy_strings(struct bfcn_model *model, const struct gguf_key *key) {
  size_t bytes = 0;
  size_t at = 0;
  for (uint64_t i = 0; i < key->count; i++) bytes += bfcn_gguf_next_string(key, &at).length + 1;
  char *copies = bfcn_model_alloc(model, bytes), *next = copies;
  at = 0;
  for (uint64_t i = 0; copies && i < key->count; i++) {
    const struct gguf_string string = bfcn_gguf_next_string(key, &at);
    memcpy(next, string.text, string.length);
    next += string.length + 1;
  }
  return copies;
}

static int is_op_name(const char *name) {
  static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
  const size_t length = strlen(name);
  return length >= 1 && length <= 48 && strspn(name, allowed) == length &&
         strcmp(name, "image") != 0;
}

static int compare(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bfcn_status distinct_names(const struct bfcn_model *model) {
  const char **names = malloc(model->op_count * sizeof *names);
  if (!names) return no_memory();
  for (unsigned i = 0; i < model->op_count; i++) names[i] = model->ops[i].name;
  qsort(names, model->op_count, sizeof *names, compare);
  const char *twice = NULL;
  for (unsigned i = 1; i < model->op_count && !twice; i++)
    if (!strcmp(names[i - 1], names[i])) twice = names[i];
  free(names);
  return twice ? bfcn_fail(BFCN_ERROR_GRAPH, "op '%s': names must be distinct", twice) : BFCN_OK;
}

static bfcn_status op_names(const struct gguf *gguf, struct bfcn_model *model) {
  const struct gguf_key *key = bfcn_gguf_find_key(gguf, "bfcn.op_names");
  const uint64_t count = key ? key->count : 0;
  if (count < 1 || count > MAX_OPS)
    return bfcn_fail(BFCN_ERROR_FORMAT, "bfcn.op_names must name 1..%d ops, got %" PRIu64, MAX_OPS,
                     count);
  model->op_count = (unsigned)count;
  model->ops = bfcn_model_alloc(model, model->op_count * sizeof *model->ops);
  const char *name = copy_strings(model, key);
  if (!model->ops || !name) return no_memory();
  for (unsigned i = 0; i < model->op_count; i++, name += strlen(name) + 1) {
    if (!is_op_name(name))
      return bfcn_fail(BFCN_ERROR_GRAPH,
                       "op %u: a name must be 1..48 of A-Z a-z 0-9 _ . - and not 'image'", i + 1);
    model->ops[i].name = name;
  }
  return distinct_names(model);
}

static bfcn_status classes(const struct gguf *gguf, struct bfcn_model *model) {
  const struct gguf_key *key = bfcn_gguf_find_key(gguf, "bfcn.classes");
  if (!key || !key->count) return BFCN_OK;
  model->class_count = (size_t)key->count; /* of strings that the file holds */
  model->classes = bfcn_model_alloc(model, model->class_count * sizeof *model->classes);
  const char *name = copy_strings(model, key);
  if (!model->classes || !name) return no_memory();
  for (size_t i = 0; i < model->class_count; i++, name += strlen(name) + 1)
    model->classes[i] = name;
  return BFCN_OK;
}

static bfcn_status palette(const struct gguf *gguf, struct bfcn_model *model) {
  const struct gguf_key *key = bfcn_gguf_find_key(gguf, "bfcn.palette");
  if (!key || !key->count) return BFCN_OK;
  const size_t count = (size_t)key->count;
  if (count % 3)
    return bfcn_fail(BFCN_ERROR_FORMAT, "bfcn.palette must hold r g b per class, got %zu numbers",
                     count);
  if (model->class_count && count / 3 != model->class_count)
    return bfcn_fail(BFCN_ERROR_FORMAT,
                     "bfcn.palette must have one colour per class, got %zu for %zu classes",
                     count / 3, model->class_count);
  model->palette = bfcn_model_alloc(model, count);
  if (!model->palette) return no_memory();
  memcpy(model->palette, key->value, count);
  return BFCN_OK;
}

static bfcn_status three_numbers(const struct gguf *gguf, const char *name) {
  const struct gguf_key *key = bfcn_gguf_find_key(gguf, name);
  if (!key || key->count == 0) return BFCN_OK;
  if (key->count != 3)
    return bfcn_fail(BFCN_ERROR_FORMAT, "%s must be 3 numbers, got %" PRIu64, name, key->count);
  for (size_t i = 0; i < 3; i++) {
    float value;
    memcpy(&value, key->value + i * sizeof value, sizeof value);
    if (!isfinite(value)) /* fabsf: no sign of a NaN is printed */
      return bfcn_fail(BFCN_ERROR_FORMAT, "%s must be finite, got %g", name,
                       isnan(value) ? fabsf(value) : value);
  }
  return BFCN_OK;
}

bfcn_status bfcn_keys_decode(const struct gguf *gguf, struct bfcn_model *model) {
  TRY(check_types(gguf));
  TRY(check_version(gguf));
  TRY(op_names(gguf, model));
  TRY(classes(gguf, model));
  TRY(palette(gguf, model));
  TRY(three_numbers(gguf, "bfcn.mean"));
  return three_numbers(gguf, "bfcn.std");
}
