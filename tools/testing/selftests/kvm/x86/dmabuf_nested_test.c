// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of nested guests that access a memslot that is backed by a dma-buf, i.e. of
 * shadow page tables and rmaps, and of what a guest hypervisor gives the CPU by
 * its physical address.
 *
 * Devices are those of dmabuf_fixture.h.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "dmabuf_x86.h"
#include "dmabuf_mock.h"
#include "svm_util.h"
#include "vmx.h"

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
static void test_nested(FIXTURE_DATA(dmabuf) *self, const struct nested_shape *s)
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

DMABUF_TEST(nested)
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

static void expect_l2_fault(struct kvm_vcpu *vcpu, enum guest_exit exit, u64 gpa, u64 flags)
{
	struct kvm_run *run = vcpu->run;

	TEST_ASSERT(exit == GUEST_FAULT, "exit was %s", exit_reason_str(run->exit_reason));
	TEST_ASSERT(run->memory_fault.flags == flags && run->memory_fault.gpa == gpa,
		    "wanted flags 0x%lx, got 0x%llx at 0x%llx", flags,
		    run->memory_fault.flags, run->memory_fault.gpa);
}

/*
 * Gfns of L1 that are private, and L2.  For whether an access is private KVM asks the
 * attribute of the address that faulted, which is L2's: it says itself that nested
 * guests of VMs with private gfns do not work.  Where the two are one address they do.
 * Where they are not L2 does not get what is private, nor what does not agree.
 */
static void test_nested_private(int dev, bool tdp)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = KVM_X86_SW_PROTECTED_VM,
	};
	const u64 private = KVM_MEMORY_EXIT_FLAG_PRIVATE;
	const u64 backing = KVM_MEMORY_EXIT_FLAG_BACKING;
	const u64 gpa = 4ull * SZ_1G, l2 = tdp ? 5ull * SZ_1G : gpa;
	struct dma_buf_mock_extent extent;
	struct kvm_vcpu *vcpu;
	enum guest_exit exit;
	struct kvm_vm *vm;
	int fd, i;

	mock_blocks(&extent, 1, 0, MOCK_RW);
	fd = mock_create(dev, &extent, 1);
	mock_poke64(dev, fd, 0, TAG(0));
	vm = __vm_create_shape_with_one_vcpu(shape, &vcpu, EXTRA_PAGES, l1_guest);
	if (tdp)
		vm_enable_tdp(vm);
	vcpu_args_set(vcpu, 1, alloc_nested(vm));
	virt_map(vm, l2, l2, 1);
	if (tdp) {
		tdp_identity_map_default_memslots(vm);
		__tdp_map(vm, l2, gpa, PAGE_SIZE, PG_LEVEL_4K);
	}
	vm_set_dmabuf_region(vm, SLOT_A, KVM_MEM_REVOKED_MMIO, gpa, PAGE_SIZE, fd, 0);

	for (i = 0; i < 3; i++) {
		TEST_ASSERT_EQ(l2_read(vcpu, l2), TAG(0));
		vm_set_memory_attributes(vm, gpa, PAGE_SIZE, KVM_MEMORY_ATTRIBUTE_PRIVATE);
		exit = guest_cmd(vcpu, GUEST_READ, l2, 0, 0);
		expect_l2_fault(vcpu, exit, gpa, tdp ? 0 : private | backing);

		mock_attrs(dev, fd, 0, 1, MOCK_RW | DMA_BUF_MOCK_PRIVATE);
		exit = guest_run(vcpu);
		if (tdp) {
			expect_l2_fault(vcpu, exit, gpa, 0);
		} else {
			TEST_ASSERT_EQ(exit, GUEST_DONE_CMD);
			TEST_ASSERT_EQ(guest_res(vcpu), TAG(0));
		}

		vm_set_memory_attributes(vm, gpa, PAGE_SIZE, 0);
		exit = tdp ? guest_run(vcpu) : guest_cmd(vcpu, GUEST_READ, l2, 0, 0);
		expect_l2_fault(vcpu, exit, gpa, backing);
		mock_attrs(dev, fd, 0, 1, MOCK_RW);
		TEST_ASSERT_EQ(guest_run(vcpu), GUEST_DONE_CMD);
		TEST_ASSERT_EQ(guest_res(vcpu), TAG(0));
	}
	kvm_vm_free(vm);
	close(fd);
	mock_assert_unchanged(dev);
}

TEST(nested_private)
{
	int dev = open("/dev/dma-buf-mock", O_RDWR | O_CLOEXEC);

	if (dev < 0)
		SKIP(return, "no /dev/dma-buf-mock (CONFIG_DMABUF_MOCK)");
	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM)))
		SKIP(return, "no VMs that are protected by software");
	if (!kvm_cpu_has(X86_FEATURE_VMX) && !kvm_cpu_has(X86_FEATURE_SVM))
		SKIP(return, "no nested virtualization");

	test_nested_private(dev, false);
	if (kvm_cpu_has_tdp())
		test_nested_private(dev, true);
	close(dev);
}

/* What L1 gives the CPU by its physical address is not read from a BAR. */
static void l1_vmrun(struct svm_test_data *svm, u64 gpa)
{
	generic_svm_setup(svm, guest_command_loop);
	asm volatile("vmrun %0" :: "a"(gpa) : "memory");
	GUEST_FAIL("VMRUN of 0x%lx", gpa);
}

DMABUF_TEST(nested_vmcb)
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
DMABUF_TEST(nested_root)
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
	return dmabuf_main(argc, argv);
}
