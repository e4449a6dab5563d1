// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of memslots that are backed by a dma-buf, on riscv only: instruction
 * fetches and page table walks that end in such memory, accesses that KVM
 * cannot make MMIO of, reads that KVM does for the guest, and the size of the
 * leaves.  riscv has neither a stat nor a dump of the G-stage that shows the
 * size of leaves.  The test derives it from the number of exits of the guest.
 *
 * The devices are described in dmabuf_fixture.h.  One test uses memory of the mock
 * exporter.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "dmabuf_fixture.h"
#include "dmabuf_mock.h"

#define INSN_RET	0x00008067ul

/* The exception that a command ended with, as the guest saw it. */
static struct {
	u64 cause;
	u64 tval;
} guest_trap;

static void guest_trap_handler(struct pt_regs *regs)
{
	guest_trap.cause = regs->cause;
	guest_trap.tval = regs->badaddr;
	/* An instruction that could not be fetched was called. */
	if (regs->cause == EXC_INST_ACCESS)
		regs->epc = regs->ra;
	else
		regs->epc += (*(u16 *)regs->epc & 3) == 3 ? 4 : 2;
}

static void handle_traps(struct kvm_vm *vm, struct kvm_vcpu *vcpu)
{
	vm_init_vector_tables(vm);
	vcpu_init_vector_tables(vcpu);
	vm_install_exception_handler(vm, EXC_INST_ACCESS, guest_trap_handler);
	vm_install_exception_handler(vm, EXC_LOAD_ACCESS, guest_trap_handler);
	vm_install_exception_handler(vm, EXC_STORE_ACCESS, guest_trap_handler);
}

/* The guest took that exception since the last look, 0 for none. */
static void expect_trap(struct kvm_vm *vm, u64 cause, u64 tval)
{
	sync_global_from_guest(vm, guest_trap);
	TEST_ASSERT(guest_trap.cause == cause, "wanted cause %lu, got %lu at 0x%lx", cause,
		    guest_trap.cause, guest_trap.tval);
	if (cause)
		TEST_ASSERT_EQ(guest_trap.tval, tval);
	memset(&guest_trap, 0, sizeof(guest_trap));
	sync_global_to_guest(vm, guest_trap);
}

/* A command that does not exit, and ends with that exception. */
static u64 guest_do(struct kvm_vcpu *vcpu, enum guest_op op, u64 addr, u64 val, u64 cause)
{
	enum guest_exit exit = guest_cmd(vcpu, op, addr, val, 0);

	TEST_ASSERT(exit == GUEST_DONE_CMD, "op %u at 0x%lx: wanted no exit, got %s", op,
		    addr, exit_reason_str(vcpu->run->exit_reason));
	expect_trap(vcpu->vm, cause, addr);
	return guest_res(vcpu);
}

/* A command that KVM fails, and leaves undone. */
static void guest_errno(struct kvm_vcpu *vcpu, enum guest_op op, u64 addr, u64 val, int err)
{
	int i;

	*guest_cmd_hva(vcpu->vm) = (struct guest_cmd) { .op = op, .gpa = addr, .val = val };
	for (i = 0; i < 2; i++) {
		TEST_ASSERT_EQ(__vcpu_run(vcpu), -1);
		TEST_ASSERT(errno == err, "op %u at 0x%lx: wanted %s, got %s", op, addr,
			    strerror(err), strerror(errno));
	}
}

static void set_slot(FIXTURE_DATA(dmabuf) *self, u32 flags)
{
	vm_set_dmabuf_region(self->vm, SLOT_A, flags, GPA_A, SZ_4M, self->fd, 0);
}

static void first_slot(FIXTURE_DATA(dmabuf) *self, u32 flags)
{
	handle_traps(self->vm, self->vcpu);
	add_slot(self->vm, SLOT_A, flags, GPA_A, SZ_4M, self->fd, 0);
}

/* What is not cacheable is no place for code, and neither is MMIO. */
DMABUF_TEST(execute)
{
	const u64 code = GPA_A + 2 * PAGE_SIZE;
	int i;

	bar_write64(self, 2 * PAGE_SIZE, INSN_RET);
	first_slot(self, 0);

	/* Not mapped, then mapped. */
	for (i = 0; i < 2; i++) {
		guest_do(self->vcpu, GUEST_EXEC, code, 0, EXC_INST_ACCESS);
		TEST_ASSERT_EQ(guest_read(self->vcpu, code), INSN_RET);
	}

	decode(self, false);
	guest_revoked(self->vcpu, GUEST_EXEC, code, 0);
	decode(self, true);
	guest_resume(self->vcpu);
	expect_trap(self->vm, EXC_INST_ACCESS, code);

	vm_delete_region(self->vm, SLOT_A);
	set_slot(self, KVM_MEM_REVOKED_MMIO);
	decode(self, false);
	guest_do(self->vcpu, GUEST_EXEC, code, 0, EXC_INST_ACCESS);
	decode(self, true);
}

