// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of memslots of dma-bufs whose memory is private to a confidential guest.
 *
 * A gfn is mapped only while its attribute, private or shared, equals that of
 * the memory.  The matrix is {gfn} x {memory} x {live or revoked} x {kind of
 * slot}. There is a test for each cell, which gets there in every possible
 * way.  More tests are below the matrix: pages of all sizes, two slots, two
 * VMs, devices, and conversions while vCPUs run.
 *
 * VMs that are protected by software have private gfns and exist on every x86
 * host.  The default VM has only the cells of shared gfns, on all
 * architectures.  The exporter is dma-buf-mock, there is no device.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "kvm_test_harness.h"
#include "dmabuf_guest.h"
#include "dmabuf_mock.h"

#define GPA_A		(4ull * SZ_1G)
#define GPA_B		(8ull * SZ_1G)
#define ORDER_2M	9

#define MOCK_SHARED	MOCK_RW
#define MOCK_PRIVATE	(MOCK_RW | DMA_BUF_MOCK_PRIVATE)

/* What becomes of an access: nothing, MMIO, or the flags of the exit. */
#define OK	0
#define MMIO	1
#define P	KVM_MEMORY_EXIT_FLAG_PRIVATE
#define R	KVM_MEMORY_EXIT_FLAG_REVOKED
#define B	KVM_MEMORY_EXIT_FLAG_BACKING

#define GUEST_OFFSET	(3 * PAGE_SIZE + 8)

static int open_mock(void)
{
	return open("/dev/dma-buf-mock", O_RDWR | O_CLOEXEC);
}

static struct kvm_vm *create_private_vm(bool sw_protected, struct kvm_vcpu **vcpu)
{
#ifdef __x86_64__
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = KVM_X86_SW_PROTECTED_VM,
	};

	if (sw_protected)
		return __vm_create_shape_with_one_vcpu(shape, vcpu, EXTRA_PAGES,
						       guest_command_loop);
#endif
	return create_vm(vcpu);
}

static bool has_sw_protected_vm(void)
{
#ifdef __x86_64__
	return kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM);
#else
	return false;
#endif
}

static void set_gfns(struct kvm_vm *vm, u64 gpa, u64 size, bool private)
{
	vm_set_memory_attributes(vm, gpa, size,
				 private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0);
}

static void set_memory(int dev, int fd, u32 first, u32 nr, bool private)
{
	mock_attrs(dev, fd, first, nr, private ? MOCK_PRIVATE : MOCK_SHARED);
}

/*
 * The guest is at an access, or did it: is it what was wanted?  If it is the exit
 * this is so each time that the vCPU is entered.
 */
static void expect_exit(struct kvm_vcpu *vcpu, const char *what, enum guest_exit exit,
			u64 gpa, u32 wanted)
{
	struct kvm_run *run = vcpu->run;
	int i;

	if (wanted == OK || wanted == MMIO) {
		TEST_ASSERT(exit == (wanted == OK ? GUEST_DONE_CMD : GUEST_MMIO),
			    "%s: wanted %s, exit was %s, flags 0x%llx", what,
			    wanted == OK ? "none" : "MMIO",
			    exit_reason_str(run->exit_reason),
			    exit == GUEST_FAULT ? run->memory_fault.flags : 0);
		return;
	}
	for (i = 0; ; i++) {
		TEST_ASSERT(exit == GUEST_FAULT, "%s, try %d: exit was %s", what, i,
			    exit_reason_str(run->exit_reason));
		TEST_ASSERT(run->memory_fault.flags == wanted,
			    "%s, try %d: wanted flags 0x%x, got 0x%llx", what, i, wanted,
			    run->memory_fault.flags);
		TEST_ASSERT_EQ(run->memory_fault.gpa, gpa & ~(PAGE_SIZE - 1ul));
		TEST_ASSERT_EQ(run->memory_fault.size, PAGE_SIZE);
		if (i == 2)
			break;
		exit = guest_run(vcpu);
	}
}

static void expect_access(struct kvm_vcpu *vcpu, enum guest_op op, u64 gpa, u64 val,
			  u32 wanted)
{
	expect_exit(vcpu, op == GUEST_READ ? "read" : "write",
		    guest_cmd(vcpu, op, gpa, val, 0), gpa, wanted);
}

/*
 * The matrix
 */

FIXTURE(dmabuf_matrix) {
	int dev;
	int fd;
	bool gfn;
	bool mem;
	bool revoked;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
};

FIXTURE_VARIANT(dmabuf_matrix) {
	bool sw_protected;
	bool gfn;		/* is private */
	bool mem;		/* is private */
	bool revoked;
	u32 flags;		/* of the slot */
	u32 read;
	u32 write;
	bool pre_fault;		/* works */
};

FIXTURE_SETUP(dmabuf_matrix)
{
	struct dma_buf_mock_extent extent;

	self->dev = open_mock();
	if (self->dev < 0)
		SKIP(return, "no /dev/dma-buf-mock (CONFIG_DMABUF_MOCK)");
	if (variant->sw_protected && !has_sw_protected_vm())
		SKIP(return, "no VMs that are protected by software");
	self->vm = create_private_vm(variant->sw_protected, &self->vcpu);
	mock_blocks(&extent, 1, ORDER_2M, MOCK_SHARED);
	self->fd = mock_create(self->dev, &extent, 1);
	virt_map(self->vm, GPA_A, GPA_A, SZ_2M / PAGE_SIZE);
}

FIXTURE_TEARDOWN(dmabuf_matrix)
{
	if (self->vm)
		kvm_vm_free(self->vm);
	if (self->dev >= 0) {
		mock_assert_unchanged(self->dev);
		close(self->dev);
	}
}

