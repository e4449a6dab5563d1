/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the programs that put device memory into a guest by dma-buf share.
 *
 * The guest is a loop that does one access (or one run of accesses) per
 * KVM_RUN, told what to do by a command in its own memory.  The host therefore
 * knows which access caused an exit, and an access that could not be done is
 * done again by entering once more: guest_cmd() starts a command, guest_run()
 * goes on with it.
 *
 * Device memory is identity mapped in the guest's page tables: addresses in
 * commands are guest physical.
 */
#ifndef SELFTEST_KVM_DMABUF_UTIL_H
#define SELFTEST_KVM_DMABUF_UTIL_H

#include <linux/kvm.h>
#include <linux/types.h>

#include "kvm_util.h"
#include "processor.h"
#include "ucall_common.h"

enum guest_op {
	GUEST_READ,		/* res = *gpa */
	GUEST_WRITE,		/* *gpa = val */
	GUEST_FILL,		/* gpa[i] = val + i, for i < nr */
	GUEST_CHECK,		/* res = first i < nr with gpa[i] != val + i, or nr */
	GUEST_READ_EMULATED,	/* as GUEST_READ, by KVM's instruction emulator */
	GUEST_READ32,		/* res = *(u32 *)gpa */
	GUEST_WRITE32,		/* *(u32 *)gpa = val */
};

struct guest_cmd {
	u64 op;
	u64 gpa;
	u64 val;
	u64 nr;
	u64 res;
};

/* Each VM has its own copy, as of any global. */
static struct guest_cmd guest_command;

static void guest_command_loop(void)
{
	struct guest_cmd *cmd = &guest_command;

	for (;;) {
		u64 op = READ_ONCE(cmd->op), val = READ_ONCE(cmd->val);
		u64 i, nr = READ_ONCE(cmd->nr), res = 0;
		u64 *p = (u64 *)READ_ONCE(cmd->gpa);

		switch (op) {
		case GUEST_READ:
			res = READ_ONCE(*p);
			break;
		case GUEST_WRITE:
			WRITE_ONCE(*p, val);
			break;
		case GUEST_FILL:
			for (i = 0; i < nr; i++)
				WRITE_ONCE(p[i], val + i);
			break;
		case GUEST_CHECK:
			for (i = 0; i < nr && READ_ONCE(p[i]) == val + i; i++)
				;
			res = i;
			break;
		case GUEST_READ_EMULATED:
			asm volatile(KVM_FEP "movq (%1), %0" : "=r"(res) : "r"(p) : "memory");
			break;
		case GUEST_READ32:
			res = READ_ONCE(*(u32 *)p);
			break;
		case GUEST_WRITE32:
			WRITE_ONCE(*(u32 *)p, val);
			break;
		default:
			GUEST_FAIL("Unknown command %lu", op);
		}
		WRITE_ONCE(cmd->res, res);
		GUEST_SYNC(op);
	}
}

/* Why guest_run() came back. */
enum guest_exit {
	GUEST_DONE_CMD,		/* the command is complete */
	GUEST_FAULT,		/* KVM_EXIT_MEMORY_FAULT */
	GUEST_MMIO,		/* KVM_EXIT_MMIO */
	GUEST_FINISHED,		/* the guest's function called GUEST_DONE() */
};

static inline enum guest_exit guest_run(struct kvm_vcpu *vcpu)
{
	struct ucall uc;
	int ret;

	do {
		ret = __vcpu_run(vcpu);
	} while (ret && errno == EINTR);

	if (ret) {
		TEST_ASSERT(errno == EFAULT,
			    "KVM_RUN failed, errno %d (%s)", errno, strerror(errno));
		TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MEMORY_FAULT);
		return GUEST_FAULT;
	}

	if (vcpu->run->exit_reason == KVM_EXIT_MMIO)
		return GUEST_MMIO;

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		return GUEST_DONE_CMD;
	case UCALL_DONE:
		return GUEST_FINISHED;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Unknown ucall %lu", uc.cmd);
	}
}

