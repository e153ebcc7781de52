/* How many cores this process may use. */
#ifndef BFCN_CORES_H
#define BFCN_CORES_H

/* Cores that the control group named in `groups` (as /proc/self/cgroup) and those above it allow,
 * rounded up, by the files under `mount` (as /sys/fs/cgroup); UINT32_MAX without a limit. */
unsigned bfcn_cores_of_group(const char *groups, const char *mount);

#endif