enum step {
	STEP_GFN,
	STEP_MEM,
	STEP_REVOKE,
};

static const enum step orders[][3] = {
	{ STEP_GFN, STEP_MEM, STEP_REVOKE }, { STEP_GFN, STEP_REVOKE, STEP_MEM },
	{ STEP_MEM, STEP_GFN, STEP_REVOKE }, { STEP_MEM, STEP_REVOKE, STEP_GFN },
	{ STEP_REVOKE, STEP_GFN, STEP_MEM }, { STEP_REVOKE, STEP_MEM, STEP_GFN },
};

static void matrix_go(FIXTURE_DATA(dmabuf_matrix) *self, const enum step *order,
		      bool gfn, bool mem, bool revoked)
{
	int i;

	for (i = 0; i < 3; i++) {
		if (order[i] == STEP_GFN && self->gfn != gfn)
			set_gfns(self->vm, GPA_A, SZ_2M, gfn);
		if (order[i] == STEP_MEM && self->mem != mem)
			set_memory(self->dev, self->fd, 0, 1, mem);
		if (order[i] == STEP_REVOKE && self->revoked != revoked) {
			if (revoked)
				mock_revoke(self->dev, self->fd);
			else
				mock_restore(self->dev, self->fd);
		}
	}
	self->gfn = gfn;
	self->mem = mem;
	self->revoked = revoked;
}

static u64 peek(FIXTURE_DATA(dmabuf_matrix) *self)
{
	return mock_peek64(self->dev, self->fd, GUEST_OFFSET);
}

static void poke(FIXTURE_DATA(dmabuf_matrix) *self, u64 val)
{
	mock_poke64(self->dev, self->fd, GUEST_OFFSET, val);
}

/* Where memory and gfn are both shared, or both private, and the memory is live. */
static void matrix_base(FIXTURE_DATA(dmabuf_matrix) *self, const enum step *order,
			bool private)
{
	matrix_go(self, order, private, private, false);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + GUEST_OFFSET), peek(self));
}

/* An access that could not be done has no effect, and is done when it can be. */
static void matrix_resume(FIXTURE_DATA(dmabuf_matrix) *self, const enum step *order,
			  u32 wanted, enum guest_op op, u32 flags, u64 val)
{
	enum guest_exit exit;
	u64 before = peek(self);

	if (wanted == MMIO) {
		if (op == GUEST_READ)
			complete_mmio_read(self->vcpu, GPA_A + GUEST_OFFSET);
		guest_resume(self->vcpu);
		TEST_ASSERT_EQ(peek(self), before);
		return;
	}

	matrix_go(self, order, false, false, false);
	TEST_ASSERT_EQ(peek(self), before);
	exit = guest_run(self->vcpu);
	if (op == GUEST_WRITE && (flags & KVM_MEM_READONLY)) {
		TEST_ASSERT_EQ(exit, GUEST_MMIO);
		guest_resume(self->vcpu);
		val = before;
	} else {
		TEST_ASSERT_EQ(exit, GUEST_DONE_CMD);
	}
	TEST_ASSERT_EQ(peek(self), op == GUEST_WRITE ? val : before);
	if (op == GUEST_READ)
		TEST_ASSERT_EQ(guest_res(self->vcpu), before);
}

static void matrix_access(FIXTURE_DATA(dmabuf_matrix) *self,
			  const FIXTURE_VARIANT(dmabuf_matrix) *variant,
			  const enum step *order, enum guest_op op, u64 val)
{
	u32 wanted = op == GUEST_READ ? variant->read : variant->write;
	u64 before;

	poke(self, ~val);
	before = peek(self);
	matrix_go(self, order, variant->gfn, variant->mem, variant->revoked);
	expect_access(self->vcpu, op, GPA_A + GUEST_OFFSET, val, wanted);
	if (wanted == OK && op == GUEST_READ)
		TEST_ASSERT_EQ(guest_res(self->vcpu), before);
	TEST_ASSERT_EQ(peek(self), wanted == OK && op == GUEST_WRITE ? val : before);
	if (wanted != OK)
		matrix_resume(self, order, wanted, op, variant->flags, val);
}

static void matrix_pre_fault(FIXTURE_DATA(dmabuf_matrix) *self,
			     const FIXTURE_VARIANT(dmabuf_matrix) *variant,
			     const enum step *order)
{
	int ret;

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		return;
	matrix_go(self, order, variant->gfn, variant->mem, variant->revoked);
	ret = __vcpu_pre_fault(self->vcpu, GPA_A, SZ_2M);
	TEST_ASSERT_EQ(ret, variant->pre_fault ? 0 : -EFAULT);
}

/* From where everything is mapped, in all orders; then with a slot that is new. */
TEST_F_TIMEOUT(dmabuf_matrix, cell, 240)
{
	const enum guest_op ops[] = { GUEST_READ, GUEST_WRITE };
	u64 val = PATTERN;
	int from, op, i;

	vm_set_dmabuf_region(self->vm, SLOT_A, variant->flags, GPA_A, SZ_2M, self->fd, 0);
	for (from = 0; from <= variant->sw_protected; from++) {
		for (i = 0; i < ARRAY_SIZE(orders); i++) {
			for (op = 0; op < ARRAY_SIZE(ops); op++) {
				matrix_base(self, orders[i], from);
				matrix_access(self, variant, orders[i], ops[op], val++);
			}
			matrix_base(self, orders[i], from);
			matrix_pre_fault(self, variant, orders[i]);
		}
	}

	for (op = 0; op < ARRAY_SIZE(ops); op++) {
		vm_delete_region(self->vm, SLOT_A);
		matrix_go(self, orders[0], variant->gfn, variant->mem, variant->revoked);
		vm_set_dmabuf_region(self->vm, SLOT_A, variant->flags, GPA_A, SZ_2M,
				     self->fd, 0);
		matrix_access(self, variant, orders[0], ops[op], val++);
	}
}

