// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of device memory as dma-bufs: VFIO_DEVICE_FEATURE_DMA_BUF, mapping the
 * dma-buf into an IOAS, and revocation.
 *
 *	vfio_pci_dmabuf_test [options] EXPORTER [INITIATOR]
 *
 * EXPORTER is the device whose largest BAR is exported.  It is never mapped into
 * this process.  INITIATOR, if given, is a device with a driver in libvfio: it
 * DMAs into that BAR, and the BAR is then written to with patterns, so name one
 * only if the BAR is plain memory.  Without it the tests of what reaches the
 * memory are skipped.
 *
 * Whether a buffer is revoked is asked by mapping it into an IOAS: ENODEV if it
 * is.  Whether what was mapped before is really gone is asked by DMA.  DMA into
 * a BAR whose decoding is off proves nothing, as the device would drop it; the
 * proof is DMA to the same IOVA with decoding on again.
 */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <linux/dma-heap.h>
#include <linux/iommufd.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define MAP_RW (IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE)

static const char *exporter_bdf;
static const char *initiator_bdf;

/* VFIO_DEVICE_FEATURE with the arguments as they are; 0 or an fd, or -errno. */
static int feature_ioctl(struct vfio_pci_device *device, u32 flags, u32 argsz,
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

/* Map the start of the buffer and unmap it again; 0 or -errno. */
static int try_map(struct iommu *iommu, int fd, u64 size, iova_t iova)
{
	int ret = __iommu_map_file(iommu, fd, 0, size, iova, MAP_RW);

	if (!ret)
		iommu_unmap_iova(iommu, iova, size);

	return ret;
}

static int try_map_page(FIXTURE_DATA(vfio_pci_dmabuf_test) *self, int fd)
{
	return try_map(self->iommu, fd, self->page, self->iova);
}

#define EXPECT_LIVE(_self, _fd)		EXPECT_EQ(0, try_map_page(_self, _fd))
#define EXPECT_REVOKED(_self, _fd)	EXPECT_EQ(-ENODEV, try_map_page(_self, _fd))

TEST_F(vfio_pci_dmabuf_test, export_bar)
{
	int fd;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	ASSERT_EQ(self->size, lseek(fd, 0, SEEK_END));
	ASSERT_EQ(O_RDWR, fcntl(fd, F_GETFL) & O_ACCMODE);
	ASSERT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, export_open_flags)
{
	struct vfio_region_dma_range range = { .length = self->page };
	int fd;

	fd = vfio_pci_dmabuf_export(self->device, self->bar, &range, 1,
				    O_RDONLY);
	ASSERT_EQ(O_RDONLY, fcntl(fd, F_GETFL) & O_ACCMODE);
	ASSERT_EQ(0, fcntl(fd, F_GETFD));
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, export_many)
{
	int fds[64];
	u32 i;

	/* Many dma-bufs may name the same memory. */
	for (i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	for (i = 0; i < ARRAY_SIZE(fds); i++)
		EXPECT_LIVE(self, fds[i]);
	for (i = 0; i < ARRAY_SIZE(fds); i++)
		ASSERT_EQ(0, close(fds[i]));
}

TEST_F(vfio_pci_dmabuf_test, export_multi_range)
{
	u64 page = self->page;
	struct vfio_region_dma_range ranges[] = {
		{ .offset = 4 * page, .length = 2 * page },
		{ .offset = 0, .length = page },
		{ .offset = 7 * page, .length = page },
	};
	int fd;

	fd = vfio_pci_dmabuf_export(self->device, self->bar, ranges,
				    ARRAY_SIZE(ranges), O_RDWR);
	ASSERT_EQ(4 * page, lseek(fd, 0, SEEK_END));

	iommu_map_file(self->iommu, fd, 0, 4 * page, self->iova);
	iommu_unmap_iova(self->iommu, self->iova, 4 * page);

	/* A slice with a seam in it. */
	iommu_map_file(self->iommu, fd, page, 2 * page, self->iova);
	iommu_unmap_iova(self->iommu, self->iova, 2 * page);

	ASSERT_EQ(-EINVAL, __iommu_map_file(self->iommu, fd, page, 4 * page,
					    self->iova, MAP_RW));
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, export_sub_page)
{
	struct vfio_region_dma_range range = { .length = self->page };
	struct vfio_region_info *info;
	int i, fd, nr = 0;

	for (i = 0; i < PCI_STD_NUM_BARS; i++) {
		info = &self->device->bars[i].info;
		if (!(info->flags & VFIO_REGION_INFO_FLAG_MMAP) ||
		    info->size >= self->page)
			continue;
		nr++;

		/* A page, no less and no more. */
		range = (struct vfio_region_dma_range){ .length = info->size };
		EXPECT_EQ(-EINVAL, __vfio_pci_dmabuf_export(self->device, i,
							    &range, 1, O_RDWR));
		range.length = 2 * self->page;
		EXPECT_EQ(-EINVAL, __vfio_pci_dmabuf_export(self->device, i,
							    &range, 1, O_RDWR));
		range.length = self->page;
		range.offset = self->page;
		EXPECT_EQ(-EINVAL, __vfio_pci_dmabuf_export(self->device, i,
							    &range, 1, O_RDWR));
		range.offset = 0;
		fd = vfio_pci_dmabuf_export(self->device, i, &range, 1, O_RDWR);
		EXPECT_EQ(self->page, lseek(fd, 0, SEEK_END));
		EXPECT_LIVE(self, fd);
		vfio_pci_set_memory_decode(self->device, false);
		EXPECT_REVOKED(self, fd);
		vfio_pci_set_memory_decode(self->device, true);
		EXPECT_LIVE(self, fd);
		ASSERT_EQ(0, close(fd));
	}

	if (!nr)
		SKIP(return, "%s has no BAR smaller than a page", exporter_bdf);
}

FIXTURE(vfio_pci_dmabuf_errno_test) {
	struct iommu *iommu;
	struct vfio_pci_device *device;
	u64 page;
	u64 size;
	int bar;
};

/* Offsets and lengths are in pages, plus so many bytes. */
FIXTURE_VARIANT(vfio_pci_dmabuf_errno_test) {
	u64 offset_pages;
	u64 offset_bytes;
	u64 length_pages;
	u64 length_bytes;
	bool from_end;
	u32 flags;
	u32 nr_ranges;
	int error;
};

FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_errno_test, flags) {
	.length_pages = 1, .nr_ranges = 1, .flags = 1, .error = EINVAL,
};

FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_errno_test, flags_high_bit) {
	.length_pages = 1, .nr_ranges = 1, .flags = 1U << 31, .error = EINVAL,
};

FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_errno_test, no_ranges) {
	.length_pages = 1, .nr_ranges = 0, .error = EINVAL,
};

FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_errno_test, too_many_ranges) {
	.length_pages = 1, .nr_ranges = UINT_MAX, .error = ENOMEM,
};

FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_errno_test, no_length) {
	.nr_ranges = 1, .error = EINVAL,
};

FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_errno_test, offset_unaligned) {
	.offset_bytes = 512, .length_pages = 1, .nr_ranges = 1,
	.error = EINVAL,
};

FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_errno_test, length_unaligned) {
	.length_pages = 1, .length_bytes = 512, .nr_ranges = 1,
	.error = EINVAL,
};

FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_errno_test, one_page_too_long) {
	.from_end = true, .offset_pages = -1, .length_pages = 2,
	.nr_ranges = 1, .error = EINVAL,
};

FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_errno_test, beyond_the_end) {
	.from_end = true, .length_pages = 1, .nr_ranges = 1, .error = EINVAL,
};

FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_errno_test, offset_wraps) {
	.offset_pages = -1, .length_pages = 1, .nr_ranges = 1,
	.error = EOVERFLOW,
};

FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_errno_test, length_huge) {
	.length_bytes = 1ULL << 63, .nr_ranges = 1, .error = EINVAL,
};

FIXTURE_SETUP(vfio_pci_dmabuf_errno_test)
{
	self->page = getpagesize();
	self->iommu = iommu_init(MODE_IOMMUFD);
	self->device = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	self->bar = vfio_pci_largest_bar(self->device, 8 * self->page);
	if (self->bar < 0)
		SKIP(return, "%s has no memory BAR of 8 pages", exporter_bdf);
	self->size = self->device->bars[self->bar].info.size;
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_errno_test)
{
	vfio_pci_device_cleanup(self->device);
	iommu_cleanup(self->iommu);
}

struct one_range {
	struct vfio_device_feature_dma_buf args;
	struct vfio_region_dma_range range;
};

TEST_F(vfio_pci_dmabuf_errno_test, range)
{
	struct one_range data = {
		.args = {
			.region_index = self->bar,
			.open_flags = O_RDWR,
			.flags = variant->flags,
			.nr_ranges = variant->nr_ranges,
		},
		.range = {
			.offset = variant->offset_pages * self->page +
				  variant->offset_bytes +
				  (variant->from_end ? self->size : 0),
			.length = variant->length_pages * self->page +
				  variant->length_bytes,
		},
	};
	u32 flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;

	ASSERT_EQ(-variant->error,
		  feature_ioctl(self->device, flags,
				sizeof(struct vfio_device_feature) + sizeof(data),
				&data, sizeof(data)));
}

