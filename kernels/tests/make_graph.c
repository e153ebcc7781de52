#include "make_graph.h"

#include "made_file.h"

#include <math.h>

enum { CODES = 1, SCORES = 2, LABELS = 3, MOST_CELLS = 30000, MOST_WEIGHTS = 16000 };

struct made_value {
  int kind;
  unsigned channels, bits, zero_point, height, width;
  int is_read;
};

struct maker {
  const uint8_t *at, *end;
  uint64_t noise;
  struct made_file file;
  struct made_value values[MADE_OPS + 1]; /* values[0] is the image */
};

/* The next choice of n; 0 once the bytes are used up. */
static unsigned pick(struct maker *m, unsigned n) {
  return m->at < m->end ? *m->at++ % n : 0;
}

static unsigned one_of(struct maker *m, const unsigned *options, unsigned count) {
  return options[pick(m, count)];
}
#define ONE_OF(m, ...)                       \
  one_of(m, (const unsigned[]){__VA_ARGS__}, \
         sizeof((const unsigned[]){__VA_ARGS__}) / sizeof(unsigned))

static uint64_t noise(struct maker *m) {
  m->noise ^= m->noise << 13;
  m->noise ^= m->noise >> 7;
  m->noise ^= m->noise << 17;
  return m->noise;
}

static unsigned cells(const struct made_value *v) {
  return v->channels * v->height * v->width;
}

/* A value of a kind and grid (height 0: any), from a random one on; 0 if there is none. */
static unsigned find(struct maker *m, int kind, unsigned height, unsigned width) {
  const unsigned count = m->file.op_count, first = pick(m, 64);
  for (unsigned i = 0; i < count; i++) {
    const unsigned value = count - (first + i) % count; /* late ones first */
    const struct made_value *v = &m->values[value];
    if (v->kind == kind && (!height || (v->height == height && v->width == width))) return value;
  }
  return 0;
}

static void header(struct maker *m, int opcode, struct made_value out) {
  struct made_file *f = &m->file;
  f->op_at[f->op_count++] = f->word_count;
  m->values[f->op_count] = out;
  made_word(f, opcode);
  made_word(f, 0); /* length: known at the end */
  made_word(f, out.kind);
  made_word(f, (int32_t)out.channels);
  made_word(f, (int32_t)out.bits);
  made_word(f, (int32_t)out.zero_point);
}

static void finish(struct maker *m) {
  struct made_file *f = &m->file;
  const unsigned begin = f->op_at[f->op_count - 1];
  f->words[begin + 1] = (int32_t)(f->word_count - begin);
}

static unsigned source(struct maker *m, unsigned value) {
  m->values[value].is_read = 1;
  made_word(&m->file, (int32_t)value);
  return value;
}

static void describe_codes(struct maker *m, struct made_value *v) {
  v->kind = CODES;
  v->bits = ONE_OF(m, 2, 1, 2, 1, 3, 4, 5, 8);
  v->zero_point = pick(m, 4) ? 0 : pick(m, 1u << v->bits);
}

static void op_name(const struct maker *m, const char *suffix, char name[64]) {
  snprintf(name, 64, "op%u%s", m->file.op_count, suffix);
}

static void codes_table(struct maker *m, unsigned entries, unsigned tables, unsigned bits) {
  char name[64];
  op_name(m, ".table", name);
  uint8_t *table = made_tensor(&m->file, name, MADE_I8, entries, tables, 0);
  for (unsigned i = 0; i < entries * (tables ? tables : 1); i++)
    table[i] = (uint8_t)(noise(m) & ((1u << bits) - 1));
}

static void image_codes(struct maker *m) {
  struct made_value v = m->values[0];
  v.kind = CODES, v.channels = 3, v.is_read = 0;
  v.bits = ONE_OF(m, 8, 8, 2, 4, 7);
  v.zero_point = pick(m, 3) ? 0 : pick(m, 1u << v.bits);
  header(m, 1, v);
  for (unsigned i = 0; i < 3; i++) made_word(&m->file, (int32_t)pick(m, 3));
  codes_table(m, 256, 3, v.bits);
  finish(m);
}

static unsigned side(unsigned in, unsigned k, unsigned s, unsigned p, unsigned d) {
  return in + 2 * p < d * (k - 1) + 1 ? 0 : (in + 2 * p - d * (k - 1) - 1) / s + 1;
}

struct made_window {
  unsigned k[2], s[2], p[2], d[2];
};

