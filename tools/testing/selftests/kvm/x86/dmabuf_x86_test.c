// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of what is x86's own about memslots that are backed by a dma-buf.
 *
 * There is no host virtual address for such a slot.  Whatever in KVM wants one
 * has to fail as it does where there is no memory, and the instruction emulator
 * has to exit to userspace: each of these gets a test here.  The memory at
 * address 0 of this process is mapped and watched meanwhile, because 0 is what a
 * missing address looks like.
 *
 * The others are paths to the page tables that the common tests do not take: nested
 * guests, i.e. rmaps; the address space of SMM; both ways to zap a deleted slot;
 * private gfns; pre-faulting across slots.
 *
 * Devices are given as in dmabuf_fixture.h: the first has a BAR that keeps
 * what is written, another one has a BAR that can go away on its own.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/kvm_para.h>
#include <linux/sizes.h>

#include <libvfio.h>

#include "kvm_test_harness.h"
#include "dmabuf_util.h"
#include "hyperv.h"
#include "smm.h"
#include "svm_util.h"
#include "test_util.h"
#include "vmx.h"

#define DMABUF_X86_TEST(name)	TEST_F_TIMEOUT(dmabuf_x86, name, 240)

#define TAG_PAGES	2048ul
#define TAG(page)	(0xbaf0000000000000ul | (page))
#define PATTERN		0x5157000000000000ul

/* Pages for page tables of what is mapped into a guest. */
#define EXTRA_PAGES	4096

/* As in dmabuf_fixture.h the addresses are congruent to the BAR's. */
#define SLOT_A		10
#define SLOT_B		11
#define SLOT_RAM	12
#define GPA_A		(self->gpa_base)
#define GPA_B		(self->gpa_base + SZ_1G)
/* No memory there, ever. */
#define GPA_HOLE	(self->gpa_base + 2ul * SZ_1G)
/* What a nested guest calls GPA_A. */
#define GPA_ALIAS	(self->gpa_base + 3ul * SZ_1G)

/* What a process may map at 0 is mapped by low_map(). */
#define LOW_SIZE	SZ_64K

static char **bdfs;
static int nr_bdfs;

FIXTURE(dmabuf_x86) {
	struct iommu *iommu;
	struct vfio_pci_device *dev;
	int bar;
	u64 gpa_base;
	int fd;
	/* Where the BAR is in the guest, for vmm_mmio() */
	u64 mmio_gpa;
	u64 mmio_offset;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
};

/*
 * The guest: as guest_command_loop() of dmabuf_util.h, with the instructions
 * that need the emulator.
 */
enum x86_op {
	OP_READ,		/* res = *src */
	OP_WRITE,		/* *dst = val, at any alignment */
	OP_CALL,		/* src() */
	OP_MOVSB,		/* nr bytes from src to dst */
	OP_WRMSR,		/* res = vector of WRMSR of val to MSR number nr */
	OP_DIV_READ,		/* divide by 0, then res = *src */
	/* by the emulator: */
	OP_EM_READ,		/* res = *src */
	OP_EM_WRITE,		/* *dst = val */
	OP_EM_MOVSB,		/* as OP_MOVSB */
	OP_EM_CMPXCHG,		/* if (*dst == nr) *dst = val; res = whether */
	OP_EM_MOVDQU,		/* 16 bytes from src to dst by an SSE register */
};

struct x86_cmd {
	u64 op;
	u64 src;
	u64 dst;
	u64 val;
	u64 nr;
	u64 res;
};

static struct x86_cmd x86_command;

static u64 guest_cmpxchg(u64 dst, u64 old, u64 new)
{
	u8 equal;

	asm volatile(KVM_FEP "lock cmpxchgq %3, (%2)\n\t"
		     "setz %1"
		     : "+a"(old), "=&r"(equal) : "r"(dst), "r"(new) : "memory", "cc");
	return equal;
}

static void guest_x86_loop(void)
{
	struct x86_cmd *cmd = &x86_command;

	for (;;) {
		u64 op = READ_ONCE(cmd->op), val = READ_ONCE(cmd->val);
		u64 src = READ_ONCE(cmd->src), dst = READ_ONCE(cmd->dst);
		u64 nr = READ_ONCE(cmd->nr), res = 0;

		switch (op) {
		case OP_READ:
			asm volatile("movq (%1), %0" : "=r"(res) : "r"(src) : "memory");
			break;
		case OP_WRITE:
			asm volatile("movq %0, (%1)" :: "r"(val), "r"(dst) : "memory");
			break;
		case OP_CALL:
			asm volatile("call *%0" :: "r"(src) : "memory");
			break;
		case OP_WRMSR:
			res = wrmsr_safe(nr, val);
			break;
		case OP_DIV_READ:
			GUEST_ASSERT_EQ(kvm_asm_safe("divl %%ecx", "c"(0)),
					KVM_MAGIC_DE_VECTOR);
			asm volatile("movq (%1), %0" : "=r"(res) : "r"(src) : "memory");
			break;
		case OP_EM_READ:
			asm volatile(KVM_FEP "movq (%1), %0" : "=r"(res) : "r"(src) : "memory");
			break;
		case OP_EM_WRITE:
			asm volatile(KVM_FEP "movq %0, (%1)" :: "r"(val), "r"(dst) : "memory");
			break;
		case OP_MOVSB:
			asm volatile("cld; rep movsb"
				     : "+S"(src), "+D"(dst), "+c"(nr) :: "memory");
			break;
		case OP_EM_MOVSB:
			asm volatile("cld; " KVM_FEP "rep movsb"
				     : "+S"(src), "+D"(dst), "+c"(nr) :: "memory");
			break;
		case OP_EM_CMPXCHG:
			res = guest_cmpxchg(dst, nr, val);
			break;
		case OP_EM_MOVDQU:
			asm volatile(KVM_FEP "movdqu (%0), %%xmm0\n\t"
				     KVM_FEP "movdqu %%xmm0, (%1)"
				     :: "r"(src), "r"(dst) : "memory", "xmm0");
			break;
		default:
			GUEST_FAIL("Unknown command %lu", op);
		}
		WRITE_ONCE(cmd->res, res);
		GUEST_SYNC(op);
	}
}

static enum guest_exit x86_cmd(struct kvm_vcpu *vcpu, struct x86_cmd cmd)
{
	struct x86_cmd *hva = addr_gva2hva(vcpu->vm, (gva_t)&x86_command);

	*hva = cmd;
	return guest_run(vcpu);
}

static u64 x86_res(struct kvm_vcpu *vcpu)
{
	struct x86_cmd *hva = addr_gva2hva(vcpu->vm, (gva_t)&x86_command);

	return hva->res;
}

/* A command that must not exit. */
static u64 x86_do(struct kvm_vcpu *vcpu, struct x86_cmd cmd)
{
	enum guest_exit exit = x86_cmd(vcpu, cmd);

	TEST_ASSERT(exit == GUEST_DONE_CMD, "op %lu: wanted no exit, got %s", cmd.op,
		    exit_reason_str(vcpu->run->exit_reason));
	return x86_res(vcpu);
}

static u64 x86_read(struct kvm_vcpu *vcpu, u64 gpa)
{
	return x86_do(vcpu, (struct x86_cmd){ .op = OP_READ, .src = gpa });
}

/* Returns the vector of the exception that the guest got, or 0. */
static u64 x86_wrmsr(struct kvm_vcpu *vcpu, u32 msr, u64 val)
{
	return x86_do(vcpu, (struct x86_cmd){ .op = OP_WRMSR, .nr = msr, .val = val });
}

static u64 bar_read64(FIXTURE_DATA(dmabuf_x86) *self, u64 offset)
{
	return vfio_pci_bar_read64(self->dev, self->bar, offset);
}

static void bar_write64(FIXTURE_DATA(dmabuf_x86) *self, u64 offset, u64 val)
{
	vfio_pci_bar_write64(self->dev, self->bar, offset, val);
}

static void decode(FIXTURE_DATA(dmabuf_x86) *self, bool on)
{
	vfio_pci_set_memory_decode(self->dev, on);
}

