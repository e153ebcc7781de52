/* Run a bit_conv: a task is some output rows and some output lanes. Block by block of pixels,
 * expand the source rows that are not yet, multiply, and let one epilogue turn the sums into codes.
 */
#include "conv_plan.h"

#include <string.h>

struct task {
  const struct bfcn_session *s;
  const struct conv *conv;
  uint8_t *scratch;        /* this thread's */
  unsigned row, row_end;   /* of the output */
  unsigned lane, lane_end; /* outputs, multiples of LANES */
};

static uint8_t *row_at(const struct task *task, const struct conv_term *t, unsigned slot) {
  return task->scratch + t->rows_at + slot * t->row_bytes;
}

static int32_t *row_sums_at(const struct task *task, const struct conv_term *t, unsigned slot) {
  const size_t width = t->grid.width + 2ul * t->term->window.pw;
  return (int32_t *)(task->scratch + t->row_sums_at) + slot * width;
}

static void expand_planes(const struct conv_term *t, const uint64_t *codes, size_t pixels,
                          uint8_t *out) {
  const struct expand expand = {codes,
                                pixels,
                                t->from.channels,
                                t->from.bits,
                                (t->from.channels + 63) / 64,
                                t->kernel->pass_planes,
                                out};
  t->backend->expand[t->kernel->form](&expand);
}

static void sum_codes(const struct task *task, const struct conv_term *t, const uint64_t *codes,
                      size_t pixels, int32_t *sums) {
  bfcn_backend(task->s->isa)
      ->sum_codes(codes, t->from.bits, (t->from.channels + 63) / 64, pixels, sums);
}

/* `pixels` pixels of padding: the zero point, so that they count as the number 0. */
static void expand_padding(const struct task *task, const struct conv_term *t, size_t pixels,
                           uint8_t *out, int32_t *sums) {
  const unsigned words = (t->from.channels + 63) / 64;
  if (t->from.bits > 4 || t->from.zero_point == 0) {
    if (t->kernel->form == FORM_INT16)
      for (size_t i = 0; i < pixels * t->from.channels; i++)
        ((uint16_t *)out)[i] = (uint16_t)t->from.zero_point;
    else
      memset(out, step_of(t->kernel->form).code_bytes ? (int)t->from.zero_point : 0,
             pixels * t->pixel_bytes);
    if (t->box_scale) memset(sums, 0, pixels * sizeof *sums);
    return;
  }
  for (size_t p = 0; p < pixels; p++) {
    uint64_t planes[4 * (MAX_CHANNELS / 64)];
    for (unsigned b = 0; b < t->from.bits; b++)
      for (unsigned i = 0; i < words; i++) {
        const unsigned left = t->from.channels - 64 * i;
        const uint64_t all = left < 64 ? (1ull << left) - 1 : ~0ull;
        planes[b * words + i] = t->from.zero_point >> b & 1 ? all : 0;
      }
    expand_planes(t, planes, 1, out + p * t->pixel_bytes);
    if (t->box_scale) sum_codes(task, t, planes, 1, sums + p);
  }
}

/* Sums of pixels become, in place, sums of the windows of one row that begin at the output's x. */
static void sum_windows(const struct task *task, const struct conv_term *t, int32_t *sums) {
  const size_t stride = t->term->window.sw, taps = t->term->window.kw;
  const size_t dilation = t->term->window.dw, width = task->conv->grid.width;
  if (taps == 3 && stride == 1 && dilation == 1) {
    for (size_t x = 0; x < width; x++) sums[x] = sums[x] + sums[x + 1] + sums[x + 2];
    return;
  }
  if (taps == 1 && stride == 1) return;
  for (size_t x = 0; x < width; x++) {
    int32_t sum = 0;
    for (size_t kx = 0; kx < taps; kx++) sum += sums[x * stride + kx * dilation];
    sums[x] = sum;
  }
}