#define gfn_shared	false
#define gfn_private	true
#define mem_shared	false
#define mem_private	true
#define st_live		false
#define st_revoked	true
#define slot_rw		0
#define slot_ro		KVM_MEM_READONLY
#define slot_mmio	KVM_MEM_REVOKED_MMIO

/* {gfn} x {memory} x {state} x {slot}: a read, a write, and pre-faulting work. */
#define CELL(_gfn, _mem, _st, _slot, _read, _write, _pre_fault)			\
FIXTURE_VARIANT_ADD(dmabuf_matrix, _gfn##_##_mem##_##_st##_##_slot) {		\
	.sw_protected = true, .gfn = _gfn, .mem = _mem, .revoked = _st,		\
	.flags = _slot, .read = _read, .write = _write, .pre_fault = _pre_fault, \
}

/* Of a VM that has no private gfns. */
#define CELL_DEFAULT(_mem, _st, _slot, _read, _write, _pre_fault)		\
FIXTURE_VARIANT_ADD(dmabuf_matrix, default_##_mem##_##_st##_##_slot) {		\
	.mem = _mem, .revoked = _st,						\
	.flags = _slot, .read = _read, .write = _write, .pre_fault = _pre_fault, \
}

#ifdef __x86_64__
CELL(gfn_shared,  mem_shared,  st_live,    slot_rw,   OK,    OK,    true);
CELL(gfn_shared,  mem_shared,  st_live,    slot_ro,   OK,    MMIO,  true);
CELL(gfn_shared,  mem_shared,  st_live,    slot_mmio, OK,    OK,    true);
CELL(gfn_shared,  mem_shared,  st_revoked, slot_rw,   R,     R,     false);
CELL(gfn_shared,  mem_shared,  st_revoked, slot_ro,   R,     R,     false);
CELL(gfn_shared,  mem_shared,  st_revoked, slot_mmio, MMIO,  MMIO,  false);
CELL(gfn_shared,  mem_private, st_live,    slot_rw,   B,     B,     false);
CELL(gfn_shared,  mem_private, st_live,    slot_ro,   B,     B,     false);
CELL(gfn_shared,  mem_private, st_live,    slot_mmio, B,     B,     false);
CELL(gfn_shared,  mem_private, st_revoked, slot_rw,   R,     R,     false);
CELL(gfn_shared,  mem_private, st_revoked, slot_ro,   R,     R,     false);
CELL(gfn_shared,  mem_private, st_revoked, slot_mmio, MMIO,  MMIO,  false);
CELL(gfn_private, mem_shared,  st_live,    slot_rw,   P | B, P | B, false);
CELL(gfn_private, mem_shared,  st_live,    slot_ro,   P | B, P | B, false);
CELL(gfn_private, mem_shared,  st_live,    slot_mmio, P | B, P | B, false);
CELL(gfn_private, mem_shared,  st_revoked, slot_rw,   P | R, P | R, false);
CELL(gfn_private, mem_shared,  st_revoked, slot_ro,   P | R, P | R, false);
CELL(gfn_private, mem_shared,  st_revoked, slot_mmio, P | R, P | R, false);
CELL(gfn_private, mem_private, st_live,    slot_rw,   OK,    OK,    true);
/* Nothing that could be converted: the guest may not write there. */
CELL(gfn_private, mem_private, st_live,    slot_ro,   OK,    P,     true);
CELL(gfn_private, mem_private, st_live,    slot_mmio, OK,    OK,    true);
CELL(gfn_private, mem_private, st_revoked, slot_rw,   P | R, P | R, false);
CELL(gfn_private, mem_private, st_revoked, slot_ro,   P | R, P | R, false);
CELL(gfn_private, mem_private, st_revoked, slot_mmio, P | R, P | R, false);
#endif

CELL_DEFAULT(mem_shared,  st_live,    slot_rw,   OK,   OK,   true);
CELL_DEFAULT(mem_shared,  st_live,    slot_ro,   OK,   MMIO, true);
CELL_DEFAULT(mem_shared,  st_live,    slot_mmio, OK,   OK,   true);
CELL_DEFAULT(mem_shared,  st_revoked, slot_rw,   R,    R,    false);
CELL_DEFAULT(mem_shared,  st_revoked, slot_ro,   R,    R,    false);
CELL_DEFAULT(mem_shared,  st_revoked, slot_mmio, MMIO, MMIO, false);
CELL_DEFAULT(mem_private, st_live,    slot_rw,   B,    B,    false);
CELL_DEFAULT(mem_private, st_live,    slot_ro,   B,    B,    false);
CELL_DEFAULT(mem_private, st_live,    slot_mmio, B,    B,    false);
CELL_DEFAULT(mem_private, st_revoked, slot_rw,   R,    R,    false);
CELL_DEFAULT(mem_private, st_revoked, slot_ro,   R,    R,    false);
CELL_DEFAULT(mem_private, st_revoked, slot_mmio, MMIO, MMIO, false);

/*
 * What else there is
 */

FIXTURE(dmabuf_private) {
	int dev;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	struct dma_buf_mock_extent extents[8];
};

FIXTURE_SETUP(dmabuf_private)
{
	self->dev = open_mock();
	if (self->dev < 0)
		SKIP(return, "no /dev/dma-buf-mock (CONFIG_DMABUF_MOCK)");
	if (!has_sw_protected_vm())
		SKIP(return, "no VMs that are protected by software");
	self->vm = create_private_vm(true, &self->vcpu);
}

