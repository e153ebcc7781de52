#include "file.h"

#include "budget.h"
#include "status.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bfcn_status refuse(const char *path, const char *why) {
  return bfcn_fail(BFCN_ERROR_FILE, "cannot read '%s': %s", path, why);
}

/* Bytes read until the end of the file or of the room; -1 if reading fails. */
static ssize_t read_all(int file, char *room, size_t size) {
  size_t got = 0;
  while (got < size) {
    const ssize_t part = read(file, room + got, size - got);
    if (part < 0 && errno == EINTR) continue;
    if (part < 0) return -1;
    if (part == 0) break;
    got += (size_t)part;
  }
  return (ssize_t)got;
}

static bfcn_status read_open(int file, const char *path, void **bytes, size_t *size) {
  struct stat status;
  if (fstat(file, &status)) return refuse(path, strerror(errno));
  if (S_ISDIR(status.st_mode)) return refuse(path, strerror(EISDIR));
  if (!S_ISREG(status.st_mode)) return refuse(path, "this is no regular file");
  if (status.st_size == 0) return refuse(path, "the file is empty");
  if ((uint64_t)status.st_size >= PTRDIFF_MAX / 2)
    return refuse(path, "the file is larger than this machine addresses");
  if ((uint64_t)status.st_size > bfcn_free_bytes() / 2)
    return bfcn_fail(BFCN_ERROR_MEMORY, "the %llu bytes of '%s' are more than half of what is free",
                     (unsigned long long)status.st_size, path);
  *size = (size_t)status.st_size;
  *bytes = malloc(*size + 1); /* one more, to see a file that grows */
  if (!*bytes)
    return bfcn_fail(BFCN_ERROR_MEMORY, "no memory for the %zu bytes of '%s'", *size, path);
  const ssize_t got = read_all(file, *bytes, *size + 1);
  if (got == (ssize_t)*size) return BFCN_OK;
  free(*bytes);
  *bytes = NULL;
  return refuse(path, got < 0 ? strerror(errno) : "its size changed meanwhile");
}

bfcn_status bfcn_file_read(const char *path, void **bytes, size_t *size) {
  const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* no wait for a pipe's writer */
  if (file < 0) return refuse(path, strerror(errno));
  const bfcn_status status = read_open(file, path, bytes, size);
  close(file);
  return status;
}