/* A window that fits the map: where it is larger, padding grows. Some reach far past every edge. */
static struct made_window window(struct maker *m, const struct made_value *v) {
  struct made_window w;
  const int odd = pick(m, 4) == 0, equal = pick(m, 3) > 0;
  for (unsigned i = 0; i < 2; i++) {
    if (i && equal) {
      w.k[1] = w.k[0], w.s[1] = w.s[0], w.d[1] = w.d[0], w.p[1] = w.p[0];
    } else {
      w.k[i] = odd ? 1 + pick(m, 12) : ONE_OF(m, 3, 1, 3, 1, 2, 5, 7);
      w.s[i] = odd ? 1 + pick(m, 9) : ONE_OF(m, 1, 1, 1, 2, 2, 3);
      w.d[i] = odd ? 1 + pick(m, 9) : ONE_OF(m, 1, 1, 1, 2, 4);
      w.p[i] = odd ? pick(m, 24) : w.d[i] * (w.k[i] - 1) / 2;
    }
    const unsigned in = i ? v->width : v->height, reach = w.d[i] * (w.k[i] - 1) + 1;
    if (in + 2 * w.p[i] < reach) w.p[i] = (reach - in + 1) / 2;
  }
  return w;
}

static void put_window(struct maker *m, const struct made_window *w, int dilated) {
  for (unsigned i = 0; i < 2; i++) made_word(&m->file, (int32_t)w->k[i]);
  for (unsigned i = 0; i < 2; i++) made_word(&m->file, (int32_t)w->s[i]);
  for (unsigned i = 0; i < 2; i++) made_word(&m->file, (int32_t)w->p[i]);
  for (unsigned i = 0; dilated && i < 2; i++) made_word(&m->file, (int32_t)w->d[i]);
}

/* Weight words: random, all ones, none or few, with nothing past the filter. */
static void weights(struct maker *m, const char *suffix, unsigned length, unsigned bits,
                    unsigned out) {
  char name[64];
  op_name(m, suffix, name);
  const unsigned words = (length + 63) / 64, mode = pick(m, 6);
  uint64_t *data = made_tensor(&m->file, name, MADE_I64, words, bits, out);
  const uint64_t last = length % 64 ? (1ull << length % 64) - 1 : ~0ull;
  for (size_t i = 0; i < (size_t)words * bits * out; i++) {
    data[i] = mode == 1 ? ~0ull : mode == 2 ? 0 : noise(m);
    if (mode == 3) data[i] &= noise(m) & noise(m);
    if (i % words == words - 1) data[i] &= last;
  }
}

/* Coefficients that spread sums of about `spread` over `levels`; some signs, zeros and extremes. */
static void coefficients(struct maker *m, const char *suffix, unsigned count, double spread,
                         double offset) {
  char name[64];
  op_name(m, suffix, name);
  const unsigned mode = pick(m, 12);
  float *data = made_tensor(&m->file, name, MADE_F32, count, 0, 0);
  for (unsigned i = 0; i < count; i++) {
    const double random = (double)(noise(m) % 1000) / 1000;
    data[i] = (float)(offset + spread * (random + 0.2) * (noise(m) % 5 ? 1 : -1));
    if (mode == 1 && i % 3 == 0) data[i] = 0;
    if (mode == 2 && i % 3 == 0) data[i] = i % 2 ? 0x1p60f : -0x1p60f;
    if (mode == 3 && i % 3 == 0) data[i] = 0x1p-140f;
  }
}

static unsigned common(unsigned a, unsigned b) {
  while (b) {
    const unsigned rest = a % b;
    a = b, b = rest;
  }
  return a;
}

/* The record and tensors of term `index`. */
static void term(struct maker *m, unsigned index, unsigned from, const struct made_window *w,
                 unsigned out, double levels) {
  const struct made_value *v = &m->values[source(m, from)];
  put_window(m, w, 1);
  unsigned groups = pick(m, 3) ? 1 : common(v->channels, out),
           bits = ONE_OF(m, 1, 2, 1, 2, 3, 4, 8);
  const unsigned taps = w->k[0] * w->k[1];
  while (groups == 1 && taps * v->channels * out > MOST_WEIGHTS && bits > 1) bits /= 2;
  const unsigned length = taps * (v->channels / groups);
  while (bits > 1 && (double)length * ((1 << bits) - 1) * ((1 << v->bits) - 1) > 2e9) bits /= 2;
  const unsigned form = bits > 1 ? 1 + pick(m, 2) : 2;
  made_word(&m->file, (int32_t)groups);
  made_word(&m->file, (int32_t)bits);
  made_word(&m->file, (int32_t)form);
  char suffix[32] = ".weight";
  if (index) snprintf(suffix, sizeof suffix, ":%u.weight", index);
  weights(m, suffix, length, bits, out);
  strcpy(suffix, ".A");
  if (index) snprintf(suffix, sizeof suffix, ":%u.R", index);
  const double sum = sqrt(length) * (double)((1u << bits) - 1) * (double)((1u << v->bits) - 1) / 3;
  coefficients(m, suffix, out, levels / sum, 0);
}

