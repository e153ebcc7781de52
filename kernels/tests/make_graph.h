/* Valid packed models out of any bytes, each byte a choice, for a fuzz target that knows the
 * structure. */
#ifndef BFCN_TESTS_MAKE_GRAPH_H
#define BFCN_TESTS_MAKE_GRAPH_H

#include <stddef.h>
#include <stdint.h>

struct made_model {
  uint8_t *file; /* a block of its size, to be freed; NULL if out of memory */
  size_t size;
  unsigned height, width; /* of an image that it fits */
  int changed;            /* one field is not what it should be, maybe */
};

struct made_model make_graph(const uint8_t *data, size_t size);

#endif
