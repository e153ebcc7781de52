/* A packed file in the making: records, tensors, then GGUF. */
#ifndef BFCN_TESTS_MADE_FILE_H
#define BFCN_TESTS_MADE_FILE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MADE_OPS = 64, MADE_TENSORS = 12 * MADE_OPS, MADE_WORDS = 64 * MADE_OPS };
enum { MADE_F32 = 0, MADE_I8 = 24, MADE_I32 = 26, MADE_I64 = 27 };

struct made_tensor {
  char name[64];
  unsigned rank;
  uint64_t dims[3];
  uint32_t type;
  size_t at, bytes; /* in data */
};

struct made_file {
  int32_t words[MADE_WORDS];
  unsigned word_count, op_count;
  unsigned op_at[MADE_OPS + 1]; /* where each op's record begins */
  struct made_tensor tensors[MADE_TENSORS];
  unsigned tensor_count;
  uint8_t *data;
  size_t data_bytes, data_room;
};

static inline void made_word(struct made_file *f, int32_t word) {
  if (f->word_count < MADE_WORDS) f->words[f->word_count++] = word;
}

static inline void made_float(struct made_file *f, float value) {
  int32_t word;
  memcpy(&word, &value, 4);
  made_word(f, word);
}

/* Zeroed room for a tensor's data, aligned to 8 bytes in the file; valid until the next one. */
static inline void *made_tensor(struct made_file *f, const char *name, uint32_t type, uint64_t d0,
                                uint64_t d1, uint64_t d2) {
  const unsigned rank = d2 ? 3 : d1 ? 2 : 1;
  const size_t size = type == MADE_I8 ? 1 : type == MADE_I64 ? 8 : 4;
  const size_t bytes = (size_t)(d0 * (d1 ? d1 : 1) * (d2 ? d2 : 1)) * size;
  const size_t at = (f->data_bytes + 7) / 8 * 8;
  if (at + bytes > f->data_room) {
    f->data_room = 2 * (at + bytes);
    f->data = realloc(f->data, f->data_room);
    if (!f->data) abort();
  }
  memset(f->data + f->data_bytes, 0, at + bytes - f->data_bytes);
  f->data_bytes = at + bytes;
  struct made_tensor *t = &f->tensors[f->tensor_count++];
  *t = (struct made_tensor){
      .rank = rank, .dims = {d0, d1, d2}, .type = type, .at = at, .bytes = bytes};
  snprintf(t->name, sizeof t->name, "%s", name);
  return f->data + at;
}

struct made_out {
  uint8_t *at; /* NULL: only count */
  size_t size;
};

static inline void made_put(struct made_out *o, const void *bytes, size_t size) {
  if (o->at) memcpy(o->at + o->size, bytes, size);
  o->size += size;
}

static inline void made_put_u32(struct made_out *o, uint32_t value) {
  made_put(o, &value, 4);
}

static inline void made_put_u64(struct made_out *o, uint64_t value) {
  made_put(o, &value, 8);
}

static inline void made_put_string(struct made_out *o, const char *text) {
  made_put_u64(o, strlen(text));
  made_put(o, text, strlen(text));
}

static inline void made_put_index(struct made_out *o, const struct made_file *f) {
  made_put(o, "GGUF", 4);
  made_put_u32(o, 3);
  made_put_u64(o, f->tensor_count);
  made_put_u64(o, 4);
  made_put_string(o, "general.architecture");
  made_put_u32(o, 8);
  made_put_string(o, "bfcn");
  made_put_string(o, "general.alignment");
  made_put_u32(o, 4);
  made_put_u32(o, 8);
  made_put_string(o, "bfcn.version");
  made_put_u32(o, 4);
  made_put_u32(o, 1);
  made_put_string(o, "bfcn.op_names");
  made_put_u32(o, 9);
  made_put_u32(o, 8);
  made_put_u64(o, f->op_count);
  for (unsigned i = 0; i < f->op_count; i++) {
    char name[16];
    snprintf(name, sizeof name, "op%u", i + 1);
    made_put_string(o, name);
  }
  for (unsigned i = 0; i < f->tensor_count; i++) {
    const struct made_tensor *t = &f->tensors[i];
    made_put_string(o, t->name);
    made_put_u32(o, t->rank);
    for (unsigned d = 0; d < t->rank; d++) made_put_u64(o, t->dims[d]);
    made_put_u32(o, t->type);
    made_put_u64(o, t->at);
  }
}

/* The file, in a block of its size; bfcn.graph becomes the last tensor. */
static inline uint8_t *made_write(struct made_file *f, size_t *size) {
  void *graph = made_tensor(f, "bfcn.graph", MADE_I32, f->word_count ? f->word_count : 1, 0, 0);
  memcpy(graph, f->words, 4ul * f->word_count);
  struct made_out count = {NULL, 0};
  made_put_index(&count, f);
  const size_t start = (count.size + 7) / 8 * 8;
  *size = start + f->data_bytes;
  struct made_out out = {calloc(1, *size), 0};
  if (!out.at) return NULL;
  made_put_index(&out, f);
  memcpy(out.at + start, f->data, f->data_bytes);
  return out.at;
}

#endif