TEST_F(vfio_pci_dmabuf_test, export_lengths_overflow)
{
	/* Each fits into 64 bits, the sum does not. */
	struct vfio_region_dma_range ranges[] = {
		{ .length = -2 * self->page },
		{ .length = 4 * self->page },
	};

	ASSERT_EQ(-EINVAL, __vfio_pci_dmabuf_export(self->device, self->bar,
						    ranges, 2, O_RDWR));
}

TEST_F(vfio_pci_dmabuf_test, export_wrong_region)
{
	struct vfio_region_dma_range range = { .length = self->page };
	const u32 wrong[] = {
		VFIO_PCI_ROM_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
		VFIO_PCI_VGA_REGION_INDEX, VFIO_PCI_NUM_REGIONS, UINT_MAX,
	};
	u32 i;

	for (i = 0; i < ARRAY_SIZE(wrong); i++)
		ASSERT_EQ(-ENODEV,
			  __vfio_pci_dmabuf_export(self->device, wrong[i],
						   &range, 1, O_RDWR));
}

TEST_F(vfio_pci_dmabuf_test, export_absent_bar)
{
	struct vfio_region_dma_range range = { .length = self->page };
	int i, absent = 0;

	for (i = 0; i < PCI_STD_NUM_BARS; i++) {
		if (self->device->bars[i].info.size)
			continue;
		ASSERT_EQ(-ENODEV, __vfio_pci_dmabuf_export(self->device, i,
							    &range, 1, O_RDWR));
		absent++;
	}

	if (!absent)
		SKIP(return, "%s has all BARs", exporter_bdf);
}

TEST_F(vfio_pci_dmabuf_test, export_io_bar)
{
	struct vfio_region_dma_range range = { .length = self->page };
	int i, ports = 0;

	for (i = 0; i < PCI_STD_NUM_BARS; i++) {
		u32 val = vfio_pci_config_readl(self->device,
						PCI_BASE_ADDRESS_0 + 4 * i);

		if (!self->device->bars[i].info.size ||
		    !(val & PCI_BASE_ADDRESS_SPACE_IO))
			continue;
		ASSERT_EQ(-EINVAL, __vfio_pci_dmabuf_export(self->device, i,
							    &range, 1, O_RDWR));
		ports++;
	}

	if (!ports)
		SKIP(return, "%s has no I/O port BAR", exporter_bdf);
}

TEST_F(vfio_pci_dmabuf_test, export_feature_flags)
{
	struct one_range data = {
		.args = {
			.region_index = self->bar,
			.open_flags = O_RDWR,
			.nr_ranges = 1,
		},
		.range.length = self->page,
	};
	u32 argsz = sizeof(struct vfio_device_feature) + sizeof(data);
	u32 feature = VFIO_DEVICE_FEATURE_DMA_BUF;

	ASSERT_EQ(0, feature_ioctl(self->device, feature |
				   VFIO_DEVICE_FEATURE_PROBE |
				   VFIO_DEVICE_FEATURE_GET, argsz, &data,
				   sizeof(data)));
	ASSERT_EQ(-EINVAL, feature_ioctl(self->device, feature |
					 VFIO_DEVICE_FEATURE_SET, argsz, &data,
					 sizeof(data)));
	ASSERT_EQ(-EINVAL, feature_ioctl(self->device, feature |
					 VFIO_DEVICE_FEATURE_GET,
					 sizeof(struct vfio_device_feature) +
					 sizeof(data.args) - 1, &data,
					 sizeof(data)));
}

TEST_F(vfio_pci_dmabuf_test, export_fault)
{
	size_t size = sizeof(struct vfio_device_feature) +
		      sizeof(struct vfio_device_feature_dma_buf);
	struct vfio_device_feature_dma_buf *args;
	struct vfio_device_feature *feature;
	void *mem;

	mem = mmap(NULL, 2 * self->page, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, mem);
	ASSERT_EQ(0, mprotect(mem + self->page, self->page, PROT_NONE));

	/* The structure ends with the page, the ranges begin beyond it. */
	feature = mem + self->page - size;
	feature->argsz = size + sizeof(struct vfio_region_dma_range);
	feature->flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;
	args = (void *)feature->data;
	args->region_index = self->bar;
	args->nr_ranges = 1;
	ASSERT_EQ(-1, ioctl(self->device->fd, VFIO_DEVICE_FEATURE, feature));
	ASSERT_EQ(EFAULT, errno);

	/* The structure itself lacks its last byte. */
	memmove((void *)feature + 1, feature, size - 1);
	feature = (void *)feature + 1;
	ASSERT_EQ(-1, ioctl(self->device->fd, VFIO_DEVICE_FEATURE, feature));
	ASSERT_EQ(EFAULT, errno);

	ASSERT_EQ(0, munmap(mem, 2 * self->page));
}

TEST_F(vfio_pci_dmabuf_test, export_no_fd_left)
{
	struct vfio_region_dma_range range = { .length = self->page };
	struct rlimit old, none;
	int fd;

	/* The lowest free descriptor is the limit: there is none below it. */
	fd = open("/dev/null", O_RDONLY);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &old));
	none = (struct rlimit){ .rlim_cur = fd, .rlim_max = old.rlim_max };
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &none));

	EXPECT_EQ(-EMFILE, __vfio_pci_dmabuf_export(self->device, self->bar,
						    &range, 1, O_RDWR));
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &old));

	/* Nothing is left of the failed one: revoking walks all buffers. */
	vfio_pci_set_memory_decode(self->device, false);
	vfio_pci_set_memory_decode(self->device, true);
	fd = vfio_pci_dmabuf_export(self->device, self->bar, &range, 1, O_RDWR);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, map_slices)
{
	u64 page = self->page, size = self->size;
	struct iommu *iommu = self->iommu;
	iova_t iova = self->iova;
	int fd;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);

	iommu_map_file(iommu, fd, 0, size, iova);
	iommu_unmap_iova(iommu, iova, size);
	iommu_map_file(iommu, fd, page, page, iova);
	/* A second slice of the same buffer next to the first. */
	iommu_map_file(iommu, fd, 5 * page, 3 * page, iova + page);
	iommu_unmap_iova(iommu, iova, 4 * page);
	iommu_map_file(iommu, fd, size - page, page, iova);
	iommu_unmap_iova(iommu, iova, page);

	ASSERT_EQ(-EINVAL, __iommu_map_file(iommu, fd, size - page, 2 * page,
					    iova, MAP_RW));
	ASSERT_EQ(-EINVAL, __iommu_map_file(iommu, fd, size, page, iova,
					    MAP_RW));
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, map_survives_close_of_fd)
{
	int fd;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	iommu_map_file(self->iommu, fd, 0, self->size, self->iova);
	ASSERT_EQ(0, close(fd));
	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	ASSERT_EQ(-EEXIST, __iommu_map_file(self->iommu, fd, 0, self->page,
					    self->iova, MAP_RW));
	ASSERT_EQ(0, close(fd));

	/* The mapping is the last reference now. */
	vfio_pci_set_memory_decode(self->device, false);
	vfio_pci_set_memory_decode(self->device, true);
	iommu_unmap_iova(self->iommu, self->iova, self->size);
}

TEST_F(vfio_pci_dmabuf_test, map_read_only)
{
	struct vfio_region_dma_range range = { .length = self->page };
	int fd;

	fd = vfio_pci_dmabuf_export(self->device, self->bar, &range, 1,
				    O_RDONLY);
	ASSERT_EQ(-EPERM, __iommu_map_file(self->iommu, fd, 0, self->page,
					   self->iova, MAP_RW));
	ASSERT_EQ(0, __iommu_map_file(self->iommu, fd, 0, self->page,
				      self->iova, IOMMU_IOAS_MAP_READABLE));
	iommu_unmap_iova(self->iommu, self->iova, self->page);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, decode)
{
	int early, late;

	early = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	EXPECT_LIVE(self, early);
	iommu_map_file(self->iommu, early, 0, self->page,
		       self->iova + self->page);

	vfio_pci_set_memory_decode(self->device, false);
	EXPECT_REVOKED(self, early);
	late = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	EXPECT_REVOKED(self, late);

	/* Saying it twice changes nothing. */
	vfio_pci_set_memory_decode(self->device, false);
	EXPECT_REVOKED(self, early);

	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_LIVE(self, early);
	EXPECT_LIVE(self, late);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_LIVE(self, early);

	/* A revoked mapping is still a mapping to its owner. */
	iommu_unmap_iova(self->iommu, self->iova + self->page, self->page);
	ASSERT_EQ(0, close(early));
	ASSERT_EQ(0, close(late));
}

