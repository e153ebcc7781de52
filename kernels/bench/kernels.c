/* bench_kernels [CLOCK_GHZ]: every kernel on the layer shapes of a ResNet-50 network, as CSV. A
 * layer is verified before it is timed. With the core's clock the rate is also MAC/cycle and, for
 * int8, LUT and bit-serial kernels of AVX-512, a share of what two 512-bit operations a cycle
 * allow. */
#include "layer.h"

#include <stdio.h>
#include <time.h>

static const struct layer shapes[] = {
    {40, 64, 64, 64, 1, 1, 1, 1, 0, 2, 0, 0, 0},    {40, 64, 64, 64, 3, 1, 1, 1, 0, 2, 0, 0, 0},
    {40, 64, 64, 256, 1, 1, 1, 1, 0, 2, 0, 0, 0},   {40, 64, 256, 64, 1, 1, 1, 1, 0, 2, 0, 0, 0},
    {20, 32, 128, 128, 3, 1, 1, 1, 0, 2, 0, 0, 0},  {20, 32, 128, 512, 1, 1, 1, 1, 0, 2, 0, 0, 0},
    {20, 32, 512, 128, 1, 1, 1, 1, 0, 2, 0, 0, 0},  {10, 16, 256, 256, 3, 1, 1, 1, 0, 2, 0, 0, 0},
    {10, 16, 256, 1024, 1, 1, 1, 1, 0, 2, 0, 0, 0}, {10, 16, 1024, 256, 1, 1, 1, 1, 0, 2, 0, 0, 0},
    {5, 8, 512, 512, 3, 1, 1, 1, 0, 2, 0, 0, 0},    {5, 8, 512, 2048, 1, 1, 1, 1, 0, 2, 0, 0, 0},
    {40, 64, 128, 128, 3, 1, 1, 1, 0, 2, 0, 0, 0},  {40, 64, 256, 256, 3, 1, 1, 1, 0, 2, 0, 0, 0},
    {40, 64, 128, 19, 3, 1, 1, 1, 0, 2, 0, 0, 1},
};
static const unsigned bits[][2] = {{1, 1}, {1, 2}, {2, 2}}; /* weights, activations */

enum { REPETITIONS = 15 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* MAC/cycle that an AVX-512 kernel cannot pass: one lookup, popcount or dot product a cycle. */
static double ceiling(const struct gemm_kernel *k, const struct layer *l) {
  const unsigned passes =
      k->pass_planes ? (l->activation_bits + k->pass_planes - 1) / k->pass_planes : 1;
  if (strcmp(bfcn_backend(k->isa)->name, "avx512")) return 0;
  if (k->form == FORM_INT8) return 64;
  if (k->form == FORM_LUT6) return 64.0 * 6 / (l->weight_bits * passes);
  return 512 / 1.5 / (l->weight_bits * passes * k->pass_planes);
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static int measure(const struct gemm_kernel *kernel, const struct layer *l, double ghz) {
  struct layer_run r;
  int wrong = 0;
  if (layer_plan(&r, l, kernel->isa, kernel->name, 1)) {
    layer_fill(&r, l);
    conv_run(&r.session, r.conv);
    wrong = layer_wrong(&r, l, 97) != 0;
    double seconds[REPETITIONS];
    for (int i = 0; i < REPETITIONS; i++) {
      const double start = now();
      conv_run(&r.session, r.conv);
      seconds[i] = now() - start;
    }
    qsort(seconds, REPETITIONS, sizeof *seconds, by_value);
    const double macs = (double)pixels_of(r.grids[2]) * l->outputs * (double)r.term.length;
    const double rate = macs / seconds[0] * 1e-9, top = ceiling(kernel, l);
    printf("%s,%u,%u,%u,%u,%u,%u,%u,%.3e,%.3e,%.1f", kernel->name, l->height, l->width, l->channels,
           l->outputs, l->kernel, l->weight_bits, l->activation_bits, seconds[0],
           seconds[REPETITIONS / 2], rate);
    if (ghz > 0) printf(",%.1f,%.2f", rate / ghz, top > 0 ? rate / ghz / top : 0);
    puts(wrong ? ",WRONG" : "");
  }
  layer_free(&r);
  return wrong;
}

int main(int count, char **arguments) {
  const double ghz = count > 1 ? atof(arguments[1]) : 0;
  int wrong = 0;
  printf("kernel,height,width,channels,outputs,kernel_side,weight_bits,activation_bits,seconds_min,"
         "seconds_median,gmac_per_s%s\n",
         ghz > 0 ? ",mac_per_cycle,share_of_ceiling" : "");
  for (size_t k = 0; k < bfcn_gemm_kernel_count; k++)
    for (size_t b = 0; b < 3; b++)
      for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct gemm_kernel *kernel = &bfcn_gemm_kernels[k];
        struct layer l = shapes[i];
        l.weight_bits = bits[b][0], l.activation_bits = bits[b][1];
        if (kernel->isa <= bfcn_best_isa() && kernel->isa != ISA_PORTABLE)
          wrong += measure(kernel, &l, ghz);
      }
  return wrong != 0;
}
