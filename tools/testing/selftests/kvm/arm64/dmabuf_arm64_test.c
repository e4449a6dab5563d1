// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of memslots that are backed by a dma-buf, on arm64 only: memory types,
 * cache maintenance, page tables and nested guests.
 *
 * The devices are described in dmabuf_fixture.h.
 */
#include <errno.h>
#include <string.h>

#include <linux/sizes.h>

#include "dmabuf_fixture.h"

/*
 * What stage-2 says about the memory.  vfio-pci allows write-combining, so the
 * guest's BAR is Normal-NC: an access need not be aligned, atomics work, the
 * guest's own attributes can still make it Device, and executing from it is an
 * external abort whoever asked for it.
 */
static struct {
	u64 esr;
	u64 far;
} guest_abort;

static void guest_abort_handler(struct ex_regs *regs)
{
	guest_abort.esr = read_sysreg(esr_el1);
	guest_abort.far = read_sysreg(far_el1);
	/* An instruction that could not be fetched was called. */
	if (ESR_ELx_EC(guest_abort.esr) == ESR_ELx_EC_IABT_CUR)
		regs->pc = regs->regs[30];
	else
		regs->pc += 4;
}

static void handle_aborts(struct kvm_vm *vm, struct kvm_vcpu *vcpu)
{
	vm_init_descriptor_tables(vm);
	vcpu_init_descriptor_tables(vcpu);
	vm_install_sync_handler(vm, VECTOR_SYNC_CURRENT, ESR_ELx_EC_DABT_CUR,
				guest_abort_handler);
	vm_install_sync_handler(vm, VECTOR_SYNC_CURRENT, ESR_ELx_EC_IABT_CUR,
				guest_abort_handler);
}

/* The command completed, with this abort taken by the guest, 0 for none. */
static void expect_abort(struct kvm_vm *vm, enum guest_exit exit, u64 ec, u64 fsc,
			 u64 far)
{
	TEST_ASSERT_EQ(exit, GUEST_DONE_CMD);
	sync_global_from_guest(vm, guest_abort);
	TEST_ASSERT(ec ? ESR_ELx_EC(guest_abort.esr) == ec : !guest_abort.esr,
		    "wanted class 0x%lx, ESR is 0x%lx", ec, guest_abort.esr);
	if (ec) {
		TEST_ASSERT_EQ(guest_abort.esr & ESR_ELx_FSC, fsc);
		TEST_ASSERT_EQ(guest_abort.far, far);
	}
	memset(&guest_abort, 0, sizeof(guest_abort));
	sync_global_to_guest(vm, guest_abort);
}

DMABUF_TEST(memory_type)
{
	u64 gpa = GPA_A + PAGE_SIZE;

	handle_aborts(self->vm, self->vcpu);
	bar_write64(self, PAGE_SIZE + 8, PATTERN);
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);

	expect_abort(self->vm, guest_cmd(self->vcpu, GUEST_READ_UNALIGNED, gpa + 4, 0, 0),
		     0, 0, 0);
	TEST_ASSERT_EQ(guest_res(self->vcpu), (TAG(1) >> 32) | (PATTERN << 32));

	expect_abort(self->vm, guest_cmd(self->vcpu, GUEST_ATOMIC, gpa, PATTERN, 0), 0, 0, 0);
	TEST_ASSERT_EQ(guest_res(self->vcpu), TAG(1));
	TEST_ASSERT_EQ(bar_read64(self, PAGE_SIZE), PATTERN);
}

DMABUF_TEST(execute)
{
	int i;

	handle_aborts(self->vm, self->vcpu);
	/* A "ret", should it be executed. */
	bar_write64(self, 2 * PAGE_SIZE, 0xd65f03c0);
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);

	/* Not mapped, then mapped; no exit in either case. */
	for (i = 0; i < 2; i++) {
		expect_abort(self->vm, guest_cmd(self->vcpu, GUEST_EXEC,
						 GPA_A + 2 * PAGE_SIZE, 0, 0),
			     ESR_ELx_EC_IABT_CUR, ESR_ELx_FSC_EXTABT,
			     GPA_A + 2 * PAGE_SIZE);
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 2 * PAGE_SIZE), 0xd65f03c0);
	}

	decode(self, false);
	guest_revoked(self->vcpu, GUEST_EXEC, GPA_A + 2 * PAGE_SIZE, 0);
	decode(self, true);
	expect_abort(self->vm, guest_run(self->vcpu), ESR_ELx_EC_IABT_CUR,
		     ESR_ELx_FSC_EXTABT, GPA_A + 2 * PAGE_SIZE);

	/* MMIO is no place for code, either. */
	vm_delete_region(self->vm, SLOT_A);
	vm_set_dmabuf_region(self->vm, SLOT_A, KVM_MEM_REVOKED_MMIO, GPA_A, SZ_2M,
			     self->fd, 0);
	decode(self, false);
	expect_abort(self->vm, guest_cmd(self->vcpu, GUEST_EXEC,
					 GPA_A + 2 * PAGE_SIZE, 0, 0),
		     ESR_ELx_EC_IABT_CUR, ESR_ELx_FSC_EXTABT, GPA_A + 2 * PAGE_SIZE);
	decode(self, true);
}

