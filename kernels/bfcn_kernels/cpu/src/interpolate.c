/* resize and argmax: bilinear or nearest interpolation in the order of docs/format.md, along x and
 * then along y. A source row is interpolated along x once for all target rows that read it. */
#include "ops.h"

#include <string.h>

/* Position `i` of `out` along an axis of `in` pixels: two neighbours and the weight of the second.
 */
struct blend {
  unsigned first, second;
  float weight;
};

static struct blend blend(enum mode mode, unsigned in, unsigned out, unsigned i) {
  float p;
  if (mode == MODE_ALIGN_CORNERS) {
    const float s = out > 1 ? (float)(in - 1) / (float)(out - 1) : 0;
    p = s * (float)i;
  } else {
    const float s = (float)in / (float)out;
    if (mode == MODE_NEAREST) {
      const unsigned at = (unsigned)floorf((float)i * s);
      return (struct blend){at < in ? at : in - 1, at < in ? at : in - 1, 0};
    }
    p = s * ((float)i + 0.5f);
    p = p - 0.5f;
    p = p > 0 ? p : 0;
  }
  struct blend b = {(unsigned)floorf(p), 0, 0};
  if (b.first > in - 1) b.first = in - 1;
  b.second = b.first + 1 < in ? b.first + 1 : in - 1;
  b.weight = p - (float)b.first;
  if (b.weight > 1) b.weight = 1;
  return b;
}

static float lerp1(float a, float b, float l) {
  const float step = (b - a) * l;
  return a + step;
}

void resize_codes(const struct rows *r, unsigned row, unsigned end, uint8_t *scratch) {
  const unsigned channels = r->to.channels;
  const size_t in = r->in.width, row_codes = in * channels;
  const float zero = (float)r->from.zero_point;
  uint8_t *out = scratch + 2 * row_codes;
  for (; row < end; row++) {
    const struct blend y = blend(r->op->mode, r->in.height, r->out.height, row);
    const uint8_t *top = value_codes(r->s, r->op->source[0], y.first * in, in, scratch);
    const uint8_t *bottom =
        value_codes(r->s, r->op->source[0], y.second * in, in, scratch + row_codes);
    for (unsigned i = 0; i < r->out.width; i++) {
      const struct blend x = blend(r->op->mode, r->in.width, r->out.width, i);
      const size_t a = (size_t)x.first * channels, b = (size_t)x.second * channels;
      for (unsigned c = 0; c < channels; c++) {
        const float t = lerp1((float)top[a + c] - zero, (float)top[b + c] - zero, x.weight);
        const float u = lerp1((float)bottom[a + c] - zero, (float)bottom[b + c] - zero, x.weight);
        const float product = lerp1(t, u, y.weight) * r->op->A;
        out[(size_t)i * channels + c] = (uint8_t)code_float(product + r->op->B, r->to.bits);
      }
    }
    value_store(r->s, r->value, (size_t)row * r->out.width, r->out.width, out);
  }
}

uint64_t resize_codes_scratch(const struct rows *r) {
  return 2ull * r->in.width * r->from.channels + (uint64_t)r->out.width * r->to.channels;
}

/* Two neighbouring source rows, interpolated along x. */
struct row_pair {
  float *line[2];
  unsigned held[2];
};

typedef void fill_line(const struct rows *r, const float *row, void *context, float *line);

/* Have the pair hold rows `first` and `second`; target rows rise, so the second becomes the first.
 */
static void hold(struct row_pair *pair, const struct rows *r, struct blend y, fill_line *fill,
                 void *context) {
  if (pair->held[1] == y.first && pair->held[0] != y.first) {
    float *line = pair->line[0];
    pair->line[0] = pair->line[1], pair->line[1] = line;
    pair->held[0] = pair->held[1], pair->held[1] = UINT32_MAX;
  }
  const unsigned wanted[2] = {y.first, y.second};
  const size_t row_floats = (size_t)r->in.width * r->from.channels;
  for (int i = 0; i < 2; i++) {
    if (pair->held[i] == wanted[i]) continue;
    fill(r, (const float *)source_data(r, 0) + wanted[i] * row_floats, context, pair->line[i]);
    pair->held[i] = wanted[i];
  }
}

/* One line of resize_scores: [out width][channels]. */
static void resize_line(const struct rows *r, const float *row, void *context, float *line) {
  const size_t channels = r->to.channels;
  const struct backend *backend = bfcn_backend(r->s->isa);
  (void)context;
  for (unsigned i = 0; i < r->out.width; i++) {
    const struct blend x = blend(r->op->mode, r->in.width, r->out.width, i);
    const float *first = row + x.first * channels, *second = row + x.second * channels;
    backend->lerp(first, second, x.weight, channels, line + i * channels);
  }
}

