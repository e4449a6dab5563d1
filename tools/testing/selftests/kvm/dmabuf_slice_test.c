// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of memslots that are backed by a dma-buf: slices of buffers, several slots
 * of one buffer, and the sizes of the leaves in stage-2.
 *
 * Devices are those of dmabuf_fixture.h.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "dmabuf_fixture.h"

/* A slice of a few pages at an odd page; neighbours are out of reach. */
DMABUF_TEST(slice)
{
	const u64 first = 3, nr = 5, gpa = GPA_A + 7 * PAGE_SIZE;
	u64 i;

	virt_map(self->vm, gpa - PAGE_SIZE, gpa - PAGE_SIZE, nr + 2);
	vm_set_dmabuf_region(self->vm, SLOT_A, 0, gpa, nr * PAGE_SIZE, self->fd,
			     first * PAGE_SIZE);

	for (i = 0; i < nr; i++) {
		TEST_ASSERT_EQ(guest_read(self->vcpu, gpa + i * PAGE_SIZE), TAG(first + i));
		guest_write(self->vcpu, gpa + i * PAGE_SIZE + 8, PATTERN + i);
	}
	for (i = 0; i < nr; i++)
		TEST_ASSERT_EQ(bar_read64(self, (first + i) * PAGE_SIZE + 8), PATTERN + i);

	guest_no_slot(self->vcpu, gpa - PAGE_SIZE);
	guest_no_slot(self->vcpu, gpa + nr * PAGE_SIZE);
}

/* A dma-buf of two ranges with a hole between them, and slices of it. */
DMABUF_TEST(slice_two_ranges)
{
	/* With pages of 4 KiB the first is half of 2 MiB, the second is near a multiple. */
	const u64 a = TAG_PAGES / 16, b = TAG_PAGES / 4 + 1;
	const struct vfio_region_dma_range ranges[] = {
		{ .offset = a * PAGE_SIZE, .length = 3 * PAGE_SIZE },
		{ .offset = b * PAGE_SIZE, .length = 5 * PAGE_SIZE },
	};
	const u64 pages[] = { a, a + 1, a + 2, b, b + 1, b + 2, b + 3, b + 4 };
	u64 i, first, nr, gpa;
	int fd;

	fd = vfio_pci_dmabuf_export(self->dev, self->bar, ranges, 2, O_RDWR);
	virt_map(self->vm, GPA_A, GPA_A, 64);

	/* Every slice of the eight pages. */
	for (first = 0; first < 8; first++) {
		for (nr = 1; first + nr <= 8; nr++) {
			gpa = GPA_A + first * PAGE_SIZE;
			vm_set_dmabuf_region(self->vm, SLOT_A, 0, gpa, nr * PAGE_SIZE,
					     fd, first * PAGE_SIZE);
			for (i = 0; i < nr; i++)
				TEST_ASSERT_EQ(guest_read(self->vcpu, gpa + i * PAGE_SIZE),
					       TAG(pages[first + i]));
			vm_delete_region(self->vm, SLOT_A);
		}
	}
	TEST_ASSERT_EQ(__vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A,
					      9 * PAGE_SIZE, fd, 0), -EINVAL);

	/* Writes land in the ranges and nowhere else. */
	vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, 8 * PAGE_SIZE, fd, 0);
	for (i = 0; i < 8; i++)
		guest_write(self->vcpu, GPA_A + i * PAGE_SIZE, PATTERN + i);
	for (i = 0; i < 8; i++)
		TEST_ASSERT_EQ(bar_read64(self, pages[i] * PAGE_SIZE), PATTERN + i);
	TEST_ASSERT_EQ(bar_read64(self, (a - 1) * PAGE_SIZE), TAG(a - 1));
	TEST_ASSERT_EQ(bar_read64(self, (a + 3) * PAGE_SIZE), TAG(a + 3));
	TEST_ASSERT_EQ(bar_read64(self, (b - 1) * PAGE_SIZE), TAG(b - 1));
	TEST_ASSERT_EQ(bar_read64(self, (b + 5) * PAGE_SIZE), TAG(b + 5));
}

/*
 * How many leaves of which size a slot takes.  @dpages is the distance of the
 * slot from an address that is congruent to the BAR.
 */
