#include "graph.h"
#include "status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct block {
  struct block *next;
  _Alignas(16) char bytes[];
};

void *bfcn_model_alloc(struct bfcn_model *model, size_t size) {
  struct block *block = calloc(1, sizeof *block + size);
  if (!block) return NULL;
  block->next = model->blocks;
  model->blocks = block;
  return block->bytes;
}

struct value bfcn_model_value(const struct bfcn_model *model, unsigned value) {
  return value ? model->ops[value - 1].out : (struct value){BFCN_IMAGE, 3, 8, 0};
}

const char *bfcn_op_text(enum opcode code) {
  static const char *const names[] = {
      "",       "image_codes", "bit_conv", "table", "max_pool", "avg_pool", "adaptive_avg_pool",
      "resize", "add",         "concat",   "mask",  "argmax"};
  return names[code];
}

static char *string_copy(struct bfcn_model *model, struct gguf_string string) {
  char *copy = bfcn_model_alloc(model, string.length + 1);
  if (copy) memcpy(copy, string.text, string.length);
  return copy;
}

static bfcn_status no_memory(void) {
  return bfcn_fail(BFCN_ERROR_MEMORY, "no memory for the model");
}

static bfcn_status op_name(struct bfcn_model *model, unsigned index, struct gguf_string name) {
  static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
  int fine = name.length >= 1 && name.length <= 48 && !bfcn_gguf_equal(name, "image");
  for (size_t i = 0; fine && i < name.length; i++)
    fine = memchr(allowed, name.text[i], sizeof allowed - 1) != NULL;
  if (!fine)
    return bfcn_fail(BFCN_ERROR_GRAPH,
                     "op %u: a name must be 1..48 of A-Z a-z 0-9 _ . - and not 'image'", index + 1);
  for (unsigned i = 0; i < index; i++)
    if (bfcn_gguf_equal(name, model->ops[i].name))
      return bfcn_fail(BFCN_ERROR_GRAPH, "op '%s': names must be distinct", model->ops[i].name);
  model->ops[index].name = string_copy(model, name);
  return model->ops[index].name ? BFCN_OK : no_memory();
}

static bfcn_status op_names(const struct gguf *gguf, struct bfcn_model *model) {
  const struct gguf_key *key = bfcn_gguf_find_key(gguf, "bfcn.op_names");
  if (!key || key->type != GGUF_ARRAY || key->element != GGUF_STRING)
    return bfcn_fail(BFCN_ERROR_FORMAT, "bfcn.op_names must be an array of strings");
  if (key->count < 1 || key->count > MAX_OPS)
    return bfcn_fail(BFCN_ERROR_GRAPH, "bfcn.op_names must name 1..%d ops, got %llu", MAX_OPS,
                     (unsigned long long)key->count);
  model->op_count = (unsigned)key->count;
  model->ops = bfcn_model_alloc(model, model->op_count * sizeof *model->ops);
  if (!model->ops) return no_memory();
  size_t at = 0;
  for (unsigned i = 0; i < model->op_count; i++)
    TRY(op_name(model, i, bfcn_gguf_next_string(key, &at)));
  return BFCN_OK;
}

static bfcn_status required_keys(const struct gguf *gguf) {
  const struct gguf_key *key = bfcn_gguf_find_key(gguf, "general.architecture");
  size_t at = 0;
  if (!key || key->type != GGUF_STRING || !bfcn_gguf_equal(bfcn_gguf_next_string(key, &at), "bfcn"))
    return bfcn_fail(BFCN_ERROR_FORMAT, "general.architecture must be 'bfcn'");
  key = bfcn_gguf_find_key(gguf, "bfcn.version");
  uint32_t version = 0;
  if (key && key->type == GGUF_UINT32) memcpy(&version, key->value, 4);
  if (version != 1) return bfcn_fail(BFCN_ERROR_FORMAT, "bfcn.version must be 1, got %u", version);
  return BFCN_OK;
}

