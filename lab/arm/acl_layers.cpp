/* acl_layers float32|int8: Arm Compute Library on convolutions read from standard input, one a
 * line:
 *
 *   height width channels outputs kernel stride dilation groups
 *
 * A layer runs between two calls of bfcn_mark(), which a counting emulator knows by its address.
 * Planning and the packing of weights stay outside. The library chooses how it computes a layer, by
 * Winograd's transform too. Maps are NHWC, which is faster here than NCHW. Data is 0: only the time
 * matters. */
#include <arm_compute/runtime/NEON/NEFunctions.h>
#include <arm_compute/runtime/Scheduler.h>

#include <cstdio>
#include <cstring>

using namespace arm_compute;

extern "C" __attribute__((noinline)) void bfcn_mark() {
  __asm__ volatile("" ::: "memory");
}

struct Shape {
  unsigned height, width, channels, outputs, kernel, stride, dilation, groups;
};

static TensorInfo map(unsigned channels, unsigned width, unsigned height, unsigned count,
                      bool real) {
  TensorInfo info(TensorShape(channels, width, height, count), 1,
                  real ? DataType::F32 : DataType::QASYMM8_SIGNED);
  info.set_data_layout(DataLayout::NHWC);
  if (!real) info.set_quantization_info(QuantizationInfo(0.1f, 0));
  return info;
}

static void allocate(Tensor &tensor) {
  tensor.allocator()->allocate();
  memset(tensor.buffer(), 0, tensor.info()->total_size());
}

static bool run(const Shape &l, bool real) {
  const unsigned pad = l.dilation * (l.kernel - 1) / 2;
  const unsigned reach = 2 * pad - l.dilation * (l.kernel - 1) - 1;
  Tensor in, weights, bias, out;
  in.allocator()->init(map(l.channels, l.width, l.height, 1, real));
  weights.allocator()->init(map(l.channels / l.groups, l.kernel, l.kernel, l.outputs, real));
  bias.allocator()->init(
      TensorInfo(TensorShape(l.outputs), 1, real ? DataType::F32 : DataType::S32));
  out.allocator()->init(
      map(l.outputs, (l.width + reach) / l.stride + 1, (l.height + reach) / l.stride + 1, 1, real));
  const PadStrideInfo window(l.stride, l.stride, pad, pad);
  const Size2D dilation(l.dilation, l.dilation);
  const ActivationLayerInfo relu(ActivationLayerInfo::ActivationFunction::RELU);
  const Status status =
      NEConvolutionLayer::validate(in.info(), weights.info(), bias.info(), out.info(), window,
                                   WeightsInfo(), dilation, relu, false, l.groups);
  if (!bool(status)) return fprintf(stderr, "%s\n", status.error_description().c_str()), false;
  NEConvolutionLayer convolution;
  convolution.configure(&in, &weights, &bias, &out, window, WeightsInfo(), dilation, relu, false,
                        l.groups);
  for (Tensor *tensor : {&in, &weights, &bias, &out}) allocate(*tensor);
  convolution.prepare();
  bfcn_mark();
  convolution.run();
  bfcn_mark();
  return true;
}

int main(int count, char **arguments) {
  const bool real = count == 2 && !strcmp(arguments[1], "float32");
  if (count != 2 || (!real && strcmp(arguments[1], "int8")))
    return fprintf(stderr, "usage: acl_layers float32|int8 < layers\n"), 2;
  Scheduler::get().set_num_threads(1);
  Shape l;
  while (scanf("%u %u %u %u %u %u %u %u", &l.height, &l.width, &l.channels, &l.outputs, &l.kernel,
               &l.stride, &l.dilation, &l.groups) == 8)
    if (!run(l, real))
      return fprintf(stderr, "ACL refuses %ux%u %u->%u\n", l.height, l.width, l.channels,
                     l.outputs),
             1;
  return 0;
}
