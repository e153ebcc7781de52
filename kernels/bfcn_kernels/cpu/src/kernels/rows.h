/* Row operations in plain C that compilers vectorize: each backend includes them under its own
 * target. The order of float operations is the contract's (docs/format.md). */
#ifndef BFCN_ROWS_H
#define BFCN_ROWS_H

#include <stddef.h>
#include <stdint.h>

static void lerp(const float *a, const float *b, float l, size_t count, float *out) {
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

static void lerp_columns(const float *row, unsigned channels, const int32_t *x0, const int32_t *x1,
                         const float *l, size_t width, float *out) {
  for (unsigned c = 0; c < channels; c++)
    for (size_t x = 0; x < width; x++) {
      const float a = row[(size_t)x0[x] * channels + c], b = row[(size_t)x1[x] * channels + c];
      const float step = (b - a) * l[x];
      out[c * width + x] = a + step;
    }
}

/* best and labels are kept in memory so that the channel loop stays outside the vector loop. */
static void argmax_row(const float *top, const float *bottom, float l, unsigned channels,
                       size_t width, float *restrict best, uint8_t *restrict labels) {
  enum { SPAN = 64 };
  for (size_t x = 0; x < width; x += SPAN) {
    const size_t count = width - x < SPAN ? width - x : SPAN;
    int32_t index[SPAN] = {0};
    lerp(top + x, bottom + x, l, count, best + x);
    for (unsigned c = 1; c < channels; c++) {
      const float *a = top + c * width + x, *b = bottom + c * width + x;
      for (size_t i = 0; i < count; i++) {
        const float step = (b[i] - a[i]) * l;
        const float v = a[i] + step;
        const int larger = v > best[x + i];
        best[x + i] = larger ? v : best[x + i];
        index[i] = larger ? (int32_t)c : index[i];
      }
    }
    for (size_t i = 0; i < count; i++) labels[x + i] = (uint8_t)index[i];
  }
}

#endif