/* A slot over a slice, where vmm_mmio() finds it, and the guest's mapping. */
static void add_slot(FIXTURE_DATA(dmabuf_x86) *self, struct kvm_vm *vm, u32 slot,
		     u32 flags, u64 gpa, u64 size, u64 offset)
{
	vm_set_dmabuf_region(vm, slot, flags, gpa, size, self->fd, offset);
	virt_map(vm, gpa, gpa, size / PAGE_SIZE);
	self->mmio_gpa = gpa;
	self->mmio_offset = offset;
}

/*
 * What a VMM does with an access that exits: the access, by the device's file.
 * Returns the number of exits until the guest's command was complete.
 */
static int vmm_mmio(FIXTURE_DATA(dmabuf_x86) *self, struct kvm_vcpu *vcpu,
		    struct x86_cmd cmd)
{
	enum guest_exit exit = x86_cmd(vcpu, cmd);
	struct kvm_run *run = vcpu->run;
	int n;

	for (n = 0; exit == GUEST_MMIO; n++) {
		TEST_ASSERT(run->mmio.phys_addr >= self->mmio_gpa &&
			    run->mmio.phys_addr < self->mmio_gpa + SZ_2M,
			    "MMIO at 0x%llx is not in the slot", run->mmio.phys_addr);
		TEST_ASSERT_EQ(__vfio_pci_bar_access(self->dev, self->bar,
						     run->mmio.phys_addr - self->mmio_gpa +
						     self->mmio_offset, run->mmio.data,
						     run->mmio.len, run->mmio.is_write), 0);
		exit = guest_run(vcpu);
	}
	TEST_ASSERT(exit == GUEST_DONE_CMD, "op %lu, after %d MMIO exits: got %s", cmd.op,
		    n, exit_reason_str(run->exit_reason));

	return n;
}