/* One source row, padding on both sides, and the sums of its windows' codes. */
static void expand_row(const struct task *task, const struct conv_term *t, unsigned y,
                       unsigned slot) {
  const struct slot *source = &task->s->slots[t->term->source];
  const size_t pad = t->term->window.pw, width = t->grid.width;
  uint8_t *out = row_at(task, t, slot);
  int32_t *sums = t->box_scale ? row_sums_at(task, t, slot) : NULL;
  uint8_t *body = out + pad * t->pixel_bytes;
  if (source->words) {
    const uint64_t *codes =
        (const uint64_t *)source->data + (size_t)y * width * t->from.bits * source->words;
    expand_planes(t, codes, width, body);
    if (sums) sum_codes(task, t, codes, width, sums + pad);
  } else {
    const size_t count = width * t->from.channels;
    const uint8_t *codes = (const uint8_t *)source->data + y * count;
    if (t->kernel->form == FORM_INT16)
      for (size_t i = 0; i < count; i++) ((uint16_t *)body)[i] = codes[i];
    else
      memcpy(body, codes, count);
  }
  if (pad) {
    expand_padding(task, t, pad, out, sums);
    expand_padding(task, t, pad, body + width * t->pixel_bytes, sums ? sums + pad + width : NULL);
  }
  if (sums) sum_windows(task, t, sums);
}

/* Expand the source rows that a block reads and that are not there yet; slots[y] says where row y
 * went. The slot past the last is a row of padding, slots[height] whether it is there. */
static void expand_rows(const struct task *task, const struct conv_term *t, size_t first,
                        size_t count) {
  const struct window *w = &t->term->window;
  const unsigned width = task->conv->grid.width;
  const unsigned end = task->row + (unsigned)((first + count - 1) / width) + 1;
  int32_t *slots = (int32_t *)(task->scratch + t->slots_at), *padding = slots + t->grid.height;
  if (first == 0) *padding = -1;
  if (first == 0 || !t->ring) memset(slots, -1, t->grid.height * sizeof *slots);
  unsigned used = 0;
  for (unsigned row = task->row + (unsigned)(first / width); row < end; row++)
    for (unsigned ky = 0; ky < w->kh; ky++) {
      const int64_t y = (int64_t)row * w->sh + (int64_t)ky * w->dh - w->ph;
      if (y < 0 || y >= t->grid.height) {
        if (*padding >= 0) continue;
        int32_t *sums = t->box_scale ? row_sums_at(task, t, t->slots) : NULL;
        expand_padding(task, t, t->grid.width + 2ul * w->pw, row_at(task, t, t->slots), sums);
        if (sums) sum_windows(task, t, sums);
        *padding = (int32_t)t->slots;
      } else if (slots[y] < 0) {
        slots[y] = (int32_t)(t->ring ? (unsigned)y % t->slots : used++);
        expand_row(task, t, (unsigned)y, (unsigned)slots[y]);
      }
    }
}

/* Copy filter row ky of `count` pixels, `step` bytes apart, to their windows. Whole vectors are
 * copied: what they write too much is the next row's, or past the last. */
static void gather(const struct conv_term *t, const uint8_t *from, size_t step, size_t count,
                   unsigned ky, uint8_t *windows) {
  uint8_t *to = windows + ky * t->run_bytes;
  const int two = t->run_bytes > GATHER_BYTES && t->run_bytes <= 2 * GATHER_BYTES; /* 7 x 3 */
  for (size_t i = 0; i < count; i++, from += step, to += t->window_bytes)
    if (two)
      memcpy(to, from, 2 * GATHER_BYTES);
    else
      for (size_t at = 0; at < t->run_bytes; at += GATHER_BYTES)
        memcpy(to + at, from + at, GATHER_BYTES);
}

/* Where the window of every pixel of a block begins in each expanded row, and the window's code
 * sum. */
static void point(const struct task *task, const struct conv_term *t, size_t first, size_t count) {
  const struct window *w = &t->term->window;
  const size_t width = task->conv->grid.width, stride = task->conv->block_pixels + TILE_PIXELS,
               step = w->sw * t->pixel_bytes;
  const int32_t *slots = (const int32_t *)(task->scratch + t->slots_at);
  const uint8_t **pixels = (const uint8_t **)(task->scratch + t->pixels_at);
  int32_t *box = (int32_t *)(task->scratch + t->box_at);
  uint8_t *windows = task->scratch + t->windows_at;
  const size_t every = t->kernel->columns ? ROW_TILE_PIXELS : 1; /* that a kernel looks at */
  for (size_t done = 0; done < count;) {
    const size_t row = task->row + (first + done) / width, x = (first + done) % width;
    const size_t run = width - x < count - done ? width - x : count - done;
    for (unsigned ky = 0; ky < w->kh; ky++) {
      const int64_t y = (int64_t)row * w->sh + (int64_t)ky * w->dh - w->ph;
      const unsigned slot = y < 0 || y >= t->grid.height ? t->slots : (unsigned)slots[y];
      const uint8_t *at = row_at(task, t, slot) + x * step, **to = pixels + ky * stride + done;
      if (t->window_bytes)
        gather(t, at, step, run, ky, windows + done * t->window_bytes);
      else
        for (size_t i = 0; i < run; i += every) to[i] = at + i * step;
      if (!t->box_scale) continue;
      const int32_t *sums = row_sums_at(task, t, slot) + x;
      if (ky == 0)
        memcpy(box + done, sums, run * sizeof *box);
      else
        for (size_t i = 0; i < run; i++) box[done + i] += sums[i];
    }
    done += run;
  }
  for (size_t i = 0; t->window_bytes && i < count; i++) pixels[i] = windows + i * t->window_bytes;
  for (size_t ky = 0; ky < t->rows; ky++) /* a last tile may pass the block's end */
    for (size_t i = count; i < count + TILE_PIXELS; i++)
      pixels[ky * stride + i] = pixels[ky * stride];
}

