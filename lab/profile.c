// SPDX-License-Identifier: GPL-2.0
/*
 * A TCG plugin for QEMU that tells what the machine executes between two
 * markers.  A marker is a nop that nobody else has: nopl NR(%rax,%rax,1), with
 * NR 0x5bec0001 to start and 0x5bec0000 to stop.  dmabuf_bench has one on each
 * side of what it measures.
 *
 * Writes, for each window, a line "window", and then one "address n" for each
 * block of n instructions that was entered, in order.  lab/profile.py makes
 * something to read of it.  A block that faults in the middle counts in full.
 *
 *	qemu-system-x86_64 -plugin profile.so,out=FILE ...
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* What is used of qemu-plugin.h, which not every package of QEMU has. */
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info;
enum { QEMU_PLUGIN_CB_NO_REGS };

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*cb)(uint64_t id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, void (*cb)(unsigned int cpu, void *data),
					  int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, void (*cb)(unsigned int cpu, void *data),
					    int flags, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t i);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *data, size_t len);

__attribute__((visibility("default"))) int qemu_plugin_version = 4;

#define MARKER		0x5bec0000u
#define LIMIT		2000000		/* blocks of a window that are told */

static FILE *out;
static bool on;
static unsigned long left;

static void entered(unsigned int cpu, void *data)
{
	uintptr_t packed = (uintptr_t)data;

	/* Addresses have 48 bits, and a block at most 512 instructions. */
	if (on && left && left--)
		fprintf(out, "%" PRIx64 " %u\n",
			(uint64_t)((int64_t)((uint64_t)packed << 16) >> 16),
			(unsigned int)(packed >> 48));
}

static void marked(unsigned int cpu, void *data)
{
	on = data;
	left = LIMIT;
	if (on)
		fprintf(out, "window\n");
	else
		fflush(out);
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	size_t i, n = qemu_plugin_tb_n_insns(tb);
	uint64_t addr = qemu_plugin_tb_vaddr(tb) & ((1ull << 48) - 1);

	qemu_plugin_register_vcpu_tb_exec_cb(tb, entered, QEMU_PLUGIN_CB_NO_REGS,
					     (void *)(uintptr_t)(addr | (uint64_t)n << 48));
	for (i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint8_t op[8];
		uint32_t nr;

		if (qemu_plugin_insn_data(insn, op, sizeof(op)) != sizeof(op) ||
		    memcmp(op, "\x0f\x1f\x84\x00", 4))
			continue;
		memcpy(&nr, op + 4, sizeof(nr));
		if ((nr & ~1u) == MARKER)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, marked,
							       QEMU_PLUGIN_CB_NO_REGS,
							       (void *)(uintptr_t)(nr & 1));
	}
}

__attribute__((visibility("default")))
int qemu_plugin_install(uint64_t id, const struct qemu_info *info, int argc, char **argv)
{
	int i;

	for (i = 0; i < argc; i++)
		if (!strncmp(argv[i], "out=", 4))
			out = fopen(argv[i] + 4, "w");
	if (!out) {
		fprintf(stderr, "profile: out=FILE\n");
		return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
