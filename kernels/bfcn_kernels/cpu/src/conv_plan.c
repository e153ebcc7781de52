/* Lay out what the run of a bit_conv needs. */
#include "conv_plan.h"
#include "budget.h"
#include "status.h"

#include <stdlib.h>
#include <string.h>

/* Where rows leave a tenth of their steps' channels empty, as 7 taps of 3 channels do, those of a
 * pixel are gathered into one run. */
static void gather_rows(struct conv_term *t, struct step step) {
  const uint64_t run = (uint64_t)t->term->window.kw * t->from.channels; /* below 2^28 */
  const uint64_t steps = (t->rows * run + step.channels - 1) / step.channels;
  if (10 * steps > 9ull * t->rows * t->steps) return;
  const uint64_t run_bytes = run * step.code_bytes;
  const uint64_t last = (run_bytes + GATHER_BYTES - 1) / GATHER_BYTES * GATHER_BYTES;
  const uint64_t window_bytes = (t->rows - 1) * run_bytes + last;
  if (!addressable(window_bytes)) return;
  t->run_bytes = (size_t)run_bytes;
  t->window_bytes = (size_t)window_bytes;
  t->rows = 1;
  t->steps = (size_t)steps; /* of a filter's weights, which are fewer than 2^31 */
}

static void expanded_form(struct conv_term *t) {
  const struct window *w = &t->term->window;
  const unsigned channels = t->from.channels, per_group = channels / t->term->groups;
  const struct step step = step_of(t->kernel->form);
  t->passes = passes_of(t->kernel, t);
  t->planes = planes_of(t->kernel, t);
  t->rows = w->kh;
  t->columns = w->kw;
  t->steps = divide_up(per_group, step.channels);
  switch (t->kernel->form) {
  case FORM_BITS:
    t->pass_bytes = 8 * t->steps * t->kernel->pass_planes;
    break;
  case FORM_LUT6:
    t->pass_bytes = 2 * t->steps * t->kernel->pass_planes;
    break;
  case FORM_LUT5:
  case FORM_LUT4:
  case FORM_LUT3:
    t->pass_bytes = 2 * t->steps;
    break;
  default:
    t->pass_bytes = channels * step.code_bytes;
    if (t->term->groups == 1 && w->dw == 1) { /* the taps of a row touch: one long run */
      t->columns = 1;
      t->steps = divide_up(w->kw * channels, step.channels);
      gather_rows(t, step);
    }
  }
  t->pixel_bytes = t->pass_bytes * t->passes;
}

/* Blocks of a grouped convolution read the channels of all groups they touch. */
static int group_blocks(struct conv_term *t, unsigned outputs, unsigned padded) {
  if (t->term->groups == 1) return 1;
  const unsigned lanes = t->kernel->lanes, in = t->from.channels / t->term->groups;
  const unsigned out = outputs / t->term->groups, blocks = padded / lanes;
  const unsigned width = step_of(t->kernel->form).channels;
  t->first_channel = calloc(blocks, sizeof *t->first_channel);
  if (!t->first_channel) return 0;
  for (unsigned b = 0; b * lanes < outputs; b++) {
    const unsigned last = (b + 1) * lanes < outputs ? (b + 1) * lanes - 1 : outputs - 1;
    t->first_channel[b] = b * lanes / out * in;
    const unsigned span = (last / out + 1) * in - t->first_channel[b];
    if (divide_up(span, width) > t->steps) t->steps = divide_up(span, width);
  }
  return 1;
}

static bfcn_status layout(struct conv_term *t, const struct conv *conv) {
  const struct window *w = &t->term->window;
  const struct step step = step_of(t->kernel->form);
  const unsigned lanes = t->kernel->lanes;
  const uint64_t steps = (uint64_t)t->rows * t->columns * t->steps; /* below 2^38 */
  const uint64_t plane_bytes = steps * step.lane_bytes * lanes;     /* below 2^48 */
  const uint64_t weights = bfcn_times(plane_bytes * t->planes, conv->padded / lanes);
  const uint64_t slack = (uint64_t)step.channels * step.code_bytes * t->steps;
  const uint64_t width = t->grid.width + 2ull * w->pw;
  const uint64_t row_bytes = width * t->pixel_bytes + slack + 127;
  const uint64_t room = t->kernel->form == FORM_INT2 ? steps * step.channels * t->kernel->nr : 0;
  if (!addressable(weights) || !addressable(row_bytes) || !addressable(room))
    return bfcn_fail(BFCN_ERROR_MEMORY,
                     "op '%s': %llu bytes of weights and %llu of a row are more than this machine "
                     "addresses",
                     conv->op->name, (unsigned long long)weights, (unsigned long long)row_bytes);
  t->plane_bytes = (size_t)plane_bytes;
  t->block_bytes = t->plane_bytes * t->planes;
  t->row_bytes = (size_t)row_bytes / 64 * 64;
  t->room_bytes = (size_t)room;
  return BFCN_OK;
}