TEST_F(vfio_pci_dmabuf_test, reset)
{
	int fd;

	if (!(self->device->info.flags & VFIO_DEVICE_FLAGS_RESET))
		SKIP(return, "%s cannot be reset", exporter_bdf);

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	iommu_map_file(self->iommu, fd, 0, self->page, self->iova + self->page);
	vfio_pci_device_reset(self->device);
	/* It was revoked meanwhile; without debugfs there is no telling. */
	EXPECT_GE(0, iommufd_dmabuf_mappings());
	EXPECT_LIVE(self, fd);
	iommu_unmap_iova(self->iommu, self->iova + self->page, self->page);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, sysfs_reset)
{
	int fd, ret;

	if (iommufd_dmabuf_mappings() < 0)
		SKIP(return, "No debugfs to see mappings of dma-bufs in");

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	iommu_map_file(self->iommu, fd, 0, self->page, self->iova + self->page);
	ASSERT_EQ(1, iommufd_dmabuf_mappings());

	ret = pci_sysfs_write(exporter_bdf, "reset", "1");
	if (ret == -ENOENT || ret == -ENOTTY) {
		close(fd);
		SKIP(return, "%s cannot be reset", exporter_bdf);
	}
	ASSERT_EQ(0, ret);
	EXPECT_EQ(0, iommufd_dmabuf_mappings());
	EXPECT_LIVE(self, fd);
	iommu_unmap_iova(self->iommu, self->iova + self->page, self->page);

	/* The other causes stay. */
	vfio_pci_set_memory_decode(self->device, false);
	ASSERT_EQ(0, pci_sysfs_write(exporter_bdf, "reset", "1"));
	EXPECT_REVOKED(self, fd);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

/* A function level reset that the user asks for in config space. */
TEST_F(vfio_pci_dmabuf_test, config_reset)
{
	int fd;

	if (iommufd_dmabuf_mappings() < 0)
		SKIP(return, "No debugfs to see mappings of dma-bufs in");

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	iommu_map_file(self->iommu, fd, 0, self->page, self->iova + self->page);
	ASSERT_EQ(1, iommufd_dmabuf_mappings());

	if (__vfio_pci_config_flr(self->device)) {
		close(fd);
		SKIP(return, "%s has no function level reset", exporter_bdf);
	}
	EXPECT_EQ(0, iommufd_dmabuf_mappings());
	EXPECT_LIVE(self, fd);
	iommu_unmap_iova(self->iommu, self->iova + self->page, self->page);

	/* The other causes stay. */
	vfio_pci_set_memory_decode(self->device, false);
	ASSERT_EQ(0, __vfio_pci_config_flr(self->device));
	EXPECT_REVOKED(self, fd);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

/* Refused before anything is revoked.  See vfio_pci_bus_reset_test for the rest. */
TEST_F(vfio_pci_dmabuf_test, hot_reset_impossible)
{
	struct vfio_pci_hot_reset_info info = { .argsz = sizeof(info) };
	int fd;

	if (iommufd_dmabuf_mappings() < 0)
		SKIP(return, "No debugfs to see mappings of dma-bufs in");
	if (!ioctl(self->device->fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &info) ||
	    errno != ENODEV)
		SKIP(return, "%s is not on a root bus", exporter_bdf);

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	iommu_map_file(self->iommu, fd, 0, self->page, self->iova + self->page);
	EXPECT_EQ(-ENODEV, __vfio_pci_hot_reset(self->device));
	EXPECT_EQ(1, iommufd_dmabuf_mappings());
	EXPECT_LIVE(self, fd);
	iommu_unmap_iova(self->iommu, self->iova + self->page, self->page);
	ASSERT_EQ(0, close(fd));
}

/* Export the BAR, and put the device into D3hot; -1 if it has no such state. */
static int export_in_d3hot(FIXTURE_DATA(vfio_pci_dmabuf_test) *self)
{
	int fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);

	if (!__vfio_pci_set_power_state(self->device, 3))
		return fd;

	close(fd);
	return -1;
}

TEST_F(vfio_pci_dmabuf_test, sysfs_reset_in_d3hot)
{
	int fd;

	if (!(self->device->info.flags & VFIO_DEVICE_FLAGS_RESET))
		SKIP(return, "%s cannot be reset", exporter_bdf);

	fd = export_in_d3hot(self);
	if (fd < 0)
		SKIP(return, "%s has no PM capability", exporter_bdf);
	EXPECT_REVOKED(self, fd);

	/* As with VFIO's own: the reset leaves the device in D0. */
	ASSERT_EQ(0, pci_sysfs_write(exporter_bdf, "reset", "1"));
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, reset_with_decode_off)
{
	int fd;

	if (!(self->device->info.flags & VFIO_DEVICE_FLAGS_RESET))
		SKIP(return, "%s cannot be reset", exporter_bdf);

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	vfio_pci_set_memory_decode(self->device, false);
	vfio_pci_device_reset(self->device);
	EXPECT_REVOKED(self, fd);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, d3hot)
{
	int fd;

	fd = export_in_d3hot(self);
	if (fd < 0)
		SKIP(return, "%s has no PM capability", exporter_bdf);
	EXPECT_REVOKED(self, fd);

	/* Two causes: neither's end alone brings the memory back. */
	vfio_pci_set_memory_decode(self->device, false);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_REVOKED(self, fd);
	vfio_pci_set_memory_decode(self->device, false);
	ASSERT_EQ(0, __vfio_pci_set_power_state(self->device, 0));
	EXPECT_REVOKED(self, fd);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, d3hot_reset)
{
	int fd;

	if (!(self->device->info.flags & VFIO_DEVICE_FLAGS_RESET))
		SKIP(return, "%s cannot be reset", exporter_bdf);

	fd = export_in_d3hot(self);
	if (fd < 0)
		SKIP(return, "%s has no PM capability", exporter_bdf);
	EXPECT_REVOKED(self, fd);

	/* The reset leaves the device in D0. */
	vfio_pci_device_reset(self->device);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

/* A dma-buf may be live only if the hardware decodes, whatever its user sees. */
#define EXPECT_HW_DECODE(_on)						\
	EXPECT_EQ(_on, !!(pci_sysfs_command(exporter_bdf) & PCI_COMMAND_MEMORY))

/*
 * A device that does not keep its registers on the way from D3hot to D0, which
 * VFIO hides from its user.  QEMU's devices say that they do not and then keep
 * them, so they are taken away here.  -1 if the device keeps them.
 */
static int export_in_d3hot_lost(FIXTURE_DATA(vfio_pci_dmabuf_test) *self)
{
	int fd;

	if (vfio_pci_no_soft_reset(self->device))
		return -1;

	fd = export_in_d3hot(self);
	pci_sysfs_config_write(exporter_bdf, PCI_COMMAND, 0, sizeof(u16));

	return fd;
}

/* Waking is not enough for a device that does not decode: the user sets it up. */
static void wake_and_set_up(struct __test_metadata *const _metadata,
			    FIXTURE_DATA(vfio_pci_dmabuf_test) *self, int fd)
{
	ASSERT_EQ(0, __vfio_pci_set_power_state(self->device, 0));
	EXPECT_HW_DECODE(false);
	EXPECT_REVOKED(self, fd);

	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_HW_DECODE(true);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, d3hot_lost)
{
	int fd = export_in_d3hot_lost(self);

	if (fd < 0)
		SKIP(return, "%s keeps its registers in D3hot", exporter_bdf);
	ASSERT_EQ(0, __vfio_pci_set_power_state(self->device, 0));
	EXPECT_HW_DECODE(true);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, d3hot_lost_reset)
{
	int fd = export_in_d3hot_lost(self);

	if (fd < 0)
		SKIP(return, "%s keeps its registers in D3hot", exporter_bdf);
	vfio_pci_device_reset(self->device);
	EXPECT_HW_DECODE(true);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, d3hot_lost_config_reset)
{
	int fd = export_in_d3hot_lost(self);

	if (fd < 0)
		SKIP(return, "%s keeps its registers in D3hot", exporter_bdf);
	ASSERT_EQ(0, __vfio_pci_config_flr(self->device));
	EXPECT_HW_DECODE(true);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

/* VFIO hears of that too late to keep anything.  The user sets it up again. */
TEST_F(vfio_pci_dmabuf_test, d3hot_lost_sysfs_reset)
{
	int fd = export_in_d3hot_lost(self), late;

	if (fd < 0)
		SKIP(return, "%s keeps its registers in D3hot", exporter_bdf);
	ASSERT_EQ(0, pci_sysfs_write(exporter_bdf, "reset", "1"));
	EXPECT_HW_DECODE(false);
	EXPECT_REVOKED(self, fd);

	/* Nothing else brings it back. */
	late = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	EXPECT_REVOKED(self, late);
	ASSERT_EQ(0, close(late));
	vfio_pci_device_reset(self->device);
	EXPECT_REVOKED(self, fd);
	ASSERT_EQ(0, __vfio_pci_config_flr(self->device));
	EXPECT_REVOKED(self, fd);
	ASSERT_EQ(0, __vfio_pci_set_power_state(self->device, 3));
	wake_and_set_up(_metadata, self, fd);
}

/* What is written in D3hot goes with the registers, what was before comes back. */
TEST_F(vfio_pci_dmabuf_test, d3hot_lost_write)
{
	int fd;

	if (vfio_pci_no_soft_reset(self->device))
		SKIP(return, "%s keeps its registers in D3hot", exporter_bdf);

	vfio_pci_set_memory_decode(self->device, false);
	fd = export_in_d3hot(self);
	vfio_pci_set_memory_decode(self->device, true);
	wake_and_set_up(_metadata, self, fd);
}

TEST_F(vfio_pci_dmabuf_test, low_power)
{
	u32 set = VFIO_DEVICE_FEATURE_SET;
	u32 argsz = sizeof(struct vfio_device_feature);
	int fd, late;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	ASSERT_EQ(0, feature_ioctl(self->device, set |
				   VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
				   argsz, NULL, 0));
	EXPECT_REVOKED(self, fd);
	/* A second entry fails and leaves the first in force. */
	ASSERT_EQ(-EINVAL, feature_ioctl(self->device, set |
					 VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
					 argsz, NULL, 0));

	/* Each of these wakes the device for as long as it takes. */
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_REVOKED(self, fd);
	late = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	EXPECT_REVOKED(self, late);

	ASSERT_EQ(0, feature_ioctl(self->device, set |
				   VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
				   argsz, NULL, 0));
	EXPECT_LIVE(self, fd);
	EXPECT_LIVE(self, late);
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(late));
}

/* 1 if it is, 0 if not, -1 if the kernel has no runtime power management. */
static int runtime_suspended(const char *bdf)
{
	char path[PATH_MAX], status[32] = {};
	int fd;

	snprintf_assert(path, sizeof(path),
			"/sys/bus/pci/devices/%s/power/runtime_status", bdf);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return -1;
	VFIO_ASSERT_GT(read(fd, status, sizeof(status) - 1), 0);
	VFIO_ASSERT_EQ(close(fd), 0);

	return !strncmp(status, "suspended", strlen("suspended"));
}

TEST_F(vfio_pci_dmabuf_test, low_power_wakeup)
{
	struct vfio_device_low_power_entry_with_wakeup entry = {};
	u32 set = VFIO_DEVICE_FEATURE_SET;
	time_t end = time(NULL) + 10;
	struct pollfd pfd;
	int fd;

	if (runtime_suspended(exporter_bdf) < 0)
		SKIP(return, "The kernel has no runtime power management");

	pfd.fd = eventfd(0, EFD_CLOEXEC);
	pfd.events = POLLIN;
	ASSERT_GE(pfd.fd, 0);
	entry.wakeup_eventfd = pfd.fd;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	ASSERT_EQ(0, feature_ioctl(self->device, set |
				   VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
				   sizeof(struct vfio_device_feature) +
				   sizeof(entry), &entry, sizeof(entry)));
	EXPECT_REVOKED(self, fd);

	/* Runtime PM suspends from a work item. */
	while (!runtime_suspended(exporter_bdf)) {
		if (time(NULL) > end)
			SKIP(return, "%s is not suspended in 10 s", exporter_bdf);
	}

	/* The access wakes the device, and that ends the low power state. */
	vfio_pci_config_readw(self->device, PCI_VENDOR_ID);
	ASSERT_EQ(1, poll(&pfd, 1, 0));
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(pfd.fd));
}

TEST_F(vfio_pci_dmabuf_test, user_revoke)
{
	int fd, other;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	other = vfio_pci_dmabuf_export_bar(self->device, self->bar);

	/* Nothing to restore. */
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, fd));
	EXPECT_LIVE(self, fd);

	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
	EXPECT_REVOKED(self, fd);
	EXPECT_LIVE(self, other);

	/* It does not count. */
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, fd));
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(other));
}