FIXTURE_TEARDOWN(dmabuf_private)
{
	if (self->vm)
		kvm_vm_free(self->vm);
	if (self->dev >= 0) {
		mock_assert_unchanged(self->dev);
		close(self->dev);
	}
}

#define PRIVATE_TEST(name)	TEST_F_TIMEOUT(dmabuf_private, name, 240)

/*
 * How many leaves there are without the buffer.  The guest's own memory that it
 * takes for an access has been used, so that it is not counted later.
 */
static struct vm_leaves base_leaves(FIXTURE_DATA(dmabuf_private) *self, int fd)
{
	guest_read(self->vcpu, GPA_A);
	mock_revoke(self->dev, fd);
	mock_restore(self->dev, fd);
	return vm_leaves(self->vm);
}

static void expect_leaves(FIXTURE_DATA(dmabuf_private) *self, const char *what,
			  const struct vm_leaves *base, u64 k4, u64 m2)
{
	struct vm_leaves now = vm_leaves(self->vm);

	if (!vm_has_leaves(self->vm))
		return;
	TEST_ASSERT(now.k4 - base->k4 == k4 && now.m2 - base->m2 == m2,
		    "%s: wanted %lu of 4 KiB, %lu of 2 MiB; got %lu, %lu", what, k4, m2,
		    now.k4 - base->k4, now.m2 - base->m2);
}

static int create_tagged(FIXTURE_DATA(dmabuf_private) *self, u32 nr, u32 attrs)
{
	u64 i;
	int fd;

	mock_blocks(self->extents, nr, ORDER_2M, attrs);
	fd = mock_create(self->dev, self->extents, nr);
	for (i = 0; i < (u64)nr << ORDER_2M; i++)
		mock_poke64(self->dev, fd, i * PAGE_SIZE, TAG(i));
	return fd;
}

/* Large pages over gfns of both kinds: none, and as soon as they are of one. */
PRIVATE_TEST(huge_page_gfns)
{
	const u64 odd = GPA_A + 7 * PAGE_SIZE;
	struct vm_leaves base;
	int fd, kind;

	fd = create_tagged(self, 2, MOCK_SHARED);
	add_slot(self->vm, SLOT_A, 0, GPA_A, 2 * SZ_2M, fd, 0);
	base = base_leaves(self, fd);

	for (kind = 1; kind >= 0; kind--) {
		set_memory(self->dev, fd, 0, 2, kind);
		set_gfns(self->vm, GPA_A, 2 * SZ_2M, kind);
		vcpu_pre_fault(self->vcpu, GPA_A, 2 * SZ_2M);
		expect_leaves(self, "all of one kind", &base, 0, 2);

		/* The page goes with all that are in its leaf, at once. */
		set_gfns(self->vm, odd, PAGE_SIZE, !kind);
		expect_leaves(self, "one of the other kind", &base, 0, 1);
		vcpu_pre_fault(self->vcpu, GPA_A, odd - GPA_A);
		expect_leaves(self, "up to it", &base, 7, 1);
		TEST_ASSERT_EQ(__vcpu_pre_fault(self->vcpu, odd, PAGE_SIZE), -EFAULT);
		vcpu_pre_fault(self->vcpu, odd + PAGE_SIZE, GPA_A + SZ_2M - odd - PAGE_SIZE);
		expect_leaves(self, "all but it", &base, 511, 1);
		expect_access(self->vcpu, GUEST_READ, odd, 0, B | (kind ? 0 : P));

		set_gfns(self->vm, odd, PAGE_SIZE, kind);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(7));
		vcpu_pre_fault(self->vcpu, GPA_A, 2 * SZ_2M);
		expect_leaves(self, "all of one kind again", &base, 0, 2);
	}
}

/*
 * A guest that goes from page to page, to a gfn that is not as the memory is.  No
 * leaf can be larger than a page, or nothing would be mapped ahead.
 */
PRIVATE_TEST(walk_to_gfn)
{
	const u64 nr = 8, odd = GPA_A + nr * PAGE_SIZE, size = 2 * nr * PAGE_SIZE;
	int fd, kind;
	u64 i;

	mock_blocks(self->extents, 1, 4, MOCK_SHARED);
	fd = mock_create(self->dev, self->extents, 1);
	for (i = 0; i < 2 * nr; i++)
		mock_poke64(self->dev, fd, i * PAGE_SIZE, TAG(i));
	add_slot(self->vm, SLOT_A, 0, GPA_A, size, fd, 0);

	for (kind = 0; kind < 2; kind++) {
		set_memory(self->dev, fd, 0, 1, kind);
		set_gfns(self->vm, GPA_A, size, kind);
		set_gfns(self->vm, odd, PAGE_SIZE, !kind);
		for (i = 0; i < nr; i++)
			TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + i * PAGE_SIZE),
				       TAG(i));
		expect_access(self->vcpu, GUEST_READ, odd, 0, B | (kind ? 0 : P));
		set_gfns(self->vm, odd, PAGE_SIZE, kind);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(nr));
	}
}

