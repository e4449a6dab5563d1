// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of device memory as dma-bufs: VFIO_DEVICE_FEATURE_DMA_BUF and its errors,
 * and mapping the dma-buf into an IOAS.  How to call it, and what the other
 * programs share, is in vfio_pci_dmabuf_util.h.
 *
 * With it are vfio_pci_dmabuf_revoke_test (what takes the memory away),
 * vfio_pci_dmabuf_state_test (what the user sees and does about that),
 * vfio_pci_dmabuf_p2p_test (DMA of another device) and vfio_pci_dmabuf_vmm_test
 * (what VMMs do with whole devices).
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <linux/pci_regs.h>

#include "memcg_charge.h"
#include "vfio_pci_dmabuf_fixture.h"

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

/* VFIO stores where each range begins in the dma-buf and in memory, and its length. */
#define MEMCG_RANGES	0x10000
#define MEMCG_BYTES	(MEMCG_RANGES * 3 * sizeof(u64))

/* Who exports pays for that, until the dma-buf is gone. */
TEST_F(vfio_pci_dmabuf_test, export_memcg)
{
	struct vfio_region_dma_range *ranges;
	struct memcgs memcgs = {};
	const char *reason;
	u32 i;
	int fd;

	reason = memcgs_create(&memcgs);
	if (reason)
		SKIP(return, "%s", reason);

	ranges = calloc(MEMCG_RANGES, sizeof(*ranges));
	for (i = 0; i < MEMCG_RANGES; i++)
		ranges[i].length = self->page;

	ASSERT_EQ(0, cg_enter_current(memcgs.maker));
	EXPECT_TRUE(memcg_is_charged(memcgs.maker, "kernel ", MEMCG_BYTES, false));
	fd = vfio_pci_dmabuf_export(self->device, self->bar, ranges, MEMCG_RANGES,
				    O_RDWR);
	EXPECT_TRUE(memcg_is_charged(memcgs.maker, "kernel ", MEMCG_BYTES, true));
	ASSERT_EQ(0, close(fd));
	EXPECT_TRUE(memcg_is_charged(memcgs.maker, "kernel ", MEMCG_BYTES, false));

	free(ranges);
	EXPECT_EQ(0, memcgs_destroy(&memcgs));
}

/* How long it takes to map and unmap all of a dma-buf, at best. */
static u64 map_ns(FIXTURE_DATA(vfio_pci_dmabuf_test) *self, int fd, u64 size)
{
	struct timespec start, end;
	u64 ns, best = ~0ull;
	int i;

	for (i = 0; i < 20; i++) {
		clock_gettime(CLOCK_MONOTONIC, &start);
		VFIO_ASSERT_EQ(try_map(self->iommu, fd, size, self->iova), 0);
		clock_gettime(CLOCK_MONOTONIC, &end);
		ns = (end.tv_sec - start.tv_sec) * 1000000000 +
		     end.tv_nsec - start.tv_nsec;
		if (ns < best)
			best = ns;
	}
	return best;
}

/*
 * Ranges that follow each other in the BAR are one.  Whoever walks the dma-buf holds
 * locks that others wait for, and is done as soon as if there was one range.
 */
TEST_F_TIMEOUT(vfio_pci_dmabuf_test, export_adjoining, 120)
{
	const u32 nr = 4096;
	struct vfio_region_dma_range *ranges;
	u64 ns, ns_one, size = nr * self->page;
	int fd, one;
	u32 i;

	if (self->size < size)
		SKIP(return, "%s has no BAR of %u pages", exporter_bdf, nr);

	ranges = calloc_assert(nr, sizeof(*ranges));
	for (i = 0; i < nr; i++)
		ranges[i] = (struct vfio_region_dma_range){
			.offset = i * self->page,
			.length = self->page,
		};
	fd = vfio_pci_dmabuf_export(self->device, self->bar, ranges, nr, O_RDWR);
	ranges[0].length = size;
	one = vfio_pci_dmabuf_export(self->device, self->bar, ranges, 1, O_RDWR);
	free(ranges);
	ASSERT_EQ(size, lseek(fd, 0, SEEK_END));

	ns = map_ns(self, fd, size);
	ns_one = map_ns(self, one, size);
	TH_LOG("%u ranges: %llu ns, one: %llu ns", nr, (unsigned long long)ns,
	       (unsigned long long)ns_one);
	EXPECT_LT(ns, 4 * ns_one);
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(one));
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

		/* All of it means the page. */
		range = (struct vfio_region_dma_range){ .length = info->size };
		fd = vfio_pci_dmabuf_export(self->device, i, &range, 1, O_RDWR);
		EXPECT_EQ(self->page, lseek(fd, 0, SEEK_END));
		EXPECT_LIVE(self, fd);
		ASSERT_EQ(0, close(fd));

		/* A page, no less and no more. */
		range.length = info->size / 2;
		EXPECT_EQ(-EINVAL, __vfio_pci_dmabuf_export(self->device, i,
							    &range, 1, O_RDWR));
		range = (struct vfio_region_dma_range){ .length = info->size,
							.offset = self->page };
		EXPECT_EQ(-EINVAL, __vfio_pci_dmabuf_export(self->device, i,
							    &range, 1, O_RDWR));
		range.offset = 0;
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

int main(int argc, char *argv[])
{
	return dmabuf_main(argc, argv);
}