/* The lowest addresses of this process; -1 if they cannot be had. */
static u8 *low_map(void)
{
	u8 *low = mmap(NULL, LOW_SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if (low == MAP_FAILED)
		return (u8 *)-1;
	/* The compiler knows that nothing is at NULL. */
	asm volatile("" : "+r"(low));
	memset(low, 0x5a, LOW_SIZE);
	return low;
}

static void low_check_and_unmap(u8 *low)
{
	int i;

	asm volatile("" : "+r"(low) :: "memory");
	for (i = 0; i < LOW_SIZE; i++)
		TEST_ASSERT(low[i] == 0x5a, "address 0x%x of the host was written", i);
	munmap(low, LOW_SIZE);
}

/* What KVM is not to write to: the start of a BAR, and what is at address 0. */
struct untouched {
	u8 bar[LOW_SIZE];
	u8 *low;
};

/* Returns NULL if address 0 cannot be mapped. */
static struct untouched *watch(FIXTURE_DATA(dmabuf_x86) *self)
{
	struct untouched *u = malloc(sizeof(*u));

	vfio_pci_bar_read(self->dev, self->bar, 0, u->bar, LOW_SIZE);
	u->low = low_map();
	if (u->low != (u8 *)-1)
		return u;

	free(u);
	return NULL;
}

static void assert_untouched(FIXTURE_DATA(dmabuf_x86) *self, struct untouched *u)
{
	u8 *now = malloc(LOW_SIZE);

	vfio_pci_bar_read(self->dev, self->bar, 0, now, LOW_SIZE);
	TEST_ASSERT(!memcmp(u->bar, now, LOW_SIZE), "the BAR was written");
	low_check_and_unmap(u->low);
	free(now);
	free(u);
}

FIXTURE_SETUP(dmabuf_x86)
{
	u64 i;

	self->iommu = iommu_init(MODE_IOMMUFD);
	self->dev = vfio_pci_device_init_nomap(bdfs[0], self->iommu);
	decode(self, true);

	self->bar = vfio_pci_largest_bar(self->dev, TAG_PAGES * PAGE_SIZE);
	if (self->bar < 0)
		SKIP(return, "%s has no memory BAR of %lu MiB", bdfs[0],
		     (unsigned long)(TAG_PAGES * PAGE_SIZE / SZ_1M));
	for (i = 0; i < TAG_PAGES; i++)
		bar_write64(self, i * PAGE_SIZE, TAG(i));
	if (bar_read64(self, 0) != TAG(0))
		SKIP(return, "%s: BAR %d does not keep what is written", bdfs[0], self->bar);

	self->gpa_base = 4ull * SZ_1G +
			 (pci_bar_phys(bdfs[0], self->bar) & (SZ_1G - 1ull));
	self->fd = vfio_pci_dmabuf_export_bar(self->dev, self->bar);
	self->vm = __vm_create_with_one_vcpu(&self->vcpu, EXTRA_PAGES, guest_x86_loop);
}

FIXTURE_TEARDOWN(dmabuf_x86)
{
	if (self->vm)
		kvm_vm_free(self->vm);
	if (self->fd > 0)
		close(self->fd);
	vfio_pci_device_cleanup(self->dev);
	iommu_cleanup(self->iommu);
}

static void fill_bytes(u8 *buf, u8 start, u64 nr)
{
	u64 i;

	for (i = 0; i < nr; i++)
		buf[i] = start + i;
}

#define STRING_LEN	24ul

/*
 * A string instruction that was forced into the emulator: an exit for each
 * element that is loaded from the BAR.  After a store that exited KVM goes on
 * without the emulator, so there is one exit only for stores to the BAR.
 */
DMABUF_X86_TEST(emulated_string)
{
	const u64 offset = PAGE_SIZE - STRING_LEN / 2;
	u8 bar[STRING_LEN], *low = low_map(), *ram;
	gva_t gva;

	if (!is_forced_emulation_enabled)
		SKIP(return, "kvm.force_emulation_prefix is not set");

	gva = vm_alloc_page(self->vm);
	ram = addr_gva2hva(self->vm, gva);
	add_slot(self, self->vm, SLOT_A, 0, GPA_A, SZ_2M, SZ_2M);

	/* Across a page of the BAR into memory, and back elsewhere. */
	fill_bytes(bar, 0xa0, STRING_LEN);
	vfio_pci_bar_write(self->dev, self->bar, SZ_2M + offset, bar, STRING_LEN);
	TEST_ASSERT_EQ(vmm_mmio(self, self->vcpu, (struct x86_cmd) {
		.op = OP_EM_MOVSB, .src = GPA_A + offset, .dst = gva, .nr = STRING_LEN }),
		STRING_LEN);
	TEST_ASSERT(!memcmp(ram, bar, STRING_LEN), "memory is not what the BAR was");

	fill_bytes(ram, 0xc0, STRING_LEN);
	TEST_ASSERT_EQ(vmm_mmio(self, self->vcpu, (struct x86_cmd) {
		.op = OP_EM_MOVSB, .src = gva, .dst = GPA_A + offset + 64,
		.nr = STRING_LEN }), 1);
	vfio_pci_bar_read(self->dev, self->bar, SZ_2M + offset + 64, bar, STRING_LEN);
	TEST_ASSERT(!memcmp(ram, bar, STRING_LEN), "the BAR is not what memory was");

	if (low != (u8 *)-1)
		low_check_and_unmap(low);
}

/* A string instruction that has to be emulated: its stores are to a read-only slot. */
DMABUF_X86_TEST(readonly_string)
{
	u8 bar[STRING_LEN], *ram;
	u64 mmio_exits;
	gva_t gva;

	gva = vm_alloc_page(self->vm);
	ram = addr_gva2hva(self->vm, gva);
	add_slot(self, self->vm, SLOT_A, KVM_MEM_READONLY, GPA_A, SZ_2M, SZ_2M);

	fill_bytes(ram, 0xc0, STRING_LEN);
	TEST_ASSERT_EQ(vmm_mmio(self, self->vcpu, (struct x86_cmd) {
		.op = OP_MOVSB, .src = gva, .dst = GPA_A + PAGE_SIZE - STRING_LEN / 2,
		.nr = STRING_LEN }), STRING_LEN);
	vfio_pci_bar_read(self->dev, self->bar, SZ_2M + PAGE_SIZE - STRING_LEN / 2, bar,
			  STRING_LEN);
	TEST_ASSERT(!memcmp(ram, bar, STRING_LEN), "the BAR is not what memory was");

	/* From the BAR to the BAR each element is a load and a store. */
	TEST_ASSERT_EQ(vmm_mmio(self, self->vcpu, (struct x86_cmd) {
		.op = OP_MOVSB, .src = GPA_A + PAGE_SIZE - STRING_LEN / 2,
		.dst = GPA_A + 256, .nr = STRING_LEN }), 2 * STRING_LEN);
	vfio_pci_bar_read(self->dev, self->bar, SZ_2M + 256, bar, STRING_LEN);
	TEST_ASSERT(!memcmp(ram, bar, STRING_LEN), "the BAR is not what the BAR was");

	/* Loads alone do not exit. */
	memset(ram, 0, STRING_LEN);
	mmio_exits = vcpu_get_stat(self->vcpu, mmio_exits);
	x86_do(self->vcpu, (struct x86_cmd) {
		.op = OP_MOVSB, .src = GPA_A + 256, .dst = gva, .nr = STRING_LEN });
	TEST_ASSERT(!memcmp(ram, bar, STRING_LEN), "memory is not what the BAR was");
	TEST_ASSERT_EQ(vcpu_get_stat(self->vcpu, mmio_exits), mmio_exits);
}

/* Accesses across pages; those that are not emulated do not exit. */
DMABUF_X86_TEST(emulated_page_crossing)
{
	const u64 cross = PAGE_SIZE - 4;
	u64 want = 0x1122334455667788ul;
	u64 *ram;

	if (!is_forced_emulation_enabled)
		SKIP(return, "kvm.force_emulation_prefix is not set");

	vm_userspace_mem_region_add(self->vm, VM_MEM_SRC_ANONYMOUS, GPA_A - SZ_2M,
				    SLOT_RAM, SZ_2M / PAGE_SIZE, 0);
	virt_map(self->vm, GPA_A - SZ_2M, GPA_A - SZ_2M, SZ_2M / PAGE_SIZE);
	ram = addr_gpa2hva(self->vm, GPA_A - 8);
	add_slot(self, self->vm, SLOT_A, 0, GPA_A, SZ_2M, 0);

	vfio_pci_bar_write(self->dev, self->bar, cross, &want, sizeof(want));
	TEST_ASSERT_EQ(x86_read(self->vcpu, GPA_A + cross), want);
	TEST_ASSERT_EQ(vmm_mmio(self, self->vcpu, (struct x86_cmd) {
		.op = OP_EM_READ, .src = GPA_A + cross }), 2);
	TEST_ASSERT_EQ(x86_res(self->vcpu), want);

	TEST_ASSERT_EQ(vmm_mmio(self, self->vcpu, (struct x86_cmd) {
		.op = OP_EM_WRITE, .dst = GPA_A + cross, .val = ~want }), 2);
	vfio_pci_bar_read(self->dev, self->bar, cross, &want, sizeof(want));
	TEST_ASSERT_EQ(want, ~0x1122334455667788ul);

	/* Half in memory, half in the BAR: one exit, for the BAR's half. */
	*ram = 0xaaaaaaaa00000000ul;
	TEST_ASSERT_EQ(vmm_mmio(self, self->vcpu, (struct x86_cmd) {
		.op = OP_EM_READ, .src = GPA_A - 4 }), 1);
	TEST_ASSERT_EQ(x86_res(self->vcpu), (u64)(u32)TAG(0) << 32 | 0xaaaaaaaa);
	TEST_ASSERT_EQ(vmm_mmio(self, self->vcpu, (struct x86_cmd) {
		.op = OP_EM_WRITE, .dst = GPA_A - 4, .val = 0x33333333bbbbbbbbul }), 1);
	TEST_ASSERT_EQ(*ram, 0xbbbbbbbb00000000ul);
	TEST_ASSERT_EQ(bar_read64(self, 0), (TAG(0) & ~0xfffffffful) | 0x33333333);
}

/* What KVM emulates without being asked: stores to a read-only slot. */
DMABUF_X86_TEST(readonly_page_crossing)
{
	const u64 cross = PAGE_SIZE - 4;
	u64 val;

	add_slot(self, self->vm, SLOT_A, KVM_MEM_READONLY, GPA_A, SZ_2M, 0);
	TEST_ASSERT_EQ(vmm_mmio(self, self->vcpu, (struct x86_cmd) {
		.op = OP_WRITE, .dst = GPA_A + cross, .val = PATTERN }), 2);
	vfio_pci_bar_read(self->dev, self->bar, cross, &val, sizeof(val));
	TEST_ASSERT_EQ(val, PATTERN);
	TEST_ASSERT_EQ(x86_read(self->vcpu, GPA_A + cross), PATTERN);
}

/* A locked instruction and one of SSE. */
DMABUF_X86_TEST(emulated_wide)
{
	u8 *low = low_map();
	u64 val[2];

	if (!is_forced_emulation_enabled)
		SKIP(return, "kvm.force_emulation_prefix is not set");

	add_slot(self, self->vm, SLOT_A, 0, GPA_A, SZ_2M, 0);

	/* Read, and write if it was equal: KVM cannot lock the bus. */
	TEST_ASSERT_EQ(vmm_mmio(self, self->vcpu, (struct x86_cmd) {
		.op = OP_EM_CMPXCHG, .dst = GPA_A, .nr = TAG(0), .val = PATTERN }), 2);
	TEST_ASSERT_EQ(x86_res(self->vcpu), 1);
	TEST_ASSERT_EQ(bar_read64(self, 0), PATTERN);

	bar_write64(self, 0x100, PATTERN + 1);
	bar_write64(self, 0x108, PATTERN + 2);
	TEST_ASSERT_EQ(vmm_mmio(self, self->vcpu, (struct x86_cmd) {
		.op = OP_EM_MOVDQU, .src = GPA_A + 0x100, .dst = GPA_A + 0x208 }), 4);
	vfio_pci_bar_read(self->dev, self->bar, 0x208, val, sizeof(val));
	TEST_ASSERT_EQ(val[0], PATTERN + 1);
	TEST_ASSERT_EQ(val[1], PATTERN + 2);

	if (low != (u8 *)-1)
		low_check_and_unmap(low);
}

/* Code in a BAR runs, as it does where the BAR is mapped by the VMM. */
DMABUF_X86_TEST(exec)
{
	const u64 ret = 0xc3;

	bar_write64(self, PAGE_SIZE, ret);
	add_slot(self, self->vm, SLOT_A, 0, GPA_A, SZ_2M, 0);
	x86_do(self->vcpu, (struct x86_cmd){ .op = OP_CALL, .src = GPA_A + PAGE_SIZE });

	decode(self, false);
	TEST_ASSERT_EQ(x86_cmd(self->vcpu, (struct x86_cmd) {
		.op = OP_CALL, .src = GPA_A + PAGE_SIZE }), GUEST_FAULT);
	assert_revoked_exit(self->vcpu, GPA_A + PAGE_SIZE);
	decode(self, true);
	TEST_ASSERT_EQ(guest_run(self->vcpu), GUEST_DONE_CMD);
}

/*
 * MMIO next after an exception that the guest took without KVM: what the CPU says
 * about events in delivery is not from now.
 */
DMABUF_X86_TEST(revoked_after_exception)
{
	const u64 val = PATTERN;
	int i;

	add_slot(self, self->vm, SLOT_A, KVM_MEM_REVOKED_MMIO, GPA_A, SZ_2M, 0);
	x86_do(self->vcpu, (struct x86_cmd){ .op = OP_DIV_READ, .src = GPA_A });

	decode(self, false);
	for (i = 0; i < 10; i++) {
		TEST_ASSERT_EQ(x86_cmd(self->vcpu, (struct x86_cmd) {
			.op = OP_DIV_READ, .src = GPA_A }), GUEST_MMIO);
		memcpy(self->vcpu->run->mmio.data, &val, sizeof(val));
		TEST_ASSERT_EQ(guest_run(self->vcpu), GUEST_DONE_CMD);
		TEST_ASSERT_EQ(x86_res(self->vcpu), val);
	}
	decode(self, true);
}

/*
 * Areas that a guest shares with KVM, placed in a BAR.  The guest gets what it
 * gets for an area where there is no memory, and neither the BAR nor the lowest
 * addresses of this process change.
 */
DMABUF_X86_TEST(pv_areas)
{
	static const struct {
		const char *name;
		u32 msr;
		u64 bits;
	} areas[] = {
		{ "clock",	MSR_KVM_SYSTEM_TIME_NEW,	1 },
		{ "old clock",	MSR_KVM_SYSTEM_TIME,		1 },
		{ "wall clock",	MSR_KVM_WALL_CLOCK_NEW,		0 },
		{ "steal time",	MSR_KVM_STEAL_TIME,		KVM_MSR_ENABLED },
		{ "async #PF",	MSR_KVM_ASYNC_PF_EN,
		  KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_DELIVERY_AS_INT },
		{ "EOI",	MSR_KVM_PV_EOI_EN,		KVM_MSR_ENABLED },
	};
	struct untouched *untouched;
	u64 hole, bar;
	int i, j;

	add_slot(self, self->vm, SLOT_A, 0, GPA_A, SZ_2M, 0);
	untouched = watch(self);
	if (!untouched)
		SKIP(return, "cannot map address 0");

	for (i = 0; i < ARRAY_SIZE(areas); i++) {
		hole = x86_wrmsr(self->vcpu, areas[i].msr, GPA_HOLE | areas[i].bits);
		bar = x86_wrmsr(self->vcpu, areas[i].msr,
				(GPA_A + 0x40 * i) | areas[i].bits);
		TEST_ASSERT(hole == bar, "%s: WRMSR gives vector %lu in a hole, %lu in a BAR",
			    areas[i].name, hole, bar);
		/* Whatever is to be written is written by the next entries. */
		for (j = 0; j < 4; j++)
			TEST_ASSERT_EQ(x86_read(self->vcpu, GPA_A + PAGE_SIZE), TAG(1));
	}

	assert_untouched(self, untouched);
}

/* The pages of Hyper-V, set by the VMM as a migration does. */
DMABUF_X86_TEST(hyperv_pages)
{
	static const struct {
		const char *name;
		u32 msr;
	} pages[] = {
		{ "hypercall page",	HV_X64_MSR_HYPERCALL },
		{ "VP assist page",	HV_X64_MSR_VP_ASSIST_PAGE },
		{ "reference TSC page",	HV_X64_MSR_REFERENCE_TSC },
	};
	struct untouched *untouched;
	int i, hole, bar;

	if (!kvm_has_cap(KVM_CAP_HYPERV))
		SKIP(return, "no KVM_CAP_HYPERV");

	add_slot(self, self->vm, SLOT_A, 0, GPA_A, SZ_2M, 0);
	untouched = watch(self);
	if (!untouched)
		SKIP(return, "cannot map address 0");

	vcpu_set_hv_cpuid(self->vcpu);
	TEST_ASSERT_EQ(_vcpu_set_msr(self->vcpu, HV_X64_MSR_GUEST_OS_ID, HYPERV_LINUX_OS_ID), 1);
	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		hole = _vcpu_set_msr(self->vcpu, pages[i].msr, GPA_HOLE | 1);
		bar = _vcpu_set_msr(self->vcpu, pages[i].msr, (GPA_A + i * PAGE_SIZE) | 1);
		TEST_ASSERT(hole == bar, "%s: setting it gives %d in a hole, %d in a BAR",
			    pages[i].name, hole, bar);
		TEST_ASSERT_EQ(x86_read(self->vcpu, GPA_A + PAGE_SIZE), TAG(1));
	}

	assert_untouched(self, untouched);
}