/* Memory of both kinds in one block, and gfns that are as it is, and are not. */
PRIVATE_TEST(huge_page_memory)
{
	struct dma_buf_mock_extent *e = self->extents;
	struct vm_leaves base;
	int fd, i;

	for (i = 0; i < 2; i++)
		e[i] = (struct dma_buf_mock_extent) {
			.flags = i ? DMA_BUF_MOCK_SAME_BLOCK : 0,
			.attrs = i ? MOCK_PRIVATE : MOCK_SHARED,
			.order = ORDER_2M,
			.first_page = i * 256,
			.nr_pages = 256,
		};
	fd = mock_create(self->dev, e, 2);
	for (i = 0; i < 512; i++)
		mock_poke64(self->dev, fd, i * PAGE_SIZE, TAG(i));
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
	base = base_leaves(self, fd);

	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 255 * PAGE_SIZE), TAG(255));
	expect_access(self->vcpu, GUEST_READ, GPA_A + 256 * PAGE_SIZE, 0, B);
	set_gfns(self->vm, GPA_A + SZ_1M, SZ_1M, true);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(256));
	vcpu_pre_fault(self->vcpu, GPA_A, SZ_2M);
	expect_leaves(self, "both kinds, gfns too", &base, 512, 0);

	/* All gfns are of one kind, the memory is not. */
	set_gfns(self->vm, GPA_A + SZ_1M, SZ_1M, false);
	TEST_ASSERT_EQ(__vcpu_pre_fault(self->vcpu, GPA_A, SZ_2M), -EFAULT);
	expect_leaves(self, "gfns shared, half of the memory", &base, 256, 0);
	expect_access(self->vcpu, GUEST_WRITE, GPA_A + 256 * PAGE_SIZE, 1, B);

	/* It becomes of one kind: mapped at large, and not before. */
	set_memory(self->dev, fd, 1, 1, false);
	expect_leaves(self, "converted", &base, 0, 0);
	guest_resume(self->vcpu);
	vcpu_pre_fault(self->vcpu, GPA_A, SZ_2M);
	expect_leaves(self, "all shared", &base, 0, 1);
}

/* What was mapped is gone when the attribute, or the memory, has changed. */
PRIVATE_TEST(zapped_at_once)
{
	struct vm_leaves base;
	int fd, private;

	fd = create_tagged(self, 1, MOCK_SHARED);
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
	base = base_leaves(self, fd);

	for (private = 0; private < 2; private++) {
		set_memory(self->dev, fd, 0, 1, private);
		set_gfns(self->vm, GPA_A, SZ_2M, private);
		vcpu_pre_fault(self->vcpu, GPA_A, SZ_2M);
		expect_leaves(self, "mapped", &base, 0, 1);
		set_gfns(self->vm, GPA_A, SZ_2M, !private);
		expect_leaves(self, "gfns converted", &base, 0, 0);

		set_gfns(self->vm, GPA_A, SZ_2M, private);
		vcpu_pre_fault(self->vcpu, GPA_A, SZ_2M);
		expect_leaves(self, "mapped", &base, 0, 1);
		set_memory(self->dev, fd, 0, 1, !private);
		expect_leaves(self, "memory converted", &base, 0, 0);
	}
}

/* The same memory at two gfns, a private and a shared one: never by both. */
PRIVATE_TEST(two_slots)
{
	int fd, i;

	fd = create_tagged(self, 1, MOCK_SHARED);
	set_gfns(self->vm, GPA_B, SZ_2M, true);
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
	add_slot(self->vm, SLOT_B, 0, GPA_B, SZ_2M, fd, 0);

	for (i = 0; i < 4; i++) {
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
		expect_access(self->vcpu, GUEST_WRITE, GPA_B + 8, i, P | B);
		set_memory(self->dev, fd, 0, 1, true);
		guest_resume(self->vcpu);
		TEST_ASSERT_EQ(mock_peek64(self->dev, fd, 8), i);

		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_B), TAG(0));
		expect_access(self->vcpu, GUEST_WRITE, GPA_A + 16, i, B);
		set_memory(self->dev, fd, 0, 1, false);
		guest_resume(self->vcpu);
		TEST_ASSERT_EQ(mock_peek64(self->dev, fd, 16), i);
	}
}

/* By two VMs, one of which has no private gfns. */
PRIVATE_TEST(two_vms)
{
	struct kvm_vcpu *other;
	struct kvm_vm *vm = create_vm(&other);
	int fd, i;

	fd = create_tagged(self, 1, MOCK_SHARED);
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
	add_slot(vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
	set_gfns(self->vm, GPA_A, SZ_2M, true);

	for (i = 0; i < 4; i++) {
		TEST_ASSERT_EQ(guest_read(other, GPA_A), TAG(0));
		expect_access(self->vcpu, GUEST_READ, GPA_A, 0, P | B);
		set_memory(self->dev, fd, 0, 1, true);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(0));
		expect_access(other, GUEST_READ, GPA_A, 0, B);
		set_memory(self->dev, fd, 0, 1, false);
		TEST_ASSERT_EQ(guest_resume(other), TAG(0));
	}
	kvm_vm_free(vm);
}

/* A slot of memory that is private already, of gfns that are, and are not. */
PRIVATE_TEST(created_private)
{
	int fd = create_tagged(self, 1, MOCK_PRIVATE);

	set_gfns(self->vm, GPA_A, SZ_2M, true);
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
	add_slot(self->vm, SLOT_B, 0, GPA_B, SZ_2M, fd, 0);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
	expect_access(self->vcpu, GUEST_READ, GPA_B, 0, B);
	set_gfns(self->vm, GPA_B, SZ_2M, true);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(0));

	/* gfns are changed without a slot as well. */
	vm_delete_region(self->vm, SLOT_A);
	set_gfns(self->vm, GPA_A, SZ_2M, false);
	vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
	expect_access(self->vcpu, GUEST_READ, GPA_A, 0, B);
}