static bfcn_status plan_term(const struct bfcn_session *s, struct conv *conv, unsigned index) {
  struct conv_term *t = &conv->terms[index];
  t->term = &conv->op->terms[index];
  t->from = bfcn_model_value(s->model, t->term->source);
  t->grid = s->grids[t->term->source];
  TRY(bfcn_choose_kernel(s, conv, t));
  t->backend = bfcn_backend(t->kernel->isa);
  expanded_form(t);
  if (!group_blocks(t, conv->outputs, conv->padded))
    return bfcn_fail(BFCN_ERROR_MEMORY, "op '%s': no memory for its groups", conv->op->name);
  t->steps = round_up(t->steps, t->kernel->steps);
  TRY(layout(t, conv));
  if (step_of(t->kernel->form).code_bytes)
    t->k = 1;
  else
    t->k = (int)t->term->form, t->box_scale = -t->term->z;
  const uint64_t blocks = conv->padded / t->kernel->lanes;
  conv->weight_bytes += t->block_bytes * blocks;
  conv->packed_bytes = bfcn_add(conv->packed_bytes, bfcn_packed_bytes(t, conv->padded));
  if (t->first_channel) conv->own_bytes += blocks * sizeof *t->first_channel;
  if (t->term->length > conv->passing_bytes) conv->passing_bytes = t->term->length;
  return BFCN_OK;
}

/* What the busiest of `threads` does, in rows of output, if tasks are `rows` rows and one of
 * `splits` parts of the lanes. Expanding a source row takes as long as some 25 products a pixel and
 * channel; a task expands those that its first window reaches into, too. */
static double busiest(const struct conv *conv, unsigned threads, unsigned rows, unsigned splits) {
  const struct window *w = &conv->op->terms[0].window;
  const unsigned blocks = conv->padded / LANES, tasks = divide_up(conv->grid.height, rows) * splits;
  const double lanes = (double)divide_up(blocks, splits) / blocks;
  const double expansion = 25.0 / ((double)conv->padded * w->kh * w->kw);
  return divide_up(tasks, threads) * (rows * lanes + (rows + w->kh - 1) * expansion);
}

/* One task for one thread; for more, some each, as even as they can be. */
static void plan_tasks(const struct bfcn_session *s, struct conv *conv) {
  const unsigned height = conv->grid.height, blocks = conv->padded / LANES;
  const unsigned least = divide_up(TASK_PIXELS, conv->grid.width);
  unsigned best = height, best_splits = 1;
  for (unsigned each = 2; s->threads > 1 && each <= 6; each++) {
    unsigned rows = divide_up(height, each * s->threads);
    if (rows < least) rows = least < height ? least : height;
    for (unsigned splits = 1; splits <= blocks && splits <= 2 * s->threads; splits++)
      if (busiest(conv, s->threads, rows, splits) < busiest(conv, s->threads, best, best_splits))
        best = rows, best_splits = splits;
  }
  conv->task_rows = best;
  conv->row_tasks = divide_up(height, best);
  conv->lanes_per_task = divide_up(blocks, best_splits) * LANES;
  conv->lane_tasks = divide_up(conv->padded, conv->lanes_per_task);
}

/* Rows of the output that `pixels` pixels in a row touch, wherever a block begins. */
static unsigned rows_touched(const struct conv *conv, unsigned pixels) {
  const unsigned width = conv->grid.width;
  const unsigned rows = pixels % width ? (pixels - 1 + width - 1) / width + 1 : pixels / width;
  return rows < conv->task_rows ? rows : conv->task_rows;
}

static void plan_slots(const struct conv *conv, struct conv_term *t) {
  const struct window *w = &t->term->window;
  const uint64_t rows = rows_touched(conv, conv->block_pixels);
  const uint64_t needed = rows * w->kh, height = t->grid.height;
  const uint64_t span = (rows - 1) * w->sh + (uint64_t)(w->kh - 1) * w->dh + 1;
  t->ring = span <= needed || height <= needed;
  const uint64_t least = t->ring && span < needed ? span : needed;
  t->slots = (unsigned)(least < height ? least : height);
}

/* The next part of a thread's scratch. */
static size_t take(struct conv *conv, uint64_t *at, uint64_t bytes) {
  const size_t taken = (size_t)*at;
  *at += (bytes + 63) / 64 * 64;
#if defined(BFCN_GUARDED) /* after what vector loads may touch */
  conv->redzone_at[conv->redzones++] = (size_t)*at + SCRATCH_SLACK;
  *at += SCRATCH_SLACK + REDZONE;
#else
  (void)conv;
#endif
  return taken;
}

