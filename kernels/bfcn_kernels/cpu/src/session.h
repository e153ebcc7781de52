/* A model planned for one image size: where every value lives, how every op runs. */
#ifndef BFCN_SESSION_H
#define BFCN_SESSION_H

#include "kernels.h"
#include "model.h"
#include "pool.h"

/* Slack: bytes past the end of a value or of scratch that vector loads may touch. */
enum { MAX_THREADS = 64, VALUE_SLACK = 64, SCRATCH_SLACK = 64 };

/* How a value lies in memory. Codes of up to 4 bits are planes, uint64 [pixels][bits][words], so
 * that a 2-bit map takes 2 bits a channel; wider codes are bytes, [pixels][channels]. Scores are
 * floats. */
struct slot {
  void *data;           /* NULL for the image, which is the caller's, and for what is not stored */
  size_t bytes, offset; /* offset: in the arena */
  unsigned words;       /* of a plane; 0 if not planes */
  unsigned reads, reader; /* how many times it is read, and the last op that does */
  unsigned first, last;   /* ops that write it and read it last */
  unsigned place_of;      /* the value whose memory it takes over; 0: it has its own */
  unsigned streamed_to;   /* the op that computes it row by row instead of reading it; 0: stored */
};

/* An op's scratch: `bytes` for each thread. */
struct room {
  uint8_t *data;
  size_t bytes, offset;
};

struct conv; /* conv.h */

struct bfcn_session {
  const bfcn_model *model;
  struct grid *grids;  /* [op_count + 1] */
  struct slot *slots;  /* [op_count + 1] */
  struct conv **convs; /* [op_count]; NULL for other ops */
  struct room *rooms;  /* [op_count] */
  double *seconds;     /* [op_count] */
  uint8_t *arena;
  size_t arena_bytes;
  uint64_t weight_bytes;  /* of packed weights, which other sessions may read, too */
  uint64_t own_bytes;     /* of all that is allocated for this session alone */
  uint64_t total_bytes;   /* of all that it needs, the model and what is shared included */
  uint64_t counted_bytes; /* own_bytes once the model's store has counted them */
  uint8_t *scratch;       /* of the op in progress: scratch_bytes for each thread */
  size_t scratch_bytes;
  unsigned threads;
  enum isa isa;
  const char *wanted_kernel;
  int keep_values;
  struct pool *pool;
  const uint8_t *rgb; /* of the run in progress */
  size_t rgb_stride;
};

static inline size_t pixels_of(struct grid grid) {
  return (size_t)grid.height * grid.width;
}

/* Sizes are counted in 64 bits and checked before a 32-bit machine's size_t holds them. */
static inline int addressable(uint64_t bytes) {
  return bytes <= PTRDIFF_MAX / 2;
}

static inline size_t round_up(size_t n, size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

/* Codes of `count` pixels from pixel `first` as bytes: the slot's own, or unpacked into `room`. */
const uint8_t *bfcn_value_codes(const struct bfcn_session *s, unsigned value, size_t first,
                                size_t count, uint8_t *room);
/* Write codes as bytes to a value, in its form. */
void bfcn_value_store(const struct bfcn_session *s, unsigned value, size_t first, size_t count,
                      const uint8_t *codes);

/* ops.c: every op but bit_conv. Bytes of scratch a thread needs (slots are shaped before), and the
 * run itself. */
uint64_t bfcn_op_scratch(const struct bfcn_session *s, unsigned op);
void bfcn_op_run(struct bfcn_session *s, unsigned op);

#endif
