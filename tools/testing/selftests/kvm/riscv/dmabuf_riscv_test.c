// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of what is riscv's own about memslots that are backed by a dma-buf.
 *
 * Instruction fetches and page table walks that end in such memory, accesses
 * that KVM cannot make MMIO of, and the size of the leaves, which is told by how
 * often the guest exits: neither a stat nor a dump of the G-stage does.
 *
 * Devices are given as to dmabuf_test, see there: the first has a BAR that keeps
 * what is written, another one has a BAR of gigabytes.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/sizes.h>

#include <libvfio.h>

#include "kvm_test_harness.h"
#include "dmabuf_util.h"
#include "test_util.h"

#define DMABUF_RISCV_TEST(name)	TEST_F_TIMEOUT(dmabuf_riscv, name, 240)

#define TAG_PAGES	2048ul
#define TAG(page)	(0xbaf0000000000000ul | (page))
#define PATTERN		0x5157000000000000ul
#define INSN_RET	0x00008067ul

/* Of 256 of these, one is for page tables of what is mapped into a guest. */
#define EXTRA_PAGES	(256ul * 2048)

/* As in dmabuf_test the address is congruent to the BAR's. */
#define SLOT		10
#define GPA		(self->gpa_base)

static char **bdfs;
static int nr_bdfs;

FIXTURE(dmabuf_riscv) {
	struct iommu *iommu;
	struct vfio_pci_device *dev;
	int bar;
	u64 gpa_base;
	int fd;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
};

/* The guest: as guest_command_loop() of dmabuf_util.h, and what it trapped. */
enum riscv_op {
	OP_READ,		/* res = *addr, at any alignment */
	OP_WRITE,		/* *addr = val */
	OP_CALL,		/* addr() */
	OP_SWAP,		/* res = *addr, *addr = val, by an AMO */
	OP_TOUCH,		/* read addr + i * val, for i < nr */
};

struct riscv_cmd {
	u64 op;
	u64 addr;
	u64 val;
	u64 nr;
	u64 res;
	u64 cause;		/* of the exception that the guest took, 0 for none */
	u64 tval;
};

static struct riscv_cmd riscv_command;

static void guest_exception(struct pt_regs *regs)
{
	riscv_command.cause = regs->cause;
	riscv_command.tval = regs->badaddr;
	/* A function that cannot be fetched returns at once. */
	if (regs->cause == EXC_INST_ACCESS)
		regs->epc = regs->ra;
	else
		regs->epc += 4;
}

static void guest_riscv_loop(void)
{
	struct riscv_cmd *cmd = &riscv_command;

	for (;;) {
		u64 op = READ_ONCE(cmd->op), val = READ_ONCE(cmd->val);
		u64 addr = READ_ONCE(cmd->addr), nr = READ_ONCE(cmd->nr);
		u64 i, res = 0;

		/* The host changes page tables; and instructions. */
		asm volatile("sfence.vma; fence.i" ::: "memory");

		switch (op) {
		case OP_READ:
			asm volatile(".option push; .option norvc\n"
				     "ld %0, (%1)\n"
				     ".option pop" : "+r"(res) : "r"(addr) : "memory");
			break;
		case OP_WRITE:
			asm volatile(".option push; .option norvc\n"
				     "sd %0, (%1)\n"
				     ".option pop" : : "r"(val), "r"(addr) : "memory");
			break;
		case OP_CALL:
			asm volatile("jalr ra, (%0)" : : "r"(addr) : "ra", "memory");
			break;
		case OP_SWAP:
			asm volatile("amoswap.d %0, %2, (%1)"
				     : "=&r"(res) : "r"(addr), "r"(val) : "memory");
			break;
		case OP_TOUCH:
			for (i = 0; i < nr; i++)
				READ_ONCE(*(u64 *)(addr + i * val));
			break;
		default:
			GUEST_FAIL("Unknown command %lu", op);
		}
		WRITE_ONCE(cmd->res, res);
		GUEST_SYNC(op);
	}
}

