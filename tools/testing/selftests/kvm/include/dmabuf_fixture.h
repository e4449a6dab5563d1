/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fixture of the tests of dma-buf memslots on vfio-pci: a device, its BAR, a VM.
 *
 * The first device on the command line (or $VFIO_SELFTESTS_BDF) needs a BAR that
 * is memory, that is one that keeps what is written into it: QEMU's
 * ivshmem-plain is one.  More devices may follow; tests that need a function
 * level reset or a BAR of a gigabyte take the first that has it and are skipped
 * without one.
 */
#ifndef SELFTEST_KVM_DMABUF_FIXTURE_H
#define SELFTEST_KVM_DMABUF_FIXTURE_H

#include "dmabuf_vfio.h"

/* What runs in the VM's vCPU; a test that has another one defines it before. */
#ifndef DMABUF_GUEST
#define DMABUF_GUEST		guest_command_loop
#endif

/* Nested virtualisation under emulation is slow. */
#define DMABUF_TEST(name)	TEST_F_TIMEOUT(dmabuf, name, 240)

/* Where slots go; each address is congruent to the BAR's modulo 1 GiB. */
#define GPA_A		(self->gpa_base)
#define GPA_B		(self->gpa_base + SZ_1G)

FIXTURE(dmabuf) {
	struct iommu *iommu;
	struct vfio_pci_device *dev;
	int bar;
	u64 bar_size;
	u64 gpa_base;
	int fd;			/* the whole BAR, read-write */
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
};

static inline u64 bar_read64(FIXTURE_DATA(dmabuf) *self, u64 offset)
{
	return vfio_pci_bar_read64(self->dev, self->bar, offset);
}

static inline void bar_write64(FIXTURE_DATA(dmabuf) *self, u64 offset, u64 val)
{
	vfio_pci_bar_write64(self->dev, self->bar, offset, val);
}

static inline void decode(FIXTURE_DATA(dmabuf) *self, bool on)
{
	vfio_pci_set_memory_decode(self->dev, on);
}

static inline void open_device(FIXTURE_DATA(dmabuf) *self)
{
	self->dev = vfio_pci_device_init_nomap(bdfs[0], self->iommu);
	decode(self, true);
}

static inline void close_device(FIXTURE_DATA(dmabuf) *self)
{
	vfio_pci_device_cleanup(self->dev);
	self->dev = NULL;
}

FIXTURE_SETUP(dmabuf)
{
	self->iommu = iommu_init(MODE_IOMMUFD);
	open_device(self);

	self->bar = vfio_pci_largest_bar(self->dev, 0);
	if (self->bar < 0)
		SKIP(return, "%s has no memory BAR", bdfs[0]);
	self->bar_size = self->dev->bars[self->bar].info.size;
	if (self->bar_size < TAG_PAGES * PAGE_SIZE)
		SKIP(return, "%s: BAR %d is smaller than %lu MiB", bdfs[0],
		     self->bar, (unsigned long)(TAG_PAGES * PAGE_SIZE / SZ_1M));

	if (!tag_bar(self->dev, self->bar))
		SKIP(return, "%s: BAR %d does not keep what is written",
		     bdfs[0], self->bar);

	self->gpa_base = 4ull * SZ_1G +
			 (pci_bar_phys(bdfs[0], self->bar) & (SZ_1G - 1ull));
	self->fd = vfio_pci_dmabuf_export_bar(self->dev, self->bar);
	self->vm = __vm_create_with_one_vcpu(&self->vcpu, EXTRA_PAGES, DMABUF_GUEST);
}

FIXTURE_TEARDOWN(dmabuf)
{
	if (self->vm)
		kvm_vm_free(self->vm);
	if (self->fd > 0)
		close(self->fd);
	if (self->dev)
		close_device(self);
	iommu_cleanup(self->iommu);
}

static inline bool offers_revoked_mmio(FIXTURE_DATA(dmabuf) *self)
{
	return vm_check_cap(self->vm, KVM_CAP_DMABUF_MEM) & KVM_MEM_REVOKED_MMIO;
}

#endif /* SELFTEST_KVM_DMABUF_FIXTURE_H */