/* Twice a sum that thresholds read fits 16 bits, too. */
static int sums_are_doubled(const struct task *task, const struct conv_term *t) {
  return task->conv->packed->thresholds && t->k == 2 && bfcn_backend(task->s->isa)->doubled_sums;
}

static const struct packed_term *packed_of(const struct conv *conv, const struct conv_term *t) {
  return &conv->packed->terms[t - conv->terms];
}

static void multiply(const struct task *task, const struct conv_term *t, size_t count) {
  const struct conv *conv = task->conv;
  const size_t stride = task->lane_end - task->lane, sum_bytes = t->kernel->sum_bits / 8;
  const struct packed_term *packed = packed_of(conv, t);
  const uint8_t *const *pixels = (const uint8_t *const *)(task->scratch + t->pixels_at);
  struct gemm g = {.pixels = pixels,
                   .row_stride = conv->block_pixels + TILE_PIXELS,
                   .rows = t->rows,
                   .columns = t->columns,
                   .column_bytes = t->term->window.dw * t->pixel_bytes,
                   .steps = t->steps,
                   .run = t->kernel->columns ? packed->shared_run : packed->run,
                   .block_bytes = t->block_bytes,
                   .plane_bytes = t->plane_bytes,
                   .planes = t->planes,
                   .room = task->scratch + t->room_at,
                   .tap_channels = t->term->length / (t->rows * t->columns),
                   .wide = t->from.bits > 7,
                   .pairs_fit = packed->pairs_fit,
                   .sum_stride = stride};
  for (int code = 0; code < 4; code++)
    g.values[code] = (int8_t)((int)t->term->form * code - t->term->z);
  const unsigned doubled = sums_are_doubled(task, t);
  const unsigned end = task->lane_end < conv->outputs ? task->lane_end : conv->outputs;
  for (unsigned lane = task->lane; lane < end;) {
    const struct gemm_kernel *k = bfcn_kernel_for_outputs(t->kernel, end - lane, conv->grid.width);
    const unsigned block = lane / k->lanes;
    g.tiles = (count + k->mr - 1) / k->mr;
    g.weights = packed->weights + block * t->block_bytes;
    g.sums = task->scratch + t->sums_at + (lane - task->lane) * sum_bytes;
    for (unsigned pass = 0; pass < t->passes; pass++) {
      g.first_byte = pass * t->pass_bytes + (t->first_channel ? t->first_channel[block] : 0) *
                                                step_of(t->kernel->form).code_bytes;
      g.shift = pass * k->pass_planes + doubled;
      g.accumulate = pass > 0;
      k->run(&g);
    }
    lane += k->nr;
  }
}