#define XEN_HYPERCALL_MSR	0x40000000

static int xen_vm_attr(struct kvm_vm *vm, u64 gpa)
{
	struct kvm_xen_hvm_attr attr = {
		.type = KVM_XEN_ATTR_TYPE_SHARED_INFO,
		.u.shared_info.gfn = gpa / PAGE_SIZE,
	};

	return __vm_ioctl(vm, KVM_XEN_HVM_SET_ATTR, &attr) ? -errno : 0;
}

static int xen_vcpu_attr(struct kvm_vcpu *vcpu, u16 type, u64 gpa)
{
	struct kvm_xen_vcpu_attr attr = { .type = type, .u.gpa = gpa };

	return __vcpu_ioctl(vcpu, KVM_XEN_VCPU_SET_ATTR, &attr) ? -errno : 0;
}

/* The pages of Xen: these are gfn_to_pfn_caches, the same for all users of one. */
DMABUF_X86_TEST(xen_pages)
{
	static const u16 types[] = {
		KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO,
		KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO,
		KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR,
	};
	struct kvm_xen_hvm_config config = { .msr = XEN_HYPERCALL_MSR };
	struct untouched *untouched;
	int i, hole, bar;

	if (!(kvm_check_cap(KVM_CAP_XEN_HVM) & KVM_XEN_HVM_CONFIG_RUNSTATE))
		SKIP(return, "no KVM_CAP_XEN_HVM");

	add_slot(self, self->vm, SLOT_A, 0, GPA_A, SZ_2M, 0);
	untouched = watch(self);
	if (!untouched)
		SKIP(return, "cannot map address 0");

	if (kvm_check_cap(KVM_CAP_XEN_HVM) & KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL)
		config.flags = KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL;
	vm_ioctl(self->vm, KVM_XEN_HVM_CONFIG, &config);

	hole = xen_vm_attr(self->vm, GPA_HOLE);
	bar = xen_vm_attr(self->vm, GPA_A);
	TEST_ASSERT(hole == bar && bar, "shared info: %d in a hole, %d in a BAR", hole, bar);
	for (i = 0; i < ARRAY_SIZE(types); i++) {
		hole = xen_vcpu_attr(self->vcpu, types[i], GPA_HOLE);
		bar = xen_vcpu_attr(self->vcpu, types[i], GPA_A + 0x100 * i);
		TEST_ASSERT(hole == bar && bar, "vCPU attribute %u: %d in a hole, %d in a BAR",
			    types[i], hole, bar);
	}
	hole = x86_wrmsr(self->vcpu, XEN_HYPERCALL_MSR, GPA_HOLE);
	bar = x86_wrmsr(self->vcpu, XEN_HYPERCALL_MSR, GPA_A);
	TEST_ASSERT(hole == bar, "hypercall page: vector %d in a hole, %d in a BAR", hole, bar);
	TEST_ASSERT_EQ(x86_read(self->vcpu, GPA_A + PAGE_SIZE), TAG(1));

	assert_untouched(self, untouched);
}

/* There is no dirty log of a BAR, next to slots that have one. */
DMABUF_X86_TEST(dirty_log)
{
	unsigned long *bmap = calloc(1, PAGE_SIZE);
	struct kvm_clear_dirty_log clear = {
		.slot = SLOT_A, .num_pages = 64, .dirty_bitmap = bmap,
	};
	struct kvm_dirty_log log = { .slot = SLOT_A, .dirty_bitmap = bmap };
	u64 ram = GPA_B;

	vm_userspace_mem_region_add(self->vm, VM_MEM_SRC_ANONYMOUS, ram, SLOT_RAM, 64,
				    KVM_MEM_LOG_DIRTY_PAGES);
	virt_map(self->vm, ram, ram, 64);
	add_slot(self, self->vm, SLOT_A, 0, GPA_A, SZ_2M, 0);

	x86_do(self->vcpu, (struct x86_cmd){ .op = OP_WRITE, .dst = ram + 5 * PAGE_SIZE });
	x86_do(self->vcpu, (struct x86_cmd){ .op = OP_WRITE, .dst = GPA_A + 7 * PAGE_SIZE });

	TEST_ASSERT_EQ(__vm_ioctl(self->vm, KVM_GET_DIRTY_LOG, &log), -1);
	TEST_ASSERT_EQ(errno, ENOENT);
	if (kvm_has_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)) {
		TEST_ASSERT_EQ(__vm_ioctl(self->vm, KVM_CLEAR_DIRTY_LOG, &clear), -1);
		TEST_ASSERT_EQ(errno, ENOENT);
	}

	kvm_vm_get_dirty_log(self->vm, SLOT_RAM, bmap);
	TEST_ASSERT_EQ(bmap[0], 1ul << 5);
	TEST_ASSERT_EQ(bar_read64(self, 7 * PAGE_SIZE), 0);
	free(bmap);
}

