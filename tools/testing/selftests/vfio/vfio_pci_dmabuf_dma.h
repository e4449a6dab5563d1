/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests share that have another device do DMA to a dma-buf: a device that
 * libvfio has a driver for, and host memory for it, in the IOAS of both.
 */
#ifndef SELFTEST_VFIO_PCI_DMABUF_DMA_H
#define SELFTEST_VFIO_PCI_DMABUF_DMA_H

#include <string.h>

#include <sys/mman.h>

#include <linux/sizes.h>

#include "vfio_pci_dmabuf_util.h"

struct initiator {
	struct vfio_pci_device *device;
	struct iova_allocator *iova_allocator;
	struct dma_region buf;
	/* Where tests put slices of the BAR, 2 MiB */
	iova_t bar_iova;
};

static inline void initiator_map(struct initiator *i, struct dma_region *region)
{
	region->vaddr = mmap(NULL, SZ_2M, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	VFIO_ASSERT_NE(region->vaddr, MAP_FAILED);
	region->iova = iova_allocator_alloc(i->iova_allocator, SZ_2M);
	region->size = SZ_2M;
	iommu_map(i->device->iommu, region);
}

static inline void initiator_unmap(struct initiator *i, struct dma_region *region)
{
	iommu_unmap(i->device->iommu, region);
	VFIO_ASSERT_EQ(munmap(region->vaddr, region->size), 0);
}

/* False if libvfio has no driver for it; there is nothing to clean up then. */
static inline bool initiator_init(struct initiator *i, struct iommu *iommu)
{
	i->device = vfio_pci_device_init(initiator_bdf, iommu);
	if (!i->device->driver.ops) {
		vfio_pci_device_cleanup(i->device);
		return false;
	}

	i->iova_allocator = iova_allocator_init(iommu);
	initiator_map(i, &i->device->driver.region);
	initiator_map(i, &i->buf);
	i->bar_iova = iova_allocator_alloc(i->iova_allocator, SZ_2M);
	vfio_pci_driver_init(i->device);
	return true;
}

static inline void initiator_cleanup(struct initiator *i)
{
	vfio_pci_driver_remove(i->device);
	initiator_unmap(i, &i->buf);
	initiator_unmap(i, &i->device->driver.region);
	iova_allocator_cleanup(i->iova_allocator);
	vfio_pci_device_cleanup(i->device);
}

/*
 * DMA this byte to an IOVA.  The result says little where the IOVA is not
 * mapped: some devices notice, some do not.
 */
static inline int initiator_fill(struct initiator *i, iova_t iova, u64 size, u8 byte)
{
	memset(i->buf.vaddr, byte, size);
	return vfio_pci_driver_memcpy(i->device, i->buf.iova, iova, size);
}

/* What all bytes there are, as DMA reads them, or -1. */
static inline int initiator_read(struct initiator *i, iova_t iova, u64 size)
{
	u8 *buf = i->buf.vaddr;

	memset(buf, 0, size);
	if (vfio_pci_driver_memcpy(i->device, iova, i->buf.iova, size))
		return -1;
	return memcmp(buf, buf + 1, size - 1) ? -1 : buf[0];
}

#endif /* SELFTEST_VFIO_PCI_DMABUF_DMA_H */