/* The entry of the guest's page tables for @gva at a level, 0 being the last. */
static u64 *guest_pte(struct kvm_vm *vm, gva_t gva, int level)
{
	u64 table = vm->mmu.pgd, *pte;
	int i;

	for (i = vm->mmu.pgtable_levels - 1; ; i--) {
		pte = (u64 *)addr_gpa2hva(vm, table) +
		      ((gva >> (PGTBL_PAGE_SIZE_SHIFT + 9 * i)) & 511);
		if (i == level)
			return pte;
		table = (*pte & PGTBL_PTE_ADDR_MASK) >> PGTBL_PTE_ADDR_SHIFT
			<< PGTBL_PAGE_SIZE_SHIFT;
	}
}

static u64 table_pte(u64 gpa)
{
	return gpa >> PGTBL_PAGE_SIZE_SHIFT << PGTBL_PTE_ADDR_SHIFT | PGTBL_PTE_VALID_MASK;
}

/*
 * Guest page tables in the BAR: the table walker's accesses are accesses of the
 * slot, and revoked with it.  The exit's gpa is that of the entry.  Where they
 * would be MMIO the walk is an access fault, and no access at what the
 * instruction was about.
 */
DMABUF_TEST(page_tables)
{
	const u64 table = 64 * PAGE_SIZE;
	u64 *pmd, gva, old;
	gva_t page;
	u32 flags;

	first_slot(self, 0);
	vm_delete_region(self->vm, SLOT_A);
	page = vm_alloc(self->vm, PAGE_SIZE, KVM_UTIL_MIN_VADDR);

	for (flags = 0; flags <= KVM_MEM_READONLY; flags += KVM_MEM_READONLY) {
		/* The page once more, by a table of its own, which goes into the BAR. */
		gva = (16ull + flags) * SZ_1G;
		virt_map(self->vm, gva, addr_arch_gva2gpa(self->vm, page), 1);
		bar_write64(self, table, *guest_pte(self->vm, gva, 0));
		pmd = guest_pte(self->vm, gva, 1);
		old = *pmd;
		*pmd = table_pte(GPA_A + table);
		*(u64 *)addr_gva2hva(self->vm, page) = PATTERN;
		set_slot(self, flags);

		/* A walk for a store is no store. */
		guest_do(self->vcpu, GUEST_WRITE, gva, PATTERN + 1, 0);
		TEST_ASSERT_EQ(guest_do(self->vcpu, GUEST_READ, gva, 0, 0), PATTERN + 1);

		decode(self, false);
		guest_revoked_at(self->vcpu, GUEST_READ, gva, 0, GPA_A + table);
		decode(self, true);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), PATTERN + 1);
		decode(self, false);
		guest_revoked_at(self->vcpu, GUEST_WRITE, gva, PATTERN + 2, GPA_A + table);
		decode(self, true);
		guest_resume(self->vcpu);
		TEST_ASSERT_EQ(*(u64 *)addr_gva2hva(self->vm, page), PATTERN + 2);
		expect_trap(self->vm, 0, 0);

		vm_delete_region(self->vm, SLOT_A);
		set_slot(self, flags | KVM_MEM_REVOKED_MMIO);
		decode(self, false);
		guest_do(self->vcpu, GUEST_READ, gva, 0, EXC_LOAD_ACCESS);
		guest_do(self->vcpu, GUEST_WRITE, gva, 0, EXC_STORE_ACCESS);
		guest_do(self->vcpu, GUEST_EXEC, gva, 0, EXC_INST_ACCESS);
		decode(self, true);
		TEST_ASSERT_EQ(guest_do(self->vcpu, GUEST_READ, gva, 0, 0), PATTERN + 2);

		/* The same without a slot. */
		vm_delete_region(self->vm, SLOT_A);
		guest_do(self->vcpu, GUEST_READ, gva, 0, EXC_LOAD_ACCESS);
		guest_do(self->vcpu, GUEST_WRITE, gva, 0, EXC_STORE_ACCESS);
		TEST_ASSERT_EQ(*(u64 *)addr_gva2hva(self->vm, page), PATTERN + 2);
		*pmd = old;
	}
}