/* What KVM's emulator does for the guest, it does with nothing that is private. */
PRIVATE_TEST(emulated_store)
{
	int fd = create_tagged(self, 1, MOCK_PRIVATE & ~DMA_BUF_MOCK_WRITE);

	set_gfns(self->vm, GPA_A, SZ_2M, true);
	add_slot(self->vm, SLOT_A, KVM_MEM_READONLY | KVM_MEM_REVOKED_MMIO, GPA_A, SZ_2M,
		 fd, 0);
	/* First when nothing is mapped, then a read maps it. */
	expect_access(self->vcpu, GUEST_WRITE, GPA_A + 8, 1, P);
	mock_attrs(self->dev, fd, 0, 1, MOCK_RO);
	set_gfns(self->vm, GPA_A, SZ_2M, false);
	TEST_ASSERT_EQ(guest_run(self->vcpu), GUEST_MMIO);
	guest_resume(self->vcpu);

	mock_attrs(self->dev, fd, 0, 1, MOCK_RO | DMA_BUF_MOCK_PRIVATE);
	set_gfns(self->vm, GPA_A, SZ_2M, true);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
	expect_access(self->vcpu, GUEST_WRITE, GPA_A + 8, 1, P);
	mock_revoke(self->dev, fd);
	TEST_ASSERT_EQ(guest_run(self->vcpu), GUEST_FAULT);
	expect_exit(self->vcpu, "write", GUEST_FAULT, GPA_A, P | R);
	TEST_ASSERT_EQ(mock_peek64(self->dev, fd, 8), 0);
}

#ifdef __x86_64__
/* The value that a load of one byte is completed with, or that a store has. */
static u8 move_mmio(struct kvm_vcpu *vcpu, bool is_write, u64 gpa)
{
	struct kvm_run *run = vcpu->run;

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MMIO);
	TEST_ASSERT(run->mmio.phys_addr == gpa && run->mmio.is_write == is_write,
		    "%s at 0x%llx", run->mmio.is_write ? "store" : "load",
		    run->mmio.phys_addr);
	if (!is_write)
		run->mmio.data[0] = 0x77;
	return run->mmio.data[0];
}

/*
 * An instruction is emulated for one of its operands, which is MMIO, and the other
 * is private: gfn or memory.  That one is not MMIO, for loads and stores, and is
 * done once it can be.
 */
PRIVATE_TEST(emulated_operand)
{
	const struct {
		bool gfn;
		bool mem;
		bool revoked;
		u32 wanted;
	} cells[] = {
		{ false, true,  false, B },
		{ true,  false, false, P | B },
		{ true,  false, true,  P | R },
		{ true,  true,  true,  P | R },
		/* All agrees, KVM just cannot get there. */
		{ true,  true,  false, 0 },
	};
	const u64 hole = GPA_B, gpa = GPA_A + GUEST_OFFSET;
	struct kvm_vcpu *vcpu = self->vcpu;
	struct kvm_run *run = vcpu->run;
	struct kvm_vcpu_events events;
	int fd, i, store;

	fd = create_tagged(self, 1, MOCK_SHARED);
	add_slot(self->vm, SLOT_A, KVM_MEM_REVOKED_MMIO, GPA_A, SZ_2M, fd, 0);
	virt_map(self->vm, hole, hole, 1);

	for (i = 0; i < 2 * ARRAY_SIZE(cells); i++) {
		struct guest_cmd cmd = { .op = GUEST_MOVE, .nr = 1 };
		u32 wanted = cells[i / 2].wanted;

		store = i & 1;
		cmd.gpa = store ? hole : gpa;
		cmd.val = store ? gpa : hole;
		mock_poke64(self->dev, fd, GUEST_OFFSET, 0x99);
		set_memory(self->dev, fd, 0, 1, cells[i / 2].mem);
		set_gfns(self->vm, GPA_A, SZ_2M, cells[i / 2].gfn);
		if (cells[i / 2].revoked)
			mock_revoke(self->dev, fd);

		*guest_cmd_hva(self->vm) = cmd;
		/* A load from memory comes before what is to be emulated. */
		if (store) {
			TEST_ASSERT_EQ(guest_run(vcpu), GUEST_MMIO);
			move_mmio(vcpu, false, hole);
		}
		TEST_ASSERT(__vcpu_run(vcpu) == (wanted ? -1 : 0),
			    "cell %d, %s: exit was %s at 0x%llx", i / 2,
			    store ? "store" : "load", exit_reason_str(run->exit_reason),
			    run->exit_reason == KVM_EXIT_MMIO ? run->mmio.phys_addr : 0);
		if (wanted) {
			TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MEMORY_FAULT);
			TEST_ASSERT_EQ(run->memory_fault.flags, wanted);
			TEST_ASSERT_EQ(run->memory_fault.gpa, gpa & ~(PAGE_SIZE - 1ul));
			TEST_ASSERT_EQ(run->memory_fault.size, PAGE_SIZE);
		} else {
			TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_INTERNAL_ERROR);
			TEST_ASSERT_EQ(run->emulation_failure.suberror,
				       KVM_INTERNAL_ERROR_EMULATION);
			/* It would be #UD for the guest if the VMM went on. */
			vcpu_events_get(vcpu, &events);
			TEST_ASSERT_EQ(events.exception.nr, UD_VECTOR);
			events.exception.injected = 0;
			events.exception.pending = 0;
			vcpu_events_set(vcpu, &events);
		}
		TEST_ASSERT_EQ(mock_peek64(self->dev, fd, GUEST_OFFSET), 0x99);

		/* Shared, it is MMIO as well: KVM has no other way to it. */
		if (cells[i / 2].revoked)
			mock_restore(self->dev, fd);
		set_memory(self->dev, fd, 0, 1, false);
		set_gfns(self->vm, GPA_A, SZ_2M, false);
		TEST_ASSERT_EQ(guest_run(vcpu), GUEST_MMIO);
		TEST_ASSERT_EQ(move_mmio(vcpu, false, store ? hole : gpa), 0x77);
		TEST_ASSERT_EQ(guest_run(vcpu), GUEST_MMIO);
		TEST_ASSERT_EQ(move_mmio(vcpu, true, store ? gpa : hole), 0x77);
		guest_resume(vcpu);
	}
}

