// The same in C++.
#include <bfcn.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <vector>

int main(int count, char **arguments) {
  const unsigned height = 37, width = 61;
  std::vector<uint8_t> rgb(3 * height * width), labels(height * width);
  for (unsigned i = 0; i < rgb.size(); i++) rgb[i] = static_cast<uint8_t>(i * 2654435761u >> 13);
  bfcn_model *made = nullptr;
  if (count != 2 || bfcn_model_load(arguments[1], &made) != BFCN_OK)
    return std::puts(bfcn_error()), 1;
  const std::unique_ptr<bfcn_model, void (*)(bfcn_model *)> model(made, bfcn_model_free);
  bfcn_options options{};
  options.threads = 2;
  bfcn_session *session = nullptr;
  if (bfcn_session_create(model.get(), height, width, &options, &session) != BFCN_OK ||
      bfcn_session_run(session, rgb.data(), 3 * width, labels.data()) != BFCN_OK)
    return std::puts(bfcn_error()), 1;
  unsigned sum = 0;
  for (const uint8_t label : labels) sum = sum * 31 + label;
  std::printf("%08x %u\n", sum, *std::max_element(labels.begin(), labels.end()));
  bfcn_session_free(session);
  return 0;
}
