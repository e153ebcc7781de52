/* Every op but bit_conv: rows of the output are tasks; arithmetic in the order of docs/format.md.
 */
#include "ops.h"

#include <string.h>

static void image_codes(const struct rows *r, unsigned row, unsigned end, uint8_t *scratch) {
  const uint8_t *table = r->op->table;
  for (; row < end; row++) {
    const uint8_t *rgb = r->s->rgb + row * r->s->rgb_stride;
    const uint8_t *c0 = rgb + r->op->order[0], *c1 = rgb + r->op->order[1],
                  *c2 = rgb + r->op->order[2];
    for (size_t x = 0; x < 3ul * r->out.width; x += 3) {
      scratch[x] = table[c0[x]];
      scratch[x + 1] = table[256 + c1[x]];
      scratch[x + 2] = table[512 + c2[x]];
    }
    bfcn_value_store(r->s, r->value, (size_t)row * r->out.width, r->out.width, scratch);
  }
}

static void table(const struct rows *r, unsigned row, unsigned end, uint8_t *scratch) {
  const size_t width = r->out.width, count = width * r->to.channels;
  for (; row < end; row++) {
    const uint8_t *codes = bfcn_value_codes(r->s, r->op->source[0], row * width, width, scratch);
    for (size_t i = 0; i < count; i++) scratch[i] = r->op->table[codes[i]];
    bfcn_value_store(r->s, r->value, row * width, width, scratch);
  }
}

/* The taps of a window along one axis that lie inside: first, first + dilation, ... below end. */
struct taps {
  unsigned first, end;
};

static struct taps taps(unsigned i, unsigned k, unsigned s, unsigned p, unsigned d, unsigned in) {
  const int64_t begin = (int64_t)i * s - p;
  const int64_t first = begin >= 0 ? begin : begin + (-begin + d - 1) / d * d;
  const int64_t end = begin + (int64_t)(k - 1) * d + 1;
  return (struct taps){(unsigned)first, (unsigned)(end < 0 ? 0 : end < in ? end : in)};
}

/* Largest codes of 2 bits: the lower bit of those that have the upper one, if any has. */
static void max_two_planes(const struct rows *r, struct taps ty, struct taps tx, uint64_t *out) {
  const struct window *w = &r->op->window;
  const unsigned words = r->s->slots[r->value].words;
  const uint64_t *data = source_data(r, 0);
  for (unsigned i = 0; i < words; i++) {
    uint64_t lower = 0, upper = 0, both = 0;
    for (unsigned y = ty.first; y < ty.end; y += w->dh) {
      const uint64_t *row = data + (size_t)y * r->in.width * 2 * words + i;
      for (unsigned x = tx.first; x < tx.end; x += w->dw) {
        const uint64_t low = row[(size_t)x * 2 * words], high = row[(size_t)x * 2 * words + words];
        lower |= low, upper |= high, both |= low & high;
      }
    }
    out[i] = both | (lower & ~upper);
    out[words + i] = upper;
  }
}

/* Largest codes plane by plane: from the top, a tap stays alive while it has the largest bits. */
static void max_planes(const struct rows *r, struct taps ty, struct taps tx, uint64_t *out) {
  const struct window *w = &r->op->window;
  const unsigned words = r->s->slots[r->value].words, bits = r->to.bits;
  const uint64_t *data = source_data(r, 0);
  for (unsigned i = 0; i < words; i++)
    for (unsigned b = bits; b-- > 0;) {
      uint64_t most = 0;
      for (unsigned y = ty.first; y < ty.end; y += w->dh)
        for (unsigned x = tx.first; x < tx.end; x += w->dw) {
          const uint64_t *code = data + ((size_t)y * r->in.width + x) * bits * words + i;
          uint64_t alive = ~0ull;
          for (unsigned higher = bits - 1; higher > b; higher--)
            alive &= ~(code[higher * words] ^ out[higher * words + i]);
          most |= alive & code[b * words];
        }
      out[b * words + i] = most;
    }
}

static void max_bytes(const struct rows *r, struct taps ty, struct taps tx, uint8_t *out) {
  const struct window *w = &r->op->window;
  const unsigned channels = r->to.channels;
  const uint8_t *data = source_data(r, 0);
  memset(out, 0, channels);
  for (unsigned y = ty.first; y < ty.end; y += w->dh)
    for (unsigned x = tx.first; x < tx.end; x += w->dw) {
      const uint8_t *code = data + ((size_t)y * r->in.width + x) * channels;
      for (unsigned c = 0; c < channels; c++) out[c] = code[c] > out[c] ? code[c] : out[c];
    }
}

