/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fixture of the tests of device memory as dma-bufs: a device, its largest BAR.
 */
#ifndef SELFTEST_VFIO_PCI_DMABUF_FIXTURE_H
#define SELFTEST_VFIO_PCI_DMABUF_FIXTURE_H

#include <unistd.h>

#include "vfio_pci_dmabuf_util.h"

FIXTURE(vfio_pci_dmabuf_test) {
	struct iommu *iommu;
	struct iova_allocator *iova_allocator;
	struct vfio_pci_device *device;
	u64 page;
	u64 size;
	iova_t iova;
	int bar;
};

FIXTURE_SETUP(vfio_pci_dmabuf_test)
{
	self->page = getpagesize();
	self->iommu = iommu_init(MODE_IOMMUFD);
	self->device = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	self->iova_allocator = iova_allocator_init(self->iommu);

	self->bar = vfio_pci_largest_bar(self->device, 8 * self->page);
	if (self->bar < 0)
		SKIP(return, "%s has no memory BAR of 8 pages", exporter_bdf);

	self->size = self->device->bars[self->bar].info.size;
	self->iova = iova_allocator_alloc(self->iova_allocator, self->size);
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_test)
{
	iova_allocator_cleanup(self->iova_allocator);
	if (self->device)
		vfio_pci_device_cleanup(self->device);
	iommu_cleanup(self->iommu);
}

static inline int try_map_page(FIXTURE_DATA(vfio_pci_dmabuf_test) *self, int fd)
{
	return try_map(self->iommu, fd, self->page, self->iova);
}

#define EXPECT_LIVE(_self, _fd)		EXPECT_EQ(0, try_map_page(_self, _fd))
#define EXPECT_REVOKED(_self, _fd)	EXPECT_EQ(-ENODEV, try_map_page(_self, _fd))

#endif /* SELFTEST_VFIO_PCI_DMABUF_FIXTURE_H */