DMABUF_X86_TEST(dirty_ring)
{
	const u32 entries = 4096;
	struct kvm_dirty_gfn *ring;
	struct kvm_vcpu *vcpu;
	u64 ram = GPA_B;
	struct kvm_vm *vm;
	u32 i, n = 0;

	if (!kvm_has_cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL))
		SKIP(return, "no KVM_CAP_DIRTY_LOG_RING_ACQ_REL");

	vm = __vm_create(VM_SHAPE_DEFAULT, 1, EXTRA_PAGES);
	vm_enable_dirty_ring(vm, entries * sizeof(*ring));
	vcpu = vm_vcpu_add(vm, 0, guest_x86_loop);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, ram, SLOT_RAM, 64,
				    KVM_MEM_LOG_DIRTY_PAGES);
	virt_map(vm, ram, ram, 64);
	add_slot(self, vm, SLOT_A, 0, GPA_A, SZ_2M, 0);

	for (i = 0; i < 8; i++)
		x86_do(vcpu, (struct x86_cmd) {
			.op = OP_WRITE, .dst = GPA_A + i * PAGE_SIZE, .val = PATTERN });
	x86_do(vcpu, (struct x86_cmd){ .op = OP_WRITE, .dst = ram + 5 * PAGE_SIZE });

	ring = vcpu_map_dirty_ring(vcpu);
	for (i = 0; i < entries && READ_ONCE(ring[i].flags) == KVM_DIRTY_GFN_F_DIRTY; i++) {
		TEST_ASSERT_EQ(ring[i].slot, SLOT_RAM);
		n += ring[i].offset == 5;
	}
	TEST_ASSERT_EQ(n, 1);
	TEST_ASSERT_EQ(bar_read64(self, 7 * PAGE_SIZE), PATTERN);
	kvm_vm_free(vm);
}

/* Both ways to get rid of the page table entries of a deleted slot. */
DMABUF_X86_TEST(zap_quirk)
{
	struct vm_leaves before, after;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int quirk;

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "no KVM_CAP_PRE_FAULT_MEMORY");

	for (quirk = 0; quirk < 2; quirk++) {
		if (!quirk && !(kvm_check_cap(KVM_CAP_DISABLE_QUIRKS2) &
				KVM_X86_QUIRK_SLOT_ZAP_ALL))
			continue;
		vm = __vm_create_with_one_vcpu(&vcpu, EXTRA_PAGES, guest_x86_loop);
		if (!quirk)
			vm_enable_cap(vm, KVM_CAP_DISABLE_QUIRKS2,
				      KVM_X86_QUIRK_SLOT_ZAP_ALL);

		add_slot(self, vm, SLOT_B, 0, GPA_B, SZ_2M, SZ_2M);
		vcpu_pre_fault(vcpu, GPA_B, SZ_2M);
		before = vm_leaves(vm);
		add_slot(self, vm, SLOT_A, 0, GPA_A, SZ_2M, 0);
		vcpu_pre_fault(vcpu, GPA_A, SZ_2M);
		TEST_ASSERT_EQ(vm_leaves(vm).m2, before.m2 + 1);

		/* A's entries go; B's stay if the quirk is off. */
		vm_delete_region(vm, SLOT_A);
		after = vm_leaves(vm);
		TEST_ASSERT_EQ(after.m2, quirk ? 0 : before.m2);
		TEST_ASSERT_EQ(vmm_mmio(self, vcpu, (struct x86_cmd) {
			.op = OP_READ, .src = GPA_A + PAGE_SIZE }), 1);
		TEST_ASSERT_EQ(x86_read(vcpu, GPA_B + PAGE_SIZE), TAG(513));

		/* Something else at the same address, and gone with the rest. */
		vm_set_dmabuf_region(vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, SZ_4M);
		TEST_ASSERT_EQ(x86_read(vcpu, GPA_A + PAGE_SIZE), TAG(1025));
		decode(self, false);
		TEST_ASSERT_EQ(x86_cmd(vcpu, (struct x86_cmd) {
			.op = OP_READ, .src = GPA_A + PAGE_SIZE }), GUEST_FAULT);
		assert_revoked_exit(vcpu, GPA_A + PAGE_SIZE);
		decode(self, true);
		TEST_ASSERT_EQ(guest_run(vcpu), GUEST_DONE_CMD);
		TEST_ASSERT_EQ(x86_res(vcpu), TAG(1025));
		kvm_vm_free(vm);
	}
}

/* A dma-buf is shared memory: gfns that are to be private do not get it. */
DMABUF_X86_TEST(private)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = KVM_X86_SW_PROTECTED_VM,
	};
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM)))
		SKIP(return, "no KVM_X86_SW_PROTECTED_VM");

	vm = __vm_create_shape_with_one_vcpu(shape, &vcpu, EXTRA_PAGES, guest_x86_loop);
	TEST_ASSERT(vm_check_cap(vm, KVM_CAP_DMABUF_MEM) & KVM_MEM_DMABUF, "no dma-bufs");
	add_slot(self, vm, SLOT_A, 0, GPA_A, SZ_4M, 0);
	TEST_ASSERT_EQ(x86_read(vcpu, GPA_A + PAGE_SIZE), TAG(1));

	vm_mem_set_private(vm, GPA_A, SZ_2M);
	TEST_ASSERT_EQ(x86_cmd(vcpu, (struct x86_cmd) {
		.op = OP_READ, .src = GPA_A + PAGE_SIZE }), GUEST_FAULT);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.gpa, GPA_A + PAGE_SIZE);

	/* Private or not is the first question, whether there is memory the next. */
	decode(self, false);
	TEST_ASSERT_EQ(guest_run(vcpu), GUEST_FAULT);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
	vm_mem_set_shared(vm, GPA_A, SZ_2M);
	TEST_ASSERT_EQ(guest_run(vcpu), GUEST_FAULT);
	assert_revoked_exit(vcpu, GPA_A + PAGE_SIZE);
	decode(self, true);
	TEST_ASSERT_EQ(guest_run(vcpu), GUEST_DONE_CMD);
	TEST_ASSERT_EQ(x86_res(vcpu), TAG(1));

	/* Nor is private memory MMIO. */
	vm_delete_region(vm, SLOT_A);
	vm_set_dmabuf_region(vm, SLOT_A, KVM_MEM_REVOKED_MMIO, GPA_A, SZ_4M, self->fd, 0);
	vm_mem_set_private(vm, GPA_A, SZ_2M);
	decode(self, false);
	TEST_ASSERT_EQ(x86_cmd(vcpu, (struct x86_cmd) {
		.op = OP_READ, .src = GPA_A + PAGE_SIZE }), GUEST_FAULT);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
	vm_mem_set_shared(vm, GPA_A, SZ_2M);
	TEST_ASSERT_EQ(guest_run(vcpu), GUEST_MMIO);
	decode(self, true);
	TEST_ASSERT_EQ(guest_run(vcpu), GUEST_DONE_CMD);

	/* The rest of the slot goes on as it was, around a private page, too. */
	vm_mem_set_private(vm, GPA_A + PAGE_SIZE, PAGE_SIZE);
	TEST_ASSERT_EQ(x86_read(vcpu, GPA_A), TAG(0));
	TEST_ASSERT_EQ(x86_read(vcpu, GPA_A + 2 * PAGE_SIZE), TAG(2));
	TEST_ASSERT_EQ(x86_read(vcpu, GPA_A + SZ_2M), TAG(512));
	TEST_ASSERT_EQ(x86_cmd(vcpu, (struct x86_cmd) {
		.op = OP_READ, .src = GPA_A + PAGE_SIZE }), GUEST_FAULT);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
	kvm_vm_free(vm);
}