static void max_pool(const struct rows *r, unsigned row, unsigned end, uint8_t *scratch) {
  const struct window *w = &r->op->window;
  const struct slot *out = &r->s->slots[r->value];
  (void)scratch;
  for (; row < end; row++) {
    const struct taps ty = taps(row, w->kh, w->sh, w->ph, w->dh, r->in.height);
    for (unsigned x = 0; x < r->out.width; x++) {
      const struct taps tx = taps(x, w->kw, w->sw, w->pw, w->dw, r->in.width);
      const size_t pixel = (size_t)row * r->out.width + x;
      if (out->words && r->to.bits == 2)
        max_two_planes(r, ty, tx, (uint64_t *)out->data + pixel * out->words * 2);
      else if (out->words)
        max_planes(r, ty, tx, (uint64_t *)out->data + pixel * out->words * r->to.bits);
      else
        max_bytes(r, ty, tx, (uint8_t *)out->data + pixel * r->to.channels);
    }
  }
}

/* Mean of the pixels ty x tx over `count`, to codes. scratch: 8 bytes of sum and 2 codes a channel.
 */
static void average(const struct rows *r, struct taps ty, struct taps tx, int64_t count,
                    size_t pixel, uint8_t *scratch) {
  const unsigned channels = r->to.channels;
  int64_t *sums = (int64_t *)scratch;
  uint8_t *room = scratch + 8ul * channels, *out = room + channels;
  memset(sums, 0, channels * sizeof *sums);
  for (unsigned y = ty.first; y < ty.end; y++)
    for (unsigned x = tx.first; x < tx.end; x++) {
      const uint8_t *codes =
          bfcn_value_codes(r->s, r->op->source[0], (size_t)y * r->in.width + x, 1, room);
      for (unsigned c = 0; c < channels; c++) sums[c] += codes[c] - (int)r->from.zero_point;
    }
  for (unsigned c = 0; c < channels; c++) {
    const float mean = (float)sums[c] / (float)count;
    const float product = mean * r->op->A;
    out[c] = (uint8_t)code_float(product + r->op->B, r->to.bits);
  }
  bfcn_value_store(r->s, r->value, pixel, 1, out);
}

static int64_t padded_side(unsigned i, unsigned k, unsigned s, unsigned p, unsigned in) {
  const int64_t begin = (int64_t)i * s - p, end = begin + k, limit = (int64_t)in + p;
  return (end < limit ? end : limit) - begin;
}

static void avg_pool(const struct rows *r, unsigned row, unsigned end, uint8_t *scratch) {
  const struct window *w = &r->op->window;
  for (; row < end; row++) {
    const struct taps ty = taps(row, w->kh, w->sh, w->ph, 1, r->in.height);
    for (unsigned x = 0; x < r->out.width; x++) {
      const struct taps tx = taps(x, w->kw, w->sw, w->pw, 1, r->in.width);
      const int64_t inside = (int64_t)(ty.end - ty.first) * (tx.end - tx.first);
      const int64_t all = padded_side(row, w->kh, w->sh, w->ph, r->in.height) *
                          padded_side(x, w->kw, w->sw, w->pw, r->in.width);
      average(r, ty, tx, r->op->include_pad ? all : inside, (size_t)row * r->out.width + x,
              scratch);
    }
  }
}

static struct taps bin(unsigned i, unsigned in, unsigned out) {
  const uint64_t first = (uint64_t)i * in / out, end = ((i + 1ull) * in + out - 1) / out;
  return (struct taps){(unsigned)first, (unsigned)end};
}

static void adaptive_avg_pool(const struct rows *r, unsigned row, unsigned end, uint8_t *scratch) {
  for (; row < end; row++) {
    const struct taps ty = bin(row, r->in.height, r->out.height);
    for (unsigned x = 0; x < r->out.width; x++) {
      const struct taps tx = bin(x, r->in.width, r->out.width);
      const int64_t count = (int64_t)(ty.end - ty.first) * (tx.end - tx.first);
      average(r, ty, tx, count, (size_t)row * r->out.width + x, scratch);
    }
  }
}