static unsigned output_channels(struct maker *m, unsigned pixels, unsigned length) {
  unsigned channels = ONE_OF(m, 8, 64, 1, 3, 16, 31, 32, 33, 63, 65, 96, 128, 130, 192, 200, 257);
  while (channels > 1 && (channels * pixels > MOST_CELLS || channels * length > MOST_WEIGHTS))
    channels = (channels + 1) / 2;
  return channels;
}

/* A value of v's grid whose channels fit, as residuals have them; 0 for none. */
static unsigned like_value(struct maker *m, const struct made_value *v, unsigned length) {
  const unsigned value = pick(m, 3) ? find(m, CODES, v->height, v->width) : 0;
  const unsigned channels = m->values[value].channels;
  const int fits =
      channels * v->height * v->width <= MOST_CELLS && channels * length <= MOST_WEIGHTS;
  return fits ? value : 0;
}

/* Channels, kind and grid of codes of a conv's output; returns a value of the same, or 0. */
static unsigned describe_output(struct maker *m, struct made_value *v, int kind, unsigned channels,
                                unsigned length) {
  const unsigned like = channels ? 0 : like_value(m, v, length);
  v->channels = channels ? channels
                : like   ? m->values[like].channels
                         : output_channels(m, v->height * v->width, length);
  v->is_read = 0, v->kind = SCORES, v->bits = 0, v->zero_point = 0;
  if (kind == CODES) describe_codes(m, v);
  if (kind == CODES && like && pick(m, 2)) v->bits = m->values[like].bits, v->zero_point = 0;
  return like;
}

/* kind: of the output; channels 0: any. A conv of `from`, perhaps with peers and residuals. */
static void conv(struct maker *m, unsigned from, int kind, unsigned channels, int plain) {
  struct made_value v = m->values[from];
  struct made_window w = {{1, 1}, {1, 1}, {0, 0}, {1, 1}};
  if (!plain) w = window(m, &v);
  const unsigned in_height = v.height, in_width = v.width, length = v.channels * w.k[0] * w.k[1];
  v.height = side(v.height, w.k[0], w.s[0], w.p[0], w.d[0]);
  v.width = side(v.width, w.k[1], w.s[1], w.p[1], w.d[1]);
  const unsigned like = describe_output(m, &v, kind, channels, length);
  const unsigned terms = plain ? 1 : ONE_OF(m, 1, 1, 1, 2, 3);
  unsigned residuals[2] = {like}, residual_count = like > 0;
  const unsigned more = pick(m, 4) ? 0 : find(m, CODES, v.height, v.width);
  if (more && m->values[more].channels == v.channels) residuals[residual_count++] = more;
  unsigned peers[3] = {from};
  for (unsigned i = 1; i < terms; i++) {
    peers[i] = find(m, CODES, in_height, in_width);
    if (!peers[i]) peers[i] = from;
  }
  header(m, 2, v);
  made_word(&m->file, (int32_t)terms);
  made_word(&m->file, (int32_t)residual_count);
  const double levels = kind == CODES ? (double)((1u << v.bits) - 1) / sqrt(terms) : 1;
  for (unsigned i = 0; i < terms; i++) term(m, i, peers[i], &w, v.channels, levels);
  for (unsigned i = 0; i < residual_count; i++) {
    source(m, residuals[i]);
    made_float(&m->file, (float)(0.1 + pick(m, 20) / 10.0));
  }
  coefficients(m, ".B", v.channels, levels / 3, levels / 2);
  finish(m);
}

