/* bfcn: runs a packed low-bit segmentation network (docs/format.md) on a CPU.
 *
 *   bfcn_model *model;
 *   bfcn_session *session;
 *   bfcn_model_load("net.gguf", &model);
 *   bfcn_session_create(model, 160, 256, NULL, &session);
 *   bfcn_session_run(session, rgb, 256 * 3, labels);
 *   bfcn_session_free(session);
 *   bfcn_model_free(model);
 *
 * A model never changes once loaded: any number of sessions, in any threads, may share it. Weights
 * are packed for the first session and kept with the model: a session of another size costs
 * milliseconds and its activations. One session serves one thread at a time. A model must outlive
 * its sessions. Nothing is allocated while a session runs. A child of fork() may run and free the
 * sessions it finds, also those that other threads of its parent were running; it starts its own
 * worker threads at the first run. */
#ifndef BFCN_H
#define BFCN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define BFCN_API
#else
#define BFCN_API __attribute__((visibility("default")))
#endif

#define BFCN_VERSION "0.1.0"

typedef enum {
  BFCN_OK = 0,
  BFCN_ERROR_ARGUMENT = 1, /* a call breaks a rule of this header */
  BFCN_ERROR_FILE = 2,     /* the file cannot be opened or read */
  BFCN_ERROR_FORMAT = 3,   /* not a GGUF container that docs/format.md allows */
  BFCN_ERROR_GRAPH = 4,    /* the graph or a tensor breaks a rule of docs/format.md */
  BFCN_ERROR_SHAPE = 5,    /* the graph does not fit this image size */
  BFCN_ERROR_MEMORY = 6,   /* out of memory, or a session would need more than it may take */
  BFCN_ERROR_KERNEL = 7,   /* no kernel of the wanted name or instruction set serves a layer here */
  BFCN_ERROR_WORK = 8      /* an image would take more arithmetic than it may */
} bfcn_status;

typedef enum { BFCN_IMAGE = 0, BFCN_CODES = 1, BFCN_SCORES = 2, BFCN_LABELS = 3 } bfcn_kind;

typedef struct bfcn_model bfcn_model;
typedef struct bfcn_session bfcn_session;

/* What an error code means, in a few words. Never NULL. */
BFCN_API const char *bfcn_status_text(bfcn_status status);

/* The latest error of the calling thread in one line: which op, which rule, which value. */
BFCN_API const char *bfcn_error(void);

/* Read a model. From memory, the bytes are borrowed: keep them until the model is freed. */
BFCN_API bfcn_status bfcn_model_load(const char *path, bfcn_model **model);
BFCN_API bfcn_status bfcn_model_load_memory(const void *data, size_t size, bfcn_model **model);
BFCN_API void bfcn_model_free(bfcn_model *model);

/* Classes the labels name: 0 if the file lists none. Names and palette may be absent (NULL). */
BFCN_API size_t bfcn_model_classes(const bfcn_model *model);
BFCN_API const char *bfcn_model_class_name(const bfcn_model *model, size_t index);
BFCN_API const uint8_t *bfcn_model_palette(const bfcn_model *model); /* classes x (r, g, b) */

typedef struct {
  unsigned threads;   /* 1..64; 0 means 1; no more than bfcn_cores() run */
  const char *isa;    /* of bfcn_isas(): the most to use; NULL: all the CPU has */
  const char *kernel; /* a kernel of kernels.inc that every layer it can serve must use; or NULL */
  int keep_values;    /* keep every value for bfcn_session_read: several times the memory */
  size_t max_bytes;   /* of bfcn_model_bytes with this session; 0: half of what is free is the most
                         that it may add. More is refused */
  uint64_t max_ops;   /* operations an image (docs/format.md); 0: 2^44. More is refused */
} bfcn_options;

/* Plan memory and choose kernels for images of height x width. options may be NULL. */
BFCN_API bfcn_status bfcn_session_create(const bfcn_model *model, unsigned height, unsigned width,
                                         const bfcn_options *options, bfcn_session **session);
BFCN_API void bfcn_session_free(bfcn_session *session);

/* Bytes of all that the file makes the library allocate at this moment: the model with its file,
 * its sessions, and packed weights, which are counted once and stay when a session is freed. */
BFCN_API size_t bfcn_model_bytes(const bfcn_model *model);

/* Bytes of activations (all values with the scratch of every op and thread, in one allocation), and
 * of weights re-packed for the kernels; both are known before the first run and never grow. */
BFCN_API size_t bfcn_session_peak_bytes(const bfcn_session *session);
BFCN_API size_t bfcn_session_weight_bytes(const bfcn_session *session);

/* Bytes that one session needs if it is the model's only one: activations, weights, thresholds,
 * tables, and the model with its file. Counted before they are allocated. */
BFCN_API size_t bfcn_session_total_bytes(const bfcn_session *session);

/* One image, RGB bytes, rows `stride` bytes apart (>= 3 * width), to labels (height x width; NULL
 * to skip copying). labels must be NULL where the model has no argmax. */
BFCN_API bfcn_status bfcn_session_run(bfcn_session *session, const uint8_t *rgb, size_t stride,
                                      uint8_t *labels);

typedef struct {
  const char *name;   /* of the op */
  const char *op;     /* bit_conv, max_pool, ... */
  const char *kernel; /* that ran its first term; "" where an op has only one */
  bfcn_kind kind;     /* of the value it writes */
  unsigned height, width, channels, bits;
  uint64_t macs;  /* multiply-accumulates of a bit_conv */
  double seconds; /* in the latest run; 0 for a resize that the addition reading it computes */
} bfcn_op_info;

/* Value i is written by op i, 0 <= i < bfcn_session_ops(). */
BFCN_API size_t bfcn_session_ops(const bfcn_session *session);
BFCN_API bfcn_status bfcn_session_op(const bfcn_session *session, size_t index, bfcn_op_info *info);

/* Seconds of each op in the latest run, bfcn_session_ops() of them, valid until the next. */
BFCN_API const double *bfcn_session_seconds(const bfcn_session *session);

/* The scores that argmax reads (or the last op's), height x width x channels, valid until the next
 * run; NULL where the model's last value is codes. */
BFCN_API const float *bfcn_session_logits(const bfcn_session *session, unsigned *height,
                                          unsigned *width, unsigned *channels);

/* Copy value `index` of the latest run: codes and labels as uint8, scores as float, in height x
 * width x channels order. size is the room in bytes. Needs keep_values, except for the last op. */
BFCN_API bfcn_status bfcn_session_read(const bfcn_session *session, size_t index, void *out,
                                       size_t size);

/* Cores that this process may use: by its CPU affinity and the CPU limits of its control groups, a
 * fraction rounded up; or the environment's BFCN_CORES. A session has no more threads than there
 * are when it is created, since threads that share a core wait for each other. */
BFCN_API unsigned bfcn_cores(void);

/* Names of the instruction sets that this build and this CPU have, best first, space separated:
 * avx512, avx2; i8mm, dotprod, neon; portable. */
BFCN_API const char *bfcn_isas(void);

#ifdef __cplusplus
}
#endif
#endif