TEST_F(vfio_pci_dmabuf_test, user_revoke_survives)
{
	int fd;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));

	vfio_pci_set_memory_decode(self->device, false);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_REVOKED(self, fd);
	if (self->device->info.flags & VFIO_DEVICE_FLAGS_RESET) {
		vfio_pci_device_reset(self->device);
		EXPECT_REVOKED(self, fd);
		ASSERT_EQ(0, pci_sysfs_write(exporter_bdf, "reset", "1"));
		EXPECT_REVOKED(self, fd);
	}
	if (!__vfio_pci_set_power_state(self->device, 3)) {
		ASSERT_EQ(0, __vfio_pci_set_power_state(self->device, 0));
		EXPECT_REVOKED(self, fd);
	}

	/* And the other way round: restoring ends no cause but its own. */
	vfio_pci_set_memory_decode(self->device, false);
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, fd));
	EXPECT_REVOKED(self, fd);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, user_revoke_mapped)
{
	u64 page = self->page;
	int fd;

	if (iommufd_dmabuf_mappings() < 0)
		SKIP(return, "No debugfs to see mappings of dma-bufs in");

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	iommu_map_file(self->iommu, fd, 0, page, self->iova);
	ASSERT_EQ(0, __iommu_map_file(self->iommu, fd, page, page,
				      self->iova + page,
				      MAP_RW | IOMMU_IOAS_MAP_RESTORE));
	ASSERT_EQ(2, iommufd_dmabuf_mappings());
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
	EXPECT_EQ(0, iommufd_dmabuf_mappings());

	/* The one that asked for it comes back. */
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, fd));
	EXPECT_EQ(1, iommufd_dmabuf_mappings());
	iommu_unmap_iova(self->iommu, self->iova, 2 * page);
	EXPECT_EQ(0, iommufd_dmabuf_mappings());
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, user_revoke_errno)
{
	u32 argsz = sizeof(struct vfio_device_feature);
	const u32 ids[] = {
		VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE,
		VFIO_DEVICE_FEATURE_DMA_BUF_RESTORE,
	};
	struct vfio_device_feature_dma_buf_user args = {};
	u32 i;

	args.dmabuf_fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	for (i = 0; i < ARRAY_SIZE(ids); i++) {
		u32 set = ids[i] | VFIO_DEVICE_FEATURE_SET;

		ASSERT_EQ(0, feature_ioctl(self->device,
					   set | VFIO_DEVICE_FEATURE_PROBE,
					   argsz, NULL, 0));
		ASSERT_EQ(-EINVAL, feature_ioctl(self->device, ids[i] |
						 VFIO_DEVICE_FEATURE_GET,
						 argsz + sizeof(args), &args,
						 sizeof(args)));
		ASSERT_EQ(-EINVAL, feature_ioctl(self->device, set,
						 argsz + sizeof(args) - 1,
						 &args, sizeof(args)));
		args.flags = 1;
		ASSERT_EQ(-EINVAL, feature_ioctl(self->device, set,
						 argsz + sizeof(args), &args,
						 sizeof(args)));
		args.flags = 1U << 31;
		ASSERT_EQ(-EINVAL, feature_ioctl(self->device, set,
						 argsz + sizeof(args), &args,
						 sizeof(args)));
		args.flags = 0;
		ASSERT_EQ(0, feature_ioctl(self->device, set,
					   argsz + sizeof(args), &args,
					   sizeof(args)));
	}

	/* Neither an open file, nor a dma-buf. */
	ASSERT_EQ(-EBADF, __vfio_pci_dmabuf_revoke(self->device, -1));
	ASSERT_EQ(-EBADF, __vfio_pci_dmabuf_restore(self->device, -1));
	ASSERT_EQ(-EINVAL, __vfio_pci_dmabuf_revoke(self->device,
						    self->device->fd));
	ASSERT_EQ(-EINVAL, __vfio_pci_dmabuf_restore(self->device,
						     self->device->fd));
	ASSERT_EQ(0, close(args.dmabuf_fd));
}

TEST_F(vfio_pci_dmabuf_test, user_revoke_fault)
{
	ASSERT_EQ(-EFAULT,
		  __vfio_pci_feature_fault(self->device,
					   VFIO_DEVICE_FEATURE_SET |
					   VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE,
					   sizeof(struct vfio_device_feature_dma_buf_user)));
}

TEST_F(vfio_pci_dmabuf_test, user_revoke_foreign)
{
	struct dma_heap_allocation_data heap = { .len = self->page };
	struct vfio_pci_device *second;
	int fd;

	fd = open("/dev/dma_heap/system", O_RDWR);
	if (fd >= 0) {
		heap.fd_flags = O_RDWR;
		ASSERT_EQ(0, ioctl(fd, DMA_HEAP_IOCTL_ALLOC, &heap));
		EXPECT_EQ(-EINVAL, __vfio_pci_dmabuf_revoke(self->device,
							    heap.fd));
		EXPECT_EQ(-EINVAL, __vfio_pci_dmabuf_restore(self->device,
							     heap.fd));
		ASSERT_EQ(0, close(heap.fd));
		ASSERT_EQ(0, close(fd));
	}

	if (!initiator_bdf)
		SKIP(return, "No second device given");

	second = vfio_pci_device_init_nomap(initiator_bdf, self->iommu);
	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	EXPECT_EQ(-EINVAL, __vfio_pci_dmabuf_revoke(second, fd));
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
	EXPECT_EQ(-EINVAL, __vfio_pci_dmabuf_restore(second, fd));
	EXPECT_REVOKED(self, fd);
	ASSERT_EQ(0, close(fd));
	vfio_pci_device_cleanup(second);
}

TEST_F(vfio_pci_dmabuf_test, user_revoke_closed)
{
	int fd;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	vfio_pci_device_cleanup(self->device);
	self->device = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	EXPECT_EQ(-ENODEV, __vfio_pci_dmabuf_revoke(self->device, fd));
	EXPECT_EQ(-ENODEV, __vfio_pci_dmabuf_restore(self->device, fd));
	EXPECT_REVOKED(self, fd);
	ASSERT_EQ(0, close(fd));
}

struct busy_revoker {
	struct vfio_pci_device *device;
	int fd;
	int ret;
	bool stop;
};

static void *busy_revoke(void *arg)
{
	struct busy_revoker *r = arg;

	while (!r->ret && !__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) {
		r->ret = __vfio_pci_dmabuf_revoke(r->device, r->fd);
		if (!r->ret)
			r->ret = __vfio_pci_dmabuf_restore(r->device, r->fd);
	}

	return NULL;
}