static void pool(struct maker *m, unsigned from) {
  struct made_value v = m->values[from];
  const int average = (int)pick(m, 2), ceil = (int)pick(m, 2);
  struct made_window w = window(m, &v);
  for (unsigned i = 0; i < 2; i++) {
    const unsigned in = i ? v.width : v.height;
    if (average) w.d[i] = 1;
    w.p[i] = w.p[i] > w.k[i] / 2 ? w.k[i] / 2 : w.p[i];
    while (w.k[i] > 1 && in + 2 * w.p[i] < w.d[i] * (w.k[i] - 1) + 1) w.k[i]--, w.p[i] = 0;
    unsigned out = side(in, w.k[i], w.s[i], w.p[i], w.d[i]);
    const unsigned span = in + 2 * w.p[i] - w.d[i] * (w.k[i] - 1) - 1;
    if (ceil) out = (span + w.s[i] - 1) / w.s[i] + 1;
    if (ceil && (out - 1) * w.s[i] >= in + w.p[i]) out--;
    *(i ? &v.width : &v.height) = out;
  }
  v.is_read = 0;
  if (average) describe_codes(m, &v);
  header(m, average ? 5 : 4, v);
  source(m, from);
  put_window(m, &w, !average);
  made_word(&m->file, ceil);
  if (average) {
    made_word(&m->file, (int32_t)pick(m, 2));
    made_float(&m->file, (float)(0.1 + pick(m, 30) / 10.0));
    made_float(&m->file, (float)pick(m, 5));
  }
  finish(m);
}

static void adaptive(struct maker *m, unsigned from) {
  struct made_value v = m->values[from];
  v.height = 1 + pick(m, 9), v.width = 1 + pick(m, 9), v.is_read = 0;
  describe_codes(m, &v);
  header(m, 6, v);
  source(m, from);
  made_word(&m->file, (int32_t)v.height);
  made_word(&m->file, (int32_t)v.width);
  made_float(&m->file, (float)(0.1 + pick(m, 30) / 10.0));
  made_float(&m->file, (float)pick(m, 5));
  finish(m);
}

/* To the grid of value `like`, or where like == UINT32_MAX, to any. */
static void resize(struct maker *m, unsigned from, unsigned like) {
  struct made_value v = m->values[from];
  const int scores = v.kind == SCORES;
  int target = 0, t0 = (int)like, t1 = 0;
  if (like == UINT32_MAX) {
    target = 1 + (int)pick(m, 2);
    t0 = 1 + (int)(target == 1 ? pick(m, 24) : pick(m, 3));
    t1 = 1 + (int)(target == 1 ? pick(m, 24) : pick(m, 3));
    const unsigned height = target == 1 ? (unsigned)t0 : v.height * (unsigned)t0;
    const unsigned width = target == 1 ? (unsigned)t1 : v.width * (unsigned)t1;
    if (height * width * v.channels > MOST_CELLS) target = 2, t0 = t1 = 1;
    v.height = target == 2 ? v.height * (unsigned)t0 : height;
    v.width = target == 2 ? v.width * (unsigned)t1 : width;
  } else {
    v.height = m->values[like].height, v.width = m->values[like].width;
  }
  v.is_read = 0;
  if (!scores) describe_codes(m, &v);
  header(m, 7, v);
  source(m, from);
  made_word(&m->file, (int32_t)pick(m, 3));
  made_word(&m->file, target);
  if (target == 0 && like) m->values[like].is_read = 1;
  made_word(&m->file, t0);
  made_word(&m->file, t1);
  made_float(&m->file, scores ? 1 : (float)(0.1 + pick(m, 30) / 10.0));
  made_float(&m->file, scores ? 0 : (float)pick(m, 5));
  finish(m);
}

static void table(struct maker *m, unsigned from) {
  struct made_value v = m->values[from];
  const unsigned entries = 1u << v.bits;
  v.is_read = 0;
  describe_codes(m, &v);
  header(m, 3, v);
  source(m, from);
  codes_table(m, entries, 0, v.bits);
  finish(m);
}

static void concat(struct maker *m, unsigned from) {
  struct made_value v = m->values[from];
  unsigned peers[4] = {from}, count = 1;
  while (count < 1 + pick(m, 4)) {
    const unsigned peer = find(m, CODES, v.height, v.width);
    const struct made_value *p = &m->values[peer];
    const int fits = p->bits == v.bits && p->zero_point == v.zero_point;
    peers[count] = peer && fits ? peer : from;
    count++;
  }
  v.channels = 0, v.is_read = 0;
  for (unsigned i = 0; i < count; i++) v.channels += m->values[peers[i]].channels;
  if (cells(&v) > MOST_CELLS) v.channels = m->values[from].channels, count = 1;
  header(m, 9, v);
  made_word(&m->file, (int32_t)count);
  for (unsigned i = 0; i < count; i++) source(m, peers[i]);
  finish(m);
}