/* The source of an addition that is a resize computed there, as an index into sources; 2 if none.
 */
static unsigned streamed_source(const struct bfcn_session *s, const struct op *op) {
  unsigned i = 0;
  while (i < 2 && !s->slots[op->source[i]].streamed_to) i++;
  return i;
}

static void add(const struct rows *r, unsigned row, unsigned end, uint8_t *scratch) {
  const size_t first = (size_t)row * r->out.width * r->to.channels;
  const size_t count = (size_t)(end - row) * r->out.width * r->to.channels;
  const unsigned streamed = streamed_source(r->s, r->op);
  float *out = (float *)r->s->slots[r->value].data + first;
  if (streamed < 2) {
    struct rows resize = bfcn_rows_of(r->s, r->op->source[streamed] - 1);
    resize.s = r->s;
    bfcn_add_resized(&resize, (const float *)source_data(r, 1 - streamed) + first, out, row, end,
                     scratch);
    return;
  }
  const float *a = (const float *)source_data(r, 0) + first;
  const float *b = (const float *)source_data(r, 1) + first;
  for (size_t i = 0; i < count; i++) out[i] = a[i] + b[i];
}

/* Append `count` bits to a plane that is zero from bit `at` on. */
static void append_bits(uint64_t *plane, unsigned at, const uint64_t *bits, unsigned count) {
  const unsigned shift = at % 64;
  uint64_t *to = plane + at / 64;
  for (unsigned i = 0; i < (count + 63) / 64; i++) {
    to[i] |= bits[i] << shift;
    if (shift && count - 64 * i > 64 - shift) to[i + 1] |= bits[i] >> (64 - shift);
  }
}

static void concat_pixel(const struct rows *r, size_t pixel) {
  const struct slot *out = &r->s->slots[r->value];
  uint64_t *planes = (uint64_t *)out->data + pixel * r->to.bits * out->words;
  uint8_t *bytes = (uint8_t *)out->data + pixel * r->to.channels;
  if (out->words) memset(planes, 0, 8ul * r->to.bits * out->words);
  unsigned at = 0;
  for (unsigned i = 0; i < r->op->source_count; i++) {
    const struct slot *from = &r->s->slots[r->op->source[i]];
    const unsigned channels = bfcn_model_value(r->s->model, r->op->source[i]).channels;
    if (!out->words) memcpy(bytes + at, (const uint8_t *)from->data + pixel * channels, channels);
    for (unsigned b = 0; out->words && b < r->to.bits; b++)
      append_bits(planes + b * out->words, at,
                  (const uint64_t *)from->data + (pixel * r->to.bits + b) * from->words, channels);
    at += channels;
  }
}

static void concat(const struct rows *r, unsigned row, unsigned end, uint8_t *scratch) {
  (void)scratch;
  for (size_t p = (size_t)row * r->out.width; p < (size_t)end * r->out.width; p++)
    concat_pixel(r, p);
}

/* Spread flags by `reach` along a line of `count` pixels, `stride` apart. */
static void dilate(uint8_t *flags, size_t count, size_t stride, unsigned reach, int forward) {
  size_t since = SIZE_MAX / 2;
  for (size_t i = 0; i < count; i++) {
    uint8_t *flag = flags + (forward ? i : count - 1 - i) * stride;
    since = *flag & 1 ? 0 : since + 1;
    if (since <= reach) *flag |= 2;
  }
}

static void dilate_lines(uint8_t *flags, size_t lines, size_t line_stride, size_t count,
                         size_t stride, unsigned reach) {
  for (size_t i = 0; i < lines; i++) {
    uint8_t *line = flags + i * line_stride;
    dilate(line, count, stride, reach, 1);
    dilate(line, count, stride, reach, 0);
    for (size_t j = 0; j < count; j++) line[j * stride] = line[j * stride] != 0;
  }
}

/* The labels in the 3 x 3 window around a pixel, clipped to the map, are not all equal. */
static int is_boundary(const uint16_t *labels, struct grid grid, unsigned y, unsigned x) {
  const uint16_t own = labels[(size_t)y * grid.width + x];
  for (unsigned v = y ? y - 1 : 0; v <= y + 1 && v < grid.height; v++)
    for (unsigned u = x ? x - 1 : 0; u <= x + 1 && u < grid.width; u++)
      if (labels[(size_t)v * grid.width + u] != own) return 1;
  return 0;
}