TEST_F(vfio_pci_dmabuf_test, user_revoke_busy)
{
	struct busy_revoker r = { .device = self->device };
	pthread_t thread;
	int i, ret;

	r.fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	ASSERT_EQ(0, pthread_create(&thread, NULL, busy_revoke, &r));

	/* Against an importer, and against each other cause there is. */
	for (i = 0; i < 200; i++) {
		ret = __iommu_map_file(self->iommu, r.fd, 0, 2 * self->page,
				       self->iova, MAP_RW |
				       (i & 1 ? IOMMU_IOAS_MAP_RESTORE : 0));
		if (ret) {
			EXPECT_EQ(0, i & 1);
			EXPECT_EQ(-ENODEV, ret);
		}
		if (!(i % 3)) {
			vfio_pci_set_memory_decode(self->device, false);
			vfio_pci_set_memory_decode(self->device, true);
		}
		if (!(i % 7) &&
		    !__vfio_pci_set_power_state(self->device, 3))
			__vfio_pci_set_power_state(self->device, 0);
		if (!(i % 50))
			pci_sysfs_write(exporter_bdf, "reset", "1");
		if (i % 50 == 25 &&
		    (self->device->info.flags & VFIO_DEVICE_FLAGS_RESET))
			vfio_pci_device_reset(self->device);
		if (!ret)
			iommu_unmap_iova(self->iommu, self->iova,
					 2 * self->page);
	}

	__atomic_store_n(&r.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, r.ret);
	EXPECT_LIVE(self, r.fd);
	ASSERT_EQ(0, close(r.fd));
}

TEST_F(vfio_pci_dmabuf_test, close_device)
{
	struct iommu *iommu;
	int fd;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	iommu_map_file(self->iommu, fd, 0, self->page, self->iova + self->page);

	vfio_pci_device_cleanup(self->device);
	self->device = NULL;
	EXPECT_REVOKED(self, fd);
	iommu_unmap_iova(self->iommu, self->iova + self->page, self->page);

	/* For ever: not a new IOAS, nor opening the device again. */
	iommu = iommu_init(MODE_IOMMUFD);
	EXPECT_EQ(-ENODEV, try_map(iommu, fd, self->page, self->iova));
	iommu_cleanup(iommu);

	self->device = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	EXPECT_REVOKED(self, fd);
	vfio_pci_set_memory_decode(self->device, false);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_REVOKED(self, fd);
	ASSERT_EQ(0, close(fd));
}

/*
 * As after the reset of the link of a closed device: its BARs are 0.  Opening it
 * puts them where what is exported says that they are.
 */
TEST_F(vfio_pci_dmabuf_test, bars_lost_while_closed)
{
	off_t pos = PCI_BASE_ADDRESS_0 + 4 * self->bar;
	u32 bars[PCI_STD_NUM_BARS], val;
	int fd, i;

	vfio_pci_device_cleanup(self->device);
	self->device = NULL;
	/* Asleep it would get them back from the PCI core when it wakes. */
	pci_sysfs_write(exporter_bdf, "power/control", "on");
	for (i = 0; i < PCI_STD_NUM_BARS; i++)
		bars[i] = pci_sysfs_config_read(exporter_bdf,
						PCI_BASE_ADDRESS_0 + 4 * i, 4);
	for (i = 0; i < PCI_STD_NUM_BARS; i++)
		pci_sysfs_config_write(exporter_bdf, PCI_BASE_ADDRESS_0 + 4 * i,
				       0, 4);
	val = pci_sysfs_config_read(exporter_bdf, pos, 4);
	EXPECT_EQ(0, val & PCI_BASE_ADDRESS_MEM_MASK);

	self->device = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	for (i = 0; i < PCI_STD_NUM_BARS; i++) {
		val = pci_sysfs_config_read(exporter_bdf,
					    PCI_BASE_ADDRESS_0 + 4 * i, 4);
		EXPECT_EQ(bars[i], val);
		/* Nobody after this one should have to suffer. */
		pci_sysfs_config_write(exporter_bdf, PCI_BASE_ADDRESS_0 + 4 * i,
				       bars[i], 4);
	}
	pci_sysfs_write(exporter_bdf, "power/control", "auto");
	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, close_device_while_revoked)
{
	int fd;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	vfio_pci_set_memory_decode(self->device, false);
	vfio_pci_device_cleanup(self->device);
	self->device = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	EXPECT_REVOKED(self, fd);
	ASSERT_EQ(0, close(fd));
}

static void *unbind(void *arg)
{
	*(int *)arg = pci_sysfs_write(exporter_bdf, "driver/unbind", exporter_bdf);

	return NULL;
}

/*
 * The driver goes, as in a hot-unplug: the device is asked for, and is let go of
 * when it is closed, not when the last dma-buf is.
 */
TEST_F(vfio_pci_dmabuf_test, unbind)
{
	struct pollfd pfd = { .events = POLLIN };
	int fd, unbound = 1;
	pthread_t thread;

	pfd.fd = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(pfd.fd, 0);
	vfio_pci_set_irq_eventfd(self->device, VFIO_PCI_REQ_IRQ_INDEX, pfd.fd);
	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	iommu_map_file(self->iommu, fd, 0, self->page, self->iova + self->page);

	ASSERT_EQ(0, pthread_create(&thread, NULL, unbind, &unbound));
	ASSERT_EQ(1, poll(&pfd, 1, 10000));
	EXPECT_LIVE(self, fd);

	vfio_pci_device_cleanup(self->device);
	self->device = NULL;
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, unbound);
	EXPECT_REVOKED(self, fd);
	iommu_unmap_iova(self->iommu, self->iova + self->page, self->page);

	ASSERT_EQ(0, pci_sysfs_write(exporter_bdf,
				     "subsystem/drivers/vfio-pci/bind",
				     exporter_bdf));
	self->device = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	EXPECT_REVOKED(self, fd);
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(pfd.fd));
}

/*
 * DMA of another device into the BAR.  Both devices share one IOAS; buf is host
 * memory in it, bar_iova is where tests put slices of the BAR.
 */
FIXTURE(vfio_pci_dmabuf_p2p_test) {
	struct iommu *iommu;
	struct iova_allocator *iova_allocator;
	struct vfio_pci_device *exporter;
	struct vfio_pci_device *initiator;
	struct dma_region buf;
	iova_t bar_iova;
	u64 page;
	int bar;
};

static void dma_region_setup(struct iommu *iommu,
			     struct iova_allocator *iova_allocator,
			     struct dma_region *region, u64 size)
{
	region->vaddr = mmap(NULL, size, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	VFIO_ASSERT_NE(region->vaddr, MAP_FAILED);
	region->iova = iova_allocator_alloc(iova_allocator, size);
	region->size = size;
	iommu_map(iommu, region);
}

static void dma_region_teardown(struct iommu *iommu, struct dma_region *region)
{
	iommu_unmap(iommu, region);
	VFIO_ASSERT_EQ(munmap(region->vaddr, region->size), 0);
}

FIXTURE_SETUP(vfio_pci_dmabuf_p2p_test)
{
	if (!initiator_bdf)
		SKIP(return, "No device given that can DMA");

	self->page = getpagesize();
	self->iommu = iommu_init(MODE_IOMMUFD);
	self->exporter = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	self->bar = vfio_pci_largest_bar(self->exporter, 8 * self->page);
	if (self->bar < 0)
		SKIP(return, "%s has no memory BAR of 8 pages", exporter_bdf);

	self->initiator = vfio_pci_device_init(initiator_bdf, self->iommu);
	if (!self->initiator->driver.ops)
		SKIP(return, "libvfio has no driver for %s", initiator_bdf);

	self->iova_allocator = iova_allocator_init(self->iommu);
	dma_region_setup(self->iommu, self->iova_allocator,
			 &self->initiator->driver.region, SZ_2M);
	dma_region_setup(self->iommu, self->iova_allocator, &self->buf, SZ_2M);
	self->bar_iova = iova_allocator_alloc(self->iova_allocator, SZ_2M);
	vfio_pci_driver_init(self->initiator);
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_p2p_test)
{
	vfio_pci_driver_remove(self->initiator);
	dma_region_teardown(self->iommu, &self->buf);
	dma_region_teardown(self->iommu, &self->initiator->driver.region);
	iova_allocator_cleanup(self->iova_allocator);
	vfio_pci_device_cleanup(self->initiator);
	vfio_pci_device_cleanup(self->exporter);
	iommu_cleanup(self->iommu);
}

/* Set all of some pages of the BAR to a byte. */
static void bar_fill(struct vfio_pci_device *device, int bar, u64 offset,
		     u64 size, u8 byte)
{
	u8 *buf = malloc_assert(size);

	memset(buf, byte, size);
	vfio_pci_bar_write(device, bar, offset, buf, size);
	free(buf);
}

/* Is all of this part of the BAR this byte? */
static bool bar_is(struct vfio_pci_device *device, int bar, u64 offset,
		   u64 size, u8 byte)
{
	u8 *buf = malloc_assert(size);
	bool ret = true;
	u64 i;

	vfio_pci_bar_read(device, bar, offset, buf, size);
	for (i = 0; i < size && ret; i++)
		ret = buf[i] == byte;
	free(buf);

	return ret;
}

/*
 * DMA this byte to an IOVA.  The result says little where the IOVA is not
 * mapped: some devices notice, some do not.
 */
static int dma_fill(FIXTURE_DATA(vfio_pci_dmabuf_p2p_test) *self, iova_t iova,
		    u64 size, u8 byte)
{
	memset(self->buf.vaddr, byte, size);

	return vfio_pci_driver_memcpy(self->initiator, self->buf.iova, iova,
				      size);
}

TEST_F(vfio_pci_dmabuf_p2p_test, write_and_read)
{
	u64 page = self->page;
	int fd;

	bar_fill(self->exporter, self->bar, 0, 8 * page, 0x11);
	fd = vfio_pci_dmabuf_export_bar(self->exporter, self->bar);
	iommu_map_file(self->iommu, fd, 0, 8 * page, self->bar_iova);

	ASSERT_EQ(0, dma_fill(self, self->bar_iova + 2 * page, page, 0x22));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 0, 2 * page, 0x11));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 2 * page, page, 0x22));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 3 * page, 5 * page, 0x11));

	/* And back into host memory. */
	memset(self->buf.vaddr, 0, page);
	ASSERT_EQ(0, vfio_pci_driver_memcpy(self->initiator,
					    self->bar_iova + 2 * page,
					    self->buf.iova, page));
	ASSERT_EQ(0x22, *(u8 *)self->buf.vaddr);
	ASSERT_EQ(0, memcmp(self->buf.vaddr, self->buf.vaddr + 1, page - 1));

	iommu_unmap_iova(self->iommu, self->bar_iova, 8 * page);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_p2p_test, slice)
{
	u64 page = self->page;
	int fd;

	bar_fill(self->exporter, self->bar, 0, 8 * page, 0x11);
	fd = vfio_pci_dmabuf_export_bar(self->exporter, self->bar);
	iommu_map_file(self->iommu, fd, 3 * page, page, self->bar_iova);
	/* The mapping alone has to keep the memory. */
	ASSERT_EQ(0, close(fd));

	ASSERT_EQ(0, dma_fill(self, self->bar_iova, page, 0x22));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 0, 3 * page, 0x11));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 3 * page, page, 0x22));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 4 * page, 4 * page, 0x11));

	iommu_unmap_iova(self->iommu, self->bar_iova, page);
}