/* Scores `a` and `b` of one grid: added, or masked. */
static void join(struct maker *m, unsigned a, unsigned b) {
  struct made_value v = m->values[a];
  v.is_read = 0;
  const int masked = pick(m, 3) == 0;
  header(m, masked ? 10 : 8, v);
  source(m, a);
  source(m, b);
  if (masked) made_word(&m->file, (int32_t)pick(m, 6));
  finish(m);
}

static void body(struct maker *m) {
  const unsigned count = pick(m, 12);
  for (unsigned i = 0; i < count; i++) {
    const unsigned from = find(m, CODES, 0, 0);
    switch (pick(m, 12)) {
    case 0:
    case 1:
      pool(m, from);
      break;
    case 2:
      adaptive(m, from);
      break;
    case 3:
      resize(m, from, ONE_OF(m, UINT32_MAX, UINT32_MAX, from, 0));
      break;
    case 4:
      table(m, from);
      break;
    case 5:
      concat(m, from);
      break;
    default:
      conv(m, from, CODES, 0, 0);
    }
  }
}

/* Every value that nothing reads becomes scores; these are resized and joined: 3 ops each, for 12.
 */
static void head(struct maker *m) {
  const unsigned classes = ONE_OF(m, 2, 3, 5, 8, 11, 19, 33, 1), count = m->file.op_count;
  unsigned total = 0;
  for (unsigned value = count; value >= 1; value--) {
    if (m->values[value].is_read) continue;
    conv(m, value, SCORES, classes, pick(m, 3) > 0);
    unsigned scores = m->file.op_count;
    if (total) {
      resize(m, scores, total);
      join(m, m->file.op_count, total);
      scores = m->file.op_count;
    }
    total = scores;
  }
  if (pick(m, 4) == 0) return; /* the scores are the output */
  struct made_value v = m->values[total];
  v.kind = LABELS, v.height = m->values[0].height, v.width = m->values[0].width;
  header(m, 11, v);
  source(m, total);
  made_word(&m->file, (int32_t)pick(m, 3));
  finish(m);
}

/* One word of a record, or one part of a tensor's description. */
static void change(struct maker *m) {
  static const int32_t words[] = {0,  1,   2,    3,    4,     8,     9,         16,        63, 64,
                                  65, 256, 4096, 4097, 32768, 65536, INT32_MAX, INT32_MIN, -1};
  struct made_file *f = &m->file;
  if (pick(m, 4)) {
    const unsigned at = (pick(m, 256) * 256 + pick(m, 256)) % f->word_count;
    const unsigned how = pick(m, 3);
    if (how == 0) f->words[at] = (int32_t)((uint32_t)f->words[at] + 1);
    if (how == 1) f->words[at] = (int32_t)((uint32_t)f->words[at] - 1);
    if (how == 2) f->words[at] = words[pick(m, sizeof words / sizeof *words)];
    return;
  }
  struct made_tensor *t = &f->tensors[pick(m, 256) % f->tensor_count];
  switch (pick(m, 4)) {
  case 0:
    t->dims[pick(m, 3)] = (uint64_t)(uint32_t)words[pick(m, 19)] << pick(m, 33);
    break;
  case 1:
    t->type = ONE_OF(m, MADE_F32, MADE_I8, MADE_I32, MADE_I64, 1, 28);
    break;
  case 2:
    t->rank = pick(m, 4);
    break;
  default:
    t->at = (size_t)(uint32_t)words[pick(m, 19)] * 8;
  }
}

struct made_model make_graph(const uint8_t *data, size_t size) {
  struct maker *m = calloc(1, sizeof *m);
  struct made_model made = {0};
  if (!m) return made;
  m->at = data, m->end = data + size;
  m->noise = 0x9e3779b97f4a7c15;
  for (size_t i = 0; i < size; i++) m->noise = (m->noise ^ data[i]) * 0x100000001b3 | 1;
  made.changed = pick(m, 2);
  m->values[0].height = made.height = 1 + pick(m, 26);
  m->values[0].width = made.width = 1 + pick(m, 40);
  image_codes(m);
  body(m);
  head(m);
  if (made.changed) change(m);
  made.file = made_write(&m->file, &made.size);
  free(m->file.data);
  free(m);
  return made;
}
