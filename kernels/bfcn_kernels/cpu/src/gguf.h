/* A GGUF container, read without trust: every count, offset and size is checked against the bytes
 * that are there. Strings and tensor data point into those bytes. */
#ifndef BFCN_GGUF_H
#define BFCN_GGUF_H

#include "bfcn.h"

struct gguf_string {
  const char *text; /* not terminated */
  size_t length;
};

enum gguf_type {
  GGUF_UINT8 = 0,
  GGUF_UINT32 = 4,
  GGUF_INT32 = 5,
  GGUF_FLOAT32 = 6,
  GGUF_BOOL = 7,
  GGUF_STRING = 8,
  GGUF_ARRAY = 9
};

struct gguf_key {
  struct gguf_string name;
  uint32_t type;
  uint32_t element; /* of an array */
  uint64_t count;   /* of an array */
  const uint8_t *value;
};

enum tensor_type { TENSOR_F32 = 0, TENSOR_I8 = 24, TENSOR_I32 = 26, TENSOR_I64 = 27 };

struct gguf_tensor {
  struct gguf_string name;
  uint32_t type;
  unsigned dimensions;
  uint64_t shape[4]; /* fastest first; 1 beyond `dimensions` */
  uint64_t offset;   /* from the start of the data */
  uint64_t bytes;
  const uint8_t *data; /* of any alignment */
};

struct gguf {
  struct gguf_key *keys; /* sorted by name */
  size_t key_count;
  struct gguf_tensor *tensors; /* sorted by name */
  size_t tensor_count;
};

/* The bytes must outlive the container. On failure nothing is left to free. */
bfcn_status bfcn_gguf_parse(const uint8_t *data, size_t size, struct gguf *gguf);
void bfcn_gguf_free(struct gguf *gguf);

const struct gguf_key *bfcn_gguf_find_key(const struct gguf *gguf, const char *name);
const struct gguf_tensor *bfcn_gguf_find_tensor(const struct gguf *gguf, const char *name);

/* The strings of an array that bfcn_gguf_parse has checked: call `count` times from *at = 0. */
struct gguf_string bfcn_gguf_next_string(const struct gguf_key *key, size_t *at);

int bfcn_gguf_equal(struct gguf_string string, const char *text);

#endif
