#include "file.h"
#include "graph.h"
#include "keys.h"
#include "packed.h"
#include "status.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct block {
  struct block *next;
  _Alignas(max_align_t) char bytes[];
};

void *bfcn_model_alloc(struct bfcn_model *model, size_t size) {
  struct block *block = calloc(1, sizeof *block + size);
  if (!block) return NULL;
  block->next = model->blocks;
  model->blocks = block;
  model->bytes += sizeof *block + size;
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

static bfcn_status no_memory(void) {
  return bfcn_fail(BFCN_ERROR_MEMORY, "no memory for the model");
}

static bfcn_status decode(const void *data, size_t size, struct bfcn_model *model) {
  struct gguf gguf;
  TRY(bfcn_gguf_parse(data, size, &gguf));
  bfcn_status status = bfcn_keys_decode(&gguf, model);
  if (status == BFCN_OK) status = bfcn_graph_decode(&gguf, model);
  bfcn_gguf_free(&gguf);
  return status;
}

static bfcn_status open_store(struct bfcn_model *model) {
  struct store *store = bfcn_model_alloc(model, sizeof *store);
  if (store) store->first = bfcn_model_alloc(model, model->op_count * sizeof *store->first);
  if (!store || !store->first) return no_memory();
  model->store = store;
  return BFCN_OK;
}

bfcn_status bfcn_model_load_memory(const void *data, size_t size, bfcn_model **model) {
  if (!data || !model) return bfcn_fail(BFCN_ERROR_ARGUMENT, "data and model must not be NULL");
  *model = NULL;
  struct bfcn_model *made = calloc(1, sizeof *made);
  if (!made) return no_memory();
  bfcn_status status = decode(data, size, made);
  if (status == BFCN_OK) status = open_store(made);
  if (status == BFCN_OK)
    *model = made;
  else
    bfcn_model_free(made);
  return status;
}

bfcn_status bfcn_model_load(const char *path, bfcn_model **model) {
  if (!path || !model) return bfcn_fail(BFCN_ERROR_ARGUMENT, "path and model must not be NULL");
  *model = NULL;
  void *bytes = NULL;
  size_t size = 0;
  TRY(bfcn_file_read(path, &bytes, &size));
  const bfcn_status status = bfcn_model_load_memory(bytes, size, model);
  if (status == BFCN_OK)
    (*model)->file = bytes, (*model)->bytes += size;
  else
    free(bytes);
  return status;
}

void bfcn_model_free(bfcn_model *model) {
  if (!model) return;
  if (model->store) bfcn_packed_free_all(model);
  for (struct block *block = model->blocks, *next; block; block = next) {
    next = block->next;
    free(block);
  }
  free(model->file);
  free(model);
}

size_t bfcn_model_bytes(const bfcn_model *model) {
  return (size_t)bfcn_packed_taken(model);
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
