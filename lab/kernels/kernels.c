/* bench_kernels [TEXT]: every kernel of kernels.inc whose name has TEXT, on the layer shapes of the
 * ResNet-50 network at 160 x 256, as CSV. A layer is verified before it is timed. The ceiling is
 * what the kernel's inner instructions allow on this core (ceiling.h); `chosen` marks the kernel
 * that the planner takes for the layer when nothing beyond the kernel's instruction set is allowed.
 */
#include "ceiling.h"
#include "layer.h"

#include <stdio.h>

/* height, width, channels, outputs, kernel, stride of a layer; how many of them the network has */
static const unsigned shapes[][7] = {
    {160, 256, 3, 64, 7, 2, 1},   {40, 64, 64, 64, 1, 1, 1},    {40, 64, 64, 64, 3, 1, 3},
    {40, 64, 64, 256, 1, 1, 4},   {40, 64, 256, 64, 1, 1, 2},   {40, 64, 256, 128, 1, 1, 2},
    {40, 64, 128, 128, 3, 2, 1},  {20, 32, 128, 512, 1, 1, 4},  {40, 64, 256, 512, 1, 2, 1},
    {20, 32, 512, 128, 1, 1, 3},  {20, 32, 128, 128, 3, 1, 3},  {20, 32, 512, 256, 1, 1, 1},
    {20, 32, 256, 256, 3, 2, 1},  {10, 16, 256, 1024, 1, 1, 6}, {20, 32, 512, 1024, 1, 2, 1},
    {10, 16, 1024, 256, 1, 1, 6}, {10, 16, 256, 256, 3, 1, 9},  {10, 16, 1024, 512, 1, 1, 1},
    {10, 16, 512, 512, 3, 2, 1},  {5, 8, 512, 2048, 1, 1, 3},   {10, 16, 1024, 2048, 1, 2, 1},
    {5, 8, 2048, 512, 1, 1, 2},   {5, 8, 512, 512, 3, 1, 2},    {5, 8, 2048, 384, 1, 1, 1},
    {5, 8, 384, 384, 3, 1, 4},    {20, 32, 512, 192, 1, 1, 1},  {20, 32, 192, 192, 3, 1, 4},
    {40, 64, 128, 128, 3, 1, 4},  {5, 8, 384, 19, 3, 1, 1},     {10, 16, 256, 19, 3, 1, 1},
    {20, 32, 192, 19, 3, 1, 1},   {40, 64, 128, 19, 3, 1, 1},   {40, 64, 256, 256, 3, 1, 0},
};
static const unsigned bits[][2] = {{1, 1}, {1, 2}, {2, 2}, {4, 4}}; /* weights, activations */

enum { REPETITIONS = 15, CLASSES = 19, SHAPES = sizeof shapes / sizeof *shapes };

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static struct layer layer_of(const unsigned *shape, const unsigned *wa) {
  struct layer l = {.height = shape[0], .width = shape[1], .channels = shape[2]};
  l.outputs = shape[3], l.kernel = shape[4], l.stride = shape[5], l.dilation = 1, l.groups = 1;
  l.weight_bits = wa[0], l.activation_bits = wa[1], l.form = wa[0] < 4 ? 2 : 1;
  l.scores = l.outputs == CLASSES;
  if (l.channels == 3) l.weight_bits = l.activation_bits = 8, l.form = 1, l.zero_point = 128;
  return l;
}

static int chosen(const struct layer *l, enum isa isa, const char *name) {
  struct layer_run r;
  const int is = layer_plan(&r, l, isa, NULL, 1) && !strcmp(bfcn_conv_kernel(r.conv), name);
  layer_free(&r);
  return is;
}

/* Of the whole layer: MAC/cycle that the inner loop alone would reach. */
static double layer_ceiling(const struct gemm_kernel *k, const struct layer *l, double ghz) {
  const double plane = ceiling(k, ghz);
  if (!k->pass_planes) return plane;
  const unsigned passes = (l->activation_bits + k->pass_planes - 1) / k->pass_planes;
  const unsigned planes = k->form == FORM_LUT3 ? 1 : l->weight_bits;
  return plane / (planes * passes * (k->form == FORM_BITS ? k->pass_planes : 1));
}

static void print(const struct gemm_kernel *k, const struct layer *l, unsigned count, double macs,
                  const double *seconds, double ghz) {
  const double rate = macs / seconds[0] * 1e-9, top = layer_ceiling(k, l, ghz);
  printf("%s,%u,%u,%u,%u,%u,%u,%u,%u,%u,%.0f,%.3e,%.3e,%.1f", k->name, l->height, l->width,
         l->channels, l->outputs, l->kernel, l->stride, count, l->weight_bits, l->activation_bits,
         macs, seconds[0], seconds[REPETITIONS / 2], rate);
  if (ghz > 0)
    printf(",%.3f,%.1f", ghz, rate / ghz);
  else
    printf(",,");
  if (top > 0)
    printf(",%.1f,%.3f", top, rate / ghz / top);
  else
    printf(",,");
  printf(",%d\n", chosen(l, k->isa, k->name));
  fflush(stdout);
}

/* 1 if the kernel computed a wrong number, which is told on stderr and not timed. */
static int measure(const struct gemm_kernel *k, const struct layer *l, unsigned count, double ghz) {
  struct layer_run r;
  int wrong = 0;
  if (layer_plan(&r, l, k->isa, k->name, 1)) {
    layer_fill(&r, l);
    bfcn_conv_run(&r.session, r.conv);
    wrong = layer_wrong(&r, l, 97) != 0;
    double seconds[REPETITIONS];
    for (int i = 0; i < REPETITIONS && !wrong; i++) {
      const double start = now();
      bfcn_conv_run(&r.session, r.conv);
      seconds[i] = now() - start;
    }
    if (wrong) {
      fprintf(stderr, "%s is wrong on %u x %u, %u to %u channels\n", k->name, l->height, l->width,
              l->channels, l->outputs);
    } else {
      qsort(seconds, REPETITIONS, sizeof *seconds, by_value);
      const double macs = (double)pixels_of(r.grids[2]) * l->outputs * (double)r.term.length;
      print(k, l, count, macs, seconds, ghz);
    }
  }
  layer_free(&r);
  return wrong;
}

static int measure_kernel(const struct gemm_kernel *kernel) {
  const double ghz = clock_ghz();
  int wrong = 0;
  for (size_t b = 0; b < sizeof bits / sizeof *bits; b++)
    for (size_t i = 0; i < SHAPES; i++) {
      const struct layer l = layer_of(shapes[i], bits[b]);
      if (l.channels == 3 && b > 0) continue; /* the first layer's bits are always 8 */
      wrong += measure(kernel, &l, shapes[i][6], ghz);
    }
  return wrong;
}

int main(int count, char **arguments) {
  const char *text = count > 1 ? arguments[1] : "";
  int wrong = 0;
  puts("kernel,height,width,channels,outputs,kernel_side,stride,count,weight_bits,activation_bits,"
       "macs,seconds_min,seconds_median,gmac_per_s,ghz,mac_per_cycle,ceiling,share,chosen");
  for (size_t k = 0; k < bfcn_gemm_kernel_count; k++) {
    const struct gemm_kernel *kernel = &bfcn_gemm_kernels[k];
    if (kernel->isa <= bfcn_best_isa() && kernel->isa != ISA_PORTABLE && strstr(kernel->name, text))
      wrong += measure_kernel(kernel);
  }
  return wrong != 0;
}
