// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of KVM code that needs the host virtual address of guest memory, with
 * memslots that are backed by a dma-buf and have none.
 *
 * The instruction emulator has to exit to userspace, and memory that a guest
 * shares with KVM has to fail as it does where there is no memory: each gets a
 * test here.  The test maps memory at address 0 of this process and watches
 * it, because a missing address looks like address 0.
 *
 * The devices are described in dmabuf_fixture.h.
 */
#include <stdlib.h>
#include <string.h>

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/kvm_para.h>

#include "dmabuf_x86.h"
#include "hyperv.h"

/* What a process may map at 0 is mapped by low_map(). */
#define LOW_SIZE	SZ_64K

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
static struct untouched *watch(FIXTURE_DATA(dmabuf) *self)
{
	struct untouched *u = malloc(sizeof(*u));

	vfio_pci_bar_read(self->dev, self->bar, 0, u->bar, LOW_SIZE);
	u->low = low_map();
	if (u->low != (u8 *)-1)
		return u;

	free(u);
	return NULL;
}

static void assert_untouched(FIXTURE_DATA(dmabuf) *self, struct untouched *u)
{
	u8 *now = malloc(LOW_SIZE);

	vfio_pci_bar_read(self->dev, self->bar, 0, now, LOW_SIZE);
	TEST_ASSERT(!memcmp(u->bar, now, LOW_SIZE), "the BAR was written");
	low_check_and_unmap(u->low);
	free(now);
	free(u);
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
DMABUF_TEST(emulated_string)
{
	const u64 offset = PAGE_SIZE - STRING_LEN / 2;
	u8 bar[STRING_LEN], *low = low_map(), *ram;
	gva_t gva;

	if (!is_forced_emulation_enabled)
		SKIP(return, "kvm.force_emulation_prefix is not set");

	gva = vm_alloc_page(self->vm);
	ram = addr_gva2hva(self->vm, gva);
	add_bar(self, self->vm, SLOT_A, 0, GPA_A, SZ_2M, SZ_2M);

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
DMABUF_TEST(readonly_string)
{
	u8 bar[STRING_LEN], *ram;
	u64 mmio_exits;
	gva_t gva;

	gva = vm_alloc_page(self->vm);
	ram = addr_gva2hva(self->vm, gva);
	add_bar(self, self->vm, SLOT_A, KVM_MEM_READONLY, GPA_A, SZ_2M, SZ_2M);

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
DMABUF_TEST(emulated_page_crossing)
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
	add_bar(self, self->vm, SLOT_A, 0, GPA_A, SZ_2M, 0);

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
DMABUF_TEST(readonly_page_crossing)
{
	const u64 cross = PAGE_SIZE - 4;
	u64 val;

	add_bar(self, self->vm, SLOT_A, KVM_MEM_READONLY, GPA_A, SZ_2M, 0);
	TEST_ASSERT_EQ(vmm_mmio(self, self->vcpu, (struct x86_cmd) {
		.op = OP_WRITE, .dst = GPA_A + cross, .val = PATTERN }), 2);
	vfio_pci_bar_read(self->dev, self->bar, cross, &val, sizeof(val));
	TEST_ASSERT_EQ(val, PATTERN);
	TEST_ASSERT_EQ(x86_read(self->vcpu, GPA_A + cross), PATTERN);
}

/* A locked instruction and one of SSE. */
DMABUF_TEST(emulated_wide)
{
	u8 *low = low_map();
	u64 val[2];

	if (!is_forced_emulation_enabled)
		SKIP(return, "kvm.force_emulation_prefix is not set");

	add_bar(self, self->vm, SLOT_A, 0, GPA_A, SZ_2M, 0);

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
DMABUF_TEST(exec)
{
	const u64 ret = 0xc3;

	bar_write64(self, PAGE_SIZE, ret);
	add_bar(self, self->vm, SLOT_A, 0, GPA_A, SZ_2M, 0);
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
DMABUF_TEST(revoked_after_exception)
{
	const u64 val = PATTERN;
	int i;

	add_bar(self, self->vm, SLOT_A, KVM_MEM_REVOKED_MMIO, GPA_A, SZ_2M, 0);
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
 * What KVM does not emulate cannot be MMIO: userspace is told, nothing was done, and
 * the instruction works when the memory is back.
 */
DMABUF_TEST(revoked_not_emulated)
{
	const struct x86_cmd cmd = { .op = OP_PXOR, .src = GPA_A + 5 * PAGE_SIZE };
	struct kvm_run *run = self->vcpu->run;
	int i;

	vm_enable_cap(self->vm, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1);
	add_bar(self, self->vm, SLOT_A, KVM_MEM_REVOKED_MMIO, GPA_A, SZ_2M, 0);
	TEST_ASSERT_EQ(x86_do(self->vcpu, cmd), TAG(5));

	decode(self, false);
	*(struct x86_cmd *)addr_gva2hva(self->vm, (gva_t)&x86_command) = cmd;
	for (i = 0; i < 3; i++) {
		TEST_ASSERT_EQ(__vcpu_run(self->vcpu), 0);
		TEST_ASSERT_KVM_EXIT_REASON(self->vcpu, KVM_EXIT_INTERNAL_ERROR);
		TEST_ASSERT_EQ(run->emulation_failure.suberror,
			       KVM_INTERNAL_ERROR_EMULATION);
	}
	decode(self, true);
	TEST_ASSERT_EQ(guest_run(self->vcpu), GUEST_DONE_CMD);
	TEST_ASSERT_EQ(x86_res(self->vcpu), TAG(5));
}

/*
 * Areas that a guest shares with KVM, placed in a BAR.  The guest gets what it
 * gets for an area where there is no memory, and neither the BAR nor the lowest
 * addresses of this process change.
 */
DMABUF_TEST(pv_areas)
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

	add_bar(self, self->vm, SLOT_A, 0, GPA_A, SZ_2M, 0);
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
DMABUF_TEST(hyperv_pages)
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

	add_bar(self, self->vm, SLOT_A, 0, GPA_A, SZ_2M, 0);
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
DMABUF_TEST(xen_pages)
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

	add_bar(self, self->vm, SLOT_A, 0, GPA_A, SZ_2M, 0);
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

int main(int argc, char *argv[])
{
	return dmabuf_main(argc, argv);
}