/* Atomics work while the memory is there, and KVM cannot do them instead. */
DMABUF_TEST(atomic)
{
	u64 gpa = GPA_A + PAGE_SIZE;

	first_slot(self, 0);
	TEST_ASSERT_EQ(guest_do(self->vcpu, GUEST_ATOMIC, gpa, PATTERN, 0), TAG(1));
	TEST_ASSERT_EQ(bar_read64(self, PAGE_SIZE), PATTERN);

	decode(self, false);
	guest_revoked(self->vcpu, GUEST_ATOMIC, gpa, PATTERN + 1);
	decode(self, true);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), PATTERN);
	TEST_ASSERT_EQ(bar_read64(self, PAGE_SIZE), PATTERN + 1);

	vm_delete_region(self->vm, SLOT_A);
	set_slot(self, KVM_MEM_REVOKED_MMIO);
	decode(self, false);
	guest_errno(self->vcpu, GUEST_ATOMIC, gpa, PATTERN + 2, EOPNOTSUPP);
	decode(self, true);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), PATTERN + 1);

	vm_delete_region(self->vm, SLOT_A);
	set_slot(self, KVM_MEM_READONLY);
	guest_errno(self->vcpu, GUEST_ATOMIC, gpa, PATTERN + 3, EOPNOTSUPP);
	TEST_ASSERT_EQ(bar_read64(self, PAGE_SIZE), PATTERN + 2);
}

/* KVM makes MMIO of aligned accesses only. */
DMABUF_TEST(misaligned)
{
	const u64 gva = 16ull * SZ_1G + PAGE_SIZE - 4;
	u64 gpa = GPA_A + PAGE_SIZE + 4;
	gva_t page;

	bar_write64(self, PAGE_SIZE + 8, PATTERN);
	first_slot(self, KVM_MEM_REVOKED_MMIO);
	TEST_ASSERT_EQ(guest_do(self->vcpu, GUEST_READ, gpa, 0, 0),
		       (TAG(1) >> 32) | (PATTERN << 32));

	decode(self, false);
	guest_errno(self->vcpu, GUEST_READ, gpa, 0, EIO);
	decode(self, true);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), (TAG(1) >> 32) | (PATTERN << 32));

	/* Out of other memory: the address of the fault is aligned, the access is not. */
	page = vm_alloc(self->vm, PAGE_SIZE, KVM_UTIL_MIN_VADDR);
	virt_map(self->vm, gva + 4 - PAGE_SIZE, addr_arch_gva2gpa(self->vm, page), 1);
	virt_map(self->vm, gva + 4, GPA_A + PAGE_SIZE, 1);
	*(u32 *)addr_gva2hva(self->vm, page + PAGE_SIZE - 4) = 0x5157;
	TEST_ASSERT_EQ(guest_do(self->vcpu, GUEST_READ, gva, 0, 0), 0x5157 | (TAG(1) << 32));
	decode(self, false);
	guest_errno(self->vcpu, GUEST_READ, gva, 0, EIO);
	decode(self, true);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), 0x5157 | (TAG(1) << 32));
}

/*
 * Memory that KVM reads for the guest, by HLV: the mask of one of SBI's legacy
 * calls.  A fault of that is one of the guest.
 */
DMABUF_TEST(kvm_reads)
{
	const u64 gpa = GPA_A + 8;

	if (!__vcpu_has_sbi_ext(self->vcpu, KVM_RISCV_SBI_EXT_V01))
		SKIP(return, "no legacy SBI (CONFIG_RISCV_SBI_V01)");

	bar_write64(self, 8, 0);
	first_slot(self, 0);

	/* Not mapped, then mapped. */
	TEST_ASSERT_EQ(guest_do(self->vcpu, GUEST_SEND_IPI, gpa, 0, 0), 0);
	bar_write64(self, 8, 1);
	TEST_ASSERT_EQ(guest_do(self->vcpu, GUEST_SEND_IPI, gpa, 0, 0), 1);

	decode(self, false);
	guest_revoked(self->vcpu, GUEST_SEND_IPI, gpa, 0);
	decode(self, true);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), 1);
	expect_trap(self->vm, 0, 0);

	/* It is no load that could be MMIO. */
	vm_delete_region(self->vm, SLOT_A);
	set_slot(self, KVM_MEM_REVOKED_MMIO);
	TEST_ASSERT_EQ(guest_do(self->vcpu, GUEST_SEND_IPI, gpa, 0, 0), 1);
	decode(self, false);
	guest_do(self->vcpu, GUEST_SEND_IPI, gpa, 0, EXC_LOAD_ACCESS);
	decode(self, true);
	vm_delete_region(self->vm, SLOT_A);
	guest_do(self->vcpu, GUEST_SEND_IPI, gpa, 0, EXC_LOAD_ACCESS);
}

