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
#include <time.h>

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

/*
 * What a feature says of arguments that are { dmabuf_fd, state, ... } and wrong,
 * for SET and GET; @args are right, and states up to @max_state can be set.
 */
static inline void expect_state_errnos(struct __test_metadata *_metadata,
				       struct vfio_pci_device *device, u32 feature,
				       const void *args, size_t size, u32 max_state)
{
	const u32 ops[] = { VFIO_DEVICE_FEATURE_SET, VFIO_DEVICE_FEATURE_GET };
	const u32 argsz = sizeof(struct vfio_device_feature) + size;
	const u32 states[] = { max_state + 1, 0xffffffff };
	u32 bad[16], i, s;

	VFIO_ASSERT_LE(size, sizeof(bad));
	ASSERT_EQ(0, feature_ioctl(device, feature | VFIO_DEVICE_FEATURE_PROBE |
				   ops[0] | ops[1], argsz, NULL, 0));
	for (i = 0; i < 2; i++) {
		u32 flags = feature | ops[i];

		ASSERT_EQ(0, feature_ioctl(device, flags | VFIO_DEVICE_FEATURE_PROBE,
					   argsz, NULL, 0));
		EXPECT_EQ(-EINVAL, feature_ioctl(device, flags, argsz - 1, args, size));
		for (s = 0; s < 2; s++) {
			memcpy(bad, args, size);
			bad[1] = states[s];
			EXPECT_EQ(-EINVAL, feature_ioctl(device, flags, argsz, bad, size));
		}
		/* Neither an open file, nor a dma-buf. */
		memcpy(bad, args, size);
		bad[0] = -1;
		EXPECT_EQ(-EBADF, feature_ioctl(device, flags, argsz, bad, size));
		bad[0] = device->fd;
		EXPECT_EQ(-EINVAL, feature_ioctl(device, flags, argsz, bad, size));
		EXPECT_EQ(0, feature_ioctl(device, flags, argsz, args, size));
		EXPECT_EQ(-EFAULT, __vfio_pci_feature_fault(device, flags, size));
	}
	memcpy(bad, args, size);
	bad[1] = max_state;
	EXPECT_EQ(-EINVAL, feature_ioctl(device, feature | VFIO_DEVICE_FEATURE_GET, argsz,
					 bad, size));
}

/* Map the start of the buffer and unmap it again; 0 or -errno. */
static inline int try_map(struct iommu *iommu, int fd, u64 size, iova_t iova)
{
	int ret = __iommu_map_file(iommu, fd, 0, size, iova, MAP_RW);

	if (!ret)
		iommu_unmap_iova(iommu, iova, size);

	return ret;
}

/* For how long something takes: milliseconds since whenever. */
static inline long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
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