static struct riscv_cmd *cmd_hva(struct kvm_vcpu *vcpu)
{
	return addr_gva2hva(vcpu->vm, (gva_t)&riscv_command);
}

static enum guest_exit riscv_cmd(struct kvm_vcpu *vcpu, enum riscv_op op, u64 addr, u64 val)
{
	*cmd_hva(vcpu) = (struct riscv_cmd) { .op = op, .addr = addr, .val = val };

	return guest_run(vcpu);
}

/* A command that must not exit, and ends with that exception, 0 for none. */
static u64 riscv_do(struct kvm_vcpu *vcpu, enum riscv_op op, u64 addr, u64 val, u64 cause)
{
	enum guest_exit exit = riscv_cmd(vcpu, op, addr, val);

	TEST_ASSERT(exit == GUEST_DONE_CMD, "op %u at 0x%lx: wanted no exit, got %s", op,
		    addr, exit_reason_str(vcpu->run->exit_reason));
	TEST_ASSERT(cmd_hva(vcpu)->cause == cause,
		    "op %u at 0x%lx: wanted cause %lu, got %lu", op, addr, cause,
		    cmd_hva(vcpu)->cause);
	if (cause)
		TEST_ASSERT_EQ(cmd_hva(vcpu)->tval, addr);
	return cmd_hva(vcpu)->res;
}

/* A command that exits because @gpa is revoked, as often as it is tried. */
static void riscv_revoked(struct kvm_vcpu *vcpu, enum riscv_op op, u64 addr, u64 val, u64 gpa)
{
	enum guest_exit exit = riscv_cmd(vcpu, op, addr, val);
	int i;

	for (i = 0; i < 3; i++) {
		TEST_ASSERT(exit == GUEST_FAULT, "op %u at revoked 0x%lx: exit was %s", op,
			    addr, exit_reason_str(vcpu->run->exit_reason));
		assert_revoked_exit(vcpu, gpa);
		exit = guest_run(vcpu);
	}
}

/* Let the command go on that riscv_revoked() left. */
static u64 riscv_resume(struct kvm_vcpu *vcpu, u64 cause)
{
	TEST_ASSERT_EQ(guest_run(vcpu), GUEST_DONE_CMD);
	TEST_ASSERT_EQ(cmd_hva(vcpu)->cause, cause);
	return cmd_hva(vcpu)->res;
}

/* A command that KVM fails, and leaves undone. */
static void riscv_errno(struct kvm_vcpu *vcpu, enum riscv_op op, u64 addr, u64 val, int err)
{
	int i;

	*cmd_hva(vcpu) = (struct riscv_cmd) { .op = op, .addr = addr, .val = val };
	for (i = 0; i < 2; i++) {
		TEST_ASSERT_EQ(__vcpu_run(vcpu), -1);
		TEST_ASSERT(errno == err, "op %u at 0x%lx: wanted %s, got %s", op, addr,
			    strerror(err), strerror(errno));
	}
}

static u64 bar_read64(FIXTURE_DATA(dmabuf_riscv) *self, u64 offset)
{
	return vfio_pci_bar_read64(self->dev, self->bar, offset);
}

static void bar_write64(FIXTURE_DATA(dmabuf_riscv) *self, u64 offset, u64 val)
{
	vfio_pci_bar_write64(self->dev, self->bar, offset, val);
}

static void decode(FIXTURE_DATA(dmabuf_riscv) *self, bool on)
{
	vfio_pci_set_memory_decode(self->dev, on);
}

static void set_slot(FIXTURE_DATA(dmabuf_riscv) *self, u32 flags)
{
	vm_set_dmabuf_region(self->vm, SLOT, flags, GPA, SZ_4M, self->fd, 0);
}