static struct {
	u64 done;
	bool stop;
} ipi_state;

/* The mask is 0.  Memory that was taken away has a pattern in it, which includes us. */
static void guest_ipi_loop(u64 gpa)
{
	u64 n;

	for (n = 1; !READ_ONCE(ipi_state.stop); n++) {
		GUEST_ASSERT(!guest_send_ipi(gpa));
		WRITE_ONCE(ipi_state.done, n);
	}
	GUEST_DONE();
}

/* Exits because the mask was revoked. */
static u64 ipi_faults;

static void *ipi_thread(void *arg)
{
	struct kvm_vcpu *vcpu = arg;
	enum guest_exit exit;

	while ((exit = guest_run(vcpu)) != GUEST_FINISHED) {
		TEST_ASSERT(exit == GUEST_FAULT, "exit was %s",
			    exit_reason_str(vcpu->run->exit_reason));
		WRITE_ONCE(ipi_faults, ipi_faults + 1);
		sched_yield();
	}
	return NULL;
}

/*
 * The same while the memory comes and goes, and the vCPU moves between CPUs.  No
 * device's memory: an emulated one that stops to decode makes the emulator drop its
 * TLBs, and with them what a read could wrongly use.
 */
DMABUF_TEST(kvm_reads_under_load)
{
	int nr_cpus = sysconf(_SC_NPROCESSORS_ONLN), round, mock, fd;
	struct dma_buf_mock_extent extent;
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	struct kvm_vm *vm;
	cpu_set_t cpu;
	u64 *done, seen;

	if (!__vcpu_has_sbi_ext(self->vcpu, KVM_RISCV_SBI_EXT_V01))
		SKIP(return, "no legacy SBI (CONFIG_RISCV_SBI_V01)");

	mock = open("/dev/dma-buf-mock", O_RDWR | O_CLOEXEC);
	if (mock < 0)
		SKIP(return, "no /dev/dma-buf-mock (CONFIG_DMABUF_MOCK)");

	mock_blocks(&extent, 1, 0, MOCK_RW);
	fd = mock_create(mock, &extent, 1);
	mock_poke64(mock, fd, 8, 0);
	vm = __vm_create_with_one_vcpu(&vcpu, EXTRA_PAGES, guest_ipi_loop);
	add_slot(vm, SLOT_A, 0, GPA_A, PAGE_SIZE, fd, 0);
	vcpu_args_set(vcpu, 1, GPA_A + 8);
	done = addr_gva2hva(vm, (gva_t)&ipi_state.done);
	kvm_pthread_create(&thread, NULL, ipi_thread, vcpu);

	for (round = 0; round < 100; round++) {
		seen = READ_ONCE(*done);
		while (READ_ONCE(*done) < seen + 5)
			sched_yield();
		CPU_ZERO(&cpu);
		CPU_SET(round % nr_cpus, &cpu);
		kvm_pthread_setaffinity(thread, &cpu);
		seen = READ_ONCE(ipi_faults);
		mock_revoke(mock, fd);
		/* Until then, it could read what it must not. */
		while (READ_ONCE(ipi_faults) == seen)
			sched_yield();
		mock_restore(mock, fd);
	}
	WRITE_AND_SYNC_TO_GUEST(vm, ipi_state.stop, true);
	kvm_pthread_join(thread, NULL);
	kvm_vm_free(vm);
	close(fd);
	mock_assert_unchanged(mock);
	close(mock);
}

/* Exits of the guest while it reads @nr times, @stride apart. */
static u64 touch_exits(struct kvm_vcpu *vcpu, u64 gpa, u64 stride, u64 nr)
{
	u64 exits = vcpu_get_stat(vcpu, exits);

	TEST_ASSERT_EQ(guest_cmd(vcpu, GUEST_TOUCH, gpa, stride, nr), GUEST_DONE_CMD);
	expect_trap(vcpu->vm, 0, 0);
	return vcpu_get_stat(vcpu, exits) - exits;
}

/*
 * A fault for each leaf, and exits for other reasons: many where the host is slow
 * and faults are many.  The accesses are @nr, in as many leaves or in a few.
 */
static void assert_leaves(struct kvm_vcpu *vcpu, const char *what, u64 gpa, u64 stride,
			  u64 nr, u64 leaves)
{
	u64 exits = touch_exits(vcpu, gpa, stride, nr);

	TEST_ASSERT(exits >= leaves && (leaves == nr || exits < nr / 4),
		    "%s: wanted %lu leaves for %lu accesses, got %lu exits", what, leaves,
		    nr, exits);
}

