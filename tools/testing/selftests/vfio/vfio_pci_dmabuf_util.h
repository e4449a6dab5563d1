/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests of device memory as dma-bufs share.
 *
 *	vfio_pci_dmabuf_..._test [options] EXPORTER [INITIATOR]
 *
 * EXPORTER is the device whose largest BAR is exported.  It is never mapped into
 * this process.  INITIATOR, if given, is another device, for the tests that need
 * one; vfio_pci_dmabuf_p2p_test says what it takes there.
 *
 * Whether a buffer is revoked is asked by mapping it into an IOAS: ENODEV if it
 * is.
 */
#ifndef SELFTEST_VFIO_PCI_DMABUF_UTIL_H
#define SELFTEST_VFIO_PCI_DMABUF_UTIL_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <sys/ioctl.h>

#include <linux/iommufd.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define MAP_RW (IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE)
#define MAP_RW_RESTORE (MAP_RW | IOMMU_IOAS_MAP_RESTORE)

static const char *exporter_bdf;
static const char *initiator_bdf;

/* VFIO_DEVICE_FEATURE with the arguments as they are; 0 or an fd, or -errno. */
static inline int feature_ioctl(struct vfio_pci_device *device, u32 flags, u32 argsz,
				const void *data, size_t size)
{
	struct vfio_device_feature *feature;
	int ret;

	feature = calloc_assert(1, sizeof(*feature) + size);
	feature->argsz = argsz;
	feature->flags = flags;
	if (size)
		memcpy(feature->data, data, size);

	ret = ioctl(device->fd, VFIO_DEVICE_FEATURE, feature);
	if (ret < 0)
		ret = -errno;
	free(feature);

	return ret;
}

/* Map the start of the buffer and unmap it again; 0 or -errno. */
static inline int try_map(struct iommu *iommu, int fd, u64 size, iova_t iova)
{
	int ret = __iommu_map_file(iommu, fd, 0, size, iova, MAP_RW);

	if (!ret)
		iommu_unmap_iova(iommu, iova, size);

	return ret;
}

static inline int dmabuf_main(int argc, char *argv[])
{
	char **bdfs;
	int nr_bdfs;

	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_bdfs);
	exporter_bdf = bdfs[0];
	if (nr_bdfs > 1)
		initiator_bdf = bdfs[1];

	return test_harness_run(argc, argv);
}

#endif /* SELFTEST_VFIO_PCI_DMABUF_UTIL_H */