/*
 * A load that the CPU does not describe: KVM cannot make MMIO of it, with a slot
 * or without, and leaves it undone.
 */
DMABUF_TEST(revoked_mmio_pair)
{
	struct guest_cmd cmd = { .op = GUEST_READ_PAIR, .gpa = GPA_A };
	int i;

	add_slot(self->vm, SLOT_A, KVM_MEM_REVOKED_MMIO, GPA_A, SZ_2M, self->fd, 0);
	TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_READ_PAIR, GPA_A, 0, 0), GUEST_DONE_CMD);

	decode(self, false);
	*guest_cmd_hva(self->vm) = cmd;
	for (i = 0; i < 2; i++) {
		TEST_ASSERT_EQ(__vcpu_run(self->vcpu), -1);
		TEST_ASSERT_EQ(errno, ENOSYS);
	}
	vm_enable_cap(self->vm, KVM_CAP_ARM_NISV_TO_USER, 0);
	TEST_ASSERT_EQ(__vcpu_run(self->vcpu), 0);
	TEST_ASSERT_KVM_EXIT_REASON(self->vcpu, KVM_EXIT_ARM_NISV);
	TEST_ASSERT_EQ(self->vcpu->run->arm_nisv.fault_ipa, GPA_A);
	decode(self, true);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(0));
}

/* Cache maintenance needs no permission and nobody's help. */
DMABUF_TEST(cache_maintenance)
{
	enum guest_exit exit;
	u32 flags;

	for (flags = 0; flags <= KVM_MEM_READONLY; flags += KVM_MEM_READONLY) {
		/* While it is MMIO there is nothing to do. */
		add_slot(self->vm, SLOT_A, flags | KVM_MEM_REVOKED_MMIO, GPA_A, SZ_2M,
			 self->fd, 0);
		decode(self, false);
		TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_CLEAN, GPA_A, 0, 0),
			       GUEST_DONE_CMD);
		decode(self, true);
		vm_delete_region(self->vm, SLOT_A);

		vm_set_dmabuf_region(self->vm, SLOT_A, flags, GPA_A, SZ_2M, self->fd, 0);
		TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_CLEAN, GPA_A, 0, 0),
			       GUEST_DONE_CMD);
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
		TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_CLEAN, GPA_A, 0, 0),
			       GUEST_DONE_CMD);

		/* An emulated CPU has no caches, and does not look the address up. */
		decode(self, false);
		exit = guest_cmd(self->vcpu, GUEST_CLEAN, GPA_A, 0, 0);
		if (exit == GUEST_FAULT)
			assert_revoked_exit(self->vcpu, GPA_A);
		else
			TEST_ASSERT_EQ(exit, GUEST_DONE_CMD);
		decode(self, true);
		if (exit == GUEST_FAULT)
			guest_resume(self->vcpu);
		vm_delete_region(self->vm, SLOT_A);
	}
}

/*
 * Guest page tables in the BAR: the table walker's accesses are accesses of the
 * slot, and revoked with it.  The exit's gpa is that of the descriptor.
 */
