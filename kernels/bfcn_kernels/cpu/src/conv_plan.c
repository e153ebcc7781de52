/* Choose a kernel for every term of a bit_conv and lay out what its run needs. */
#include "conv_plan.h"

#include "status.h"

#include <stdlib.h>
#include <string.h>

static unsigned divide_up(unsigned a, unsigned b) {
  return (a + b - 1) / b;
}

/* Whether it multiplies whole tiles. */
static int in_tiles(const struct gemm_kernel *k) {
  return k->steps > 1;
}

static unsigned passes_of(const struct gemm_kernel *k, const struct conv_term *t) {
  return k->pass_planes ? divide_up(t->from.bits, k->pass_planes) : 1;
}

static unsigned planes_of(const struct gemm_kernel *k, const struct conv_term *t) {
  if (k->form == FORM_LUT3) return 1;
  if (!step_of(k->form).code_bytes || k->form == FORM_INT2) return t->term->bits;
  return k->form == FORM_INT8 && t->term->bits == 8 && t->term->form == 2 ? 2 : 1;
}

/* Largest sum of weight codes times activation codes. */
static uint64_t largest_sum(const struct conv_term *t) {
  return (uint64_t)t->term->length * ((1u << t->term->bits) - 1) * ((1u << t->from.bits) - 1);
}

static int serves(const struct gemm_kernel *k, const struct conv_term *t, unsigned width,
                  enum isa isa) {
  if (k->isa > isa) return 0;
  const struct window *w = &t->term->window;
  if (k->columns && (k->columns != w->kw || w->sw != 1 || w->dw != 1 || width % k->mr)) return 0;
  if (k->form == FORM_INT4 && (t->from.bits > 4 || t->term->bits > 4)) return 0;
  if (k->form == FORM_LUT3 && t->term->bits != 2) return 0;
  if (k->form == FORM_INT2 && t->term->bits > 2) return 0;
  if (k->form == FORM_INT8 && in_tiles(k) && t->term->bits <= 2) return 0; /* INT2 keeps bits */
  if (step_of(k->form).code_bytes) {
    const int fits = !t->from.zero_point && t->term->bound <= INT16_MAX;
    return (t->term->groups == 1 || k->nr == k->lanes) && (k->sum_bits == 32 || fits);
  }
  return t->term->groups == 1 && t->from.bits <= 4 &&
         (k->sum_bits == 32 || largest_sum(t) <= UINT16_MAX);
}

const struct gemm_kernel *bfcn_kernel_for_outputs(const struct gemm_kernel *k, unsigned left,
                                                  unsigned width) {
  const struct gemm_kernel *best = k;
  for (size_t i = 0; i < bfcn_gemm_kernel_count; i++) {
    const struct gemm_kernel *other = &bfcn_gemm_kernels[i];
    if (other->isa != k->isa || other->form != k->form || other->pass_planes != k->pass_planes ||
        other->lanes != k->lanes || other->nr > k->nr || other->columns != k->columns ||
        other->sum_bits != k->sum_bits || (other->columns && width % other->mr))
      continue;
    const int fits = other->nr <= left, best_fits = best->nr <= left;
    if (fits > best_fits ||
        (fits == best_fits && (fits ? other->nr > best->nr : other->nr < best->nr)))
      best = other;
  }
  return best;
}

/* Cycles of a tile's pass beyond its multiplications: pointers, the first loads, widening, stores;
 * and bytes of weights that a cycle unpacks, once a block. */
enum { TILE_CYCLES = 45, AMX_TILE_CYCLES = 120, UNPACKED_BYTES = 24 };

static double cycles(const struct gemm_kernel *k, const struct conv_term *t, unsigned outputs,
                     struct grid grid) {
  const unsigned width = step_of(k->form).channels;
  const size_t taps = (size_t)t->term->window.kh * t->term->window.kw;
  const unsigned planes = k->form == FORM_INT2 ? 1 : planes_of(k, t); /* at once */
  const unsigned tile = in_tiles(k) ? AMX_TILE_CYCLES : TILE_CYCLES;
  const unsigned pixels = (unsigned)pixels_of(grid);
  const unsigned unpacked = k->form == FORM_INT2 ? divide_up(pixels, AMX_BLOCK_PIXELS) : 0;
  const size_t depth = taps * divide_up(t->from.channels, width) * width * passes_of(k, t) * planes;
  double sum = 0;
  for (unsigned done = 0; done < outputs;) {
    const struct gemm_kernel *part = bfcn_kernel_for_outputs(k, outputs - done, grid.width);
    sum +=
        (double)divide_up(pixels, part->mr) *
            ((double)depth * part->mr * part->nr / part->macs_per_cycle + tile * passes_of(k, t)) +
        (double)unpacked * depth * part->nr / UNPACKED_BYTES;
    done += part->nr;
  }
  return sum;
}

