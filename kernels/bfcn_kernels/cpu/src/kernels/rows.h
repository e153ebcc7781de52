/* Row operations in plain C that compilers vectorize: each backend includes them under its own
 * target. The order of float operations is the contract's (docs/format.md). */
#ifndef BFCN_ROWS_H
#define BFCN_ROWS_H

#include <stddef.h>
#include <stdint.h>

static inline void lerp(const float *a, const float *b, float l, size_t count, float *out) {
  for (size_t i = 0; i < count; i++) {
    const float step = (b[i] - a[i]) * l;
    out[i] = a[i] + step;
  }
}

static inline void sum_codes(const uint64_t *planes, unsigned bits, unsigned words, size_t pixels,
                             int32_t *sums) {
  for (size_t p = 0; p < pixels; p++) {
    int32_t sum = 0;
    for (unsigned b = 0; b < bits; b++)
      for (unsigned i = 0; i < words; i++) sum += __builtin_popcountll(*planes++) << b;
    sums[p] = sum;
  }
}

static inline void lerp_columns(const float *row, size_t stride, unsigned channels,
                                const int32_t *x0, const int32_t *x1, const float *l, size_t width,
                                float *out) {
  for (; channels > 0; channels--, row += stride, out += width)
    for (size_t x = 0; x < width; x++) {
      const float a = row[x0[x]], b = row[x1[x]];
      const float step = (b - a) * l[x];
      out[x] = a + step;
    }
}

/* Spans of pixels are kept in memory so that the channel loop stays outside the vector loop. */
static inline void argmax_row(const float *top, const float *bottom, float l, unsigned channels,
                              size_t width, uint8_t *labels) {
  enum { SPAN = 64 };
  for (size_t x = 0; x < width; x += SPAN) {
    const size_t count = width - x < SPAN ? width - x : SPAN;
    int32_t index[SPAN] = {0};
    float best[SPAN];
    lerp(top + x, bottom + x, l, count, best);
    for (unsigned c = 1; c < channels; c++) {
      const float *a = top + c * width + x, *b = bottom + c * width + x;
      for (size_t i = 0; i < count; i++) {
        const float step = (b[i] - a[i]) * l;
        const float v = a[i] + step;
        const int larger = v > best[i];
        best[i] = larger ? v : best[i];
        index[i] = larger ? (int32_t)c : index[i];
      }
    }
    for (size_t i = 0; i < count; i++) labels[x + i] = (uint8_t)index[i];
  }
}

#endif