DMABUF_TEST(page_tables)
{
	const u64 table = 64 * PAGE_SIZE;
	u64 *pmd, gva, idx, old;
	gva_t page;
	u32 flags;

	if (getpagesize() != SZ_4K)
		SKIP(return, "the test knows the tables of 4 KiB pages");

	handle_aborts(self->vm, self->vcpu);
	page = vm_alloc(self->vm, PAGE_SIZE, KVM_UTIL_MIN_VADDR);
	*(u64 *)addr_gva2hva(self->vm, page) = PATTERN;

	for (flags = 0; flags <= KVM_MEM_READONLY; flags += KVM_MEM_READONLY) {
		/* The page once more, by an address that no TLB has seen yet. */
		gva = (3ull + flags) * SZ_1G;
		virt_map(self->vm, gva, addr_arch_gva2gpa(self->vm, page), 1);

		/* Move the last table of the walk into the BAR. */
		idx = (gva / PAGE_SIZE) % (PAGE_SIZE / 8);
		bar_write64(self, table + idx * 8,
			    *virt_get_pte_hva_at_level(self->vm, gva, 3));
		pmd = virt_get_pte_hva_at_level(self->vm, gva, 2);
		old = *pmd;
		*pmd = (old & ~GENMASK_ULL(47, 12)) | (GPA_A + table);
		vm_set_dmabuf_region(self->vm, SLOT_A, flags, GPA_A, SZ_2M, self->fd, 0);

		expect_abort(self->vm, guest_cmd(self->vcpu, GUEST_READ, gva, 0, 0), 0, 0, 0);
		TEST_ASSERT_EQ(guest_res(self->vcpu), PATTERN);
		decode(self, false);
		guest_revoked_at(self->vcpu, GUEST_READ, gva, 0, GPA_A + table);
		decode(self, true);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), PATTERN);

		/* MMIO is no place for page tables, either. */
		vm_delete_region(self->vm, SLOT_A);
		vm_set_dmabuf_region(self->vm, SLOT_A, flags | KVM_MEM_REVOKED_MMIO,
				     GPA_A, SZ_2M, self->fd, 0);
		decode(self, false);
		expect_abort(self->vm, guest_cmd(self->vcpu, GUEST_READ, gva, 0, 0),
			     ESR_ELx_EC_DABT_CUR, ESR_ELx_FSC_SEA_TTW(3), gva);
		decode(self, true);

		*pmd = old;
		vm_delete_region(self->vm, SLOT_A);
	}
}

/* Entries of stage-2 tables: of what is below, and of memory. */
#define S2_TABLE(pa)	((pa) | 3)
#define S2_BLOCK(pa)	((pa) | 0x7fd)	/* Normal, shareable, RW, accessed */
#define S2_PAGE(pa)	((pa) | 0x7ff)
#define S2_PAGE_RO(pa)	((pa) | 0x77f)
/* 39 bits of IPA from level 1, 40 bits of PA, 4 KiB */
#define S2_VTCR		((1ul << 31) | (2ul << 16) | (3ul << 12) | (5ul << 8) | \
			 (1ul << 6) | 25)

/*
 * A nested guest on the BAR, whose accesses KVM maps by a stage-2 of its own.
 * Revocation takes that away, too, and the exit has the address of the slot.
 */