static void finish(const struct task *task, const struct epilogue_term *terms, size_t first,
                   size_t count) {
  const struct conv *conv = task->conv;
  const struct op *op = conv->op;
  const struct packed *packed = conv->packed;
  const struct slot *out = &task->s->slots[conv->index + 1];
  const size_t pixel = (size_t)task->row * conv->grid.width + first;
  const size_t pixel_bytes = out->words                    ? 8ul * op->out.bits * out->words
                             : op->out.kind == BFCN_SCORES ? 4ul * conv->outputs
                                                           : conv->outputs;
  _Static_assert((int)MAX_TERMS <= (int)MOST_RESIDUALS,
                 "epilogues keep room for so many residuals");
  struct epilogue_residual residuals[MAX_TERMS];
  for (unsigned i = 0; i < op->residual_count; i++) {
    const unsigned source = op->residuals[i].source;
    const struct value from = bfcn_model_value(task->s->model, source);
    const struct slot *slot = &task->s->slots[source];
    const size_t bytes = slot->words ? 8ul * from.bits * slot->words : from.channels;
    residuals[i] = (struct epilogue_residual){(const uint8_t *)slot->data + pixel * bytes,
                                              from.bits, packed->addends + 256 * i};
  }
  const unsigned end = task->lane_end < conv->outputs ? task->lane_end : conv->outputs;
  const struct epilogue epilogue = {.pixels = count,
                                    .first = task->lane,
                                    .channels = end - task->lane,
                                    .all_channels = conv->outputs,
                                    .terms = op->term_count,
                                    .residuals = op->residual_count,
                                    .term = terms,
                                    .residual = residuals,
                                    .bias = packed->bias,
                                    .bits = op->out.bits,
                                    .out = (uint8_t *)out->data + pixel * pixel_bytes,
                                    .thresholds = packed->thresholds,
                                    .flips = packed->flips,
                                    .moves = packed->moves,
                                    .moved = packed->moved};
  const struct backend *backend = bfcn_backend(task->s->isa);
  if (packed->thresholds && backend->epilogue_threshold)
    backend->epilogue_threshold(&epilogue);
  else
    backend->epilogue(&epilogue);
}

/* What the epilogue reads of a term. */
static struct epilogue_term summed(const struct task *task, const struct conv_term *t) {
  return (struct epilogue_term){.sums = task->scratch + t->sums_at,
                                .sum_stride = task->lane_end - task->lane,
                                .sum_bits = t->kernel->sum_bits,
                                .negative = step_of(t->kernel->form).code_bytes > 0,
                                .narrow = t->kernel->sum_bits == 16 && t->term->bound <= INT16_MAX,
                                .k = sums_are_doubled(task, t) ? 1 : t->k,
                                .box_scale = t->box_scale,
                                .box = (const int32_t *)(task->scratch + t->box_at),
                                .offset = packed_of(task->conv, t)->offset,
                                .scale = packed_of(task->conv, t)->scale};
}

static void run_block(const struct task *task, size_t first, size_t count) {
  const struct conv *conv = task->conv;
  const unsigned terms = conv->op->term_count;
  for (unsigned i = 0; i < terms; i++) {
    expand_rows(task, &conv->terms[i], first, count);
    point(task, &conv->terms[i], first, count);
  }
  struct task part = *task;
  struct epilogue_term sums[MAX_TERMS];
  for (; part.lane < task->lane_end; part.lane = part.lane_end) {
    part.lane_end = part.lane + conv->block_lanes;
    if (part.lane_end > task->lane_end) part.lane_end = task->lane_end;
    for (unsigned i = 0; i < terms; i++) {
      multiply(&part, &conv->terms[i], count);
      sums[i] = summed(&part, &conv->terms[i]);
    }
    finish(&part, sums, first, count);
  }
}

static void run_task(void *context, size_t index, unsigned thread) {
  const struct task *shared = context;
  const struct conv *conv = shared->conv;
  struct task task = *shared;
  task.scratch += thread * task.s->scratch_bytes;
  bfcn_guard_scratch(conv, task.scratch);
  task.row = (unsigned)(index / conv->lane_tasks) * conv->task_rows;
  task.row_end = task.row + conv->task_rows;
  if (task.row_end > conv->grid.height) task.row_end = conv->grid.height;
  task.lane = (unsigned)(index % conv->lane_tasks) * conv->lanes_per_task;
  task.lane_end = task.lane + conv->lanes_per_task;
  if (task.lane_end > conv->padded) task.lane_end = conv->padded;
  const size_t pixels = (size_t)(task.row_end - task.row) * conv->grid.width;
  const struct backend *backend = bfcn_backend(task.s->isa);
  if (backend->enter) backend->enter();
  for (size_t first = 0; first < pixels; first += conv->block_pixels)
    run_block(&task, first,
              pixels - first < conv->block_pixels ? pixels - first : conv->block_pixels);
  if (backend->leave) backend->leave();
}

void bfcn_conv_run(struct bfcn_session *s, const struct conv *conv) {
  struct task task = {.s = s, .conv = conv, .scratch = s->scratch};
  bfcn_pool_run(s->pool, run_task, &task, (size_t)conv->row_tasks * conv->lane_tasks);
}