static void check_leaves(FIXTURE_DATA(dmabuf) *self, const char *what, int fd,
			 u64 dpages, u64 offset, u64 size, u64 k4, u64 m2)
{
	u64 gpa = GPA_A + dpages * PAGE_SIZE;
	struct vm_leaves before, full, after;

	vm_set_dmabuf_region(self->vm, SLOT_A, 0, gpa, size, fd, offset);
	before = vm_leaves(self->vm);
	vcpu_map_range(self->vcpu, gpa, size, PAGE_SIZE);
	full = vm_leaves(self->vm);

	TEST_ASSERT(full.k4 - before.k4 == k4 && full.m2 - before.m2 == m2 &&
		    full.g1 == before.g1,
		    "%s: wanted %lu of 4 KiB, %lu of 2 MiB; got %lu, %lu (and %lu of 1 GiB)",
		    what, k4, m2, full.k4 - before.k4, full.m2 - before.m2,
		    full.g1 - before.g1);

	/* Revocation leaves none of them. */
	decode(self, false);
	after = vm_leaves(self->vm);
	TEST_ASSERT(after.k4 == before.k4 && after.m2 == before.m2,
		    "%s: revoked with %lu of 4 KiB, %lu of 2 MiB left", what,
		    after.k4 - before.k4, after.m2 - before.m2);
	decode(self, true);

	vm_delete_region(self->vm, SLOT_A);
}

DMABUF_TEST(leaf_sizes)
{
	const struct vfio_region_dma_range in_phase[] = {
		{ .offset = 0, .length = SZ_2M },
		{ .offset = SZ_4M, .length = SZ_2M },
	};
	const struct vfio_region_dma_range out_of_phase[] = {
		{ .offset = 0, .length = SZ_2M + PAGE_SIZE },
		{ .offset = SZ_8M, .length = SZ_2M },
	};
	int fd;

	if (!vm_has_leaves(self->vm))
		SKIP(return, "nothing tells the size of leaves");
	if (vm_leaf_size(1) != SZ_2M)
		SKIP(return, "no leaves of 2 MiB");
	if (pci_bar_phys(bdfs[0], self->bar) & (SZ_2M - 1))
		SKIP(return, "the BAR is not aligned to 2 MiB");

	virt_map(self->vm, GPA_A, GPA_A, SZ_8M / PAGE_SIZE);

	check_leaves(self, "congruent", self->fd, 0, 0, SZ_8M, 0, 4);
	check_leaves(self, "gpa off by a page", self->fd, 1, 0, SZ_4M, 1024, 0);
	check_leaves(self, "offset off by a page", self->fd, 0, PAGE_SIZE, SZ_4M, 1024, 0);
	check_leaves(self, "both off by 3 pages", self->fd, 3, 3 * PAGE_SIZE, SZ_4M, 512, 1);
	check_leaves(self, "shorter than a large page", self->fd, 0, 0,
		     SZ_2M - PAGE_SIZE, 511, 0);
	check_leaves(self, "a page longer", self->fd, 0, 0, SZ_2M + PAGE_SIZE, 1, 1);

	fd = vfio_pci_dmabuf_export(self->dev, self->bar, in_phase, 2, O_RDWR);
	check_leaves(self, "two ranges in phase", fd, 0, 0, SZ_4M, 0, 2);

	fd = vfio_pci_dmabuf_export(self->dev, self->bar, out_of_phase, 2, O_RDWR);
	check_leaves(self, "two ranges, the second out of phase", fd, 0, 0,
		     SZ_4M + PAGE_SIZE, 513, 1);
	/* Move by what makes the second range congruent and the first not. */
	check_leaves(self, "two ranges, the first out of phase", fd, 511, 0,
		     SZ_4M + PAGE_SIZE, 513, 1);
}

/*
 * A large BAR of another device in leaves of 1 GiB, or of 512 MiB where pages are of
 * 64 KiB: the largest of each.
 */
DMABUF_TEST(leaf_size_1g)
{
	const u64 size = 2ull * SZ_1G;
	const int level = getpagesize() == SZ_4K ? 2 : 1;
	const u64 leaf = vm_leaf_size(level);
	struct vm_leaves before, after;
	struct vfio_pci_device *dev;
	int bar, fd;
	u64 gpa, i;

	if (!vm_has_leaves(self->vm))
		SKIP(return, "nothing tells the size of leaves");
	dev = open_other_bar(self->iommu, 2ull * SZ_1G, SZ_1G, &bar);
	if (!dev)
		SKIP(return, "no second device with a BAR of 2 GiB, aligned to 1 GiB");

	fd = vfio_pci_dmabuf_export_bar(dev, bar);
	gpa = 64ull * SZ_1G;

	vm_set_dmabuf_region(self->vm, SLOT_A, 0, gpa, size, fd, 0);
	for (i = 0; i < size; i += leaf)
		virt_map(self->vm, gpa + i, gpa + i, 1);
	before = vm_leaves(self->vm);
	vcpu_map_range(self->vcpu, gpa, size, leaf);
	after = vm_leaves(self->vm);
	TEST_ASSERT_EQ(after.g1 - before.g1, level == 2 ? size / leaf : 0);
	TEST_ASSERT_EQ(after.m2 - before.m2, level == 1 ? size / leaf : 0);
	TEST_ASSERT_EQ(after.k4 - before.k4, 0);

	vfio_pci_set_memory_decode(dev, false);
	TEST_ASSERT_EQ(vm_leaves(self->vm).g1, before.g1);
	TEST_ASSERT_EQ(vm_leaves(self->vm).m2, before.m2);
	vfio_pci_set_memory_decode(dev, true);
	vfio_pci_device_cleanup(dev);
}