/* Pre-faulting over two buffers, one of which is away. */
DMABUF_X86_TEST(pre_fault_part)
{
	struct kvm_pre_fault_memory range;
	struct vfio_pci_device *other = NULL;
	struct vm_leaves before, after;
	int i, fd, ret;

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "no KVM_CAP_PRE_FAULT_MEMORY");
	for (i = 1; i < nr_bdfs && !other; i++) {
		other = vfio_pci_device_init_nomap(bdfs[i], self->iommu);
		if (!(other->bars[0].info.flags & VFIO_REGION_INFO_FLAG_MMAP)) {
			vfio_pci_device_cleanup(other);
			other = NULL;
		}
	}
	if (!other)
		SKIP(return, "no second device with memory in BAR 0");
	vfio_pci_set_memory_decode(other, true);
	fd = vfio_pci_dmabuf_export_bar(other, 0);

	add_slot(self, self->vm, SLOT_A, 0, GPA_A, SZ_2M, 0);
	vm_set_dmabuf_region(self->vm, SLOT_B, 0, GPA_A + SZ_2M, PAGE_SIZE, fd, 0);

	/* The second is away: what comes before it is done, and stays. */
	vfio_pci_set_memory_decode(other, false);
	before = vm_leaves(self->vm);
	range = (struct kvm_pre_fault_memory){ .gpa = GPA_A, .size = SZ_2M + PAGE_SIZE };
	do {
		ret = __vcpu_ioctl(self->vcpu, KVM_PRE_FAULT_MEMORY, &range);
	} while (!ret && range.size);
	TEST_ASSERT(ret == -1 && errno == EFAULT, "wanted EFAULT, got %d, %s", ret,
		    strerror(errno));
	TEST_ASSERT_EQ(range.gpa, GPA_A + SZ_2M);
	TEST_ASSERT_EQ(range.size, PAGE_SIZE);
	after = vm_leaves(self->vm);
	TEST_ASSERT_EQ(after.m2, before.m2 + 1);
	TEST_ASSERT_EQ(after.k4, before.k4);

	/* The first is away: nothing is done. */
	vfio_pci_set_memory_decode(other, true);
	decode(self, false);
	range = (struct kvm_pre_fault_memory){ .gpa = GPA_A, .size = SZ_2M + PAGE_SIZE };
	TEST_ASSERT_EQ(__vcpu_ioctl(self->vcpu, KVM_PRE_FAULT_MEMORY, &range), -1);
	TEST_ASSERT_EQ(errno, EFAULT);
	TEST_ASSERT_EQ(range.gpa, GPA_A);
	TEST_ASSERT_EQ(vm_leaves(self->vm).m2, before.m2);
	TEST_ASSERT_EQ(vm_leaves(self->vm).k4, before.k4);

	/* Both are there. */
	decode(self, true);
	vcpu_pre_fault(self->vcpu, GPA_A, SZ_2M + PAGE_SIZE);
	TEST_ASSERT_EQ(vm_leaves(self->vm).m2, before.m2 + 1);
	TEST_ASSERT_EQ(vm_leaves(self->vm).k4, before.k4 + 1);
	close(fd);
	vfio_pci_device_cleanup(other);
}

/*
 * A guest that goes from one leaf to the next gets those after it, too, as far
 * as the slot goes; one that does not gets what it asks for.  All of it is
 * revoked.
 */
#define AHEAD_PAGES	16
#define AHEAD_SLOT	24

static u64 read_page(FIXTURE_DATA(dmabuf_x86) *self, u64 gpa, u64 page)
{
	TEST_ASSERT_EQ(x86_read(self->vcpu, gpa + page * PAGE_SIZE), TAG(page));
	return vm_leaves(self->vm).k4;
}

DMABUF_X86_TEST(fault_ahead)
{
	bool ahead = get_kvm_param_bool("tdp_mmu");
	/* Not congruent to the BAR: leaves of 4 KiB. */
	u64 gpa = GPA_A + PAGE_SIZE, base, page;

	add_slot(self, self->vm, SLOT_A, 0, gpa, AHEAD_SLOT * PAGE_SIZE, 0);
	add_slot(self, self->vm, SLOT_B, 0, gpa + AHEAD_SLOT * PAGE_SIZE,
		 8 * PAGE_SIZE, AHEAD_SLOT * PAGE_SIZE);

	/* The guest's page tables fault, too. */
	base = read_page(self, gpa, 0);

	TEST_ASSERT_EQ(read_page(self, gpa, 4), base + 1);
	TEST_ASSERT_EQ(read_page(self, gpa, 2), base + 2);
	TEST_ASSERT_EQ(read_page(self, gpa, 5), base + 3 + (ahead ? AHEAD_PAGES : 0));
	for (page = 6; page < 22; page++)
		read_page(self, gpa, page);
	TEST_ASSERT_EQ(vm_leaves(self->vm).k4, base + 3 + AHEAD_PAGES);

	/* The end of the slot. */
	TEST_ASSERT_EQ(read_page(self, gpa, 22), base + 20 + ahead);
	TEST_ASSERT_EQ(read_page(self, gpa, 23), base + 21);
	TEST_ASSERT_EQ(read_page(self, gpa, 24), base + 22);

	decode(self, false);
	TEST_ASSERT_EQ(vm_leaves(self->vm).k4, base - 1);
	TEST_ASSERT_EQ(x86_cmd(self->vcpu, (struct x86_cmd){
					.op = OP_READ,
					.src = gpa + 21 * PAGE_SIZE }),
		       GUEST_FAULT);
	assert_revoked_exit(self->vcpu, gpa + 21 * PAGE_SIZE);
	TEST_ASSERT_EQ(vm_leaves(self->vm).k4, base - 1);

	/* What the guest had before is forgotten. */
	decode(self, true);
	TEST_ASSERT_EQ(guest_run(self->vcpu), GUEST_DONE_CMD);
	TEST_ASSERT_EQ(vm_leaves(self->vm).k4, base);
	TEST_ASSERT_EQ(read_page(self, gpa, 3), base + 1);
	TEST_ASSERT_EQ(read_page(self, gpa, 22), base + 2 + ahead);
}

/* A vCPU that goes through two slots, again and again. */
struct walker {
	struct kvm_vcpu *vcpu;
	u64 gpa;
	u64 pages;
	u64 reads;
	bool stop;
};

static void *walk(void *data)
{
	struct walker *w = data;
	enum guest_exit exit;
	u64 page;

	for (page = 0; !READ_ONCE(w->stop); page = (page + 1) % w->pages) {
		exit = x86_cmd(w->vcpu, (struct x86_cmd){
					.op = OP_READ,
					.src = w->gpa + page * PAGE_SIZE });
		while (exit == GUEST_FAULT)
			exit = guest_run(w->vcpu);
		TEST_ASSERT(exit == GUEST_DONE_CMD, "page %lu: exit %d", page, exit);
		TEST_ASSERT_EQ(x86_res(w->vcpu), TAG(page));
		WRITE_ONCE(w->reads, w->reads + 1);
	}

	return NULL;
}

static void wait_for_reads(struct walker *w, u64 nr)
{
	u64 reads = READ_ONCE(w->reads);

	while (READ_ONCE(w->reads) - reads < nr)
		sched_yield();
}

/* Whatever a vCPU is mapping meanwhile, nothing is left when revoke returns. */
DMABUF_X86_TEST(revoke_ahead_under_load)
{
	struct walker w = {
		.vcpu = self->vcpu,
		.gpa = GPA_A + PAGE_SIZE,
		.pages = 2 * AHEAD_SLOT,
	};
	pthread_t thread;
	u64 base;
	int i;

	for (i = 0; i < 2; i++)
		add_slot(self, self->vm, SLOT_A + i, 0,
			 w.gpa + i * AHEAD_SLOT * PAGE_SIZE, AHEAD_SLOT * PAGE_SIZE,
			 i * AHEAD_SLOT * PAGE_SIZE);
	read_page(self, w.gpa, 0);
	decode(self, false);
	base = vm_leaves(self->vm).k4;
	decode(self, true);

	TEST_ASSERT_EQ(pthread_create(&thread, NULL, walk, &w), 0);
	for (i = 0; i < 200; i++) {
		wait_for_reads(&w, i % w.pages + 1);
		decode(self, false);
		TEST_ASSERT_EQ(vm_leaves(self->vm).k4, base);
		decode(self, true);
	}
	WRITE_ONCE(w.stop, true);
	TEST_ASSERT_EQ(pthread_join(thread, NULL), 0);
}

/*
 * Slots of one dma-buf are revoked together, of each what the guest has had of
 * it, wherever that is.
 */