/* Lay a thread's scratch out for blocks of block_pixels; returns its bytes. */
static uint64_t lay_out_scratch(struct conv *conv) {
  uint64_t at = 0;
  const uint64_t pixels = conv->block_pixels + TILE_PIXELS;
#if defined(BFCN_GUARDED)
  conv->redzones = 0;
#endif
  for (unsigned i = 0; i < conv->op->term_count; i++) {
    struct conv_term *t = &conv->terms[i];
    plan_slots(conv, t);
    const uint64_t rows = t->slots + (t->term->window.ph > 0);
    const uint64_t width = t->grid.width + 2ull * t->term->window.pw;
    t->rows_at = take(conv, &at, t->row_bytes * rows);
    t->row_sums_at = take(conv, &at, t->box_scale ? rows * width * sizeof(int32_t) : 0);
    t->pixels_at = take(conv, &at, t->rows * pixels * sizeof(void *));
    t->slots_at = take(conv, &at, (t->grid.height + 1ul) * sizeof(int32_t));
    t->box_at = take(conv, &at, conv->block_pixels * sizeof(int32_t));
    t->windows_at = take(conv, &at, (uint64_t)conv->block_pixels * t->window_bytes);
    t->sums_at = take(conv, &at, pixels * conv->block_lanes * t->kernel->sum_bits / 8);
    t->room_at = take(conv, &at, t->room_bytes);
  }
  return at;
}

/* Blocks of whole rows where rows are short, so that few rows are kept. */
static void plan_scratch(struct conv *conv) {
  const unsigned width = conv->grid.width;
  unsigned lanes = LEAST_BLOCK_LANES, most = BLOCK_BYTES, pixels = BLOCK_PIXELS;
  for (unsigned i = 0; i < conv->op->term_count; i++) {
    const struct gemm_kernel *k = conv->terms[i].kernel;
    if (k->nr > lanes) lanes = k->nr;
    if (in_tiles(k)) most = AMX_BLOCK_BYTES, pixels = AMX_BLOCK_PIXELS;
  }
  conv->block_lanes = lanes < conv->lanes_per_task ? lanes : conv->lanes_per_task;
  unsigned rows = width < pixels ? pixels / width : 1;
  if (rows > conv->task_rows) rows = conv->task_rows;
  do {
    conv->block_pixels = width < pixels ? rows * width : pixels;
    conv->scratch_bytes = lay_out_scratch(conv);
  } while (conv->scratch_bytes > most && --rows > 0 && rows * width >= LEAST_PIXELS);
}

bfcn_status bfcn_conv_plan(const struct bfcn_session *s, unsigned op, struct conv **out) {
  struct conv *conv = calloc(1, sizeof *conv);
  *out = conv;
  if (conv) conv->terms = calloc(s->model->ops[op].term_count, sizeof *conv->terms);
  if (!conv || !conv->terms)
    return bfcn_fail(BFCN_ERROR_MEMORY, "op '%s': no memory to plan it", s->model->ops[op].name);
  conv->op = &s->model->ops[op];
  conv->index = op;
  conv->grid = s->grids[op + 1];
  conv->outputs = conv->op->out.channels;
  conv->padded = (unsigned)round_up(conv->outputs, LANES);
  plan_tasks(s, conv);
  for (unsigned i = 0; i < conv->op->term_count; i++) TRY(plan_term(s, conv, i));
  plan_scratch(conv);
  if (conv->op->residual_count)
    conv->residual = bfcn_model_value(s->model, conv->op->residuals[0].source);
  conv->with_thresholds = s->isa != ISA_PORTABLE;
  conv->with_moves = bfcn_backend(s->isa)->moves;
  conv->own_bytes += sizeof *conv + conv->op->term_count * sizeof *conv->terms;
  conv->packed_bytes += sizeof *conv->packed + conv->padded * sizeof *conv->packed->bias +
                        256 * (conv->op->residual_count + 1ull) * sizeof *conv->packed->addends +
                        bfcn_thresholds_bytes(conv);
  return BFCN_OK;
}

void bfcn_conv_free(struct conv *conv) {
  if (!conv) return;
  for (unsigned i = 0; conv->terms && i < conv->op->term_count; i++)
    free(conv->terms[i].first_channel);
  free(conv->terms);
  free(conv);
}

uint64_t bfcn_conv_scratch(const struct conv *conv) {
  return conv->scratch_bytes;
}
const char *bfcn_conv_kernel(const struct conv *conv) {
  return conv->terms[0].kernel->name;
}
