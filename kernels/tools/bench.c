/* bfcn-bench MODEL.gguf [--size H W] [--threads N] [--runs N] [--isa NAME] [--kernel NAME] [--csv]:
 * median and spread of whole runs, the best time of every layer, memory. */
#include "bfcn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct settings {
  const char *model;
  unsigned height, width, runs;
  int csv;
  bfcn_options options;
};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static int parse(int count, char **arguments, struct settings *s) {
  *s = (struct settings){.height = 160, .width = 256, .runs = 50, .options = {.threads = 1}};
  for (int i = 1; i < count; i++) {
    const char *word = arguments[i], *value = i + 1 < count ? arguments[i + 1] : NULL;
    if (!strcmp(word, "--csv")) {
      s->csv = 1;
    } else if (!strcmp(word, "--size") && i + 2 < count) {
      s->height = (unsigned)strtoul(arguments[++i], NULL, 10);
      s->width = (unsigned)strtoul(arguments[++i], NULL, 10);
    } else if (!strcmp(word, "--threads") && value) {
      s->options.threads = (unsigned)strtoul(arguments[++i], NULL, 10);
    } else if (!strcmp(word, "--runs") && value) {
      s->runs = (unsigned)strtoul(arguments[++i], NULL, 10);
    } else if (!strcmp(word, "--isa") && value) {
      s->options.isa = arguments[++i];
    } else if (!strcmp(word, "--kernel") && value) {
      s->options.kernel = arguments[++i];
    } else if (!s->model && word[0] != '-') {
      s->model = word;
    } else {
      return 0;
    }
  }
  return s->model && s->runs > 0;
}

/* seconds[runs] of whole runs, sorted, and the least of every op. */
static int measure(bfcn_session *session, const struct settings *s, double *seconds, double *best) {
  const size_t bytes = 3ul * s->height * s->width, ops = bfcn_session_ops(session);
  uint8_t *rgb = malloc(bytes);
  if (!rgb) return 0;
  for (size_t i = 0; i < bytes; i++) rgb[i] = (uint8_t)(i * 2654435761u >> 24);
  for (unsigned run = 0; run < s->runs + 3; run++) { /* three to warm up */
    const double start = now();
    bfcn_session_run(session, rgb, 3ul * s->width, NULL);
    if (run >= 3) seconds[run - 3] = now() - start;
    for (size_t i = 0; i < ops; i++) {
      bfcn_op_info info;
      bfcn_session_op(session, i, &info);
      if (run == 0 || info.seconds < best[i]) best[i] = info.seconds;
    }
  }
  free(rgb);
  qsort(seconds, s->runs, sizeof *seconds, by_value);
  return 1;
}

static void report(const bfcn_session *session, const struct settings *s, const double *seconds,
                   const double *best) {
  uint64_t macs = 0;
  puts(s->csv ? "op,kind,kernel,height,width,channels,bits,macs,seconds"
              : "op                       kind          kernel                          "
                "  h x    w x    c      us  GMAC/s");
  for (size_t i = 0; i < bfcn_session_ops(session); i++) {
    bfcn_op_info o;
    bfcn_session_op(session, i, &o);
    macs += o.macs;
    if (s->csv)
      printf("%s,%s,%s,%u,%u,%u,%u,%llu,%.9f\n", o.name, o.op, o.kernel, o.height, o.width,
             o.channels, o.bits, (unsigned long long)o.macs, best[i]);
    else
      printf("%-24s %-13s %-30s %5u %6u %6u %8.1f %7.1f\n", o.name, o.op, o.kernel, o.height,
             o.width, o.channels, best[i] * 1e6, o.macs ? (double)o.macs / best[i] * 1e-9 : 0.0);
  }
  const double median = seconds[s->runs / 2];
  printf(
      "%s%u x %u, %u threads, %s: median %.3f ms, %.3f to %.3f of %u runs; %.2f GMAC, %.0f GMAC/s; "
      "activations %.2f MB, weights %.2f MB\n",
      s->csv ? "# " : "", s->height, s->width, s->options.threads, bfcn_isas(), median * 1e3,
      seconds[0] * 1e3, seconds[s->runs - 1] * 1e3, s->runs, (double)macs * 1e-9,
      (double)macs / median * 1e-9, (double)bfcn_session_peak_bytes(session) * 1e-6,
      (double)bfcn_session_weight_bytes(session) * 1e-6);
}

int main(int count, char **arguments) {
  struct settings s;
  if (!parse(count, arguments, &s)) {
    fprintf(stderr,
            "usage: bfcn-bench MODEL.gguf [--size H W] [--threads N] [--runs N] [--isa NAME] "
            "[--kernel NAME] [--csv]\n");
    return 2;
  }
  bfcn_model *model;
  bfcn_session *session;
  if (bfcn_model_load(s.model, &model) != BFCN_OK ||
      bfcn_session_create(model, s.height, s.width, &s.options, &session) != BFCN_OK) {
    fprintf(stderr, "bfcn-bench: %s\n", bfcn_error());
    return 1;
  }
  double *seconds = calloc(s.runs, sizeof *seconds);
  double *best = calloc(bfcn_session_ops(session), sizeof *best);
  if (seconds && best && measure(session, &s, seconds, best)) report(session, &s, seconds, best);
  free(seconds);
  free(best);
  bfcn_session_free(session);
  bfcn_model_free(model);
  return 0;
}
