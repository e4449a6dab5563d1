/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Accesses by guests to dma-buf memslots, and what is expected of them.
 *
 * On top of the guest of dmabuf_util.h: each function is one access, and fails
 * the test if it does not end as the function's name says.  Where the memory
 * comes from makes no difference here.
 */
#ifndef SELFTEST_KVM_DMABUF_GUEST_H
#define SELFTEST_KVM_DMABUF_GUEST_H

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "dmabuf_util.h"
#include "test_util.h"

/* What the first word of a page is in memory that was tagged. */
#define TAG_PAGES	(SZ_16M / PAGE_SIZE)
#define TAG(page)	(0xbaf0000000000000ul | (page))
#define PATTERN		0x5157000000000000ul
#define MMIO_SENTINEL	0x6d6d696f6d6d696ful

/* Pages for page tables of what is mapped into a guest. */
#define EXTRA_PAGES	(SZ_64M / SZ_4K)

#define SLOT_A		10
#define SLOT_B		11

static inline struct kvm_vm *create_vm(struct kvm_vcpu **vcpu)
{
	return __vm_create_with_one_vcpu(vcpu, EXTRA_PAGES, guest_command_loop);
}

/* A slot over a slice, and the guest's mapping of it. */
static inline void add_slot(struct kvm_vm *vm, u32 slot, u32 flags, u64 gpa, u64 size,
			    int fd, u64 offset)
{
	vm_set_dmabuf_region(vm, slot, flags, gpa, size, fd, offset);
	virt_map(vm, gpa, gpa, size / PAGE_SIZE);
}

static inline u64 guest_read(struct kvm_vcpu *vcpu, u64 gpa)
{
	enum guest_exit exit = guest_cmd(vcpu, GUEST_READ, gpa, 0, 0);

	TEST_ASSERT(exit == GUEST_DONE_CMD,
		    "read of 0x%lx: wanted no exit, got %s", gpa,
		    exit_reason_str(vcpu->run->exit_reason));
	return guest_res(vcpu);
}

static inline void guest_write(struct kvm_vcpu *vcpu, u64 gpa, u64 val)
{
	enum guest_exit exit = guest_cmd(vcpu, GUEST_WRITE, gpa, val, 0);

	TEST_ASSERT(exit == GUEST_DONE_CMD,
		    "write of 0x%lx: wanted no exit, got %s", gpa,
		    exit_reason_str(vcpu->run->exit_reason));
}

/*
 * An access that ends in the revoked exit, every time it is tried, because of
 * @fault_gpa.  The guest stays at the access.
 */
static inline void guest_revoked_at(struct kvm_vcpu *vcpu, enum guest_op op, u64 gpa,
				    u64 val, u64 fault_gpa)
{
	enum guest_exit exit = guest_cmd(vcpu, op, gpa, val, 0);
	int i;

	for (i = 0; ; i++) {
		TEST_ASSERT(exit == GUEST_FAULT,
			    "access to revoked 0x%lx, try %d: exit was %s", gpa, i,
			    exit_reason_str(vcpu->run->exit_reason));
		assert_revoked_exit(vcpu, fault_gpa);
		if (i == 3)
			break;
		exit = guest_run(vcpu);
	}
}

static inline void guest_revoked(struct kvm_vcpu *vcpu, enum guest_op op, u64 gpa, u64 val)
{
	guest_revoked_at(vcpu, op, gpa, val, gpa);
}

/* Let the access go on at which guest_revoked() left the guest. */
static inline u64 guest_resume(struct kvm_vcpu *vcpu)
{
	enum guest_exit exit = guest_run(vcpu);

	TEST_ASSERT(exit == GUEST_DONE_CMD, "wanted the access to complete, got %s",
		    exit_reason_str(vcpu->run->exit_reason));
	return guest_res(vcpu);
}

/* Complete a guest's read that exited as MMIO. */
static inline void complete_mmio_read(struct kvm_vcpu *vcpu, u64 gpa)
{
	struct kvm_run *run = vcpu->run;
	u64 val = MMIO_SENTINEL;

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MMIO);
	TEST_ASSERT(!run->mmio.is_write, "wanted a read, got a write");
	TEST_ASSERT_EQ(run->mmio.phys_addr, gpa);
	TEST_ASSERT_EQ(run->mmio.len, sizeof(val));
	memcpy(run->mmio.data, &val, sizeof(val));
}

/* The guest's read is MMIO: there is no slot at gpa, or one that asks for it. */
static inline void guest_no_slot(struct kvm_vcpu *vcpu, u64 gpa)
{
	enum guest_exit exit = guest_cmd(vcpu, GUEST_READ, gpa, 0, 0);

	TEST_ASSERT(exit == GUEST_MMIO, "wanted MMIO at 0x%lx, got %s", gpa,
		    exit_reason_str(vcpu->run->exit_reason));
	complete_mmio_read(vcpu, gpa);
	TEST_ASSERT_EQ(guest_resume(vcpu), MMIO_SENTINEL);
}

/* The guest's write is MMIO. */
static inline void guest_write_mmio(struct kvm_vcpu *vcpu, u64 gpa, u64 val)
{
	struct kvm_run *run = vcpu->run;
	u64 stored;

	TEST_ASSERT_EQ(guest_cmd(vcpu, GUEST_WRITE, gpa, val, 0), GUEST_MMIO);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MMIO);
	TEST_ASSERT(run->mmio.is_write, "wanted a write");
	TEST_ASSERT_EQ(run->mmio.phys_addr, gpa);
	TEST_ASSERT_EQ(run->mmio.len, sizeof(stored));
	memcpy(&stored, run->mmio.data, sizeof(stored));
	TEST_ASSERT_EQ(stored, val);
	guest_resume(vcpu);
}

/* References to the file of a dma-buf beyond fdinfo's own. */
static inline long dmabuf_count(int fd)
{
	char path[64], line[128];
	long count = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "r");
	TEST_ASSERT(f, "Failed to open %s", path);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "count: %ld", &count) == 1)
			break;
	fclose(f);
	TEST_ASSERT(count > 0, "No count in %s", path);

	return count;
}

#endif /* SELFTEST_KVM_DMABUF_GUEST_H */
