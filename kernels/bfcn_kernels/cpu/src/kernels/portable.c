/* Plain C: what every other backend must equal, and what serves a CPU that has none. */
#include "../kernels.h"
#include "rows.h"
#include "target.h"

#include <string.h>

/* 8 outputs x 64 channels a step, one activation plane a pass. */
TILE bits_tile(const struct gemm *g) {
  int64_t total[8] = {0};
  for (unsigned plane = g->planes; plane-- > 0;) {
    const uint64_t *w = (const uint64_t *)((const uint8_t *)g->weights + plane * g->plane_bytes);
    for (int o = 0; o < 8; o++) total[o] *= 2;
    for (size_t row = 0; row < g->rows; row++)
      for (size_t column = 0; column < g->columns; column++) {
        const uint64_t *x = (const uint64_t *)(g->pixels[row * g->row_stride] + g->first_byte +
                                               column * g->column_bytes);
        for (size_t step = 0; step < g->steps; step++, w += 8)
          for (int o = 0; o < 8; o++) total[o] += __builtin_popcountll(x[step] & w[o]);
      }
  }
  int32_t *sums = g->sums;
  for (int o = 0; o < 8; o++)
    sums[o] = (int32_t)((uint32_t)(g->accumulate ? sums[o] : 0) + ((uint32_t)total[o] << g->shift));
}

void bfcn_bits_gemm_a1_1x8__portable(const struct gemm *g) {
  EACH_TILE(g, 1, int32_t, bits_tile(&tile));
}

/* 2 pixels x 16 outputs x 4 channels a step. */
TILE int8_tile(const struct gemm *g) {
  uint32_t total[2][16] = {{0}};
  for (unsigned plane = g->planes; plane-- > 0;) {
    const int8_t *w = (const int8_t *)g->weights + plane * g->plane_bytes;
    for (int o = 0; o < 32; o++) total[o / 16][o % 16] *= 2;
    for (size_t row = 0; row < g->rows; row++)
      for (size_t column = 0; column < g->columns; column++) {
        const uint8_t *const *pixels = g->pixels + row * g->row_stride;
        const size_t at = g->first_byte + column * g->column_bytes;
        const uint8_t *x[2] = {pixels[0] + at, pixels[1] + at};
        for (size_t step = 0; step < g->steps; step++, w += 64)
          for (int p = 0; p < 2; p++)
            for (int o = 0; o < 16; o++) {
              int32_t sum = 0;
              for (int i = 0; i < 4; i++) sum += x[p][step * 4 + i] * w[o * 4 + i];
              total[p][o] += (uint32_t)sum;
            }
      }
  }
  for (int p = 0; p < 2; p++) {
    int32_t *sums = (int32_t *)g->sums + (size_t)p * g->sum_stride;
    for (int o = 0; o < 16; o++)
      sums[o] = (int32_t)((uint32_t)(g->accumulate ? sums[o] : 0) + (total[p][o] << g->shift));
  }
}

void bfcn_int8_gemm_2x16__portable(const struct gemm *g) {
  EACH_TILE(g, 2, int32_t, int8_tile(&tile));
}

/* Planes stay planes; their number is rounded up to whole passes. */
static void expand_bits(const struct expand *e) {
  const unsigned planes = (e->planes + e->pass_planes - 1) / e->pass_planes * e->pass_planes;
  uint64_t *out = e->out;
  for (size_t p = 0; p < e->pixels; p++, out += planes * e->words) {
    memcpy(out, e->codes + p * e->planes * e->words, sizeof *out * e->planes * e->words);
    memset(out + e->planes * e->words, 0, sizeof *out * (planes - e->planes) * e->words);
  }
}

static void expand_int8(const struct expand *e) {
  bfcn_backend_portable.unpack(e->codes, e->planes, e->words, e->pixels, e->channels, e->out);
}

static void unpack(const uint64_t *planes, unsigned bits, unsigned words, size_t pixels,
                   unsigned channels, uint8_t *codes) {
  for (size_t p = 0; p < pixels; p++, planes += bits * words, codes += channels)
    for (unsigned c = 0; c < channels; c++) {
      unsigned code = 0;
      for (unsigned b = 0; b < bits; b++)
        code |= (unsigned)(planes[b * words + c / 64] >> c % 64 & 1) << b;
      codes[c] = (uint8_t)code;
    }
}