static void resize_nearest(const struct rows *r, unsigned row, float *out) {
  const size_t channels = r->to.channels;
  const struct blend y = blend(r->op->mode, r->in.height, r->out.height, row);
  const float *from = (const float *)source_data(r, 0) + y.first * r->in.width * channels;
  for (unsigned i = 0; i < r->out.width; i++, out += channels) {
    const struct blend x = blend(r->op->mode, r->in.width, r->out.width, i);
    memcpy(out, from + x.first * channels, channels * sizeof *out);
  }
}

/* One row of a resize of scores. */
static void resize_row(const struct rows *r, struct row_pair *pair, unsigned row, float *out) {
  if (r->op->mode == MODE_NEAREST) {
    resize_nearest(r, row, out);
    return;
  }
  const struct blend y = blend(r->op->mode, r->in.height, r->out.height, row);
  const size_t floats = (size_t)r->out.width * r->to.channels;
  hold(pair, r, y, resize_line, NULL);
  bfcn_backend(r->s->isa)->lerp(pair->line[0], pair->line[1], y.weight, floats, out);
}

static struct row_pair empty_pair(const struct rows *r, uint8_t *scratch) {
  float *lines = (float *)scratch;
  return (struct row_pair){{lines, lines + (size_t)r->out.width * r->to.channels},
                           {UINT32_MAX, UINT32_MAX}};
}

void resize_scores(const struct rows *r, unsigned row, unsigned end, uint8_t *scratch) {
  const size_t floats = (size_t)r->out.width * r->to.channels;
  float *out = (float *)r->s->slots[r->value].data + row * floats;
  struct row_pair pair = empty_pair(r, scratch);
  for (; row < end; row++, out += floats) resize_row(r, &pair, row, out);
}

uint64_t resize_scores_scratch(const struct rows *r) {
  return r->op->mode == MODE_NEAREST ? 0 : 8ull * r->out.width * r->to.channels;
}

void add_resized(const struct rows *r, const float *other, float *out, unsigned row, unsigned end,
                 uint8_t *scratch) {
  const size_t floats = (size_t)r->out.width * r->to.channels;
  float *resized = (float *)scratch;
  struct row_pair pair = empty_pair(r, scratch + floats * sizeof *resized);
  for (; row < end; row++, out += floats, other += floats) {
    resize_row(r, &pair, row, resized);
    for (size_t i = 0; i < floats; i++) out[i] = resized[i] + other[i];
  }
}

uint64_t add_resized_scratch(const struct rows *r) {
  return 4ull * r->out.width * r->to.channels + resize_scores_scratch(r);
}

/* What argmax_line needs: the blends along x, and room for a source row, [channels][stride]. */
struct columns {
  int32_t *first, *second;
  float *weight, *planar;
  size_t stride;
};

static size_t planar_stride(const struct rows *r) {
  return r->in.width + LERP_SLACK;
}

/* One line of argmax: [channels][out width]. */
static void argmax_line(const struct rows *r, const float *row, void *context, float *line) {
  const struct columns *x = context;
  const unsigned channels = r->from.channels;
  for (unsigned i = 0; i < r->in.width; i++)
    for (unsigned c = 0; c < channels; c++) x->planar[c * x->stride + i] = *row++;
  bfcn_backend(r->s->isa)->lerp_columns(x->planar, x->stride, channels, x->first, x->second,
                                        x->weight, r->out.width, line);
}

void argmax(const struct rows *r, unsigned row, unsigned end, uint8_t *scratch) {
  const size_t width = r->out.width, channels = r->from.channels;
  float *lines = (float *)scratch;
  struct columns x = {.weight = lines + 2 * channels * width, .stride = planar_stride(r)};
  x.first = (int32_t *)(x.weight + width);
  x.second = x.first + width;
  x.planar = (float *)(x.second + width);
  for (unsigned i = 0; i < width; i++) {
    const struct blend b = blend(r->op->mode, r->in.width, r->out.width, i);
    x.first[i] = (int32_t)b.first, x.second[i] = (int32_t)b.second, x.weight[i] = b.weight;
  }
  memset(x.planar, 0, channels * x.stride * sizeof *x.planar);
  struct row_pair pair = {{lines, lines + channels * width}, {UINT32_MAX, UINT32_MAX}};
  uint8_t *labels = (uint8_t *)r->s->slots[r->value].data;
  for (; row < end; row++) {
    const struct blend y = blend(r->op->mode, r->in.height, r->out.height, row);
    hold(&pair, r, y, argmax_line, &x);
    bfcn_backend(r->s->isa)->argmax_row(pair.line[0], pair.line[1], y.weight, (unsigned)channels,
                                        width, labels + row * width);
  }
}

uint64_t argmax_scratch(const struct rows *r) {
  const uint64_t channels = r->from.channels, width = r->out.width;
  return 4 * (2 * channels * width + 3 * width + channels * planar_stride(r));
}