TEST_F(vfio_pci_dmabuf_p2p_test, ranges_with_hole)
{
	u64 page = self->page;
	struct vfio_region_dma_range ranges[] = {
		{ .offset = 4 * page, .length = 2 * page },
		{ .offset = page, .length = 2 * page },
	};
	int i, fd;

	bar_fill(self->exporter, self->bar, 0, 8 * page, 0x11);
	fd = vfio_pci_dmabuf_export(self->exporter, self->bar, ranges, 2,
				    O_RDWR);

	/* The buffer's pages 0 to 3 are the BAR's 4, 5, 1, 2. */
	iommu_map_file(self->iommu, fd, 0, 4 * page, self->bar_iova);
	for (i = 0; i < 4; i++)
		ASSERT_EQ(0, dma_fill(self, self->bar_iova + i * page, page,
				      0x20 + i));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 0, page, 0x11));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, page, page, 0x22));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 2 * page, page, 0x23));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 3 * page, page, 0x11));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 4 * page, page, 0x20));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 5 * page, page, 0x21));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 6 * page, 2 * page, 0x11));
	iommu_unmap_iova(self->iommu, self->bar_iova, 4 * page);

	/* The slice of pages 1 and 2 has the seam in it. */
	bar_fill(self->exporter, self->bar, 0, 8 * page, 0x11);
	iommu_map_file(self->iommu, fd, page, 2 * page, self->bar_iova);
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, dma_fill(self, self->bar_iova + i * page, page,
				      0x30 + i));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 0, page, 0x11));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, page, page, 0x31));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 2 * page, 3 * page, 0x11));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 5 * page, page, 0x30));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 6 * page, 2 * page, 0x11));
	iommu_unmap_iova(self->iommu, self->bar_iova, 2 * page);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_p2p_test, decode)
{
	u64 page = self->page;
	int fd;

	bar_fill(self->exporter, self->bar, 0, 2 * page, 0x11);
	fd = vfio_pci_dmabuf_export_bar(self->exporter, self->bar);
	iommu_map_file(self->iommu, fd, 0, 2 * page, self->bar_iova);
	ASSERT_EQ(0, dma_fill(self, self->bar_iova, page, 0x22));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 0, page, 0x22));

	vfio_pci_set_memory_decode(self->exporter, false);
	dma_fill(self, self->bar_iova, page, 0x33);
	vfio_pci_set_memory_decode(self->exporter, true);
	EXPECT_TRUE(bar_is(self->exporter, self->bar, 0, page, 0x22));

	/* The device would take it now, the IOMMU must not let it through. */
	dma_fill(self, self->bar_iova, page, 0x44);
	EXPECT_TRUE(bar_is(self->exporter, self->bar, 0, page, 0x22));

	/* A new mapping works. */
	iommu_unmap_iova(self->iommu, self->bar_iova, 2 * page);
	iommu_map_file(self->iommu, fd, 0, 2 * page, self->bar_iova);
	ASSERT_EQ(0, dma_fill(self, self->bar_iova, page, 0x55));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 0, page, 0x55));
	iommu_unmap_iova(self->iommu, self->bar_iova, 2 * page);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_p2p_test, close_device)
{
	u64 page = self->page;
	int fd;

	bar_fill(self->exporter, self->bar, 0, page, 0x11);
	fd = vfio_pci_dmabuf_export_bar(self->exporter, self->bar);
	iommu_map_file(self->iommu, fd, 0, page, self->bar_iova);
	ASSERT_EQ(0, dma_fill(self, self->bar_iova, page, 0x22));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 0, page, 0x22));

	/* Opening it again turns decoding on again: only the IOMMU is left. */
	vfio_pci_device_cleanup(self->exporter);
	self->exporter = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	bar_fill(self->exporter, self->bar, 0, page, 0x33);
	dma_fill(self, self->bar_iova, page, 0x44);
	EXPECT_TRUE(bar_is(self->exporter, self->bar, 0, page, 0x33));

	iommu_unmap_iova(self->iommu, self->bar_iova, page);
	ASSERT_EQ(0, close(fd));
}

/*
 * Mappings of real IOMMUs, with DMA to tell what they do: ranges with a hole
 * between them, IOMMU_IOAS_MAP_RESTORE.  The hole is where a device has its
 * MSI-X table: a VMM leaves these pages out of the dma-buf and of the IOVAs.
 */
#define MAP_RW_RESTORE (MAP_RW | IOMMU_IOAS_MAP_RESTORE)

