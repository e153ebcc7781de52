/* bfcn-bench: median and spread of whole runs, the best time of every layer, memory. */
#include "arguments.h"

#include <time.h>

enum { WARM_UP = 3, MAX_RUNS = 1000000 };

static const char usage[] =
    "bfcn-bench MODEL.gguf [--size H W] [--threads N] [--runs N] [--isa NAME] [--kernel NAME] "
    "[--csv]\n"
    "  --size H W     of the image, 160 256 by default\n"
    "  --threads N    1 to 64, 1 by default; no more run than there are cores\n"
    "  --runs N       50 by default, after 3 to warm up\n"
    "  --isa NAME     the most to use of what the CPU has\n"
    "  --kernel NAME  of kernels.inc, for every layer that it can serve\n"
    "  --csv          a table for programs; whole runs in the last line, after #\n"
    "  --version      print the version";

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

static struct settings parse(int count, char **words) {
  struct arguments a = {"bfcn-bench", usage, words, count, 0};
  struct settings s = {.height = 160, .width = 256, .runs = 50, .options = {.threads = 1}};
  for (const char *word; (word = next_word(&a));) {
    if (!strcmp(word, "--csv")) {
      s.csv = 1;
    } else if (!strcmp(word, "--size")) {
      s.height = number_of(&a, "--size (height)", 1, MAX_SIDE);
      s.width = number_of(&a, "--size (width)", 1, MAX_SIDE);
    } else if (!strcmp(word, "--threads")) {
      s.options.threads = number_of(&a, word, 1, MAX_THREADS);
    } else if (!strcmp(word, "--runs")) {
      s.runs = number_of(&a, word, 1, MAX_RUNS);
    } else if (!strcmp(word, "--isa")) {
      s.options.isa = value_of(&a, word);
    } else if (!strcmp(word, "--kernel")) {
      s.options.kernel = value_of(&a, word);
    } else if (word[0] == '-') {
      wrong_usage(&a, "there is no option '%s'", word);
    } else if (s.model) {
      wrong_usage(&a, "one MODEL.gguf, got also '%s'", word);
    } else {
      s.model = word;
    }
  }
  if (!s.model) wrong_usage(&a, "MODEL.gguf must be given");
  return s;
}

/* seconds[runs] of whole runs, sorted, and the least of every op. */
static int measure(bfcn_session *session, const struct settings *s, double *seconds, double *best) {
  const size_t bytes = 3ul * s->height * s->width, ops = bfcn_session_ops(session);
  uint8_t *rgb = malloc(bytes);
  if (!rgb) return 0;
  for (size_t i = 0; i < bytes; i++) rgb[i] = (uint8_t)(i * 2654435761u >> 24);
  for (unsigned run = 0; run < s->runs + WARM_UP; run++) {
    const double start = now();
    if (bfcn_session_run(session, rgb, 3ul * s->width, NULL) != BFCN_OK) {
      free(rgb);
      return 0;
    }
    if (run >= WARM_UP) seconds[run - WARM_UP] = now() - start;
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
  const unsigned cores = bfcn_cores(), wanted = s->options.threads;
  const unsigned threads = wanted < cores ? wanted : cores;
  printf(
      "%s%u x %u, %u threads, %s: median %.3f ms, %.3f to %.3f of %u runs; %.2f GMAC, %.0f GMAC/s; "
      "activations %.2f MB, weights %.2f MB\n",
      s->csv ? "# " : "", s->height, s->width, threads, bfcn_isas(), median * 1e3, seconds[0] * 1e3,
      seconds[s->runs - 1] * 1e3, s->runs, (double)macs * 1e-9, (double)macs / median * 1e-9,
      (double)bfcn_session_peak_bytes(session) * 1e-6,
      (double)bfcn_session_weight_bytes(session) * 1e-6);
}

static int fail(const char *what) {
  fprintf(stderr, "bfcn-bench: %s\n", what);
  return 1;
}

int main(int count, char **words) {
  const struct settings s = parse(count, words);
  bfcn_model *model;
  bfcn_session *session;
  if (bfcn_model_load(s.model, &model) != BFCN_OK) return fail(bfcn_error());
  if (bfcn_session_create(model, s.height, s.width, &s.options, &session) != BFCN_OK) {
    bfcn_model_free(model);
    return fail(bfcn_error());
  }
  double *seconds = calloc(s.runs, sizeof *seconds);
  double *best = calloc(bfcn_session_ops(session), sizeof *best);
  const int measured = seconds && best && measure(session, &s, seconds, best);
  if (measured) report(session, &s, seconds, best);
  free(seconds);
  free(best);
  bfcn_session_free(session);
  bfcn_model_free(model);
  if (!measured) return fail("out of memory");
  return fflush(stdout) ? fail("cannot write the report") : 0;
}
