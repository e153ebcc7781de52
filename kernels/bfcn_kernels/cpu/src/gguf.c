#include "gguf.h"

#include "status.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_KEYS = 4096, MOST_TENSORS = 65536 };

struct cursor {
  const uint8_t *at;
  const uint8_t *end;
};

static size_t left(const struct cursor *c) {
  return (size_t)(c->end - c->at);
}

/* Bytes of a name that a message shows. */
static int shown(struct gguf_string name) {
  return name.length < 64 ? (int)name.length : 64;
}

static bfcn_status truncated(const struct cursor *c, const char *what, uint64_t needs) {
  return bfcn_fail(BFCN_ERROR_FORMAT, "truncated: %s needs %" PRIu64 " bytes, %zu are left", what,
                   needs, left(c));
}

static bfcn_status take(struct cursor *c, void *out, size_t size, const char *what) {
  if (left(c) < size) return truncated(c, what, size);
  memcpy(out, c->at, size);
  c->at += size;
  return BFCN_OK;
}

/* The bytes of one character of strict UTF-8 that is not NUL: no surrogates, nothing longer than it
 * need be; 0 if it is none. */
static size_t character(const uint8_t *at, size_t left) {
  static const uint32_t least[] = {0, 1, 0x80, 0x800, 0x10000};
  const uint8_t first = at[0];
  if (first < 0x80) return first != 0;
  const size_t length = first < 0xc0   ? 0
                        : first < 0xe0 ? 2
                        : first < 0xf0 ? 3
                        : first < 0xf8 ? 4
                                       : 0;
  if (!length || length > left) return 0;
  uint32_t point = first & (0x7f >> length);
  for (size_t i = 1; i < length; i++) {
    if ((at[i] & 0xc0) != 0x80) return 0;
    point = point << 6 | (at[i] & 0x3f);
  }
  const int surrogate = point >= 0xd800 && point < 0xe000;
  return point < least[length] || point > 0x10ffff || surrogate ? 0 : length;
}

static bfcn_status take_string(struct cursor *c, struct gguf_string *out, const char *what) {
  uint64_t length = 0;
  TRY(take(c, &length, 8, what));
  if (length > left(c)) return truncated(c, what, length);
  *out = (struct gguf_string){(const char *)c->at, (size_t)length};
  const uint8_t *const end = c->at + (size_t)length;
  while (c->at < end) {
    const size_t bytes = character(c->at, (size_t)(end - c->at));
    if (!bytes) return bfcn_fail(BFCN_ERROR_FORMAT, "%s must be UTF-8 without NUL", what);
    c->at += bytes;
  }
  return BFCN_OK;
}

/* Bytes of a scalar key type; 0 for strings, arrays and unknown types. */
static size_t scalar_size(uint32_t type) {
  static const uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < sizeof sizes ? sizes[type] : 0;
}

/* `count` values of a key, each checked and skipped. */
static bfcn_status take_values(struct cursor *c, const struct gguf_key *key) {
  const int length = shown(key->name);
  const char *const name = key->name.text;
  const size_t string_size = 8; /* at least: its length */
  const size_t size = key->element == GGUF_STRING ? string_size : scalar_size(key->element);
  if (!size)
    return bfcn_fail(BFCN_ERROR_FORMAT, "key '%.*s' must be of a scalar type of GGUF, got type %u",
                     length, name, key->element);
  if (key->count > left(c) / size)
    return bfcn_fail(BFCN_ERROR_FORMAT,
                     "truncated: key '%.*s' holds %" PRIu64 " values, %zu bytes are left", length,
                     name, key->count, left(c));
  if (key->element == GGUF_STRING) {
    for (uint64_t i = 0; i < key->count; i++) {
      struct gguf_string ignored;
      TRY(take_string(c, &ignored, "a string of a key"));
    }
    return BFCN_OK;
  }
  const uint8_t *const end = c->at + (size_t)key->count * size;
  if (key->element == GGUF_BOOL)
    for (const uint8_t *at = c->at; at < end; at++)
      if (*at > 1)
        return bfcn_fail(BFCN_ERROR_FORMAT, "key '%.*s' must hold bools of 0 or 1, got %u", length,
                         name, *at);
  c->at = end;
  return BFCN_OK;
}

static bfcn_status take_key(struct cursor *c, struct gguf_key *key) {
  TRY(take_string(c, &key->name, "a key"));
  TRY(take(c, &key->type, 4, "a key's type"));
  key->element = key->type;
  key->count = 1;
  if (key->type == GGUF_ARRAY) {
    TRY(take(c, &key->element, 4, "an array's type"));
    TRY(take(c, &key->count, 8, "an array's length"));
  }
  key->value = c->at;
  return take_values(c, key);
}

/* Bytes of an element; 0 where the type is not one of this format's. */
static uint64_t element_size(uint32_t type) {
  switch (type) {
  case TENSOR_F32:
  case TENSOR_I32:
    return 4;
  case TENSOR_I64:
    return 8;
  case TENSOR_I8:
    return 1;
  }
  return 0;
}

