#include "gguf.h"

#include "status.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct cursor {
  const uint8_t *at;
  const uint8_t *end;
};

static size_t left(const struct cursor *c) {
  return (size_t)(c->end - c->at);
}

/* Characters of a name that a message shows. */
static int shown(struct gguf_string name) {
  return name.length < 64 ? (int)name.length : 64;
}

static bfcn_status truncated(const char *what) {
  return bfcn_fail(BFCN_ERROR_FORMAT, "file ends inside %s", what);
}

static bfcn_status take(struct cursor *c, void *out, size_t size, const char *what) {
  if (left(c) < size) return truncated(what);
  memcpy(out, c->at, size);
  c->at += size;
  return BFCN_OK;
}

static bfcn_status take_string(struct cursor *c, struct gguf_string *out, const char *what) {
  uint64_t length = 0;
  TRY(take(c, &length, 8, what));
  if (length > left(c)) return truncated(what);
  *out = (struct gguf_string){(const char *)c->at, (size_t)length};
  c->at += length;
  return BFCN_OK;
}

/* Bytes of a scalar key type; 0 for strings, arrays and unknown types. */
static size_t scalar_size(uint32_t type) {
  static const uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < sizeof sizes ? sizes[type] : 0;
}

static bfcn_status skip_values(struct cursor *c, uint32_t type, uint64_t count) {
  if (type == GGUF_STRING) {
    for (uint64_t i = 0; i < count; i++) {
      struct gguf_string ignored;
      TRY(take_string(c, &ignored, "a string of a key"));
    }
    return BFCN_OK;
  }
  const size_t size = scalar_size(type);
  if (!size) return bfcn_fail(BFCN_ERROR_FORMAT, "key type must be a GGUF type, got %u", type);
  if (count > left(c) / size) return truncated("a key's value");
  c->at += count * size;
  return BFCN_OK;
}

static bfcn_status take_key(struct cursor *c, struct gguf_key *key) {
  TRY(take_string(c, &key->name, "a key's name"));
  TRY(take(c, &key->type, 4, "a key's type"));
  key->element = key->type;
  key->count = 1;
  if (key->type == GGUF_ARRAY) {
    TRY(take(c, &key->element, 4, "an array's type"));
    TRY(take(c, &key->count, 8, "an array's length"));
  }
  key->value = c->at;
  return skip_values(c, key->element, key->count);
}

/* Bytes of `count` elements; 0 where the type is not one of this format's (its size is not needed).
 */
static uint64_t tensor_bytes(uint32_t type, uint64_t count) {
  switch (type) {
  case TENSOR_F32:
  case TENSOR_I32:
    return count * 4;
  case TENSOR_I64:
    return count * 8;
  case TENSOR_I8:
    return count;
  }
  return 0;
}

static bfcn_status take_tensor(struct cursor *c, struct gguf_tensor *tensor) {
  TRY(take_string(c, &tensor->name, "a tensor's name"));
  TRY(take(c, &tensor->dimensions, 4, "a tensor's dimensions"));
  if (tensor->dimensions > 4)
    return bfcn_fail(BFCN_ERROR_FORMAT, "tensor '%.*s' must have at most 4 dimensions, got %u",
                     shown(tensor->name), tensor->name.text, tensor->dimensions);
  uint64_t count = 1;
  for (unsigned i = 0; i < 4; i++) {
    tensor->shape[i] = 1;
    if (i < tensor->dimensions) TRY(take(c, &tensor->shape[i], 8, "a tensor's shape"));
    if (tensor->shape[i] && count > (UINT64_MAX >> 4) / tensor->shape[i])
      return bfcn_fail(BFCN_ERROR_FORMAT, "tensor '%.*s' has more elements than any file",
                       shown(tensor->name), tensor->name.text);
    count *= tensor->shape[i];
  }
  TRY(take(c, &tensor->type, 4, "a tensor's type"));
  TRY(take(c, &tensor->offset, 8, "a tensor's offset"));
  tensor->bytes = tensor_bytes(tensor->type, count);
  return BFCN_OK;
}

static int compare_strings(struct gguf_string a, struct gguf_string b) {
  const size_t shorter = a.length < b.length ? a.length : b.length;
  const int order = shorter ? memcmp(a.text, b.text, shorter) : 0;
  if (order) return order;
  return (a.length > b.length) - (a.length < b.length);
}

static int compare_keys(const void *a, const void *b) {
  return compare_strings(((const struct gguf_key *)a)->name, ((const struct gguf_key *)b)->name);
}

static int compare_names(const void *a, const void *b) {
  return compare_strings(((const struct gguf_tensor *)a)->name,
                         ((const struct gguf_tensor *)b)->name);
}

static int compare_offsets(const void *a, const void *b) {
  const uint64_t x = ((const struct gguf_tensor *)a)->offset;
  const uint64_t y = ((const struct gguf_tensor *)b)->offset;
  return (x > y) - (x < y);
}

static bfcn_status check_names(const struct gguf *g) {
  for (size_t i = 1; i < g->key_count; i++)
    if (!compare_keys(&g->keys[i - 1], &g->keys[i]))
      return bfcn_fail(BFCN_ERROR_FORMAT, "key '%.*s' occurs twice", shown(g->keys[i].name),
                       g->keys[i].name.text);
  for (size_t i = 1; i < g->tensor_count; i++)
    if (!compare_names(&g->tensors[i - 1], &g->tensors[i]))
      return bfcn_fail(BFCN_ERROR_FORMAT, "tensor '%.*s' occurs twice", shown(g->tensors[i].name),
                       g->tensors[i].name.text);
  return BFCN_OK;
}

