#include "budget.h"

#include "status.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What a step of anything but a product counts: products are many a cycle. */
enum { DEFAULT_LOG2_OPS = 44, STEP = 64 };

static unsigned least(unsigned a, unsigned b) {
  return a < b ? a : b;
}

/* Operations of op i: below 2^83, so that products stop at UINT64_MAX. */
static uint64_t operations(const struct bfcn_model *model, const struct grid *grids, unsigned i) {
  const struct op *op = &model->ops[i];
  const struct grid in = grids[op->source[0]], out = grids[i + 1];
  const uint64_t channels = op->out.channels;
  const uint64_t values = channels * out.height * out.width; /* below 2^47 */
  uint64_t each = STEP;
  switch (op->code) {
  case OP_BIT_CONV:
    each = STEP * (op->residual_count + 1ull);
    for (unsigned t = 0; t < op->term_count; t++) each += op->terms[t].length;
    break;
  case OP_MAX_POOL:
  case OP_AVG_POOL:
    each = (uint64_t)STEP * least(op->window.kh, in.height) * least(op->window.kw, in.width);
    break;
  case OP_ADAPTIVE_AVG_POOL: /* neighbouring bins share a row or none */
    return STEP * channels * (in.height + out.height) * (in.width + out.width);
  default:
    break;
  }
  return bfcn_times(values, each);
}

bfcn_status bfcn_limit_work(const struct bfcn_model *model, const struct grid *grids,
                            uint64_t max_ops) {
  const uint64_t limit = max_ops ? max_ops : 1ull << DEFAULT_LOG2_OPS;
  uint64_t total = 0;
  for (unsigned i = 0; i < model->op_count; i++) {
    total = bfcn_add(total, operations(model, grids, i));
    if (total > limit)
      return bfcn_fail(BFCN_ERROR_WORK,
                       "op '%s': an image of %u x %u takes at least %" PRIu64
                       " operations, max_ops is %" PRIu64
                       ": take a smaller image, or a larger max_ops for a file you trust",
                       model->ops[i].name, grids[0].height, grids[0].width, total, limit);
  }
  return BFCN_OK;
}

/* The number after `key` in a file of the system, at the beginning of a line; UINT64_MAX if there
 * is none. An empty key: the file's first number. */
static uint64_t number_in(const char *path, const char *key) {
  FILE *file = fopen(path, "r");
  char line[256];
  uint64_t number = UINT64_MAX;
  if (!file) return number;
  const size_t length = strlen(key);
  while (number == UINT64_MAX && fgets(line, sizeof line, file))
    if (!strncmp(line, key, length) && sscanf(line + length, "%" SCNu64, &number) != 1)
      number = UINT64_MAX;
  fclose(file);
  return number;
}

/* What a control group leaves; files in memory are given back when it needs them. */
static uint64_t group_bytes(const char *limit, const char *usage, const char *statistics) {
  const uint64_t most = number_in(limit, ""), used = number_in(usage, "");
  if (most == UINT64_MAX || used == UINT64_MAX) return UINT64_MAX; /* "max", or no group */
  const uint64_t inactive = number_in(statistics, "inactive_file ");
  const uint64_t active = number_in(statistics, "active_file ");
  uint64_t left = most > used ? most - used : 0;
  if (inactive != UINT64_MAX) left = bfcn_add(left, inactive);
  return active == UINT64_MAX ? left : bfcn_add(left, active);
}

uint64_t bfcn_free_bytes(void) {
#define GROUP "/sys/fs/cgroup/"
  const uint64_t groups[] = {
      group_bytes(GROUP "memory.max", GROUP "memory.current", GROUP "memory.stat"),
      group_bytes(GROUP "memory/memory.limit_in_bytes", GROUP "memory/memory.usage_in_bytes",
                  GROUP "memory/memory.stat")};
#undef GROUP
  uint64_t bytes = number_in("/proc/meminfo", "MemAvailable:");
  if (bytes != UINT64_MAX)
    bytes = bfcn_times(bytes, 1024);
  else /* not Linux */
    bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
  for (size_t i = 0; i < 2; i++)
    if (groups[i] < bytes) bytes = groups[i];
  return bytes;
}