/* The store of such an instruction, to private memory that is read-only */
PRIVATE_TEST(emulated_operand_readonly)
{
	const u64 hole = GPA_B, gpa = GPA_A + GUEST_OFFSET;
	struct kvm_vcpu *vcpu = self->vcpu;
	struct kvm_run *run = vcpu->run;
	int fd;

	fd = create_tagged(self, 1, MOCK_SHARED);
	add_slot(self->vm, SLOT_A, KVM_MEM_READONLY, GPA_A, SZ_2M, fd, 0);
	virt_map(self->vm, hole, hole, 1);
	set_memory(self->dev, fd, 0, 1, true);
	set_gfns(self->vm, GPA_A, SZ_2M, true);

	*guest_cmd_hva(self->vm) = (struct guest_cmd){
		.op = GUEST_MOVE, .nr = 1, .gpa = hole, .val = gpa,
	};
	TEST_ASSERT_EQ(guest_run(vcpu), GUEST_MMIO);
	move_mmio(vcpu, false, hole);
	TEST_ASSERT_EQ(__vcpu_run(vcpu), -1);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(run->memory_fault.flags, P);
	TEST_ASSERT_EQ(run->memory_fault.gpa, gpa & ~(PAGE_SIZE - 1ul));
}
#endif

/* Devices: not while it is private, and whoever had it mapped is out before. */
PRIVATE_TEST(scatterlist)
{
	const struct dma_buf_mock_offer offers[] = {
		{ DMA_BUF_MOCK_KVM, DMA_BUF_MOCK_RESTORABLE },
		{ DMA_BUF_MOCK_SGT, DMA_BUF_MOCK_REVOCABLE },
	};
	const u32 revocable = 1 << DMA_BUF_MOCK_REVOCABLE;
	struct dma_buf_mock_attrs args = { .nr_extents = 1, .attrs = MOCK_PRIVATE };
	int fd, id, busy;

	mock_blocks(self->extents, 2, ORDER_2M, MOCK_SHARED);
	fd = __mock_create(self->dev, self->extents, 2, offers, 2);
	TEST_ASSERT(fd >= 0, "DMA_BUF_MOCK_CREATE: %s", strerror(-fd));
	args.fd = fd;
	add_slot(self->vm, SLOT_A, 0, GPA_A, 2 * SZ_2M, fd, 0);

	id = __mock_import(self->dev, fd, revocable, 0);
	TEST_ASSERT(id >= 0, "DMA_BUF_MOCK_IMPORT: %s", strerror(-id));
	TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_sgt, 1);
	/* A part of it is enough. */
	set_memory(self->dev, fd, 1, 1, true);
	TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_sgt, 0);
	TEST_ASSERT_EQ(__mock_import(self->dev, fd, revocable, 0), -EACCES);
	TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_attachments, 2);
	mock_unimport(self->dev, id);

	set_memory(self->dev, fd, 1, 1, false);
	busy = __mock_import(self->dev, fd, revocable, 0);
	TEST_ASSERT(busy >= 0, "DMA_BUF_MOCK_IMPORT: %s", strerror(-busy));
	mock_unimport(self->dev, busy);
	TEST_ASSERT_EQ(__mock_ioctl(self->dev, DMA_BUF_MOCK_ATTRS, &args), 0);
	expect_access(self->vcpu, GUEST_READ, GPA_A, 0, B);
}

/*
 * A VM without private gfns maps ahead, where a guest goes from page to page and
 * where it pre-faults: up to what is private, and not into it.
 */
TEST(map_ahead)
{
	struct dma_buf_mock_extent e[4];
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int dev, fd, i;

	dev = open_mock();
	if (dev < 0)
		SKIP(return, "no /dev/dma-buf-mock (CONFIG_DMABUF_MOCK)");
	vm = create_vm(&vcpu);
	for (i = 0; i < 4; i++)
		e[i] = (struct dma_buf_mock_extent) {
			.flags = i ? DMA_BUF_MOCK_SAME_BLOCK : 0,
			.attrs = i & 1 ? MOCK_PRIVATE : MOCK_SHARED,
			.order = 4,
			.first_page = i * 4,
			.nr_pages = 4,
		};
	fd = mock_create(dev, e, 4);
	for (i = 0; i < 16; i++)
		mock_poke64(dev, fd, i * PAGE_SIZE, TAG(i));
	add_slot(vm, SLOT_A, 0, GPA_A, 16 * PAGE_SIZE, fd, 0);

	/* A fault on the last shared page goes on with what comes next. */
	for (i = 2; i < 4; i++)
		TEST_ASSERT_EQ(guest_read(vcpu, GPA_A + i * PAGE_SIZE), TAG(i));
	expect_access(vcpu, GUEST_READ, GPA_A + 4 * PAGE_SIZE, 0, B);
	set_memory(dev, fd, 1, 1, false);
	TEST_ASSERT_EQ(guest_resume(vcpu), TAG(4));
	for (i = 5; i < 12; i++)
		TEST_ASSERT_EQ(guest_read(vcpu, GPA_A + i * PAGE_SIZE), TAG(i));
	expect_access(vcpu, GUEST_WRITE, GPA_A + 12 * PAGE_SIZE, 0, B);
	TEST_ASSERT_EQ(mock_peek64(dev, fd, 12 * PAGE_SIZE), TAG(12));

	if (kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY)) {
		mock_revoke(dev, fd);
		mock_restore(dev, fd);
		vcpu_pre_fault(vcpu, GPA_A, 12 * PAGE_SIZE);
		TEST_ASSERT_EQ(__vcpu_pre_fault(vcpu, GPA_A + 11 * PAGE_SIZE, 2 * PAGE_SIZE),
			       -EFAULT);
		TEST_ASSERT_EQ(__vcpu_pre_fault(vcpu, GPA_A, 16 * PAGE_SIZE), -EFAULT);
		TEST_ASSERT_EQ(guest_run(vcpu), GUEST_FAULT);
		expect_exit(vcpu, "write", GUEST_FAULT, GPA_A + 12 * PAGE_SIZE, B);
	}
	kvm_vm_free(vm);
	close(fd);
	mock_assert_unchanged(dev);
	close(dev);
}