static bfcn_status alignment_of(const struct gguf *g, uint64_t *alignment) {
  const struct gguf_key *key = bfcn_gguf_find_key(g, "general.alignment");
  *alignment = 32;
  if (!key) return BFCN_OK;
  uint32_t value = 0;
  if (key->type == GGUF_UINT32) memcpy(&value, key->value, 4);
  if (value == 0 || (value & (value - 1)))
    return bfcn_fail(BFCN_ERROR_FORMAT, "general.alignment must be a uint32 power of two, got %u",
                     value);
  *alignment = value;
  return BFCN_OK;
}

/* Point tensors at their bytes; the data section starts at the next aligned offset. */
static bfcn_status place_tensors(struct gguf *g, const uint8_t *data, size_t size,
                                 size_t position) {
  uint64_t alignment;
  TRY(alignment_of(g, &alignment));
  const uint64_t start = (position + alignment - 1) & ~(alignment - 1);
  if (g->tensor_count && start > size) return truncated("the padding before tensor data");
  qsort(g->tensors, g->tensor_count, sizeof *g->tensors, compare_offsets);
  for (size_t i = 0; i < g->tensor_count; i++) {
    struct gguf_tensor *t = &g->tensors[i];
    const int length = shown(t->name);
    if (t->offset % alignment)
      return bfcn_fail(BFCN_ERROR_FORMAT,
                       "tensor '%.*s' must start at a multiple of %" PRIu64 ", got %" PRIu64,
                       length, t->name.text, alignment, t->offset);
    if (t->offset > size - start || t->bytes > size - start - t->offset)
      return bfcn_fail(BFCN_ERROR_FORMAT, "tensor '%.*s' leaves the file", length, t->name.text);
    if (i && g->tensors[i - 1].offset + g->tensors[i - 1].bytes > t->offset)
      return bfcn_fail(BFCN_ERROR_FORMAT, "tensor '%.*s' overlaps another", length, t->name.text);
    t->data = data + start + t->offset;
  }
  qsort(g->tensors, g->tensor_count, sizeof *g->tensors, compare_names);
  return check_names(g);
}

static bfcn_status parse(const uint8_t *data, size_t size, struct gguf *g) {
  struct cursor c = {data, data + size};
  char magic[4];
  uint32_t version = 0;
  uint64_t counts[2] = {0}; /* tensors, keys */
  TRY(take(&c, magic, 4, "the header"));
  if (memcmp(magic, "GGUF", 4)) return bfcn_fail(BFCN_ERROR_FORMAT, "file must begin with GGUF");
  TRY(take(&c, &version, 4, "the header"));
  if (version != 3) return bfcn_fail(BFCN_ERROR_FORMAT, "GGUF version must be 3, got %u", version);
  TRY(take(&c, counts, sizeof counts, "the header"));
  /* The shortest key takes 13 bytes and the shortest tensor 24: no count allocates more than that.
   */
  if (counts[0] > left(&c) / 24 || counts[1] > left(&c) / 13)
    return bfcn_fail(BFCN_ERROR_FORMAT,
                     "file is too short for %" PRIu64 " tensors and %" PRIu64 " keys", counts[0],
                     counts[1]);
  g->tensors = calloc(counts[0] + 1, sizeof *g->tensors);
  g->keys = calloc(counts[1] + 1, sizeof *g->keys);
  if (!g->tensors || !g->keys)
    return bfcn_fail(BFCN_ERROR_MEMORY, "no memory for the file's index");
  for (; g->key_count < counts[1]; g->key_count++) TRY(take_key(&c, &g->keys[g->key_count]));
  qsort(g->keys, g->key_count, sizeof *g->keys, compare_keys);
  for (; g->tensor_count < counts[0]; g->tensor_count++)
    TRY(take_tensor(&c, &g->tensors[g->tensor_count]));
  return place_tensors(g, data, size, (size_t)(c.at - data));
}

bfcn_status bfcn_gguf_parse(const uint8_t *data, size_t size, struct gguf *gguf) {
  memset(gguf, 0, sizeof *gguf);
  bfcn_status status = parse(data, size, gguf);
  if (status != BFCN_OK) bfcn_gguf_free(gguf);
  return status;
}

void bfcn_gguf_free(struct gguf *gguf) {
  free(gguf->keys);
  free(gguf->tensors);
  memset(gguf, 0, sizeof *gguf);
}

const struct gguf_key *bfcn_gguf_find_key(const struct gguf *gguf, const char *name) {
  const struct gguf_key wanted = {.name = {name, strlen(name)}};
  return bsearch(&wanted, gguf->keys, gguf->key_count, sizeof wanted, compare_keys);
}

const struct gguf_tensor *bfcn_gguf_find_tensor(const struct gguf *gguf, const char *name) {
  const struct gguf_tensor wanted = {.name = {name, strlen(name)}};
  return bsearch(&wanted, gguf->tensors, gguf->tensor_count, sizeof wanted, compare_names);
}

struct gguf_string bfcn_gguf_next_string(const struct gguf_key *key, size_t *at) {
  uint64_t length;
  memcpy(&length, key->value + *at, 8);
  struct gguf_string string = {(const char *)key->value + *at + 8, (size_t)length};
  *at += 8 + (size_t)length;
  return string;
}

int bfcn_gguf_equal(struct gguf_string string, const char *text) {
  return string.length == strlen(text) && !memcmp(string.text, text, string.length);
}
