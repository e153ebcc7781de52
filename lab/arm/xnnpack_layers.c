/* xnnpack_layers float32|int8: XNNPACK on convolutions read from standard input, one a line:
 *
 *   height width channels outputs kernel stride dilation groups
 *
 * A layer runs between two calls of bfcn_mark(), which a counting emulator knows by its address.
 * Planning and the packing of weights stay outside. Data is random: only the time matters. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xnnpack.h>

__attribute__((noinline)) void bfcn_mark(void) {
  __asm__ volatile("" ::: "memory");
}

struct layer {
  unsigned height, width, channels, outputs, kernel, stride, dilation, groups;
};

static void *filled(size_t count, size_t size, int real) {
  char *data = calloc(count * size + XNN_EXTRA_BYTES, 1);
  for (size_t i = 0; data && i < count; i++)
    if (real)
      ((float *)data)[i] = (float)(i % 17) * 0.125f - 1;
    else
      data[i * size] = (char)(i % 13);
  return data;
}

static xnn_operator_t make(const struct layer *l, int real) {
  const unsigned pad = l->dilation * (l->kernel - 1) / 2;
  const size_t in = l->channels / l->groups, out = l->outputs / l->groups;
  const size_t weights = (size_t)l->outputs * l->kernel * l->kernel * in;
  void *kernel = filled(weights, real ? sizeof(float) : 1, real);
  void *bias = calloc(l->outputs, 4);
  float *scale = malloc(l->outputs * sizeof *scale);
  for (unsigned i = 0; i < l->outputs; i++) scale[i] = 0.001f;
  xnn_operator_t op = NULL;
  const enum xnn_status status =
      real ? xnn_create_convolution2d_nhwc_f32(pad, pad, pad, pad, l->kernel, l->kernel, l->stride,
                                               l->stride, l->dilation, l->dilation, l->groups, in,
                                               out, l->channels, l->outputs, kernel, bias, 0.0f,
                                               1e30f, 0, &op)
           : xnn_create_convolution2d_nhwc_qc8(pad, pad, pad, pad, l->kernel, l->kernel, l->stride,
                                               l->stride, l->dilation, l->dilation, l->groups, in,
                                               out, l->channels, l->outputs, 0, 0.1f, scale, kernel,
                                               bias, 0, 0.1f, -128, 127, 0, &op);
  free(kernel);
  free(bias);
  free(scale);
  return status == xnn_status_success ? op : NULL;
}

static int run(const struct layer *l, int real) {
  const unsigned pad = l->dilation * (l->kernel - 1) / 2;
  const unsigned reach = 2 * pad - l->dilation * (l->kernel - 1) - 1;
  const size_t size = real ? sizeof(float) : 1;
  const size_t out_pixels =
      (size_t)((l->height + reach) / l->stride + 1) * ((l->width + reach) / l->stride + 1);
  void *in = filled((size_t)l->height * l->width * l->channels, size, real);
  void *out = filled(out_pixels * l->outputs, size, real);
  xnn_operator_t op = make(l, real);
  if (!in || !out || !op) return 0;
  const enum xnn_status status =
      real ? xnn_setup_convolution2d_nhwc_f32(op, 1, l->height, l->width, in, out, NULL)
           : xnn_setup_convolution2d_nhwc_qc8(op, 1, l->height, l->width, in, out, NULL);
  if (status != xnn_status_success) return 0;
  bfcn_mark();
  const int fine = xnn_run_operator(op, NULL) == xnn_status_success;
  bfcn_mark();
  xnn_delete_operator(op);
  free(in);
  free(out);
  return fine;
}

int main(int count, char **arguments) {
  const int real = count == 2 && !strcmp(arguments[1], "float32");
  if (count != 2 || (!real && strcmp(arguments[1], "int8")))
    return fprintf(stderr, "usage: xnnpack_layers float32|int8 < layers\n"), 2;
  if (xnn_initialize(NULL) != xnn_status_success)
    return fprintf(stderr, "XNNPACK does not know this CPU\n"), 1;
  struct layer l;
  while (scanf("%u %u %u %u %u %u %u %u", &l.height, &l.width, &l.channels, &l.outputs, &l.kernel,
               &l.stride, &l.dilation, &l.groups) == 8)
    if (!run(&l, real))
      return fprintf(stderr, "XNNPACK refuses %ux%u %u->%u\n", l.height, l.width, l.channels,
                     l.outputs),
             1;
  return 0;
}