FIXTURE_SETUP(dmabuf_riscv)
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
	if (bar_read64(self, PAGE_SIZE) != TAG(1))
		SKIP(return, "%s: BAR %d does not keep what is written", bdfs[0], self->bar);

	self->gpa_base = 4ull * SZ_1G + (pci_bar_phys(bdfs[0], self->bar) & (SZ_1G - 1ull));
	self->fd = vfio_pci_dmabuf_export_bar(self->dev, self->bar);
	self->vm = __vm_create_with_one_vcpu(&self->vcpu, EXTRA_PAGES, guest_riscv_loop);
	virt_map(self->vm, GPA, GPA, SZ_4M / PAGE_SIZE);

	vm_init_vector_tables(self->vm);
	vcpu_init_vector_tables(self->vcpu);
	vm_install_exception_handler(self->vm, EXC_INST_ACCESS, guest_exception);
	vm_install_exception_handler(self->vm, EXC_LOAD_ACCESS, guest_exception);
	vm_install_exception_handler(self->vm, EXC_STORE_ACCESS, guest_exception);
}

FIXTURE_TEARDOWN(dmabuf_riscv)
{
	if (self->vm)
		kvm_vm_free(self->vm);
	if (self->fd > 0)
		close(self->fd);
	vfio_pci_device_cleanup(self->dev);
	iommu_cleanup(self->iommu);
}