TEST_F(vfio_pci_dmabuf_p2p_test, hole_in_iova)
{
	u64 page = self->page;
	struct vfio_region_dma_range ranges[] = {
		{ .offset = 0, .length = 2 * page },
		{ .offset = 3 * page, .length = 3 * page },
	};
	int i, fd;

	bar_fill(self->exporter, self->bar, 0, 8 * page, 0x11);
	fd = vfio_pci_dmabuf_export(self->exporter, self->bar, ranges, 2,
				    O_RDWR);

	/* One mapping each, laid out as the BAR is. */
	iommu_map_file(self->iommu, fd, 0, 2 * page, self->bar_iova);
	iommu_map_file(self->iommu, fd, 2 * page, 3 * page,
		       self->bar_iova + 3 * page);
	for (i = 0; i < 8; i++)
		dma_fill(self, self->bar_iova + i * page, page, 0x20 + i);
	for (i = 0; i < 8; i++)
		EXPECT_TRUE(bar_is(self->exporter, self->bar, i * page, page,
				   i == 2 || i > 5 ? 0x11 : 0x20 + i));

	iommu_unmap_iova(self->iommu, self->bar_iova, 6 * page);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_p2p_test, restore_ranges)
{
	u64 page = self->page;
	struct vfio_region_dma_range ranges[] = {
		{ .offset = 0, .length = 2 * page },
		{ .offset = 4 * page, .length = 2 * page },
	};
	iova_t other = self->bar_iova + 16 * page;
	int i, fd;

	bar_fill(self->exporter, self->bar, 0, 8 * page, 0x11);
	fd = vfio_pci_dmabuf_export(self->exporter, self->bar, ranges, 2,
				    O_RDWR);
	ASSERT_EQ(0, __iommu_map_file(self->iommu, fd, 0, 4 * page,
				      self->bar_iova, MAP_RW_RESTORE));
	/* The same memory, of somebody who did not ask for it back. */
	iommu_map_file(self->iommu, fd, 0, 4 * page, other);
	ASSERT_EQ(0, dma_fill(self, self->bar_iova, page, 0x20));
	ASSERT_EQ(0, dma_fill(self, other + 2 * page, page, 0x21));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 0, page, 0x20));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 4 * page, page, 0x21));

	vfio_pci_set_memory_decode(self->exporter, false);
	dma_fill(self, self->bar_iova, page, 0x30);
	dma_fill(self, other + 2 * page, page, 0x31);
	vfio_pci_set_memory_decode(self->exporter, true);
	EXPECT_TRUE(bar_is(self->exporter, self->bar, 0, page, 0x20));
	EXPECT_TRUE(bar_is(self->exporter, self->bar, 4 * page, page, 0x21));

	/*
	 * The device takes it again: DMA to the other faults, there is nobody
	 * else to stop it.
	 */
	for (i = 0; i < 4; i++)
		dma_fill(self, other + i * page, page, 0x40);
	EXPECT_TRUE(bar_is(self->exporter, self->bar, 0, page, 0x20));
	EXPECT_TRUE(bar_is(self->exporter, self->bar, page, page, 0x11));
	EXPECT_TRUE(bar_is(self->exporter, self->bar, 4 * page, page, 0x21));
	EXPECT_TRUE(bar_is(self->exporter, self->bar, 5 * page, page, 0x11));

	/* DMA to the restored one reaches each range, and nothing between. */
	for (i = 0; i < 4; i++)
		EXPECT_EQ(0, dma_fill(self, self->bar_iova + i * page, page,
				      0x50 + i));
	EXPECT_TRUE(bar_is(self->exporter, self->bar, 0, page, 0x50));
	EXPECT_TRUE(bar_is(self->exporter, self->bar, page, page, 0x51));
	EXPECT_TRUE(bar_is(self->exporter, self->bar, 2 * page, 2 * page, 0x11));
	EXPECT_TRUE(bar_is(self->exporter, self->bar, 4 * page, page, 0x52));
	EXPECT_TRUE(bar_is(self->exporter, self->bar, 5 * page, page, 0x53));

	iommu_unmap_iova(self->iommu, self->bar_iova, 4 * page);
	iommu_unmap_iova(self->iommu, other, 4 * page);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_p2p_test, restore_mapped_while_revoked)
{
	u64 page = self->page;
	iova_t gone = self->bar_iova + 16 * page;
	int fd;

	bar_fill(self->exporter, self->bar, 0, 2 * page, 0x11);
	fd = vfio_pci_dmabuf_export_bar(self->exporter, self->bar);
	ASSERT_EQ(0, __iommu_map_file(self->iommu, fd, 0, page, gone,
				      MAP_RW_RESTORE));
	vfio_pci_set_memory_decode(self->exporter, false);
	ASSERT_EQ(-ENODEV, __iommu_map_file(self->iommu, fd, 0, page,
					    self->bar_iova, MAP_RW));
	ASSERT_EQ(0, __iommu_map_file(self->iommu, fd, 0, page, self->bar_iova,
				      MAP_RW_RESTORE));
	iommu_unmap_iova(self->iommu, gone, page);
	vfio_pci_set_memory_decode(self->exporter, true);

	dma_fill(self, gone, page, 0x22);
	EXPECT_TRUE(bar_is(self->exporter, self->bar, 0, page, 0x11));
	EXPECT_EQ(0, dma_fill(self, self->bar_iova, page, 0x33));
	EXPECT_TRUE(bar_is(self->exporter, self->bar, 0, page, 0x33));

	iommu_unmap_iova(self->iommu, self->bar_iova, page);
	dma_fill(self, self->bar_iova, page, 0x44);
	EXPECT_TRUE(bar_is(self->exporter, self->bar, 0, page, 0x33));
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_p2p_test, restore_not_after_close)
{
	u64 page = self->page;
	int fd;

	bar_fill(self->exporter, self->bar, 0, page, 0x11);
	fd = vfio_pci_dmabuf_export_bar(self->exporter, self->bar);
	ASSERT_EQ(0, __iommu_map_file(self->iommu, fd, 0, page, self->bar_iova,
				      MAP_RW_RESTORE));
	ASSERT_EQ(0, dma_fill(self, self->bar_iova, page, 0x22));
	ASSERT_TRUE(bar_is(self->exporter, self->bar, 0, page, 0x22));

	/* Whoever opens the device next gets it without old mappings. */
	vfio_pci_device_cleanup(self->exporter);
	self->exporter = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	vfio_pci_set_memory_decode(self->exporter, false);
	vfio_pci_set_memory_decode(self->exporter, true);
	bar_fill(self->exporter, self->bar, 0, page, 0x33);
	dma_fill(self, self->bar_iova, page, 0x44);
	EXPECT_TRUE(bar_is(self->exporter, self->bar, 0, page, 0x33));

	iommu_unmap_iova(self->iommu, self->bar_iova, page);
	ASSERT_EQ(0, close(fd));
}

/*
 * What QEMU 11 does for each BAR of an assigned device: one dma-buf of the
 * ranges that it mmaps, then one IOMMU_IOAS_MAP_FILE for each piece that the
 * guest's address space has of it.  QEMU puts trapped memory over the MSI-X
 * table and the PBA, what is left of the BAR around them are these pieces.
 */
FIXTURE(vfio_pci_dmabuf_vmm_test) {
	struct iommu *iommu;
	struct iova_allocator *iova_allocator;
	struct vfio_pci_device *device;
	u64 page;
};

FIXTURE_SETUP(vfio_pci_dmabuf_vmm_test)
{
	self->page = getpagesize();
	self->iommu = iommu_init(MODE_IOMMUFD);
	self->device = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	self->iova_allocator = iova_allocator_init(self->iommu);
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_vmm_test)
{
	iova_allocator_cleanup(self->iova_allocator);
	vfio_pci_device_cleanup(self->device);
	iommu_cleanup(self->iommu);
}

#define MAX_PIECES 3

/* Take the pages of [start, start + size) out of the pieces. */
static int cut_pieces(struct vfio_region_dma_range *pieces, int nr, u64 start,
		      u64 size, u64 page)
{
	u64 end = (start + size + page - 1) & ~(page - 1);
	struct vfio_region_dma_range old[MAX_PIECES];
	int i, n = 0;

	start &= ~(page - 1);
	memcpy(old, pieces, nr * sizeof(*old));
	for (i = 0; i < nr; i++) {
		u64 piece_end = old[i].offset + old[i].length;

		if (end <= old[i].offset || start >= piece_end) {
			pieces[n++] = old[i];
			continue;
		}
		if (start > old[i].offset)
			pieces[n++] = (struct vfio_region_dma_range){
				.offset = old[i].offset,
				.length = start - old[i].offset,
			};
		if (end < piece_end)
			pieces[n++] = (struct vfio_region_dma_range){
				.offset = end,
				.length = piece_end - end,
			};
	}

	return n;
}

/* The pieces of a BAR without the pages of the MSI-X table and the PBA. */
static int bar_pieces(struct vfio_pci_device *device, int bar, u64 page,
		      struct vfio_region_dma_range *pieces)
{
	u64 vectors;
	int nr = 1;
	u8 pos;
	u32 reg;

	pieces[0] = (struct vfio_region_dma_range){
		.length = device->bars[bar].info.size,
	};
	pos = vfio_pci_config_readb(device, PCI_CAPABILITY_LIST) & ~3;
	while (pos && vfio_pci_config_readb(device, pos) != PCI_CAP_ID_MSIX)
		pos = vfio_pci_config_readb(device, pos + 1) & ~3;
	if (!pos)
		return nr;

	vectors = (vfio_pci_config_readw(device, pos + PCI_MSIX_FLAGS) &
		   PCI_MSIX_FLAGS_QSIZE) + 1;
	reg = vfio_pci_config_readl(device, pos + PCI_MSIX_TABLE);
	if ((reg & PCI_MSIX_TABLE_BIR) == bar)
		nr = cut_pieces(pieces, nr, reg & PCI_MSIX_TABLE_OFFSET,
				vectors * PCI_MSIX_ENTRY_SIZE, page);
	reg = vfio_pci_config_readl(device, pos + PCI_MSIX_PBA);
	if ((reg & PCI_MSIX_PBA_BIR) == bar)
		nr = cut_pieces(pieces, nr, reg & PCI_MSIX_PBA_OFFSET,
				(vectors + 63) / 64 * 8, page);

	return nr;
}

/* -1 if there is no BAR after this one that is mmapped and fills pages. */
static int next_mmap_bar(struct vfio_pci_device *device, int bar, u64 page)
{
	while (++bar < PCI_STD_NUM_BARS) {
		struct vfio_region_info *info = &device->bars[bar].info;

		if (info->flags & VFIO_REGION_INFO_FLAG_MMAP &&
		    info->size >= page)
			return bar;
	}

	return -1;
}

/*
 * Linux says VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, so QEMU mmaps BARs as a whole.
 * The offset in the dma-buf is the offset in the BAR.
 */
TEST_F(vfio_pci_dmabuf_vmm_test, qemu_whole_bars)
{
	struct vfio_region_dma_range pieces[MAX_PIECES];
	int bar, i, nr, round, fd, bars = 0;
	iova_t iova;
	u64 size;

	for (bar = next_mmap_bar(self->device, -1, self->page); bar >= 0;
	     bar = next_mmap_bar(self->device, bar, self->page)) {
		bars++;
		size = self->device->bars[bar].info.size;
		fd = vfio_pci_dmabuf_export_bar(self->device, bar);
		nr = bar_pieces(self->device, bar, self->page, pieces);
		iova = iova_allocator_alloc(self->iova_allocator, size);
		printf("# BAR %d, %lu KiB, %d pieces\n", bar,
		       (unsigned long)size >> 10, nr);

		/*
		 * The guest turns decoding on and off.  QEMU writes that to the
		 * device first and then follows with its address space.
		 */
		for (round = 0; round < 2; round++) {
			vfio_pci_set_memory_decode(self->device, true);
			for (i = 0; i < nr; i++)
				iommu_map_file(self->iommu, fd,
					       pieces[i].offset,
					       pieces[i].length,
					       iova + pieces[i].offset);
			vfio_pci_set_memory_decode(self->device, false);
			for (i = 0; i < nr; i++)
				iommu_unmap_iova(self->iommu,
						 iova + pieces[i].offset,
						 pieces[i].length);
		}
		vfio_pci_set_memory_decode(self->device, true);
		ASSERT_EQ(0, close(fd));
	}

	if (!bars)
		SKIP(return, "%s has no memory BAR of a page", exporter_bdf);
}