/*
 * vCPUs that write all the time, to gfns that become private and shared and to
 * memory that does.  While they do not agree nothing is written.
 */
#define NR_VCPUS	2

static struct {
	u64 done;
	u64 pad[7];
} convert_state[NR_VCPUS];
static bool convert_stop;

static void guest_convert(u64 gpa, u64 id)
{
	u64 n;

	for (n = 1; !READ_ONCE(convert_stop); n++) {
		WRITE_ONCE(*(u64 *)gpa, n);
		GUEST_ASSERT_EQ(READ_ONCE(*(u64 *)gpa), n);
		WRITE_ONCE(convert_state[id].done, n);
	}
	GUEST_DONE();
}

struct converter {
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	u64 gpa;
	u64 nr_backing;		/* exits */
};

static void *convert_thread(void *arg)
{
	struct converter *c = arg;
	struct kvm_run *run = c->vcpu->run;
	enum guest_exit exit;

	while ((exit = guest_run(c->vcpu)) != GUEST_FINISHED) {
		TEST_ASSERT(exit == GUEST_FAULT, "unexpected exit %s",
			    exit_reason_str(run->exit_reason));
		TEST_ASSERT(!(run->memory_fault.flags & ~(P | R | B)) &&
			    run->memory_fault.gpa == (c->gpa & ~(PAGE_SIZE - 1ul)),
			    "flags 0x%llx at 0x%llx", run->memory_fault.flags,
			    run->memory_fault.gpa);
		if (run->memory_fault.flags & B)
			__atomic_add_fetch(&c->nr_backing, 1, __ATOMIC_RELEASE);
		poll_pause();
	}
	return NULL;
}

PRIVATE_TEST(convert_under_load)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
#ifdef __x86_64__
		.type = KVM_X86_SW_PROTECTED_VM,
#endif
	};
	struct converter c[NR_VCPUS] = {};
	struct kvm_vcpu *vcpus[NR_VCPUS];
	u64 marker[NR_VCPUS], seen, done;
	typeof(convert_state[0]) *state;
	int fd, i, round;
	struct kvm_vm *vm;

	vm = __vm_create_with_vcpus(shape, NR_VCPUS, EXTRA_PAGES, guest_convert, vcpus);
	fd = create_tagged(self, 1, MOCK_SHARED);
	add_slot(vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
	state = addr_gva2hva(vm, (gva_t)convert_state);
	for (i = 0; i < NR_VCPUS; i++) {
		c[i].vcpu = vcpus[i];
		c[i].gpa = GPA_A + i * PAGE_SIZE + 8;
		vcpu_args_set(vcpus[i], 2, c[i].gpa, (u64)i);
		kvm_pthread_create(&c[i].thread, NULL, convert_thread, &c[i]);
	}

	for (round = 0; round < 24; round++) {
		bool private = !(round & 1), gfn_first = round & 2;

		for (i = 0; i < NR_VCPUS; i++) {
			done = READ_ONCE(state[i].done);
			while (READ_ONCE(state[i].done) < done + 20)
				poll_pause();
		}
		if (gfn_first)
			set_gfns(vm, GPA_A, SZ_2M, private);
		else
			set_memory(self->dev, fd, 0, 1, private);
		for (i = 0; i < NR_VCPUS; i++)
			marker[i] = mock_peek64(self->dev, fd, i * PAGE_SIZE + 8);
		for (i = 0; i < NR_VCPUS; i++) {
			seen = __atomic_load_n(&c[i].nr_backing, __ATOMIC_ACQUIRE);
			while (__atomic_load_n(&c[i].nr_backing, __ATOMIC_ACQUIRE) < seen + 3)
				poll_pause();
			TEST_ASSERT_EQ(mock_peek64(self->dev, fd, i * PAGE_SIZE + 8),
				       marker[i]);
		}
		if (gfn_first)
			set_memory(self->dev, fd, 0, 1, private);
		else
			set_gfns(vm, GPA_A, SZ_2M, private);
	}

	WRITE_AND_SYNC_TO_GUEST(vm, convert_stop, true);
	for (i = 0; i < NR_VCPUS; i++) {
		kvm_pthread_join(c[i].thread, NULL);
		TEST_ASSERT_EQ(mock_peek64(self->dev, fd, i * PAGE_SIZE + 8),
			       READ_ONCE(state[i].done));
	}
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	struct kvm_vm *vm;

	__TEST_REQUIRE(getpagesize() == SZ_4K, "written for pages of 4 KiB");
	vm = vm_create_barebones();
	__TEST_REQUIRE(vm_check_cap(vm, KVM_CAP_DMABUF_MEM), "no KVM_CAP_DMABUF_MEM");
	kvm_vm_free(vm);

	return test_harness_run(argc, argv);
}