/* Many slots, in many VMs, of one dma-buf. */
DMABUF_TEST(shared)
{
	const u64 off = 9 * PAGE_SIZE, size = 16 * PAGE_SIZE;
	struct kvm_vcpu *vcpu2;
	struct kvm_vm *vm2 = create_vm(&vcpu2);
	int i;

	add_slot(self->vm, SLOT_A, 0, GPA_A, size, self->fd, off);
	add_slot(self->vm, SLOT_B, 0, GPA_B, size, self->fd, off + PAGE_SIZE);
	add_slot(vm2, SLOT_A, 0, GPA_B, size, self->fd, off);

	/* Written through one, read through the others. */
	guest_write(self->vcpu, GPA_A + PAGE_SIZE, PATTERN);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_B), PATTERN);
	TEST_ASSERT_EQ(guest_read(vcpu2, GPA_B + PAGE_SIZE), PATTERN);
	TEST_ASSERT_EQ(bar_read64(self, off + PAGE_SIZE), PATTERN);

	for (i = 0; i < 3; i++) {
		decode(self, false);
		guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
		guest_revoked(vcpu2, GUEST_READ, GPA_B + PAGE_SIZE, 0);
		decode(self, true);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(9));
		TEST_ASSERT_EQ(guest_resume(vcpu2), PATTERN);

		decode(self, false);
		guest_revoked(self->vcpu, GUEST_READ, GPA_B, 0);
		decode(self, true);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), PATTERN);
	}

	/* One goes, the others stay. */
	vm_delete_region(self->vm, SLOT_A);
	guest_no_slot(self->vcpu, GPA_A);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_B), PATTERN);
	TEST_ASSERT_EQ(guest_read(vcpu2, GPA_B + PAGE_SIZE), PATTERN);

	kvm_vm_free(self->vm);
	self->vm = NULL;
	TEST_ASSERT_EQ(guest_read(vcpu2, GPA_B + PAGE_SIZE), PATTERN);
	decode(self, false);
	guest_revoked(vcpu2, GUEST_READ, GPA_B, 0);
	decode(self, true);
	TEST_ASSERT_EQ(guest_resume(vcpu2), TAG(9));
	kvm_vm_free(vm2);
}

DMABUF_TEST(pre_fault)
{
	struct vm_leaves leaves;
	u64 mmio_exits;
	int ret;

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "no KVM_CAP_PRE_FAULT_MEMORY");

	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_4M, self->fd, 0);

	/* All of the guest's own memory that the accesses below take. */
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 37 * PAGE_SIZE), TAG(37));
	guest_write(self->vcpu, GPA_A + SZ_4M - 8, 0);

	/* Revoked: an error, at once, and nothing mapped. */
	decode(self, false);
	leaves = vm_leaves(self->vm);
	ret = __vcpu_pre_fault(self->vcpu, GPA_A, SZ_4M);
	TEST_ASSERT(ret == -EFAULT, "wanted EFAULT, got %s", strerror(-ret));
	TEST_ASSERT_EQ(vm_leaves(self->vm).k4, leaves.k4);
	TEST_ASSERT_EQ(vm_leaves(self->vm).m2, leaves.m2);
	decode(self, true);

	vcpu_pre_fault(self->vcpu, GPA_A, SZ_4M);
	vcpu_pre_fault(self->vcpu, GPA_A, SZ_4M);
	leaves = vm_leaves(self->vm);
	mmio_exits = guest_mmio_exits(self->vcpu);

	/* Nothing is left for the guest's accesses to map. */
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 37 * PAGE_SIZE), TAG(37));
	guest_write(self->vcpu, GPA_A + SZ_4M - 8, PATTERN);
	TEST_ASSERT_EQ(vm_leaves(self->vm).k4, leaves.k4);
	TEST_ASSERT_EQ(vm_leaves(self->vm).m2, leaves.m2);
	TEST_ASSERT_EQ(guest_mmio_exits(self->vcpu), mmio_exits);
	TEST_ASSERT_EQ(bar_read64(self, SZ_4M - 8), PATTERN);
}

int main(int argc, char *argv[])
{
	return dmabuf_main(argc, argv);
}