/*
 * If it leaves the pages of the MSI-X table out of what it mmaps, as it does
 * for a sparse region, the dma-buf has several ranges, back to back.  QEMU 11
 * passes the offset in the BAR all the same, see fd_offset in its
 * vfio_region_create_dma_buf(): that is somewhere else in the buffer, or not in
 * it.  Where it is beyond the end it must not map anything; with the offset in
 * the buffer all is well.
 */
TEST_F(vfio_pci_dmabuf_vmm_test, qemu_ranges_with_hole)
{
	struct vfio_region_dma_range pieces[MAX_PIECES];
	u64 size, offset, total;
	int bar, i, nr, fd, holes = 0;
	iova_t iova;

	for (bar = next_mmap_bar(self->device, -1, self->page); bar >= 0;
	     bar = next_mmap_bar(self->device, bar, self->page)) {
		size = self->device->bars[bar].info.size;
		nr = bar_pieces(self->device, bar, self->page, pieces);
		for (total = 0, i = 0; i < nr; i++)
			total += pieces[i].length;
		if (!nr || total == size)
			continue;
		holes++;
		printf("# BAR %d, %lu KiB, %d ranges\n", bar,
		       (unsigned long)size >> 10, nr);

		fd = vfio_pci_dmabuf_export(self->device, bar, pieces, nr,
					    O_RDWR);
		iova = iova_allocator_alloc(self->iova_allocator, size);
		for (offset = 0, i = 0; i < nr; i++) {
			u64 start = pieces[i].offset, len = pieces[i].length;

			if (start + len > total)
				EXPECT_EQ(-EINVAL,
					  __iommu_map_file(self->iommu, fd,
							   start, len,
							   iova + start,
							   MAP_RW));
			iommu_map_file(self->iommu, fd, offset, len,
				       iova + start);
			offset += len;
		}
		vfio_pci_set_memory_decode(self->device, false);
		for (i = 0; i < nr; i++)
			iommu_unmap_iova(self->iommu, iova + pieces[i].offset,
					 pieces[i].length);
		vfio_pci_set_memory_decode(self->device, true);
		/* And all of it in one, as a VMM could. */
		ASSERT_EQ(0, __iommu_map_file(self->iommu, fd, 0, total, iova,
					      MAP_RW_RESTORE));
		vfio_pci_set_memory_decode(self->device, false);
		vfio_pci_set_memory_decode(self->device, true);
		iommu_unmap_iova(self->iommu, iova, total);
		ASSERT_EQ(0, close(fd));
	}

	if (!holes)
		SKIP(return, "%s has no BAR with an MSI-X table that leaves room",
		     exporter_bdf);
}

/* Without IOMMU_IOAS_MAP_FIXED_IOVA; 0 or -errno. */
static int map_file_alloc(struct iommu *iommu, int fd, u64 offset, u64 length,
			  u32 flags, iova_t *iova)
{
	struct iommu_ioas_map_file args = {
		.size = sizeof(args),
		.flags = flags,
		.ioas_id = iommu->ioas_id,
		.fd = fd,
		.start = offset,
		.length = length,
	};

	if (ioctl(iommu->iommufd, IOMMU_IOAS_MAP_FILE, &args))
		return -errno;
	*iova = args.iova;

	return 0;
}

struct nr_entries {
	u64 small;
	u64 medium;
	u64 large;
};

/*
 * Count the entries of the device's page table in a range of IOVAs by size:
 * 4 KiB, 2 MiB, 1 GiB.  Only Intel's driver shows its page tables; -1 if not.
 */
static int count_entries(const char *bdf, iova_t iova, u64 size,
			 struct nr_entries *nr)
{
	char line[256], path[PATH_MAX];
	FILE *file;

	*nr = (struct nr_entries){};
	snprintf_assert(path, sizeof(path),
			"/sys/kernel/debug/iommu/intel/%s/domain_translation_struct",
			bdf);
	file = fopen(path, "r");
	if (!file)
		return -1;

	while (fgets(line, sizeof(line), file)) {
		unsigned long pfn;
		u64 *count;
		char *pos;
		int levels;

		/* The page frame of the IOVA, then an entry of each level. */
		if (sscanf(line, "0x%lx |", &pfn) != 1)
			continue;
		if ((u64)pfn << 12 < iova || (u64)pfn << 12 >= iova + size)
			continue;
		pos = strchr(line, '|');
		for (levels = 0; (pos = strstr(pos, "0x")); pos += 2)
			levels++;
		count = levels == 5 ? &nr->small :
			levels == 4 ? &nr->medium : &nr->large;
		(*count)++;
	}
	fclose(file);

	return 0;
}

static void print_entries(const char *what, u64 size, struct nr_entries *nr)
{
	printf("# %s, %lu KiB: %lu entries (%lu of 1 GiB, %lu of 2 MiB, %lu of 4 KiB)\n",
	       what, (unsigned long)size >> 10,
	       (unsigned long)(nr->large + nr->medium + nr->small),
	       (unsigned long)nr->large, (unsigned long)nr->medium,
	       (unsigned long)nr->small);
}

TEST_F(vfio_pci_dmabuf_vmm_test, page_sizes)
{
	u64 page = self->page, size, length;
	struct nr_entries nr;
	iova_t iova;
	int bar, fd;

	bar = vfio_pci_largest_bar(self->device, 4UL * SZ_1G);
	if (bar < 0)
		SKIP(return, "%s has no BAR of 4 GiB", exporter_bdf);
	if (count_entries(exporter_bdf, 0, 0, &nr))
		SKIP(return, "Needs CONFIG_INTEL_IOMMU_DEBUGFS");

	size = self->device->bars[bar].info.size;
	fd = vfio_pci_dmabuf_export_bar(self->device, bar);

	/* All of it in the largest pages, wherever it is. */
	ASSERT_EQ(0, map_file_alloc(self->iommu, fd, 0, size, MAP_RW, &iova));
	EXPECT_EQ(0, iova % SZ_1G);
	ASSERT_EQ(0, count_entries(exporter_bdf, iova, size, &nr));
	print_entries("Whole BAR", size, &nr);
	EXPECT_EQ(size / SZ_1G, nr.large);
	EXPECT_EQ(0, nr.medium + nr.small);

	/* Revoked: none. */
	vfio_pci_set_memory_decode(self->device, false);
	ASSERT_EQ(0, count_entries(exporter_bdf, iova, size, &nr));
	EXPECT_EQ(0, nr.large + nr.medium + nr.small);
	iommu_unmap_iova(self->iommu, iova, size);

	/* Mapped while revoked, and then restored. */
	ASSERT_EQ(0, map_file_alloc(self->iommu, fd, 0, size, MAP_RW_RESTORE,
				    &iova));
	vfio_pci_set_memory_decode(self->device, true);
	ASSERT_EQ(0, count_entries(exporter_bdf, iova, size, &nr));
	print_entries("Mapped while revoked", size, &nr);
	EXPECT_EQ(size / SZ_1G, nr.large);
	EXPECT_EQ(0, nr.medium + nr.small);
	iommu_unmap_iova(self->iommu, iova, size);

	/* A page less at either end: small ones up to the next large one. */
	length = size - 2 * page;
	ASSERT_EQ(0, map_file_alloc(self->iommu, fd, page, length, MAP_RW,
				    &iova));
	EXPECT_EQ(page, iova % SZ_1G);
	ASSERT_EQ(0, count_entries(exporter_bdf, iova, length, &nr));
	print_entries("Without first and last page", length, &nr);
	EXPECT_EQ(size / SZ_1G - 2, nr.large);
	EXPECT_EQ(2 * (SZ_1G / SZ_2M - 1), nr.medium);
	EXPECT_EQ(2 * (SZ_2M / SZ_4K - 1), nr.small);
	iommu_unmap_iova(self->iommu, iova, length);

	/* Congruent to no more than 2 MiB, by the user's own choice. */
	ASSERT_EQ(0, map_file_alloc(self->iommu, fd, 0, size, MAP_RW, &iova));
	iommu_unmap_iova(self->iommu, iova, size);
	iova += SZ_2M;
	if (!__iommu_map_file(self->iommu, fd, 0, size, iova, MAP_RW)) {
		ASSERT_EQ(0, count_entries(exporter_bdf, iova, size, &nr));
		print_entries("At an IOVA of 2 MiB alignment", size, &nr);
		EXPECT_EQ(size / SZ_2M, nr.medium);
		iommu_unmap_iova(self->iommu, iova, size);
	}
	ASSERT_EQ(0, close(fd));
}

int main(int argc, char *argv[])
{
	char **bdfs;
	int nr_bdfs;

	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_bdfs);
	exporter_bdf = bdfs[0];
	if (nr_bdfs > 1)
		initiator_bdf = bdfs[1];

	return test_harness_run(argc, argv);
}
