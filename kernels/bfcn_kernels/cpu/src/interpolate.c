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

void bfcn_resize_codes(const struct rows *r, unsigned row, unsigned end, uint8_t *scratch) {
  const unsigned channels = r->to.channels;
  const size_t in = r->in.width, row_codes = in * channels;
  const float zero = (float)r->from.zero_point;
  uint8_t *out = scratch + 2 * row_codes;
  for (; row < end; row++) {
    const struct blend y = blend(r->op->mode, r->in.height, r->out.height, row);
    const uint8_t *top = bfcn_value_codes(r->s, r->op->source[0], y.first * in, in, scratch);
    const uint8_t *bottom =
        bfcn_value_codes(r->s, r->op->source[0], y.second * in, in, scratch + row_codes);
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
    bfcn_value_store(r->s, r->value, (size_t)row * r->out.width, r->out.width, out);
  }
}

uint64_t bfcn_resize_codes_scratch(const struct rows *r) {
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

/* One line of bfcn_resize_scores: [out width][channels]. */
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

void bfcn_resize_scores(const struct rows *r, unsigned row, unsigned end, uint8_t *scratch) {
  const size_t floats = (size_t)r->out.width * r->to.channels;
  float *out = (float *)r->s->slots[r->value].data + row * floats;
  struct row_pair pair = empty_pair(r, scratch);
  for (; row < end; row++, out += floats) resize_row(r, &pair, row, out);
}

uint64_t bfcn_resize_scores_scratch(const struct rows *r) {
  return r->op->mode == MODE_NEAREST ? 0 : 8ull * r->out.width * r->to.channels;
}

void bfcn_add_resized(const struct rows *r, const float *other, float *out, unsigned row,
                      unsigned end, uint8_t *scratch) {
  const size_t floats = (size_t)r->out.width * r->to.channels;
  float *resized = (float *)scratch;
  struct row_pair pair = empty_pair(r, scratch + floats * sizeof *resized);
  for (; row < end; row++, out += floats, other += floats) {
    resize_row(r, &pair, row, resized);
    for (size_t i = 0; i < floats; i++) out[i] = resized[i] + other[i];
  }
}

uint64_t bfcn_add_resized_scratch(const struct rows *r) {
  return 4ull * r->out.width * r->to.channels + bfcn_resize_scores_scratch(r);
}

/* What argmax_line needs of a strip of columns: the blends along x, from source column `begin`, and
 * room for `count` columns of a source row, [channels][stride]. */
struct strip {
  unsigned begin, count, width;
  int32_t *first, *second;
  float *weight, *planar;
  size_t stride;
};

/* Columns that are done together, so that two lines of them stay in the first-level cache. */
static unsigned strip_width(const struct rows *r) {
  const unsigned fit = 6144 / r->from.channels / 16 * 16, width = fit < 64 ? 64 : fit;
  const unsigned most = width < 256 ? width : 256;
  return most < r->out.width ? most : r->out.width;
}

static struct strip strip_of(const struct rows *r, unsigned x, float *room) {
  const unsigned most = strip_width(r), left = r->out.width - x;
  struct strip s = {.width = left < most ? left : most, .weight = room};
  s.first = (int32_t *)(room + most);
  s.second = s.first + most;
  s.planar = (float *)(s.second + most);
  s.stride = r->in.width + LERP_SLACK;
  for (unsigned i = 0; i < s.width; i++) {
    const struct blend b = blend(r->op->mode, r->in.width, r->out.width, x + i);
    if (i == 0) s.begin = b.first;
    s.first[i] = (int32_t)(b.first - s.begin), s.second[i] = (int32_t)(b.second - s.begin);
    s.weight[i] = b.weight;
    s.count = b.second - s.begin + 1;
  }
  return s;
}

/* One line of a strip: [channels][width]. */
static void argmax_line(const struct rows *r, const float *row, void *context, float *line) {
  const struct strip *s = context;
  const unsigned channels = r->from.channels;
  row += (size_t)s->begin * channels;
  for (unsigned i = 0; i < s->count; i++)
    for (unsigned c = 0; c < channels; c++) s->planar[c * s->stride + i] = *row++;
  bfcn_backend(r->s->isa)->lerp_columns(s->planar, s->stride, channels, s->first, s->second,
                                        s->weight, s->width, line);
}

void bfcn_argmax(const struct rows *r, unsigned row, unsigned end, uint8_t *scratch) {
  const size_t channels = r->from.channels, line = channels * strip_width(r);
  float *lines = (float *)scratch, *room = lines + 2 * line;
  memset(scratch, 0, bfcn_argmax_scratch(r));
  for (unsigned x = 0; x < r->out.width; x += strip_width(r)) {
    struct strip strip = strip_of(r, x, room);
    struct row_pair pair = {{lines, lines + line}, {UINT32_MAX, UINT32_MAX}};
    uint8_t *labels = (uint8_t *)r->s->slots[r->value].data + x;
    for (unsigned y = row; y < end; y++) {
      const struct blend b = blend(r->op->mode, r->in.height, r->out.height, y);
      hold(&pair, r, b, argmax_line, &strip);
      bfcn_backend(r->s->isa)->argmax_row(pair.line[0], pair.line[1], b.weight, (unsigned)channels,
                                          strip.width, labels + (size_t)y * r->out.width);
    }
  }
}

uint64_t bfcn_argmax_scratch(const struct rows *r) {
  const uint64_t channels = r->from.channels, width = strip_width(r);
  return 4 * (2 * channels * width + 3 * width + channels * (r->in.width + LERP_SLACK));
}