DMABUF_X86_TEST(revoke_siblings)
{
	const u64 pages[] = { 0, 3, 7 };
	struct kvm_vm *vm = self->vm;
	u64 gpa, base, revocations;
	int slot, i;

	for (slot = 0; slot < 4; slot++)
		add_slot(self, vm, SLOT_A + slot, 0, GPA_A + PAGE_SIZE + slot * SZ_64K,
			 SZ_64K, slot * SZ_64K);
	/* One goes, one is not accessed. */
	vm_delete_region(vm, SLOT_A + 1);
	gpa = GPA_A + PAGE_SIZE;
	base = read_page(self, gpa, 0);

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		read_page(self, gpa, pages[i]);
		read_page(self, gpa, 48 + pages[i]);
		revocations = vm_get_stat(vm, dmabuf_revocations);
		decode(self, false);
		TEST_ASSERT_EQ(vm_leaves(vm).k4, base - 1);
		TEST_ASSERT_EQ(vm_get_stat(vm, dmabuf_revocations), revocations + 3);
		TEST_ASSERT_EQ(x86_cmd(self->vcpu, (struct x86_cmd){
						.op = OP_READ,
						.src = gpa + (48 + pages[i]) * PAGE_SIZE }),
			       GUEST_FAULT);
		assert_revoked_exit(self->vcpu, gpa + (48 + pages[i]) * PAGE_SIZE);
		decode(self, true);
		TEST_ASSERT_EQ(guest_run(self->vcpu), GUEST_DONE_CMD);
		decode(self, false);
		decode(self, true);
		TEST_ASSERT_EQ(vm_leaves(vm).k4, base - 1);
	}
}

/*
 * SMM: its address space has slots of its own, and roots.  The handler loads
 * from the BAR and tells by a port what it got, in EAX.
 */
#define SMM_PORT	0xe
#define SMRAM_GPA	0x10000000ul
#define SMM_BAR_GPA	0x20000000ul

static void smm_expect(struct kvm_vcpu *vcpu, u32 eax)
{
	struct kvm_regs regs;

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, SMM_PORT);
	vcpu_regs_get(vcpu, &regs);
	TEST_ASSERT_EQ((u32)regs.rax, eax);
}

DMABUF_X86_TEST(smm)
{
	/* In real mode: mov eax, [SMM_BAR_GPA]; in al, SMM_PORT; rsm */
	static const u8 handler[] = {
		0x66, 0x67, 0xa1, 0x00, 0x00, 0x00, SMM_BAR_GPA >> 24,
		0xe4, SMM_PORT,
		0x0f, 0xaa,
	};
	struct kvm_vcpu *vcpu = self->vcpu;
	int i;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "no KVM_CAP_X86_SMM");

	setup_smram(self->vm, vcpu, SMRAM_GPA, handler, sizeof(handler));
	add_slot(self, self->vm, SLOT_A, 0, SMM_BAR_GPA, SZ_2M, 9 * PAGE_SIZE);
	vm_set_dmabuf_region(self->vm, (1 << 16) | SLOT_A, 0, SMM_BAR_GPA, SZ_2M,
			     self->fd, 5 * PAGE_SIZE);
	TEST_ASSERT_EQ(x86_read(vcpu, SMM_BAR_GPA), TAG(9));

	for (i = 0; i < 3; i++) {
		inject_smi(vcpu);
		vcpu_run(vcpu);
		smm_expect(vcpu, (u32)TAG(5));
		TEST_ASSERT_EQ(guest_run(vcpu), GUEST_DONE_CMD);

		decode(self, false);
		inject_smi(vcpu);
		TEST_ASSERT_EQ(guest_run(vcpu), GUEST_FAULT);
		assert_revoked_exit(vcpu, SMM_BAR_GPA);
		decode(self, true);
		vcpu_run(vcpu);
		smm_expect(vcpu, (u32)TAG(5));
		TEST_ASSERT_EQ(guest_run(vcpu), GUEST_DONE_CMD);
		TEST_ASSERT_EQ(x86_read(vcpu, SMM_BAR_GPA), TAG(9));
	}

	/* One address space loses its slot, the other one does not. */
	vm_delete_region(self->vm, SLOT_A);
	TEST_ASSERT_EQ(vmm_mmio(self, vcpu, (struct x86_cmd) {
		.op = OP_READ, .src = SMM_BAR_GPA }), 1);
	inject_smi(vcpu);
	vcpu_run(vcpu);
	smm_expect(vcpu, (u32)TAG(5));
	/* Out of SMM the guest goes on with its load from where there is no slot. */
	TEST_ASSERT_EQ(guest_run(vcpu), GUEST_MMIO);
	TEST_ASSERT_EQ(vcpu->run->mmio.phys_addr, SMM_BAR_GPA);
}

/*
 * Nested guests.  L2 runs the loop of dmabuf_util.h; its exits to the test are
 * port accesses, which L1 does not intercept.
 */
static void l1_svm(struct svm_test_data *svm)
{
	generic_svm_setup(svm, guest_command_loop);
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_FAIL("L2 exited to L1: 0x%lx", (u64)svm->vmcb->control.exit_code);
}

static void l1_vmx(struct vmx_pages *vmx)
{
	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	prepare_vmcs(vmx, guest_command_loop);
	GUEST_ASSERT(!vmlaunch());
	GUEST_FAIL("L2 exited to L1: 0x%lx", vmreadz(VM_EXIT_REASON));
}

static void l1_guest(void *data)
{
	if (this_cpu_has(X86_FEATURE_VMX))
		l1_vmx(data);
	else
		l1_svm(data);
}

static gva_t alloc_nested(struct kvm_vm *vm)
{
	gva_t nested;

	if (kvm_cpu_has(X86_FEATURE_VMX))
		vcpu_alloc_vmx(vm, &nested);
	else
		vcpu_alloc_svm(vm, &nested);
	return nested;
}

static u64 l2_read(struct kvm_vcpu *vcpu, u64 gpa)
{
	enum guest_exit exit = guest_cmd(vcpu, GUEST_READ, gpa, 0, 0);

	TEST_ASSERT(exit == GUEST_DONE_CMD, "L2: read of 0x%lx: wanted no exit, got %s", gpa,
		    exit_reason_str(vcpu->run->exit_reason));
	return guest_res(vcpu);
}

/* A read that exits, by L1's address. */
static void l2_read_mmio(struct kvm_vcpu *vcpu, u64 l2, u64 gpa)
{
	u64 val = PATTERN;

	TEST_ASSERT_EQ(guest_cmd(vcpu, GUEST_READ, l2, 0, 0), GUEST_MMIO);
	TEST_ASSERT_EQ(vcpu->run->mmio.phys_addr, gpa);
	TEST_ASSERT_EQ(vcpu->run->mmio.len, sizeof(val));
	memcpy(vcpu->run->mmio.data, &val, sizeof(val));
	TEST_ASSERT_EQ(guest_run(vcpu), GUEST_DONE_CMD);
	TEST_ASSERT_EQ(guest_res(vcpu), val);
}

struct nested_shape {
	const char *name;
	bool tdp;		/* L1 gives L2 nested page tables */
	int level;		/* of these */
	u64 first;		/* page of the BAR, and distance of the slot from GPA_A */
	u64 pages;
	bool quirk;
};

/*
 * Revocation, restore and deletion with L2's accesses in shadow page tables,
 * i.e. with rmaps.  L2's address is not L1's, and exits have to name L1's.
 */
