// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of memslots that are backed by a dma-buf, on x86 only: dirty logs of
 * other slots, both ways to zap a deleted slot, private gfns, pre-faulting
 * across slots, leaves that are mapped ahead, slots that are revoked together,
 * and the address space of SMM.
 *
 * The devices are described in dmabuf_fixture.h: the first has a BAR that keeps
 * what is written, another one has a BAR that can be revoked on its own.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <sys/ioctl.h>

#include "dmabuf_x86.h"
#include "smm.h"

/* There is no dirty log of a BAR, next to slots that have one. */
DMABUF_TEST(dirty_log)
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
	add_bar(self, self->vm, SLOT_A, 0, GPA_A, SZ_2M, 0);

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

DMABUF_TEST(dirty_ring)
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
	add_bar(self, vm, SLOT_A, 0, GPA_A, SZ_2M, 0);

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
DMABUF_TEST(zap_quirk)
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

		add_bar(self, vm, SLOT_B, 0, GPA_B, SZ_2M, SZ_2M);
		vcpu_pre_fault(vcpu, GPA_B, SZ_2M);
		before = vm_leaves(vm);
		add_bar(self, vm, SLOT_A, 0, GPA_A, SZ_2M, 0);
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
DMABUF_TEST(private)
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
	add_bar(self, vm, SLOT_A, 0, GPA_A, SZ_4M, 0);
	TEST_ASSERT_EQ(x86_read(vcpu, GPA_A + PAGE_SIZE), TAG(1));

	vm_mem_set_private(vm, GPA_A, SZ_2M);
	TEST_ASSERT_EQ(x86_cmd(vcpu, (struct x86_cmd) {
		.op = OP_READ, .src = GPA_A + PAGE_SIZE }), GUEST_FAULT);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE |
		       KVM_MEMORY_EXIT_FLAG_BACKING);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.gpa, GPA_A + PAGE_SIZE);

	/* Memory that is away is of neither kind. */
	decode(self, false);
	TEST_ASSERT_EQ(guest_run(vcpu), GUEST_FAULT);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE |
		       KVM_MEMORY_EXIT_FLAG_REVOKED);
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
	TEST_ASSERT_EQ(vcpu->run->memory_fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE |
		       KVM_MEMORY_EXIT_FLAG_REVOKED);
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
	TEST_ASSERT_EQ(vcpu->run->memory_fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE |
		       KVM_MEMORY_EXIT_FLAG_BACKING);
	kvm_vm_free(vm);
}

/* Pre-faulting over two buffers, one of which is away. */
DMABUF_TEST(pre_fault_part)
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

	add_bar(self, self->vm, SLOT_A, 0, GPA_A, SZ_2M, 0);
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
#define AHEAD_PAGES	64
#define AHEAD_SLOT	(AHEAD_PAGES + 8)

static u64 read_page(FIXTURE_DATA(dmabuf) *self, u64 gpa, u64 page)
{
	TEST_ASSERT_EQ(x86_read(self->vcpu, gpa + page * PAGE_SIZE), TAG(page));
	return vm_leaves(self->vm).k4;
}

DMABUF_TEST(fault_ahead)
{
	bool ahead = get_kvm_param_bool("tdp_mmu");
	/* Not congruent to the BAR: leaves of 4 KiB. */
	u64 gpa = GPA_A + PAGE_SIZE, base, page, last = AHEAD_SLOT - 1;

	add_bar(self, self->vm, SLOT_A, 0, gpa, AHEAD_SLOT * PAGE_SIZE, 0);
	add_bar(self, self->vm, SLOT_B, 0, gpa + AHEAD_SLOT * PAGE_SIZE,
		8 * PAGE_SIZE, AHEAD_SLOT * PAGE_SIZE);

	/* The guest's page tables fault, too. */
	base = read_page(self, gpa, 0);

	TEST_ASSERT_EQ(read_page(self, gpa, 4), base + 1);
	TEST_ASSERT_EQ(read_page(self, gpa, 2), base + 2);
	TEST_ASSERT_EQ(read_page(self, gpa, 5), base + 3 + (ahead ? AHEAD_PAGES : 0));
	for (page = 6; page < 6 + AHEAD_PAGES; page++)
		read_page(self, gpa, page);
	TEST_ASSERT_EQ(vm_leaves(self->vm).k4, base + 3 + AHEAD_PAGES);

	/* The end of the slot. */
	TEST_ASSERT_EQ(page, last - 1);
	TEST_ASSERT_EQ(read_page(self, gpa, page), base + page - 2 + ahead);
	TEST_ASSERT_EQ(read_page(self, gpa, last), base + last - 2);
	TEST_ASSERT_EQ(read_page(self, gpa, last + 1), base + last - 1);

	decode(self, false);
	TEST_ASSERT_EQ(vm_leaves(self->vm).k4, base - 1);
	TEST_ASSERT_EQ(x86_cmd(self->vcpu, (struct x86_cmd){
					.op = OP_READ,
					.src = gpa + last * PAGE_SIZE }),
		       GUEST_FAULT);
	assert_revoked_exit(self->vcpu, gpa + last * PAGE_SIZE);
	TEST_ASSERT_EQ(vm_leaves(self->vm).k4, base - 1);

	/* The guest had most of the slot, and gets it back by one fault. */
	decode(self, true);
	TEST_ASSERT_EQ(guest_run(self->vcpu), GUEST_DONE_CMD);
	TEST_ASSERT_EQ(vm_leaves(self->vm).k4, base + (ahead ? last : 0));
	TEST_ASSERT_EQ(read_page(self, gpa, 3), base + (ahead ? last : 1));
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
		poll_pause();
}

/* Whatever a vCPU is mapping meanwhile, nothing is left when revoke returns. */
DMABUF_TEST(revoke_ahead_under_load)
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
		add_bar(self, self->vm, SLOT_A + i, 0,
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
DMABUF_TEST(revoke_siblings)
{
	const u64 pages[] = { 0, 3, 7 };
	struct kvm_vm *vm = self->vm;
	u64 gpa, base, revocations;
	int slot, i;

	for (slot = 0; slot < 4; slot++)
		add_bar(self, vm, SLOT_A + slot, 0, GPA_A + PAGE_SIZE + slot * SZ_64K,
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

DMABUF_TEST(smm)
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
	add_bar(self, self->vm, SLOT_A, 0, SMM_BAR_GPA, SZ_2M, 9 * PAGE_SIZE);
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

int main(int argc, char *argv[])
{
	return dmabuf_main(argc, argv);
}