static bfcn_status metadata(const struct gguf *gguf, struct bfcn_model *model) {
  const struct gguf_key *key = bfcn_gguf_find_key(gguf, "bfcn.classes");
  if (key && (key->type != GGUF_ARRAY || key->element != GGUF_STRING))
    return bfcn_fail(BFCN_ERROR_FORMAT, "bfcn.classes must be an array of strings");
  if (key && key->count) {
    model->classes = bfcn_model_alloc(model, key->count * sizeof *model->classes);
    if (!model->classes) return no_memory();
    size_t at = 0;
    for (uint64_t i = 0; i < key->count; i++) {
      model->classes[i] = string_copy(model, bfcn_gguf_next_string(key, &at));
      if (!model->classes[i]) return no_memory();
    }
    model->class_count = key->count;
  }
  key = bfcn_gguf_find_key(gguf, "bfcn.palette");
  if (!key) return BFCN_OK;
  if (key->type != GGUF_ARRAY || key->element != GGUF_UINT8 || key->count % 3)
    return bfcn_fail(BFCN_ERROR_FORMAT, "bfcn.palette must be uint8 r g b per class");
  if (key->count < 3 * model->class_count) return BFCN_OK; /* not a colour for every class */
  model->palette = bfcn_model_alloc(model, key->count + 1);
  if (!model->palette) return no_memory();
  memcpy(model->palette, key->value, key->count);
  return BFCN_OK;
}

static bfcn_status decode(const void *data, size_t size, struct bfcn_model *model) {
  struct gguf gguf;
  TRY(bfcn_gguf_parse(data, size, &gguf));
  bfcn_status status = required_keys(&gguf);
  if (status == BFCN_OK) status = op_names(&gguf, model);
  if (status == BFCN_OK) status = bfcn_graph_decode(&gguf, model);
  if (status == BFCN_OK) status = metadata(&gguf, model);
  bfcn_gguf_free(&gguf);
  return status;
}

bfcn_status bfcn_model_load_memory(const void *data, size_t size, bfcn_model **model) {
  if (!data || !model) return bfcn_fail(BFCN_ERROR_ARGUMENT, "data and model must not be NULL");
  *model = NULL;
  struct bfcn_model *made = calloc(1, sizeof *made);
  if (!made) return no_memory();
  bfcn_status status = decode(data, size, made);
  if (status == BFCN_OK)
    *model = made;
  else
    bfcn_model_free(made);
  return status;
}

static bfcn_status read_file(const char *path, void **bytes, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file) return bfcn_fail(BFCN_ERROR_FILE, "cannot open '%s'", path);
  long length = -1;
  if (!fseek(file, 0, SEEK_END)) length = ftell(file);
  if (length < 0 || fseek(file, 0, SEEK_SET)) {
    fclose(file);
    return bfcn_fail(BFCN_ERROR_FILE, "cannot find the length of '%s'", path);
  }
  *size = (size_t)length;
  *bytes = malloc(*size + 1);
  const size_t got = *bytes ? fread(*bytes, 1, *size, file) : 0;
  fclose(file);
  if (*bytes && got == *size) return BFCN_OK;
  if (!*bytes) return no_memory();
  free(*bytes);
  return bfcn_fail(BFCN_ERROR_FILE, "cannot read %zu bytes from '%s'", *size, path);
}

bfcn_status bfcn_model_load(const char *path, bfcn_model **model) {
  if (!path || !model) return bfcn_fail(BFCN_ERROR_ARGUMENT, "path and model must not be NULL");
  *model = NULL;
  void *bytes = NULL;
  size_t size = 0;
  TRY(read_file(path, &bytes, &size));
  const bfcn_status status = bfcn_model_load_memory(bytes, size, model);
  if (status == BFCN_OK)
    (*model)->file = bytes;
  else
    free(bytes);
  return status;
}

void bfcn_model_free(bfcn_model *model) {
  if (!model) return;
  for (struct block *block = model->blocks, *next; block; block = next) {
    next = block->next;
    free(block);
  }
  free(model->file);
  free(model);
}

size_t bfcn_model_classes(const bfcn_model *model) {
  return model->class_count;
}

const char *bfcn_model_class_name(const bfcn_model *model, size_t index) {
  return index < model->class_count ? model->classes[index] : NULL;
}

const uint8_t *bfcn_model_palette(const bfcn_model *model) {
  return model->palette;
}