/* One task: boundaries spread over the whole map. */
static void mask(const struct rows *r, unsigned row, unsigned end, uint8_t *scratch) {
  const size_t pixels = pixels_of(r->out), channels = r->to.channels;
  const float *up = source_data(r, 0), *fine = source_data(r, 1);
  float *out = r->s->slots[r->value].data;
  uint16_t *labels = (uint16_t *)scratch;
  uint8_t *flags = scratch + 2 * pixels;
  for (size_t p = 0; p < pixels; p++) {
    unsigned best = 0;
    for (unsigned c = 1; c < channels; c++)
      if (up[p * channels + c] > up[p * channels + best]) best = c;
    labels[p] = (uint16_t)best;
  }
  for (; row < end; row++)
    for (unsigned x = 0; x < r->out.width; x++)
      flags[(size_t)row * r->out.width + x] = (uint8_t)is_boundary(labels, r->out, row, x);
  dilate_lines(flags, r->out.height, r->out.width, r->out.width, 1, r->op->dilation);
  dilate_lines(flags, r->out.width, 1, r->out.height, r->out.width, r->op->dilation);
  for (size_t p = 0; p < pixels; p++)
    for (size_t i = p * channels; i < (p + 1) * channels; i++)
      out[i] = flags[p] ? up[i] + fine[i] : up[i];
}

struct rows bfcn_rows_of(const struct bfcn_session *s, unsigned op) {
  static rows_function *const runs[OP_CODES_END] = {[OP_IMAGE_CODES] = image_codes,
                                                    [OP_TABLE] = table,
                                                    [OP_MAX_POOL] = max_pool,
                                                    [OP_AVG_POOL] = avg_pool,
                                                    [OP_ADAPTIVE_AVG_POOL] = adaptive_avg_pool,
                                                    [OP_ADD] = add,
                                                    [OP_CONCAT] = concat,
                                                    [OP_MASK] = mask,
                                                    [OP_ARGMAX] = bfcn_argmax};
  struct rows r = {.op = &s->model->ops[op], .value = op + 1, .out = s->grids[op + 1]};
  r.in = s->grids[r.op->source[0]];
  r.from = bfcn_model_value(s->model, r.op->source[0]);
  r.to = r.op->out;
  r.run = r.op->code != OP_RESIZE    ? runs[r.op->code]
          : r.to.kind == BFCN_SCORES ? bfcn_resize_scores
                                     : bfcn_resize_codes;
  r.rows_per_task = s->threads > 1 ? r.out.height / (3 * s->threads) + 1 : r.out.height;
  if (r.op->code == OP_MASK) r.rows_per_task = r.out.height;
  return r;
}

uint64_t bfcn_op_scratch(const struct bfcn_session *s, unsigned op) {
  const struct rows r = bfcn_rows_of(s, op);
  switch (r.op->code) {
  case OP_IMAGE_CODES:
  case OP_TABLE:
    return (uint64_t)r.out.width * r.to.channels;
  case OP_AVG_POOL:
  case OP_ADAPTIVE_AVG_POOL:
    return 10ull * r.to.channels;
  case OP_ADD: {
    const unsigned streamed = streamed_source(s, r.op);
    if (streamed == 2) return 0;
    const struct rows resize = bfcn_rows_of(s, r.op->source[streamed] - 1);
    return bfcn_add_resized_scratch(&resize);
  }
  case OP_RESIZE:
    return r.to.kind == BFCN_SCORES ? bfcn_resize_scores_scratch(&r)
                                    : bfcn_resize_codes_scratch(&r);
  case OP_MASK:
    return 3ull * pixels_of(r.out);
  case OP_ARGMAX:
    return bfcn_argmax_scratch(&r);
  default:
    return 0;
  }
}

static void run_rows(void *context, size_t task, unsigned thread) {
  const struct rows *r = context;
  const unsigned row = (unsigned)task * r->rows_per_task;
  const unsigned end =
      r->out.height - row < r->rows_per_task ? r->out.height : row + r->rows_per_task;
  r->run(r, row, end, r->s->scratch + thread * r->s->scratch_bytes);
}

void bfcn_op_run(struct bfcn_session *s, unsigned op) {
  struct rows r = bfcn_rows_of(s, op);
  r.s = s;
  bfcn_pool_run(s->pool, run_rows, &r, (r.out.height + r.rows_per_task - 1) / r.rows_per_task);
}