static void pack(const uint8_t *codes, unsigned channels, size_t pixels, unsigned bits,
                 unsigned words, uint64_t *planes) {
  for (size_t p = 0; p < pixels; p++, planes += bits * words, codes += channels) {
    memset(planes, 0, sizeof *planes * bits * words);
    for (unsigned c = 0; c < channels; c++)
      for (unsigned b = 0; b < bits; b++)
        planes[b * words + c / 64] |= (uint64_t)(codes[c] >> b & 1) << c % 64;
  }
}

static unsigned residual_code(const struct epilogue_residual *r, size_t pixel, unsigned channel,
                              unsigned channels) {
  if (r->bits > 4) return ((const uint8_t *)r->codes)[pixel * channels + channel];
  const unsigned words = (channels + 63) / 64;
  const uint64_t *planes = (const uint64_t *)r->codes + pixel * r->bits * words;
  unsigned code = 0;
  for (unsigned b = 0; b < r->bits; b++)
    code |= (unsigned)(planes[b * words + channel / 64] >> channel % 64 & 1) << b;
  return code;
}

static float pre_activation(const struct epilogue *e, size_t p, unsigned c) {
  float t = 0;
  for (unsigned i = 0; i < e->terms; i++) {
    const struct epilogue_term *term = &e->term[i];
    const size_t at = p * term->sum_stride + (c - e->first);
    uint32_t sum = term->sum_bits == 16 ? ((const uint16_t *)term->sums)[at]
                                        : (uint32_t)((const int32_t *)term->sums)[at];
    uint32_t acc = (uint32_t)term->k * sum;
    if (term->box_scale) acc += (uint32_t)term->box_scale * (uint32_t)term->box[p];
    if (term->offset) acc += (uint32_t)term->offset[c];
    const float product = (float)(int32_t)acc * term->scale[c];
    t = i ? t + product : product + e->bias[c];
  }
  for (unsigned i = 0; i < e->residuals; i++) {
    const struct epilogue_residual *r = &e->residual[i];
    t = t + r->addend[residual_code(r, p, c, e->all_channels)];
  }
  return t;
}

/* clip(floor(t + 0.5), 0, top) without a rounding mode: truncation of what is not negative. */
static unsigned to_code(float t, unsigned top) {
  const float u = t + 0.5f;
  return u < 1.0f ? 0 : u >= (float)top ? top : (unsigned)u;
}

/* Up to a word of channels from c on, of pixel p, to planes. */
static void store_planes(const struct epilogue *e, size_t p, unsigned c, unsigned count) {
  const unsigned words = (e->all_channels + 63) / 64;
  uint64_t *out = (uint64_t *)e->out + p * e->bits * words + c / 64, planes[4] = {0};
  for (unsigned i = 0; i < count; i++) {
    const unsigned code = to_code(pre_activation(e, p, c + i), (1u << e->bits) - 1);
    for (unsigned b = 0; b < e->bits; b++) planes[b] |= (uint64_t)(code >> b & 1) << i;
  }
  for (unsigned b = 0; b < e->bits; b++) out[b * words] = planes[b];
}

static void epilogue(const struct epilogue *e) {
  const unsigned end = e->first + e->channels;
  for (size_t p = 0; p < e->pixels; p++) {
    if (e->bits && e->bits <= 4) {
      for (unsigned c = e->first; c < end; c += 64)
        store_planes(e, p, c, end - c < 64 ? end - c : 64);
      continue;
    }
    for (unsigned c = e->first; c < end; c++) {
      const float t = pre_activation(e, p, c);
      if (e->bits == 0)
        ((float *)e->out)[p * e->all_channels + c] = t;
      else
        ((uint8_t *)e->out)[p * e->all_channels + c] = (uint8_t)to_code(t, (1u << e->bits) - 1);
    }
  }
}

const struct backend bfcn_backend_portable = {
    .name = "portable",
    .expand = {[FORM_BITS] = expand_bits, [FORM_INT8] = expand_int8},
    .epilogue = epilogue,
    .sum_codes = sum_codes,
    .unpack = unpack,
    .pack = pack,
    .lerp = lerp,
    .lerp_columns = lerp_columns,
    .argmax_row = argmax_row,
};
