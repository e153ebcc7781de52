/* Plan a model for one image size, run it, and tell what happened. */
#include "arena.h"
#include "budget.h"
#include "conv_plan.h"
#include "guard.h"
#include "packed.h"
#include "status.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static bfcn_status no_memory(void) {
  return bfcn_fail(BFCN_ERROR_MEMORY, "no memory for the session");
}

static bfcn_status no_threads(const struct bfcn_session *s) {
  return bfcn_fail(BFCN_ERROR_MEMORY, "cannot start %u threads", s->threads);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Kernels, scratch and bytes of every op; nothing of the file's size is allocated. */
static bfcn_status plan_ops(struct bfcn_session *s, uint64_t *scratch) {
  uint64_t passing = 0, packed = 0;
  for (unsigned i = 0; i < s->model->op_count; i++) {
    if (s->slots[i + 1].streamed_to) continue;
    if (s->model->ops[i].code != OP_BIT_CONV) {
      scratch[i] = bfcn_op_scratch(s, i);
      continue;
    }
    TRY(bfcn_conv_plan(s, i, &s->convs[i]));
    const struct conv *conv = s->convs[i];
    scratch[i] = bfcn_conv_scratch(conv);
    s->weight_bytes += conv->weight_bytes;
    s->own_bytes += conv->own_bytes;
    packed = bfcn_add(packed, conv->packed_bytes);
    if (conv->passing_bytes > passing) passing = conv->passing_bytes;
  }
  TRY(bfcn_plan_arena(s, scratch));
  s->own_bytes += s->arena_bytes;
  s->total_bytes = bfcn_add(bfcn_add(packed, passing), s->own_bytes + s->model->bytes);
  return BFCN_OK;
}

/* Systems grant memory that they do not have, and end the process that then uses it. */
static bfcn_status attach(struct bfcn_session *s, size_t max_bytes) {
  const uint64_t taken = bfcn_packed_taken(s->model);
  const uint64_t limit = max_bytes ? max_bytes : bfcn_add(bfcn_free_bytes() / 2, taken);
  uint64_t needed = 0;
  const int attached = bfcn_packed_attach(s, limit, &needed);
  if (attached < 0) return no_memory();
  if (attached) return BFCN_OK;
  return bfcn_fail(
      BFCN_ERROR_MEMORY,
      "an image of %u x %u takes at least %llu bytes (maps and scratch %zu, weights %llu, "
      "model %zu; other sessions of the model included), max_bytes is %llu: take a smaller image, "
      "fewer threads, more memory, or a larger max_bytes for a file you trust",
      s->grids[0].height, s->grids[0].width, (unsigned long long)needed, s->arena_bytes,
      (unsigned long long)s->weight_bytes, s->model->bytes, (unsigned long long)limit);
}

static bfcn_status allocate(struct bfcn_session *s) {
  TRY(bfcn_allocate_arena(s));
  for (unsigned i = 0; i < s->model->op_count; i++)
    if (s->convs[i]) TRY(bfcn_packed_fill(s->model, s->convs[i]));
  return BFCN_OK;
}

static bfcn_status choose_isa(struct bfcn_session *s, const char *wanted) {
  s->isa = bfcn_best_isa();
  if (!wanted) return BFCN_OK;
  for (int isa = ISA_PORTABLE; isa < ISAS; isa++) {
    const struct backend *backend = bfcn_backend((enum isa)isa);
    if (!backend || strcmp(backend->name, wanted)) continue;
    if (isa > (int)s->isa) break;
    s->isa = (enum isa)isa;
    return BFCN_OK;
  }
  return bfcn_fail(BFCN_ERROR_KERNEL, "isa must be one of: %s; got '%s'", bfcn_isas(), wanted);
}

static bfcn_status choose_kernel(struct bfcn_session *s, const char *wanted) {
  s->wanted_kernel = wanted;
  if (!wanted) return BFCN_OK;
  for (size_t i = 0; i < bfcn_gemm_kernel_count; i++)
    if (!strcmp(bfcn_gemm_kernels[i].name, wanted)) {
      s->wanted_kernel = bfcn_gemm_kernels[i].name;
      if (bfcn_gemm_kernels[i].isa <= s->isa) return BFCN_OK;
      return bfcn_fail(BFCN_ERROR_KERNEL, "kernel '%s' needs more than '%s'", wanted,
                       bfcn_backend(s->isa)->name);
    }
  return bfcn_fail(BFCN_ERROR_KERNEL, "no kernel is named '%s'", wanted);
}

static bfcn_status create(struct bfcn_session *s, unsigned height, unsigned width,
                          const bfcn_options *options) {
  const size_t values = s->model->op_count + 1ul;
  s->threads = options && options->threads ? options->threads : 1;
  s->keep_values = options && options->keep_values;
  if (s->threads > MAX_THREADS)
    return bfcn_fail(BFCN_ERROR_ARGUMENT, "threads must be 1..%d, got %u", MAX_THREADS, s->threads);
  const unsigned cores = bfcn_cores();
  if (s->threads > cores) s->threads = cores;
  TRY(choose_isa(s, options ? options->isa : NULL));
  TRY(choose_kernel(s, options ? options->kernel : NULL));
  s->grids = calloc(values, sizeof *s->grids);
  s->slots = calloc(values, sizeof *s->slots);
  s->convs = calloc(values, sizeof *s->convs);
  s->rooms = calloc(values, sizeof *s->rooms);
  s->seconds = calloc(values, sizeof *s->seconds);
  if (!s->grids || !s->slots || !s->convs || !s->rooms || !s->seconds) return no_memory();
  TRY(bfcn_model_grids(s->model, height, width, s->grids));
  TRY(bfcn_limit_work(s->model, s->grids, options ? options->max_ops : 0));
  TRY(bfcn_shape_slots(s));
  s->own_bytes = sizeof *s + values * (sizeof *s->grids + sizeof *s->slots + sizeof *s->convs +
                                       sizeof *s->rooms + sizeof *s->seconds);
  uint64_t *scratch = calloc(values, sizeof *scratch);
  const bfcn_status status = scratch ? plan_ops(s, scratch) : no_memory();
  free(scratch);
  TRY(status);
  TRY(attach(s, options ? options->max_bytes : 0));
  TRY(allocate(s));
  s->pool = bfcn_pool_create(s->threads);
  return s->pool ? BFCN_OK : no_threads(s);
}

bfcn_status bfcn_session_create(const bfcn_model *model, unsigned height, unsigned width,
                                const bfcn_options *options, bfcn_session **session) {
  if (!model || !session)
    return bfcn_fail(BFCN_ERROR_ARGUMENT, "model and session must not be NULL");
  *session = NULL;
  bfcn_tables_init();
  struct bfcn_session *s = calloc(1, sizeof *s);
  if (!s) return no_memory();
  s->model = model;
  const bfcn_status status = create(s, height, width, options);
  if (status == BFCN_OK)
    *session = s;
  else
    bfcn_session_free(s);
  return status;
}

void bfcn_session_free(bfcn_session *s) {
  if (!s) return;
  bfcn_pool_free(s->pool);
  bfcn_guard_off(s);
  if (s->counted_bytes) bfcn_packed_detach(s);
  for (unsigned i = 0; s->convs && i < s->model->op_count; i++) bfcn_conv_free(s->convs[i]);
  free(s->grids);
  free(s->slots);
  free(s->convs);
  free(s->rooms);
  free(s->seconds);
  free(s->arena);
  free(s);
}

size_t bfcn_session_peak_bytes(const bfcn_session *s) {
  return s->arena_bytes;
}

size_t bfcn_session_weight_bytes(const bfcn_session *s) {
  return (size_t)s->weight_bytes;
}

size_t bfcn_session_total_bytes(const bfcn_session *s) {
  return (size_t)s->total_bytes;
}

size_t bfcn_session_ops(const bfcn_session *s) {
  return s->model->op_count;
}

bfcn_status bfcn_session_run(bfcn_session *s, const uint8_t *rgb, size_t stride, uint8_t *labels) {
  if (!s || !rgb) return bfcn_fail(BFCN_ERROR_ARGUMENT, "session and rgb must not be NULL");
  if (stride < 3ul * s->grids[0].width)
    return bfcn_fail(BFCN_ERROR_ARGUMENT, "stride must be at least 3 * width = %u bytes, got %zu",
                     3 * s->grids[0].width, stride);
  const unsigned count = s->model->op_count;
  if (labels && bfcn_model_value(s->model, count).kind != BFCN_LABELS)
    return bfcn_fail(BFCN_ERROR_ARGUMENT, "labels must be NULL: the model has no argmax");
  if (!bfcn_pool_revive(s->pool)) return no_threads(s);
  s->rgb = rgb;
  s->rgb_stride = stride;
  double before = now();
  for (unsigned i = 0; i < count; i++) {
    if (s->slots[i + 1].streamed_to) continue;
    bfcn_guard_op(s, i);
    s->scratch = s->rooms[i].data;
    s->scratch_bytes = s->rooms[i].bytes;
    if (s->convs[i])
      bfcn_conv_run(s, s->convs[i]);
    else
      bfcn_op_run(s, i);
    const double after = now();
    s->seconds[i] = after - before;
    before = after;
  }
  bfcn_guard_op(s, count);
  if (labels) memcpy(labels, s->slots[count].data, pixels_of(s->grids[count]));
  return BFCN_OK;
}

static uint64_t macs(const struct op *op, struct grid grid) {
  uint64_t length = 0;
  for (unsigned i = 0; i < op->term_count; i++) length += op->terms[i].length;
  return (uint64_t)pixels_of(grid) * op->out.channels * length; /* within max_ops */
}

bfcn_status bfcn_session_op(const bfcn_session *s, size_t index, bfcn_op_info *info) {
  if (!s || !info || index >= s->model->op_count)
    return bfcn_fail(BFCN_ERROR_ARGUMENT, "index must be less than the number of ops, got %zu",
                     index);
  const struct op *op = &s->model->ops[index];
  const struct grid grid = s->grids[index + 1];
  *info = (bfcn_op_info){.name = op->name,
                         .op = bfcn_op_text(op->code),
                         .kernel = s->convs[index] ? bfcn_conv_kernel(s->convs[index]) : "",
                         .kind = op->out.kind,
                         .height = grid.height,
                         .width = grid.width,
                         .channels = op->out.channels,
                         .bits = op->out.bits,
                         .macs = macs(op, grid),
                         .seconds = s->seconds[index]};
  return BFCN_OK;
}

const double *bfcn_session_seconds(const bfcn_session *s) {
  return s->seconds;
}

const float *bfcn_session_logits(const bfcn_session *s, unsigned *height, unsigned *width,
                                 unsigned *channels) {
  const unsigned value = bfcn_logits_value(s->model);
  if (!value) return NULL;
  if (height) *height = s->grids[value].height;
  if (width) *width = s->grids[value].width;
  if (channels) *channels = bfcn_model_value(s->model, value).channels;
  return s->slots[value].data;
}

bfcn_status bfcn_session_read(const bfcn_session *s, size_t index, void *out, size_t size) {
  if (!s || !out || index >= s->model->op_count)
    return bfcn_fail(BFCN_ERROR_ARGUMENT, "index must be less than the number of ops, got %zu",
                     index);
  const unsigned v = (unsigned)index + 1;
  if (!s->keep_values && v != s->model->op_count)
    return bfcn_fail(BFCN_ERROR_ARGUMENT, "op '%s': reading it needs keep_values",
                     s->model->ops[index].name);
  const struct value value = bfcn_model_value(s->model, v);
  const size_t pixels = pixels_of(s->grids[v]);
  const size_t bytes = pixels * (value.kind == BFCN_SCORES   ? 4ul * value.channels
                                 : value.kind == BFCN_LABELS ? 1
                                                             : value.channels);
  if (size < bytes)
    return bfcn_fail(BFCN_ERROR_ARGUMENT, "op '%s': size must be at least %zu, got %zu",
                     s->model->ops[index].name, bytes, size);
  if (value.kind != BFCN_CODES) {
    memcpy(out, s->slots[v].data, bytes);
    return BFCN_OK;
  }
  const uint8_t *codes = bfcn_value_codes(s, v, 0, pixels, out);
  if (codes != out) memcpy(out, codes, bytes);
  return BFCN_OK;
}

const uint8_t *bfcn_value_codes(const struct bfcn_session *s, unsigned v, size_t first,
                                size_t count, uint8_t *room) {
  const struct slot *slot = &s->slots[v];
  const struct value value = bfcn_model_value(s->model, v);
  if (!slot->words) return (const uint8_t *)slot->data + first * value.channels;
  const uint64_t *planes = (const uint64_t *)slot->data + first * value.bits * slot->words;
  bfcn_backend(s->isa)->unpack(planes, value.bits, slot->words, count, value.channels, room);
  return room;
}

void bfcn_value_store(const struct bfcn_session *s, unsigned v, size_t first, size_t count,
                      const uint8_t *codes) {
  const struct slot *slot = &s->slots[v];
  const struct value value = bfcn_model_value(s->model, v);
  if (!slot->words) {
    memcpy((uint8_t *)slot->data + first * value.channels, codes, count * value.channels);
    return;
  }
  uint64_t *planes = (uint64_t *)slot->data + first * value.bits * slot->words;
  bfcn_backend(s->isa)->pack(codes, value.channels, count, value.bits, slot->words, planes);
}