static void test_nested(FIXTURE_DATA(dmabuf_x86) *self, const struct nested_shape *s)
{
	u64 gpa = GPA_A + s->first * PAGE_SIZE, offset = s->first * PAGE_SIZE;
	u64 l2 = s->tdp ? GPA_ALIAS + offset : gpa;
	u64 size = s->pages * PAGE_SIZE, last = s->pages - 1;
	struct kvm_vcpu *vcpu;
	u64 mmio_exits, page;
	struct kvm_vm *vm;
	int i;

	ksft_print_msg("%s\n", s->name);
	vm = __vm_create_with_one_vcpu(&vcpu, EXTRA_PAGES, l1_guest);
	if (!s->quirk)
		vm_enable_cap(vm, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_SLOT_ZAP_ALL);
	if (s->tdp)
		vm_enable_tdp(vm);
	vcpu_args_set(vcpu, 1, alloc_nested(vm));
	virt_map(vm, l2, l2, s->pages);
	if (s->tdp) {
		tdp_identity_map_default_memslots(vm);
		__tdp_map(vm, l2, gpa, size, s->level);
	}
	vm_set_dmabuf_region(vm, SLOT_A, 0, gpa, size, self->fd, offset);

	TEST_ASSERT_EQ(l2_read(vcpu, l2), TAG(s->first));
	mmio_exits = vcpu_get_stat(vcpu, mmio_exits);
	for (page = 0; page < s->pages; page += 3)
		TEST_ASSERT_EQ(l2_read(vcpu, l2 + page * PAGE_SIZE), TAG(s->first + page));

	for (i = 0; i < 4; i++) {
		/* First, last and two in between: all of the rmaps. */
		page = i * last / 3;
		TEST_ASSERT_EQ(l2_read(vcpu, l2 + page * PAGE_SIZE), TAG(s->first + page));

		/*
		 * A load first: a store can fault for the sake of the Dirty bit
		 * of L1's page tables, although there is an entry.
		 */
		decode(self, false);
		TEST_ASSERT_EQ(guest_cmd(vcpu, GUEST_READ, l2 + page * PAGE_SIZE, 0, 0),
			       GUEST_FAULT);
		assert_revoked_exit(vcpu, gpa + page * PAGE_SIZE);
		decode(self, true);
		TEST_ASSERT_EQ(guest_run(vcpu), GUEST_DONE_CMD);
		TEST_ASSERT_EQ(guest_res(vcpu), TAG(s->first + page));

		decode(self, false);
		TEST_ASSERT_EQ(guest_cmd(vcpu, GUEST_WRITE, l2 + page * PAGE_SIZE + 8,
					 PATTERN + i, 0), GUEST_FAULT);
		assert_revoked_exit(vcpu, gpa + page * PAGE_SIZE);
		TEST_ASSERT_EQ(guest_run(vcpu), GUEST_FAULT);
		assert_revoked_exit(vcpu, gpa + page * PAGE_SIZE);
		decode(self, true);
		TEST_ASSERT_EQ(guest_run(vcpu), GUEST_DONE_CMD);
		TEST_ASSERT_EQ(bar_read64(self, (s->first + page) * PAGE_SIZE + 8), PATTERN + i);
		bar_write64(self, (s->first + page) * PAGE_SIZE + 8, 0);
	}
	TEST_ASSERT_EQ(vcpu_get_stat(vcpu, mmio_exits), mmio_exits);

	vm_delete_region(vm, SLOT_A);
	l2_read_mmio(vcpu, l2, gpa);

	vm_set_dmabuf_region(vm, SLOT_A, KVM_MEM_REVOKED_MMIO, gpa, size, self->fd, offset);
	TEST_ASSERT_EQ(l2_read(vcpu, l2 + last * PAGE_SIZE), TAG(s->first + last));
	decode(self, false);
	l2_read_mmio(vcpu, l2 + last * PAGE_SIZE, gpa + last * PAGE_SIZE);
	TEST_ASSERT_EQ(guest_cmd(vcpu, GUEST_WRITE, l2 + last * PAGE_SIZE, 0, 0), GUEST_MMIO);
	TEST_ASSERT(vcpu->run->mmio.is_write, "wanted a write");
	TEST_ASSERT_EQ(vcpu->run->mmio.phys_addr, gpa + last * PAGE_SIZE);
	TEST_ASSERT_EQ(guest_run(vcpu), GUEST_DONE_CMD);
	decode(self, true);
	TEST_ASSERT_EQ(l2_read(vcpu, l2 + last * PAGE_SIZE), TAG(s->first + last));
	kvm_vm_free(vm);
}

DMABUF_X86_TEST(nested)
{
	static const struct nested_shape shapes[] = {
		{ "NPT or EPT, 4 KiB, odd slot", true, PG_LEVEL_4K, 7, 515, true },
		{ "NPT or EPT, 2 MiB", true, PG_LEVEL_2M, 512, 512, true },
		{ "NPT or EPT, 2 MiB, two of them, no quirk", true, PG_LEVEL_2M, 512, 1024, false },
		{ "no NPT or EPT, 4 KiB, odd slot", false, PG_LEVEL_4K, 7, 515, true },
		{ "no NPT or EPT, no quirk", false, PG_LEVEL_4K, 512, 64, false },
	};
	int i;

	if (!kvm_cpu_has(X86_FEATURE_VMX) && !kvm_cpu_has(X86_FEATURE_SVM))
		SKIP(return, "no nested virtualization");

	for (i = 0; i < ARRAY_SIZE(shapes); i++)
		if (!shapes[i].tdp || kvm_cpu_has_tdp())
			test_nested(self, &shapes[i]);
}

/* What L1 gives the CPU by its physical address is not read from a BAR. */
static void l1_vmrun(struct svm_test_data *svm, u64 gpa)
{
	generic_svm_setup(svm, guest_command_loop);
	asm volatile("vmrun %0" :: "a"(gpa) : "memory");
	GUEST_FAIL("VMRUN of 0x%lx", gpa);
}

DMABUF_X86_TEST(nested_vmcb)
{
	const u64 gpas[] = { GPA_HOLE, GPA_A };
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i;

	if (!kvm_cpu_has(X86_FEATURE_SVM))
		SKIP(return, "no nested SVM");

	for (i = 0; i < ARRAY_SIZE(gpas); i++) {
		vm = __vm_create_with_one_vcpu(&vcpu, EXTRA_PAGES, l1_vmrun);
		vcpu_args_set(vcpu, 2, alloc_nested(vm), gpas[i]);
		vm_set_dmabuf_region(vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
		vcpu_run(vcpu);
		TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_INTERNAL_ERROR);
		TEST_ASSERT_EQ(vcpu->run->emulation_failure.suberror,
			       KVM_INTERNAL_ERROR_EMULATION);
		kvm_vm_free(vm);
	}
	TEST_ASSERT_EQ(bar_read64(self, 0), TAG(0));
}

static void l1_npt_root(struct svm_test_data *svm, u64 gpa)
{
	generic_svm_setup(svm, guest_command_loop);
	svm->vmcb->control.nested_cr3 = gpa;
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_SYNC(svm->vmcb->control.exit_code);
	READ_ONCE(*(u64 *)gpa);
	GUEST_DONE();
}

/*
 * L1 points the root of L2's page tables into a BAR: KVM cannot walk them, which
 * is a fault of L2's page tables, and L1's to handle.
 */
DMABUF_X86_TEST(nested_root)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	struct ucall uc;

	if (!kvm_cpu_has(X86_FEATURE_SVM) || !kvm_cpu_has_npt())
		SKIP(return, "no nested NPT");

	vm = __vm_create_with_one_vcpu(&vcpu, EXTRA_PAGES, l1_npt_root);
	vm_enable_tdp(vm);
	vcpu_args_set(vcpu, 2, alloc_nested(vm), GPA_A + PAGE_SIZE);
	virt_map(vm, GPA_A, GPA_A, SZ_2M / PAGE_SIZE);
	tdp_identity_map_default_memslots(vm);
	vm_set_dmabuf_region(vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);

	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
	TEST_ASSERT_EQ(uc.args[1], SVM_EXIT_NPF);

	/* The page is still there, and still goes away. */
	decode(self, false);
	TEST_ASSERT_EQ(guest_run(vcpu), GUEST_FAULT);
	assert_revoked_exit(vcpu, GPA_A + PAGE_SIZE);
	decode(self, true);
	TEST_ASSERT_EQ(guest_run(vcpu), GUEST_FINISHED);
	TEST_ASSERT_EQ(bar_read64(self, PAGE_SIZE), TAG(1));
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	struct kvm_vm *vm;
	char path[128];
	int i;

	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_bdfs);
	for (i = 0; i < nr_bdfs; i++) {
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", bdfs[i]);
		__TEST_REQUIRE(!access(path, F_OK), "%s is not bound to vfio-pci", bdfs[i]);
	}
	__TEST_REQUIRE(!access("/dev/iommu", R_OK | W_OK), "no /dev/iommu");

	vm = vm_create_barebones();
	__TEST_REQUIRE(vm_check_cap(vm, KVM_CAP_DMABUF_MEM), "no KVM_CAP_DMABUF_MEM");
	kvm_vm_free(vm);

	return test_harness_run(argc, argv);
}