DMABUF_TEST(nested)
{
	const u64 l2_ipa = 32ull * SZ_1G;
	const u32 code[] = {
		0xf9400020, 0xd4000002,		/* ldr x0, [x1]; hvc #0 */
		0xf9000020, 0xd4000002,		/* str x0, [x1]; hvc #0 */
	};
	const u64 ro_ipa = l2_ipa + SZ_2M + 511 * SZ_4K;
	struct kvm_vm *vm = self->vm;
	u64 *level1, *level2, *level3, ipa;
	gva_t gva;
	int i, j;

	if (!vcpu_has_el2(self->vcpu))
		SKIP(return, "no nested virtualisation (kvm-arm.mode=nested)");
	if (getpagesize() != SZ_4K)
		SKIP(return, "the test knows the tables of 4 KiB pages");

	vm_init_descriptor_tables(vm);
	vcpu_init_descriptor_tables(self->vcpu);
	vm_install_sync_handler(vm, VECTOR_SYNC_LOWER_64, ESR_ELx_EC_HVC64, guest_l2_exit);
	vm_install_sync_handler(vm, VECTOR_SYNC_LOWER_64, ESR_ELx_EC_DABT_LOW, guest_l2_exit);
	add_slot(vm, SLOT_A, 0, GPA_A, SZ_4M, self->fd, 0);

	/*
	 * The first half of the slot is a block and the second one is pages, in
	 * reverse order: a block of it would be wrong, whatever the BAR allows.
	 */
	gva = vm_alloc_pages(vm, 4);
	level1 = addr_gva2hva(vm, gva);
	level2 = addr_gva2hva(vm, gva + PAGE_SIZE);
	level3 = addr_gva2hva(vm, gva + 2 * PAGE_SIZE);
	memcpy(addr_gva2hva(vm, gva + 3 * PAGE_SIZE), code, sizeof(code));
	for (i = 0; i < 4; i++)
		level1[i] = S2_BLOCK(i * (u64)SZ_1G);
	level1[l2_ipa / SZ_1G] = S2_TABLE(addr_gva2gpa(vm, gva + PAGE_SIZE));
	level2[0] = S2_BLOCK(GPA_A);
	level2[1] = S2_TABLE(addr_gva2gpa(vm, gva + 2 * PAGE_SIZE));
	for (i = 0; i < 512; i++)
		level3[i] = S2_PAGE(GPA_A + SZ_4M - (i + 1) * SZ_4K);
	level3[511] = S2_PAGE_RO(GPA_A + SZ_4M - 512 * SZ_4K);

	guest_l2.vttbr = addr_gva2gpa(vm, gva);
	guest_l2.vtcr = S2_VTCR;
	guest_l2.code = addr_gva2gpa(vm, gva + 3 * PAGE_SIZE);
	sync_global_to_guest(vm, guest_l2);

	for (i = 0; i < 3; i++) {
		TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_L2,
					 l2_ipa + PAGE_SIZE, 0, 0), GUEST_DONE_CMD);
		sync_global_from_guest(vm, guest_l2);
		TEST_ASSERT(ESR_ELx_EC(guest_l2.esr) == ESR_ELx_EC_HVC64,
			    "exit of L2: ESR is 0x%lx", guest_l2.esr);
		TEST_ASSERT_EQ(guest_res(self->vcpu), TAG(1));

		decode(self, false);
		guest_revoked_at(self->vcpu, GUEST_L2, l2_ipa + PAGE_SIZE, 0,
				 GPA_A + PAGE_SIZE);
		decode(self, true);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(1));

		for (j = 0; j < 512; j += 170) {
			ipa = l2_ipa + SZ_2M + j * SZ_4K;
			TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_L2, ipa, 0, 0),
				       GUEST_DONE_CMD);
			TEST_ASSERT_EQ(guest_res(self->vcpu), TAG(1023 - j));
		}
	}

	/* L0's VMM is told by L1's address, and L2 gets what it says. */
	vm_delete_region(vm, SLOT_A);
	vm_set_dmabuf_region(vm, SLOT_A, KVM_MEM_REVOKED_MMIO, GPA_A, SZ_4M, self->fd, 0);
	decode(self, false);
	TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_L2, l2_ipa + PAGE_SIZE, 0, 0),
		       GUEST_MMIO);
	complete_mmio_read(self->vcpu, GPA_A + PAGE_SIZE);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), MMIO_SENTINEL);
	decode(self, true);
	TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_L2, l2_ipa + PAGE_SIZE, 0, 0),
		       GUEST_DONE_CMD);
	TEST_ASSERT_EQ(guest_res(self->vcpu), TAG(1));

	/*
	 * Stores: what L1 does not permit goes to L1, whether the memory is there,
	 * and its page tables ask L1, or not.
	 */
	guest_l2.code += 2 * sizeof(code[0]);
	sync_global_to_guest(vm, guest_l2);
	for (i = 0; i < 2; i++) {
		decode(self, !i);
		TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_L2, ro_ipa, 0, 0), GUEST_DONE_CMD);
		sync_global_from_guest(vm, guest_l2);
		TEST_ASSERT(ESR_ELx_EC(guest_l2.esr) == ESR_ELx_EC_DABT_LOW &&
			    (guest_l2.esr & ESR_ELx_FSC) == ESR_ELx_FSC_PERM_L(3),
			    "exit of L2, decode %d: ESR is 0x%lx", !i, guest_l2.esr);
	}
	TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_L2, l2_ipa + PAGE_SIZE, 0, 0), GUEST_MMIO);
	TEST_ASSERT(self->vcpu->run->mmio.is_write, "wanted a write");
	TEST_ASSERT_EQ(self->vcpu->run->mmio.phys_addr, GPA_A + PAGE_SIZE);
	guest_resume(self->vcpu);
	decode(self, true);
	TEST_ASSERT_EQ(bar_read64(self, PAGE_SIZE), TAG(1));
}

int main(int argc, char *argv[])
{
	return dmabuf_main(argc, argv);
}