static inline struct guest_cmd *guest_cmd_hva(struct kvm_vm *vm)
{
	return addr_gva2hva(vm, (gva_t)&guest_command);
}

/* Start a command; the guest must have completed the one before. */
static inline enum guest_exit guest_cmd(struct kvm_vcpu *vcpu, enum guest_op op,
					u64 gpa, u64 val, u64 nr)
{
	*guest_cmd_hva(vcpu->vm) = (struct guest_cmd) {
		.op = op,
		.gpa = gpa,
		.val = val,
		.nr = nr,
	};

	return guest_run(vcpu);
}

static inline u64 guest_res(struct kvm_vcpu *vcpu)
{
	return guest_cmd_hva(vcpu->vm)->res;
}

/* Set a slot from a slice of a dma-buf, or return the negative errno. */
static inline int __vm_set_dmabuf_region(struct kvm_vm *vm, u32 slot, u32 flags,
					 u64 gpa, u64 size, int fd, u64 offset)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = slot,
		.flags = flags | KVM_MEM_DMABUF,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.dmabuf_fd = fd,
		.dmabuf_offset = offset,
	};

	return __vm_ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region) ? -errno : 0;
}

static inline void vm_set_dmabuf_region(struct kvm_vm *vm, u32 slot, u32 flags,
					u64 gpa, u64 size, int fd, u64 offset)
{
	int ret = __vm_set_dmabuf_region(vm, slot, flags, gpa, size, fd, offset);

	TEST_ASSERT(!ret, "dma-buf slot %u: gpa 0x%lx size 0x%lx offset 0x%lx: %s",
		    slot, gpa, size, offset, strerror(-ret));
}

static inline void vm_delete_region(struct kvm_vm *vm, u32 slot)
{
	struct kvm_userspace_memory_region2 region = { .slot = slot };

	vm_ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region);
}

/* Leaves in the stage-2 tables of a VM, guest memory included. */
struct vm_leaves {
	u64 k4;
	u64 m2;
	u64 g1;
};

static inline struct vm_leaves vm_leaves(struct kvm_vm *vm)
{
	return (struct vm_leaves) {
		.k4 = vm_get_stat(vm, pages_4k),
		.m2 = vm_get_stat(vm, pages_2m),
		.g1 = vm_get_stat(vm, pages_1g),
	};
}

/*
 * Fill the stage-2 tables of a range.  Unlike an access by the guest this
 * touches no other memory, so that a difference of vm_leaves() is exact.
 */
static inline int __vcpu_pre_fault(struct kvm_vcpu *vcpu, u64 gpa, u64 size)
{
	struct kvm_pre_fault_memory range = { .gpa = gpa, .size = size };
	int ret;

	do {
		ret = __vcpu_ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range);
	} while ((ret && errno == EINTR) || (!ret && range.size));

	return ret ? -errno : 0;
}

static inline void vcpu_pre_fault(struct kvm_vcpu *vcpu, u64 gpa, u64 size)
{
	int ret = __vcpu_pre_fault(vcpu, gpa, size);

	TEST_ASSERT(!ret, "KVM_PRE_FAULT_MEMORY of 0x%lx: %s", gpa, strerror(-ret));
}

/* Where the host has a BAR, 0 if the device is not there. */
static inline u64 pci_bar_phys(const char *bdf, int bar)
{
	char path[128], line[128];
	u64 start = 0;
	FILE *f;
	int i;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource", bdf);
	f = fopen(path, "r");
	if (!f)
		return 0;
	for (i = 0; i <= bar; i++)
		if (!fgets(line, sizeof(line), f))
			break;
	if (i > bar)
		start = strtoull(line, NULL, 16);
	fclose(f);

	return start;
}

#endif /* SELFTEST_KVM_DMABUF_UTIL_H */
