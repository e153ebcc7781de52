#include "cores.h"

#include "bfcn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__linux__)
#include <sched.h>
#endif

enum { MAX_PATH = 4096 };

/* Words of a short file, at most two; "max" and what is no number are -1. Returns how many. */
static int read_numbers(const char *folder, const char *name, long long numbers[2]) {
  char path[2 * MAX_PATH], words[2][32];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "r");
  if (!file) return 0;
  const int count = fscanf(file, "%31s %31s", words[0], words[1]);
  fclose(file);
  for (int i = 0; i < count; i++) {
    char *end;
    numbers[i] = strtoll(words[i], &end, 10);
    if (*end) numbers[i] = -1;
  }
  return count > 0 ? count : 0;
}

/* quota / period of one folder: cpu.max of version 2, or the two files of version 1. */
static unsigned cores_of_folder(const char *folder) {
  long long both[2] = {-1, -1};
  if (read_numbers(folder, "cpu.max", both) < 2) {
    long long period[2];
    if (!read_numbers(folder, "cpu.cfs_quota_us", both) ||
        !read_numbers(folder, "cpu.cfs_period_us", period))
      return UINT32_MAX;
    both[1] = period[0];
  }
  if (both[0] <= 0 || both[1] <= 0) return UINT32_MAX;
  const long long cores = both[0] / both[1] + (both[0] % both[1] != 0);
  return cores < UINT32_MAX ? (unsigned)cores : UINT32_MAX;
}

/* The least of a group's folder and all above it, up to `root`, the first characters of the path. A
 * folder that is not there, as in a container that sees its own as the root, is passed over. */
static unsigned cores_up_to(char *folder, size_t root) {
  unsigned least = UINT32_MAX;
  for (;;) {
    const unsigned cores = cores_of_folder(folder);
    if (cores < least) least = cores;
    char *slash = strrchr(folder, '/');
    if (strlen(folder) <= root || !slash || slash < folder + root) return least;
    *slash = 0;
  }
}

/* Whether the comma-separated `list`, which ends at ':', names `word`. */
static int names(const char *list, const char *word) {
  const size_t length = strlen(word);
  for (const char *c = list; *c && *c != ':'; c++)
    if ((c == list || c[-1] == ',') && !strncmp(c, word, length) &&
        (c[length] == ',' || c[length] == ':'))
      return 1;
  return 0;
}

unsigned bfcn_cores_of_group(const char *groups, const char *mount) {
  char line[MAX_PATH], folder[2 * MAX_PATH];
  unsigned least = UINT32_MAX;
  FILE *file = fopen(groups, "r");
  if (!file) return UINT32_MAX;
  while (fgets(line, sizeof line, file)) { /* "hierarchy:controllers:path" */
    line[strcspn(line, "\n")] = 0;
    const char *controllers = strchr(line, ':'), *path = controllers;
    if (path) path = strchr(path + 1, ':');
    if (!path) continue;
    const int unified = path == controllers + 1;
    if (!unified && !names(controllers + 1, "cpu")) continue;
    const int root = snprintf(folder, sizeof folder, unified ? "%s" : "%s/cpu", mount);
    if (root < 0 || root >= MAX_PATH) continue;
    snprintf(folder + root, sizeof folder - (size_t)root, "%s", strcmp(path, ":/") ? path + 1 : "");
    const unsigned cores = cores_up_to(folder, (size_t)root);
    if (cores < least) least = cores;
  }
  fclose(file);
  return least;
}

static unsigned cores_of_machine(void) {
#if defined(__linux__)
  cpu_set_t set; /* of up to 1024 CPUs; more are counted below */
  if (!sched_getaffinity(0, sizeof set, &set)) return (unsigned)CPU_COUNT(&set);
#endif
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 ? (unsigned)online : 1;
}

unsigned bfcn_cores(void) {
  const char *wanted = getenv("BFCN_CORES");
  const long given = wanted ? strtol(wanted, NULL, 10) : 0;
  if (given > 0 && given <= INT32_MAX) return (unsigned)given;
  const unsigned machine = cores_of_machine();
  const unsigned group = bfcn_cores_of_group("/proc/self/cgroup", "/sys/fs/cgroup");
  return group < machine ? group : machine;
}
