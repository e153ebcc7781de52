/* One record of the graph, read word by word without trust. */
#ifndef BFCN_RECORD_H
#define BFCN_RECORD_H

#include "gguf.h"
#include "model.h"

/* `failed` remembers the first broken rule, so that a record is read straight through and checked
 * once: after it, all readers return numbers in range or NULL. */
struct record {
  const struct gguf *gguf;
  struct bfcn_model *model;
  struct op *op;
  unsigned index; /* of the op; its sources are values 0..index */
  const uint8_t *words;
  size_t count, next;
  bfcn_status failed;
};

#define RULE(r, holds, ...)                                                     \
  do {                                                                          \
    if ((r)->failed == BFCN_OK && !(holds)) bfcn_record_refuse(r, __VA_ARGS__); \
  } while (0)

__attribute__((format(printf, 2, 3))) void bfcn_record_refuse(struct record *r, const char *format,
                                                              ...);
/* No memory for a part of the op. */
void bfcn_record_no_memory(struct record *r, const char *what);

/* The next word, in low..high. */
unsigned bfcn_record_within(struct record *r, const char *name, int32_t low, int32_t high);
/* The next two, in low..MAX_EXTENT. */
void bfcn_record_pair(struct record *r, const char *name, unsigned *first, unsigned *second,
                      int32_t low);
/* The next word as a float: finite, at most 2^60. */
float bfcn_record_coefficient(struct record *r, const char *name);
/* The next word as a value whose data the op reads; it is appended to the op's sources. */
unsigned bfcn_record_source(struct record *r, bfcn_kind kind);

/* What a value that the record names describes. */
struct value bfcn_record_value(const struct record *r, unsigned value);
/* The output must be described as what follows from the sources. */
void bfcn_record_same(struct record *r, struct value must);

/* The bytes of the tensor '<op><suffix>', which must have this type and shape (fastest first; s1
 * and s2 are 0 where there are fewer dimensions); NULL once the record has failed. */
const uint8_t *bfcn_record_tensor(struct record *r, const char *suffix, enum tensor_type type,
                                  uint64_t s0, uint64_t s1, uint64_t s2);
/* The same tensor if the file has one of its name, else NULL. */
const uint8_t *bfcn_record_optional(struct record *r, const char *suffix, enum tensor_type type,
                                    uint64_t s0, uint64_t s1);
/* Copies that live as long as the model: of one float per channel of the output, each finite and at
 * most 2^60; of a table of codes of the output's bits. */
const float *bfcn_record_floats(struct record *r, const char *suffix);
const uint8_t *bfcn_record_table(struct record *r, uint64_t entries, uint64_t tables);

#endif
