/* Limits of control groups, as Linux writes them, in a folder of the test's own. */
#include "cores.h"

#include "bfcn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char root[] = "/tmp/bfcn-cores-XXXXXX";
static int failures;

static void put(const char *name, const char *text) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", root, name);
  for (char *c = path + strlen(root) + 1; *c; c++)
    if (*c == '/') {
      *c = 0;
      mkdir(path, 0700);
      *c = '/';
    }
  FILE *file = fopen(path, "w");
  if (!file) exit(2);
  fputs(text, file);
  fclose(file);
}

static void expect(unsigned expected, const char *groups, const char *what) {
  put("groups", groups);
  char path[256];
  snprintf(path, sizeof path, "%s/groups", root);
  const unsigned got = bfcn_cores_of_group(path, root);
  if (got != expected) {
    fprintf(stderr, "%s: %u cores, expected %u\n", what, got, expected);
    failures++;
  }
}

int main(void) {
  if (!mkdtemp(root)) return 2;
  expect(UINT32_MAX, "", "no group");
  expect(UINT32_MAX, "0::/\n", "no file");
  put("cpu.max", "max 100000\n");
  expect(UINT32_MAX, "0::/\n", "no limit");
  put("a/b/cpu.max", "150000 100000\n");
  expect(2, "0::/a/b\n", "one and a half cores");
  put("a/cpu.max", "50000 100000\n");
  expect(1, "0::/a/b\n", "half a core, of the group above");
  expect(1, "0::/a/b/not/there\n", "a group outside of the container");
  put("cpu.max", "nonsense");
  put("a/cpu.max", "0 0\n");
  expect(2, "0::/a/b\n", "files that say nothing");
  put("cpu/pod/cpu.cfs_quota_us", "300000\n");
  put("cpu/pod/cpu.cfs_period_us", "100000\n");
  put("cpu/cpu.cfs_quota_us", "-1\n");
  put("cpu/cpu.cfs_period_us", "100000\n");
  expect(3, "5:memory:/m\n4:cpu,cpuacct:/pod\n0::/\n", "version 1");
  expect(UINT32_MAX, "4:cpuacct,cpuset:/pod\n", "controllers with names like cpu");

  unsetenv("BFCN_CORES");
  const unsigned cores = bfcn_cores();
  if (cores < 1 || cores > 65536) failures++;
  setenv("BFCN_CORES", "7", 1);
  if (bfcn_cores() != 7) failures++;
  setenv("BFCN_CORES", "none", 1);
  if (bfcn_cores() != cores) failures++;
  char command[64];
  snprintf(command, sizeof command, "rm -r %s", root);
  if (system(command)) failures++;
  return failures != 0;
}