static bfcn_status take_tensor(struct cursor *c, struct gguf_tensor *tensor) {
  TRY(take_string(c, &tensor->name, "a tensor name"));
  const int length = shown(tensor->name);
  const char *const name = tensor->name.text;
  TRY(take(c, &tensor->dimensions, 4, "a tensor's dimensions"));
  if (tensor->dimensions > 4)
    return bfcn_fail(BFCN_ERROR_FORMAT, "rank of tensor '%.*s' must be at most 4, got %u", length,
                     name, tensor->dimensions);
  int empty = tensor->dimensions == 0;
  for (unsigned i = 0; i < 4; i++) {
    tensor->shape[i] = 1;
    if (i < tensor->dimensions) TRY(take(c, &tensor->shape[i], 8, "a tensor's shape"));
    empty |= tensor->shape[i] == 0;
  }
  TRY(take(c, &tensor->type, 4, "a tensor's type"));
  TRY(take(c, &tensor->offset, 8, "a tensor's offset"));
  tensor->bytes = element_size(tensor->type);
  if (!tensor->bytes)
    return bfcn_fail(BFCN_ERROR_FORMAT, "tensor '%.*s' must be F32, I8, I32 or I64, got type %u",
                     length, name, tensor->type);
  if (empty) return bfcn_fail(BFCN_ERROR_FORMAT, "tensor '%.*s' must not be empty", length, name);
  for (unsigned i = 0; i < 4; i++) {
    if (tensor->bytes > (uint64_t)INT64_MAX / tensor->shape[i])
      return bfcn_fail(BFCN_ERROR_FORMAT, "truncated: tensor '%.*s' is larger than any file",
                       length, name);
    tensor->bytes *= tensor->shape[i];
  }
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
      return bfcn_fail(BFCN_ERROR_FORMAT, "key '%.*s' must appear once", shown(g->keys[i].name),
                       g->keys[i].name.text);
  for (size_t i = 1; i < g->tensor_count; i++)
    if (!compare_names(&g->tensors[i - 1], &g->tensors[i]))
      return bfcn_fail(BFCN_ERROR_FORMAT, "tensor '%.*s' must appear once",
                       shown(g->tensors[i].name), g->tensors[i].name.text);
  return BFCN_OK;
}

static bfcn_status alignment_of(const struct gguf *g, uint64_t *alignment) {
  const struct gguf_key *key = bfcn_gguf_find_key(g, "general.alignment");
  *alignment = 32;
  if (!key) return BFCN_OK;
  uint32_t value = 0;
  if (key->type == GGUF_UINT32) memcpy(&value, key->value, 4);
  if (value < 8 || (value & (value - 1)))
    return bfcn_fail(BFCN_ERROR_FORMAT,
                     "general.alignment must be a uint32, a power of two from 8, got %u", value);
  *alignment = value;
  return BFCN_OK;
}

/* Point tensors at their bytes; the data section starts at the next aligned offset. */
static bfcn_status place_tensors(struct gguf *g, const uint8_t *data, size_t size,
                                 size_t position) {
  uint64_t alignment, end = 0;
  TRY(alignment_of(g, &alignment));
  const uint64_t start = ((uint64_t)position + alignment - 1) & ~(alignment - 1);
  qsort(g->tensors, g->tensor_count, sizeof *g->tensors, compare_offsets);
  for (size_t i = 0; i < g->tensor_count; i++) {
    struct gguf_tensor *t = &g->tensors[i];
    const int length = shown(t->name);
    const char *const name = t->name.text;
    if (t->offset % alignment)
      return bfcn_fail(BFCN_ERROR_FORMAT,
                       "tensor '%.*s' must be aligned to %" PRIu64 ", got offset %" PRIu64, length,
                       name, alignment, t->offset);
    if (t->offset < end)
      return bfcn_fail(BFCN_ERROR_FORMAT, "tensor '%.*s' overlaps another at offset %" PRIu64,
                       length, name, t->offset);
    if (start > size || t->offset > size - start || t->bytes > size - start - t->offset)
      return bfcn_fail(BFCN_ERROR_FORMAT,
                       "truncated: tensor '%.*s' of %" PRIu64 " bytes at offset %" PRIu64
                       " ends after the file",
                       length, name, t->bytes, t->offset);
    end = t->offset + t->bytes;
    t->data = data + (size_t)(start + t->offset);
  }
  qsort(g->tensors, g->tensor_count, sizeof *g->tensors, compare_names);
  return check_names(g);
}

static bfcn_status parse(const uint8_t *data, size_t size, struct gguf *g) {
  struct cursor c = {data, data + size};
  char magic[4];
  uint32_t version = 0;
  uint64_t counts[2] = {0}; /* tensors, keys */
  if (!size) return bfcn_fail(BFCN_ERROR_FORMAT, "the file is empty");
  TRY(take(&c, magic, 4, "magic"));
  if (memcmp(magic, "GGUF", 4)) return bfcn_fail(BFCN_ERROR_FORMAT, "magic must be 'GGUF'");
  TRY(take(&c, &version, 4, "GGUF version"));
  if (version != 3) return bfcn_fail(BFCN_ERROR_FORMAT, "GGUF version must be 3, got %u", version);
  TRY(take(&c, counts, sizeof counts, "the header"));
  if (counts[0] > MOST_TENSORS)
    return bfcn_fail(BFCN_ERROR_FORMAT, "tensor count must be at most %d, got %" PRIu64,
                     MOST_TENSORS, counts[0]);
  if (counts[1] > MOST_KEYS)
    return bfcn_fail(BFCN_ERROR_FORMAT, "key count must be at most %d, got %" PRIu64, MOST_KEYS,
                     counts[1]);
  /* The shortest key takes 13 bytes and the shortest tensor 32: no file allocates more. */
  if (counts[0] > left(&c) / 32 || counts[1] > left(&c) / 13)
    return bfcn_fail(BFCN_ERROR_FORMAT,
                     "truncated: %zu bytes are too few for %" PRIu64 " tensors and %" PRIu64
                     " keys",
                     left(&c), counts[0], counts[1]);
  g->tensors = calloc((size_t)counts[0] + 1, sizeof *g->tensors);
  g->keys = calloc((size_t)counts[1] + 1, sizeof *g->keys);
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