static bfcn_status choose(const struct bfcn_session *s, const struct conv *conv,
                          struct conv_term *t) {
  double least = 0;
  for (size_t i = 0; i < bfcn_gemm_kernel_count; i++) {
    const struct gemm_kernel *k = &bfcn_gemm_kernels[i];
    if (!serves(k, t, conv->grid.width, s->isa)) continue;
    const double cost = cycles(k, t, conv->outputs, conv->grid);
    const int wanted = s->wanted_kernel && !strcmp(s->wanted_kernel, k->name);
    if (!t->kernel || cost < least || wanted) t->kernel = k, least = cost;
    if (wanted) break;
  }
  if (!t->kernel)
    return bfcn_fail(BFCN_ERROR_KERNEL, "op '%s': no kernel serves it", conv->op->name);
  return BFCN_OK;
}

/* Where rows leave a tenth of their steps' channels empty, as 7 taps of 3 channels do, those of a
 * pixel are gathered into one run. */
static void gather_rows(struct conv_term *t, struct step step) {
  const size_t run = t->term->window.kw * t->from.channels;
  const size_t steps = (t->rows * run + step.channels - 1) / step.channels;
  if (10 * steps > 9 * t->rows * t->steps) return;
  t->run_bytes = run * step.code_bytes;
  t->window_bytes = (t->rows - 1) * t->run_bytes + round_up(t->run_bytes, GATHER_BYTES);
  t->rows = 1;
  t->steps = steps;
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
  const size_t step_bytes = (size_t)step.lane_bytes * t->kernel->lanes;
  const uint64_t plane_bytes = (uint64_t)t->rows * t->columns * t->steps * step_bytes;
  const uint64_t weights = plane_bytes * t->planes * (conv->padded / t->kernel->lanes);
  const size_t slack = (size_t)step.channels * step.code_bytes * t->steps;
  const uint64_t width = t->grid.width + 2ull * w->pw;
  const uint64_t row_bytes = width * t->pixel_bytes + slack + 127;
  if (!addressable(weights) || !addressable(row_bytes))
    return bfcn_fail(BFCN_ERROR_MEMORY,
                     "op '%s': %llu bytes of weights and %llu of a row are more than this machine "
                     "addresses",
                     conv->op->name, (unsigned long long)weights, (unsigned long long)row_bytes);
  t->plane_bytes = (size_t)plane_bytes;
  t->block_bytes = t->plane_bytes * t->planes;
  if (t->kernel->form == FORM_INT2)
    t->room_bytes = t->rows * t->columns * t->steps * step.channels * t->kernel->nr;
  t->row_bytes = (size_t)row_bytes / 64 * 64;
  return BFCN_OK;
}

