/* A TCG plugin for qemu: how often each translated block runs, in each phase of the program.
 *
 *   qemu-arm -plugin ./count_blocks.so,out=FILE,mark=ADDRESS[,mark=ADDRESS] program
 *
 * A phase begins each time an instruction at a marked address runs. FILE gets a line
 * `block INDEX ADDRESS SIZE:BYTES ...` per block, an instruction a word, and a line
 * `phase NUMBER ADDRESS INDEX:COUNT ...` per phase, with the mark that began it (0: the start). */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The part of qemu's plugin interface, version 1, that is used here. */
typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info_t;
enum { QEMU_PLUGIN_CB_NO_REGS = 0, QEMU_PLUGIN_INLINE_ADD_U64 = 0 };
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t,
                                           void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *),
                                            int, void *);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { MAX_MARKS = 8 };

struct block {
  uint64_t count, before; /* executions: all, and until this phase */
  struct block *next;
};

static FILE *out;
static uint64_t marks[MAX_MARKS];
static unsigned mark_count;
static struct block *first, **last = &first;
static size_t blocks, phases;
static uint64_t phase_mark;

static void end_phase(void) {
  fprintf(out, "phase %zu %" PRIx64, phases++, phase_mark);
  size_t index = 0;
  for (struct block *b = first; b; b = b->next, index++) {
    if (b->count > b->before) fprintf(out, " %zu:%" PRIu64, index, b->count - b->before);
    b->before = b->count;
  }
  fputc('\n', out);
}

static void at_mark(unsigned cpu, void *mark) {
  (void)cpu;
  end_phase();
  phase_mark = *(const uint64_t *)mark;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
  (void)id;
  struct block *block = calloc(1, sizeof *block);
  if (!block) abort();
  *last = block;
  last = &block->next;
  const size_t count = qemu_plugin_tb_n_insns(tb);
  fprintf(out, "block %zu %" PRIx64, blocks++,
          qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, 0)));
  for (size_t i = 0; i < count; i++) {
    struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
    const uint8_t *data = qemu_plugin_insn_data(insn);
    fputc(' ', out);
    for (size_t j = 0; j < qemu_plugin_insn_size(insn); j++) fprintf(out, "%02x", data[j]);
    for (unsigned m = 0; m < mark_count; m++)
      if (qemu_plugin_insn_vaddr(insn) == marks[m])
        qemu_plugin_register_vcpu_insn_exec_cb(insn, at_mark, QEMU_PLUGIN_CB_NO_REGS, &marks[m]);
  }
  fputc('\n', out);
  qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &block->count, 1);
}

static void at_exit(qemu_plugin_id_t id, void *unused) {
  (void)id, (void)unused;
  end_phase();
  fclose(out);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id,
                                                               const struct qemu_info_t *info,
                                                               int count, char **arguments) {
  (void)info;
  for (int i = 0; i < count; i++) {
    if (!strncmp(arguments[i], "out=", 4)) out = fopen(arguments[i] + 4, "w");
    if (!strncmp(arguments[i], "mark=", 5) && mark_count < MAX_MARKS)
      marks[mark_count++] = strtoull(arguments[i] + 5, NULL, 16);
  }
  if (!out) return fprintf(stderr, "count_blocks: out=FILE is missing or cannot be written\n"), 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, at_exit, NULL);
  return 0;
}