DMABUF_TEST(leaf_sizes)
{
	const u64 nr = SZ_4M / PAGE_SIZE;
	u64 gpa;
	int i;

	if (pci_bar_phys(bdfs[0], self->bar) & (SZ_2M - 1))
		SKIP(return, "the BAR is not aligned to 2 MiB");

	/* Revocation leaves tables behind, or not: the next leaf is large again. */
	first_slot(self, 0);
	for (i = 0; i < 3; i++) {
		gpa = GPA_A + i * PAGE_SIZE;
		assert_leaves(self->vcpu, "congruent", GPA_A, PAGE_SIZE, nr, 2);
		decode(self, false);
		guest_revoked(self->vcpu, GUEST_READ, gpa, 0);
		decode(self, true);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(i));
		decode(self, false);
		decode(self, true);
	}
	vm_delete_region(self->vm, SLOT_A);

	vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, SZ_4M, self->fd, PAGE_SIZE);
	assert_leaves(self->vcpu, "off by a page", GPA_A, PAGE_SIZE, nr, nr);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + SZ_2M), TAG(SZ_2M / PAGE_SIZE + 1));
	vm_delete_region(self->vm, SLOT_A);

	/* Shorter than a large page, which must not reach beyond the slot. */
	vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, SZ_2M - PAGE_SIZE, self->fd, 0);
	assert_leaves(self->vcpu, "too short", GPA_A, PAGE_SIZE, SZ_2M / PAGE_SIZE - 1,
		      SZ_2M / PAGE_SIZE - 1);
	guest_no_slot(self->vcpu, GPA_A + SZ_2M - PAGE_SIZE);
	vm_delete_region(self->vm, SLOT_A);

	/* Blocks where pages were. */
	set_slot(self, 0);
	assert_leaves(self->vcpu, "congruent again", GPA_A, PAGE_SIZE, nr, 2);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + SZ_2M), TAG(SZ_2M / PAGE_SIZE));
}

/* A large BAR of another device in leaves of 1 GiB. */
DMABUF_TEST(leaf_size_1g)
{
	/* Each access takes a page table of the guest, of which there are some hundred. */
	const u64 gpa = 64ull * SZ_1G, size = 2ull * SZ_1G, stride = SZ_16M;
	struct vfio_pci_device *dev = NULL;
	int i, bar = -1, fd;
	u64 a;

	for (i = 1; i < nr_bdfs; i++) {
		dev = vfio_pci_device_init_nomap(bdfs[i], self->iommu);
		bar = vfio_pci_largest_bar(dev, size);
		if (bar >= 0)
			break;
		vfio_pci_device_cleanup(dev);
	}
	if (bar < 0)
		SKIP(return, "no second device with a BAR of 2 GiB");
	if (pci_bar_phys(bdfs[i], bar) & (SZ_1G - 1))
		SKIP(return, "the BAR is not aligned to 1 GiB");

	vfio_pci_set_memory_decode(dev, true);
	fd = vfio_pci_dmabuf_export_bar(dev, bar);
	vm_set_dmabuf_region(self->vm, SLOT_A, 0, gpa, size, fd, 0);
	for (a = gpa; a < gpa + size; a += stride)
		virt_map(self->vm, a, a, 1);

	/* The guest's own tables are as many as the accesses: once without counting. */
	touch_exits(self->vcpu, gpa, stride, size / stride);
	vfio_pci_set_memory_decode(dev, false);
	vfio_pci_set_memory_decode(dev, true);
	assert_leaves(self->vcpu, "1 GiB", gpa, stride, size / stride, 2);

	close(fd);
	vfio_pci_device_cleanup(dev);
}

/* A VMM that goes on as if nothing were wrong does not fill the host's log. */
DMABUF_TEST(log)
{
	char line[1024];
	ssize_t len;
	int kmsg;

	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	if (kmsg < 0)
		SKIP(return, "no /dev/kmsg");

	first_slot(self, 0);
	decode(self, false);
	TEST_ASSERT(lseek(kmsg, 0, SEEK_END) >= 0, "lseek of /dev/kmsg");
	guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
	while ((len = read(kmsg, line, sizeof(line) - 1)) > 0) {
		line[len] = 0;
		TEST_ASSERT(!strstr(line, "VCPU exit error"), "logged: %s", line);
	}
	decode(self, true);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(0));
	close(kmsg);
}

int main(int argc, char *argv[])
{
	return dmabuf_main(argc, argv);
}