static bfcn_status plan_term(const struct bfcn_session *s, struct conv *conv, unsigned index) {
  struct conv_term *t = &conv->terms[index];
  t->term = &conv->op->terms[index];
  t->from = bfcn_model_value(s->model, t->term->source);
  t->grid = s->grids[t->term->source];
  TRY(choose(s, conv, t));
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
  conv->weight_bytes += t->block_bytes * (conv->padded / t->kernel->lanes);
  t->scale = calloc(conv->padded, sizeof *t->scale);
  if (!t->scale || !bfcn_pack_weights(t, conv->outputs, conv->padded))
    return bfcn_fail(BFCN_ERROR_MEMORY, "op '%s': no memory for its weights", conv->op->name);
  memcpy(t->scale, t->term->scale, conv->outputs * sizeof *t->scale);
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

/* f32(q - zp) * R of every code of every residual. */
static int plan_addends(const struct bfcn_session *s, struct conv *conv) {
  const struct op *op = conv->op;
  conv->addends = calloc(op->residual_count + 1ul, 256 * sizeof *conv->addends);
  if (!conv->addends) return 0;
  for (unsigned i = 0; i < op->residual_count; i++) {
    const struct value from = bfcn_model_value(s->model, op->residuals[i].source);
    for (unsigned code = 0; code < 1u << from.bits; code++)
      conv->addends[256 * i + code] =
          (float)((int)code - (int)from.zero_point) * op->residuals[i].scale;
  }
  return 1;
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

static size_t take(uint64_t *at, uint64_t bytes) {
  const size_t taken = (size_t)*at;
  *at += (bytes + 63) / 64 * 64;
  return taken;
}

/* Lay a thread's scratch out for blocks of block_pixels; returns its bytes. */
static uint64_t lay_out_scratch(struct conv *conv) {
  uint64_t at = 0;
  const uint64_t pixels = conv->block_pixels + TILE_PIXELS;
  for (unsigned i = 0; i < conv->op->term_count; i++) {
    struct conv_term *t = &conv->terms[i];
    plan_slots(conv, t);
    const uint64_t rows = t->slots + (t->term->window.ph > 0);
    const uint64_t width = t->grid.width + 2ull * t->term->window.pw;
    t->rows_at = take(&at, t->row_bytes * rows);
    t->row_sums_at = take(&at, t->box_scale ? rows * width * sizeof(int32_t) : 0);
    t->pixels_at = take(&at, t->rows * pixels * sizeof(void *));
    t->slots_at = take(&at, (t->grid.height + 1ul) * sizeof(int32_t));
    t->box_at = take(&at, conv->block_pixels * sizeof(int32_t));
    t->windows_at = take(&at, conv->block_pixels * t->window_bytes);
    t->sums_at = take(&at, pixels * conv->block_lanes * t->kernel->sum_bits / 8);
    t->room_at = take(&at, t->room_bytes);
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

static bfcn_status plan(const struct bfcn_session *s, struct conv *conv) {
  const struct op *op = conv->op;
  plan_tasks(s, conv);
  for (unsigned i = 0; i < op->term_count; i++) TRY(plan_term(s, conv, i));
  if (!plan_addends(s, conv))
    return bfcn_fail(BFCN_ERROR_MEMORY, "op '%s': no memory for its residuals", op->name);
  memcpy(conv->bias, op->bias, conv->outputs * sizeof *conv->bias);
  plan_scratch(conv);
  struct value residual = {BFCN_CODES, 0, 0, 0};
  if (op->residual_count) residual = bfcn_model_value(s->model, op->residuals[0].source);
  if (s->isa != ISA_PORTABLE && !bfcn_find_thresholds(conv, op->residual_count ? &residual : NULL,
                                                      bfcn_backend(s->isa)->moves))
    return bfcn_fail(BFCN_ERROR_MEMORY, "op '%s': no memory for its thresholds", op->name);
  return BFCN_OK;
}

bfcn_status bfcn_conv_plan(const struct bfcn_session *s, unsigned op, struct conv **out) {
  struct conv *conv = calloc(1, sizeof *conv);
  *out = conv;
  if (conv) {
    conv->op = &s->model->ops[op];
    conv->index = op;
    conv->grid = s->grids[op + 1];
    conv->outputs = conv->op->out.channels;
    conv->padded = (unsigned)round_up(conv->outputs, LANES);
    conv->terms = calloc(conv->op->term_count, sizeof *conv->terms);
    conv->bias = calloc(conv->padded, sizeof *conv->bias);
    if (conv->terms && conv->bias) return plan(s, conv);
  }
  return bfcn_fail(BFCN_ERROR_MEMORY, "op '%s': no memory to plan it", s->model->ops[op].name);
}

void bfcn_conv_free(struct conv *conv) {
  if (!conv) return;
  for (unsigned i = 0; conv->terms && i < conv->op->term_count; i++) {
    free(conv->terms[i].weights);
    free(conv->terms[i].first_channel);
    free(conv->terms[i].offset);
    free(conv->terms[i].scale);
  }
  free(conv->terms);
  free(conv->bias);
  free(conv->addends);
  free(conv->thresholds);
  free(conv->flips);
  free(conv->moves);
  free(conv->moved);
  free(conv);
}

uint64_t bfcn_conv_scratch(const struct conv *conv) {
  return conv->scratch_bytes;
}
size_t bfcn_conv_weight_bytes(const struct conv *conv) {
  return conv->weight_bytes;
}
const char *bfcn_conv_kernel(const struct conv *conv) {
  return conv->terms[0].kernel->name;
}
