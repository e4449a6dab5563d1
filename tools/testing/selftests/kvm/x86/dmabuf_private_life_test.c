// SPDX-License-Identifier: GPL-2.0-only
/*
 * The life of a private device, as described in
 * Documentation/driver-api/vfio.rst.
 *
 *	dmabuf_private_life_test DEVICE
 *
 * The guest is protected by software.  The device has a BAR that keeps what is
 * written, also over resets.  From binding to closing the host has no way to
 * look at the BAR, so the guest does it.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <sys/eventfd.h>

#include <linux/iommufd.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include "dmabuf_vfio.h"

#define SIZE	(64 * PAGE_SIZE)
#define GPA	(4ull * SZ_1G)
#define IOVA	((u64)SZ_1G)

/* KVM_EXIT_MEMORY_FAULT */
#define P	KVM_MEMORY_EXIT_FLAG_PRIVATE
#define R	KVM_MEMORY_EXIT_FLAG_REVOKED
#define B	KVM_MEMORY_EXIT_FLAG_BACKING

FIXTURE(life) {
	struct iommu *iommu;
	struct vfio_pci_device *dev;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int bar;
	int fd;
};

FIXTURE_SETUP(life)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = KVM_X86_SW_PROTECTED_VM,
	};
	struct vfio_region_dma_range range = { .length = SIZE };
	int error;

	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM)))
		SKIP(return, "no VMs that are protected by software");
	self->iommu = iommu_init(MODE_IOMMUFD);
	self->dev = vfio_pci_device_init_nomap(bdfs[0], self->iommu);
	self->bar = vfio_pci_largest_bar(self->dev, SIZE);
	vfio_pci_device_cleanup(self->dev);
	self->dev = NULL;
	if (self->bar < 0)
		SKIP(return, "%s has no memory BAR", bdfs[0]);

	self->dev = __vfio_pci_device_init_unmappable(bdfs[0], self->iommu, &error);
	if (error == -EOPNOTSUPP)
		SKIP(return, "This kernel does not keep the host out");
	TEST_ASSERT_EQ(error, 0);
	vfio_pci_set_memory_decode(self->dev, true);
	self->fd = vfio_pci_dmabuf_export(self->dev, self->bar, &range, 1, O_RDWR);
	self->vm = __vm_create_shape_with_one_vcpu(shape, &self->vcpu, EXTRA_PAGES,
						   guest_command_loop);
	add_slot(self->vm, SLOT_A, KVM_MEM_REVOKED_MMIO, GPA, SIZE, self->fd, 0);
}

FIXTURE_TEARDOWN(life)
{
	if (self->vm)
		kvm_vm_free(self->vm);
	if (self->dev) {
		close(self->fd);
		vfio_pci_device_cleanup(self->dev);
	}
	if (self->iommu)
		iommu_cleanup(self->iommu);
}

static void expect_fault(FIXTURE_DATA(life) *self, enum guest_exit exit, u64 flags)
{
	struct kvm_run *run = self->vcpu->run;

	TEST_ASSERT(exit == GUEST_FAULT, "exit was %s", exit_reason_str(run->exit_reason));
	TEST_ASSERT(run->memory_fault.flags == flags, "wanted flags 0x%lx, got 0x%llx",
		    flags, run->memory_fault.flags);
}

static void set_gfns(FIXTURE_DATA(life) *self, bool private)
{
	vm_set_memory_attributes(self->vm, GPA, SIZE,
				 private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0);
}

static void set_memory(FIXTURE_DATA(life) *self, bool private)
{
	TEST_ASSERT_EQ(__vfio_pci_dmabuf_set_private(self->dev, self->fd, private), 0);
}

static int mappings(void)
{
	int nr = iommufd_dmabuf_mappings();

	TEST_ASSERT(nr >= 0, "no debugfs to see mappings of dma-bufs in");
	return nr;
}

static u64 events(int fd)
{
	u64 nr = 0;

	return read(fd, &nr, sizeof(nr)) == sizeof(nr) ? nr : 0;
}

TEST_F_TIMEOUT(life, life, 240)
{
	int efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	u64 val = PATTERN;
	int round;

	TEST_ASSERT(efd >= 0, "eventfd");
	TEST_ASSERT_EQ(__vfio_pci_dmabuf_set_eventfd(self->dev, self->fd, efd), 0);
	TEST_ASSERT_EQ(__iommu_map_file(self->iommu, self->fd, 0, SIZE, IOVA,
					IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE |
					IOMMU_IOAS_MAP_RESTORE), 0);

	for (round = 0; round < 4; round++, val += 16) {
		bool gfn_first = round & 1;

		/* 2. Shared, at boot. */
		guest_write(self->vcpu, GPA + 8, val);
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA + 8), val);
		TEST_ASSERT_EQ(mappings(), 1);

		/* 4. Converted, in either order. */
		if (gfn_first)
			set_gfns(self, true);
		else
			set_memory(self, true);
		expect_fault(self, guest_cmd(self->vcpu, GUEST_WRITE, GPA + 16, val + 1, 0),
			     gfn_first ? P | B : B);
		TEST_ASSERT_EQ(mappings(), gfn_first);
		if (gfn_first)
			set_memory(self, true);
		else
			set_gfns(self, true);
		guest_resume(self->vcpu);
		TEST_ASSERT_EQ(mappings(), 0);
		TEST_ASSERT(events(efd) > 0, "nothing was signalled");

		/* 5. Used: what was there is there, and it can be taken away. */
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA + 8), val);
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA + 16), val + 1);
		vfio_pci_set_memory_decode(self->dev, false);
		expect_fault(self, guest_cmd(self->vcpu, GUEST_READ, GPA + 8, 0, 0), P | R);
		vfio_pci_set_memory_decode(self->dev, true);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), val);

		/* 6. Reset: it stays private. */
		if (self->dev->info.flags & VFIO_DEVICE_FLAGS_RESET) {
			vfio_pci_device_reset(self->dev);
			vfio_pci_set_memory_decode(self->dev, true);
		}
		TEST_ASSERT_EQ(__vfio_pci_dmabuf_is_private(self->dev, self->fd), 1);
		TEST_ASSERT_EQ(mappings(), 0);
		guest_write(self->vcpu, GPA + 24, val + 2);
		set_gfns(self, false);
		expect_fault(self, guest_cmd(self->vcpu, GUEST_READ, GPA + 24, 0, 0), B);

		/* 7. Shared again. */
		set_memory(self, false);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), val + 2);
		TEST_ASSERT_EQ(mappings(), 1);
		/* A shared guest has MMIO while the memory is away. */
		vfio_pci_set_memory_decode(self->dev, false);
		guest_no_slot(self->vcpu, GPA + 8);
		vfio_pci_set_memory_decode(self->dev, true);
	}

	/* Or the device is closed, while it is private. */
	set_gfns(self, true);
	set_memory(self, true);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA + 24), val - 16 + 2);
	vfio_pci_device_cleanup(self->dev);
	self->dev = NULL;
	close(self->fd);
	expect_fault(self, guest_cmd(self->vcpu, GUEST_READ, GPA + 24, 0, 0), P | R);
	close(efd);
}

int main(int argc, char *argv[])
{
	return dmabuf_main(argc, argv);
}
