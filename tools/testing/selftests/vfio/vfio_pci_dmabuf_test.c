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
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <linux/iommufd.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define MAP_RW (IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE)

static const char *exporter_bdf;
static const char *initiator_bdf;

/* Returns the index of the largest memory BAR of at least min_size, or -1. */
static int largest_bar(struct vfio_pci_device *device, u64 min_size)
{
	u64 largest = 0;
	int i, bar = -1;

	for (i = 0; i < PCI_STD_NUM_BARS; i++) {
		struct vfio_region_info *info = &device->bars[i].info;

		/* What VFIO lets be mapped is memory, and at least a page. */
		if (!(info->flags & VFIO_REGION_INFO_FLAG_MMAP))
			continue;
		if (info->size < min_size || info->size <= largest)
			continue;

		largest = info->size;
		bar = i;
	}

	return bar;
}

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

	self->bar = largest_bar(self->device, 8 * self->page);
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
	self->bar = largest_bar(self->device, 8 * self->page);
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
	EXPECT_LIVE(self, fd);
	iommu_unmap_iova(self->iommu, self->iova + self->page, self->page);
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

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	if (__vfio_pci_set_power_state(self->device, 3)) {
		close(fd);
		SKIP(return, "%s has no PM capability", exporter_bdf);
	}
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

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	if (__vfio_pci_set_power_state(self->device, 3)) {
		close(fd);
		SKIP(return, "%s has no PM capability", exporter_bdf);
	}
	EXPECT_REVOKED(self, fd);

	/* The reset leaves the device in D0. */
	vfio_pci_device_reset(self->device);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
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
	self->bar = largest_bar(self->exporter, 8 * self->page);
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