/* What is not cacheable is no place for code, and neither is MMIO. */
DMABUF_RISCV_TEST(execute)
{
	const u64 code = GPA + 2 * PAGE_SIZE;
	int i;

	bar_write64(self, 2 * PAGE_SIZE, INSN_RET);
	set_slot(self, 0);

	/* Not mapped, then mapped. */
	for (i = 0; i < 2; i++) {
		riscv_do(self->vcpu, OP_CALL, code, 0, EXC_INST_ACCESS);
		TEST_ASSERT_EQ(riscv_do(self->vcpu, OP_READ, code, 0, 0), INSN_RET);
	}

	decode(self, false);
	riscv_revoked(self->vcpu, OP_CALL, code, 0, code);
	decode(self, true);
	riscv_resume(self->vcpu, EXC_INST_ACCESS);

	vm_delete_region(self->vm, SLOT);
	set_slot(self, KVM_MEM_REVOKED_MMIO);
	decode(self, false);
	riscv_do(self->vcpu, OP_CALL, code, 0, EXC_INST_ACCESS);
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
DMABUF_RISCV_TEST(page_tables)
{
	const u64 table = 64 * PAGE_SIZE;
	u64 *pmd, gva, old;
	gva_t page;
	u32 flags;

	page = vm_alloc(self->vm, PAGE_SIZE, KVM_UTIL_MIN_VADDR);

	for (flags = 0; flags <= KVM_MEM_READONLY; flags += KVM_MEM_READONLY) {
		/* The page once more, by a table of its own, which goes into the BAR. */
		gva = (16ull + flags) * SZ_1G;
		virt_map(self->vm, gva, addr_arch_gva2gpa(self->vm, page), 1);
		bar_write64(self, table, *guest_pte(self->vm, gva, 0));
		pmd = guest_pte(self->vm, gva, 1);
		old = *pmd;
		*pmd = table_pte(GPA + table);
		*(u64 *)addr_gva2hva(self->vm, page) = PATTERN;
		set_slot(self, flags);

		/* A walk for a store is no store. */
		riscv_do(self->vcpu, OP_WRITE, gva, PATTERN + 1, 0);
		TEST_ASSERT_EQ(riscv_do(self->vcpu, OP_READ, gva, 0, 0), PATTERN + 1);

		decode(self, false);
		riscv_revoked(self->vcpu, OP_READ, gva, 0, GPA + table);
		decode(self, true);
		TEST_ASSERT_EQ(riscv_resume(self->vcpu, 0), PATTERN + 1);
		decode(self, false);
		riscv_revoked(self->vcpu, OP_WRITE, gva, PATTERN + 2, GPA + table);
		decode(self, true);
		riscv_resume(self->vcpu, 0);
		TEST_ASSERT_EQ(*(u64 *)addr_gva2hva(self->vm, page), PATTERN + 2);

		vm_delete_region(self->vm, SLOT);
		set_slot(self, flags | KVM_MEM_REVOKED_MMIO);
		decode(self, false);
		riscv_do(self->vcpu, OP_READ, gva, 0, EXC_LOAD_ACCESS);
		riscv_do(self->vcpu, OP_WRITE, gva, 0, EXC_STORE_ACCESS);
		riscv_do(self->vcpu, OP_CALL, gva, 0, EXC_INST_ACCESS);
		decode(self, true);
		TEST_ASSERT_EQ(riscv_do(self->vcpu, OP_READ, gva, 0, 0), PATTERN + 2);

		/* The same without a slot. */
		vm_delete_region(self->vm, SLOT);
		riscv_do(self->vcpu, OP_READ, gva, 0, EXC_LOAD_ACCESS);
		riscv_do(self->vcpu, OP_WRITE, gva, 0, EXC_STORE_ACCESS);
		TEST_ASSERT_EQ(*(u64 *)addr_gva2hva(self->vm, page), PATTERN + 2);
		*pmd = old;
	}
}

/* Atomics work while the memory is there, and KVM cannot do them instead. */
DMABUF_RISCV_TEST(atomic)
{
	u64 gpa = GPA + PAGE_SIZE;

	set_slot(self, 0);
	TEST_ASSERT_EQ(riscv_do(self->vcpu, OP_SWAP, gpa, PATTERN, 0), TAG(1));
	TEST_ASSERT_EQ(bar_read64(self, PAGE_SIZE), PATTERN);

	decode(self, false);
	riscv_revoked(self->vcpu, OP_SWAP, gpa, PATTERN + 1, gpa);
	decode(self, true);
	TEST_ASSERT_EQ(riscv_resume(self->vcpu, 0), PATTERN);
	TEST_ASSERT_EQ(bar_read64(self, PAGE_SIZE), PATTERN + 1);

	vm_delete_region(self->vm, SLOT);
	set_slot(self, KVM_MEM_REVOKED_MMIO);
	decode(self, false);
	riscv_errno(self->vcpu, OP_SWAP, gpa, PATTERN + 2, EOPNOTSUPP);
	decode(self, true);
	TEST_ASSERT_EQ(riscv_resume(self->vcpu, 0), PATTERN + 1);

	vm_delete_region(self->vm, SLOT);
	set_slot(self, KVM_MEM_READONLY);
	riscv_errno(self->vcpu, OP_SWAP, gpa, PATTERN + 3, EOPNOTSUPP);
	TEST_ASSERT_EQ(bar_read64(self, PAGE_SIZE), PATTERN + 2);
}

/* KVM makes MMIO of aligned accesses only. */
DMABUF_RISCV_TEST(misaligned)
{
	u64 gpa = GPA + PAGE_SIZE + 4;

	bar_write64(self, PAGE_SIZE + 8, PATTERN);
	set_slot(self, KVM_MEM_REVOKED_MMIO);
	TEST_ASSERT_EQ(riscv_do(self->vcpu, OP_READ, gpa, 0, 0),
		       (TAG(1) >> 32) | (PATTERN << 32));

	decode(self, false);
	riscv_errno(self->vcpu, OP_READ, gpa, 0, EIO);
	decode(self, true);
	TEST_ASSERT_EQ(riscv_resume(self->vcpu, 0), (TAG(1) >> 32) | (PATTERN << 32));
}

/* Exits of the guest while it reads @nr times, @stride apart. */
static u64 touch_exits(struct kvm_vcpu *vcpu, u64 gpa, u64 stride, u64 nr)
{
	u64 exits = vcpu_get_stat(vcpu, exits);

	*cmd_hva(vcpu) = (struct riscv_cmd) {
		.op = OP_TOUCH, .addr = gpa, .val = stride, .nr = nr,
	};
	TEST_ASSERT_EQ(guest_run(vcpu), GUEST_DONE_CMD);
	TEST_ASSERT_EQ(cmd_hva(vcpu)->cause, 0);
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
	exits = touch_exits(vcpu, gpa, stride, nr);
	TEST_ASSERT(exits < nr / 4, "%s: %lu exits once it is mapped", what, exits);
}

DMABUF_RISCV_TEST(leaf_sizes)
{
	const u64 nr = SZ_4M / PAGE_SIZE;
	int i;

	if (pci_bar_phys(bdfs[0], self->bar) & (SZ_2M - 1))
		SKIP(return, "the BAR is not aligned to 2 MiB");

	/* Revocation leaves tables behind, or not: the next leaf is large again. */
	set_slot(self, 0);
	for (i = 0; i < 3; i++) {
		assert_leaves(self->vcpu, "congruent", GPA, PAGE_SIZE, nr, 2);
		decode(self, false);
		riscv_revoked(self->vcpu, OP_READ, GPA + i * PAGE_SIZE, 0,
			      GPA + i * PAGE_SIZE);
		decode(self, true);
		TEST_ASSERT_EQ(riscv_resume(self->vcpu, 0), TAG(i));
		decode(self, false);
		decode(self, true);
	}
	vm_delete_region(self->vm, SLOT);

	vm_set_dmabuf_region(self->vm, SLOT, 0, GPA, SZ_4M, self->fd, PAGE_SIZE);
	assert_leaves(self->vcpu, "off by a page", GPA, PAGE_SIZE, nr, nr);
	TEST_ASSERT_EQ(riscv_do(self->vcpu, OP_READ, GPA + SZ_2M, 0, 0),
		       TAG(SZ_2M / PAGE_SIZE + 1));
	vm_delete_region(self->vm, SLOT);

	/* Blocks where pages were. */
	set_slot(self, 0);
	assert_leaves(self->vcpu, "congruent again", GPA, PAGE_SIZE, nr, 2);
	TEST_ASSERT_EQ(riscv_do(self->vcpu, OP_READ, GPA + SZ_2M, 0, 0),
		       TAG(SZ_2M / PAGE_SIZE));
}

/* A large BAR of another device in leaves of 1 GiB. */
DMABUF_RISCV_TEST(leaf_size_1g)
{
	const u64 gpa = 64ull * SZ_1G, size = 2ull * SZ_1G;
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
	vm_set_dmabuf_region(self->vm, SLOT, 0, gpa, size, fd, 0);
	for (a = gpa; a < gpa + size; a += SZ_2M)
		virt_map(self->vm, a, a, 1);

	/* The guest's own tables are as many as the accesses: once without counting. */
	touch_exits(self->vcpu, gpa, SZ_2M, size / SZ_2M);
	vfio_pci_set_memory_decode(dev, false);
	vfio_pci_set_memory_decode(dev, true);
	assert_leaves(self->vcpu, "1 GiB", gpa, SZ_2M, size / SZ_2M, 2);

	close(fd);
	vfio_pci_device_cleanup(dev);
}

/* A VMM that goes on as if nothing were wrong does not fill the host's log. */
DMABUF_RISCV_TEST(log)
{
	char line[1024];
	ssize_t len;
	int kmsg;

	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	if (kmsg < 0)
		SKIP(return, "no /dev/kmsg");

	set_slot(self, 0);
	decode(self, false);
	TEST_ASSERT(lseek(kmsg, 0, SEEK_END) >= 0, "lseek of /dev/kmsg");
	riscv_revoked(self->vcpu, OP_READ, GPA, 0, GPA);
	while ((len = read(kmsg, line, sizeof(line) - 1)) > 0) {
		line[len] = 0;
		TEST_ASSERT(!strstr(line, "VCPU exit error"), "logged: %s", line);
	}
	decode(self, true);
	TEST_ASSERT_EQ(riscv_resume(self->vcpu, 0), TAG(0));
	close(kmsg);
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
