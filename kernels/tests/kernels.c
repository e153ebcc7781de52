/* Every kernel of kernels.inc against the plain sum, at odd sizes, by name. */
#include "layer.h"

#include <stdio.h>

static const struct layer shapes[] = {
    /* h, w, channels, outputs, kernel, stride, dilation, groups, m, form, n, zero point, scores,
     * full */
    {1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 0, 0},       {5, 7, 63, 19, 3, 1, 1, 1, 1, 2, 1, 0, 1},
    {6, 8, 64, 64, 3, 1, 1, 1, 1, 2, 1, 0, 0},     {6, 8, 65, 130, 3, 1, 1, 1, 1, 2, 2, 0, 0},
    {9, 12, 128, 192, 3, 1, 1, 1, 1, 2, 2, 0, 0},  {9, 11, 70, 300, 1, 1, 1, 1, 2, 2, 2, 0, 0},
    {9, 16, 96, 256, 3, 1, 1, 1, 2, 1, 2, 0, 1},   {9, 12, 31, 33, 3, 2, 1, 1, 2, 1, 2, 1, 0},
    {13, 9, 64, 65, 3, 1, 4, 1, 1, 2, 3, 5, 0},    {8, 16, 100, 128, 3, 1, 1, 1, 3, 2, 4, 0, 0},
    {7, 40, 3, 64, 7, 2, 1, 1, 8, 1, 8, 128, 0},   {7, 9, 24, 48, 3, 1, 1, 8, 2, 2, 2, 0, 0},
    {7, 9, 40, 40, 3, 1, 1, 40, 8, 2, 2, 1, 0},    {4, 300, 20, 10, 5, 1, 2, 1, 4, 1, 5, 7, 1},
    {4, 4, 1100, 80, 3, 1, 1, 1, 1, 2, 2, 0, 0},   {4, 8, 200, 128, 3, 1, 1, 1, 2, 2, 2, 0, 1, 1},
    {4, 8, 900, 64, 1, 1, 1, 1, 1, 2, 1, 0, 1, 1}, {11, 150, 3, 70, 3, 1, 1, 1, 8, 1, 8, 128, 0},
    {9, 14, 1, 20, 5, 3, 1, 1, 8, 1, 8, 3, 1},     {5, 9, 300, 70, 1, 1, 1, 1, 1, 2, 1, 0, 0},
    {6, 7, 200, 65, 3, 1, 1, 1, 1, 2, 3, 0, 0},    {5, 6, 330, 33, 3, 1, 1, 1, 4, 2, 4, 0, 1, 1},
    {5, 7, 33, 20, 3, 2, 1, 1, 4, 1, 4, 6, 0},     {4, 9, 24, 40, 3, 1, 1, 1, 8, 1, 8, 128, 1, 2},
    {5, 8, 197, 67, 3, 1, 1, 1, 2, 2, 3, 1, 0},    {3, 9, 130, 200, 1, 1, 1, 1, 2, 1, 4, 0, 1, 1},
    {5, 16, 64, 128, 3, 1, 1, 1, 2, 2, 1, 0, 0},   {7, 9, 70, 40, 1, 1, 1, 1, 4, 1, 4, 0, 0},
    {9, 20, 30, 64, 3, 1, 1, 1, 3, 2, 2, 0, 1},    {3, 16, 90, 70, 3, 1, 2, 1, 2, 2, 2, 0, 0},
};

static int test(const struct gemm_kernel *kernel, const struct layer *l, int *served) {
  struct layer_run r;
  int failed = 0;
  if (layer_plan(&r, l, kernel->isa, kernel->name, 2)) {
    ++*served;
    layer_fill(&r, l);
    bfcn_conv_run(&r.session, r.conv);
    const size_t wrong = layer_wrong(&r, l, 1);
    if (wrong) {
      printf("%s: %zu outputs differ at %ux%u, %u->%u, kernel %u, %u-%u bits\n", kernel->name,
             wrong, l->height, l->width, l->channels, l->outputs, l->kernel, l->weight_bits,
             l->activation_bits);
      failed = 1;
    }
  }
  layer_free(&r);
  return failed;
}

int main(void) {
  int failures = 0;
  for (size_t k = 0; k < bfcn_gemm_kernel_count; k++) {
    const struct gemm_kernel *kernel = &bfcn_gemm_kernels[k];
    if (kernel->isa > bfcn_best_isa()) {
      printf("%-34s skipped: this CPU has %s\n", kernel->name, bfcn_isas());
      continue;
    }
    int served = 0;
    if (kernel->mr > TILE_PIXELS) failures++, printf("%s: mr > TILE_PIXELS\n", kernel->name);
    if (kernel->columns && kernel->mr % ROW_TILE_PIXELS)
      failures++, printf("%s: mr is no multiple of ROW_TILE_PIXELS\n", kernel->name);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
      failures += test(kernel, &shapes[i], &served);
    printf("%-34s %d shapes\n", kernel->name, served);
    if (served < 2) failures++, printf("%s: fewer than 2 shapes reach it\n", kernel->name);
  }
  return failures != 0;
}
