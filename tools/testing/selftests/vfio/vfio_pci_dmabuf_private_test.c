// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of device memory as dma-bufs: memory that is private to a confidential
 * guest.  See vfio_pci_dmabuf_util.h for the arguments; the DMA tests take an
 * INITIATOR as vfio_pci_dmabuf_p2p_test does.
 *
 * There is no guest here, see kvm/dmabuf_private_test.c for tests with one.
 * These tests check who can make memory private, what private memory is to
 * other users, and how long it stays private.  The host cannot read such
 * memory, so the tests find out by DMA what DMA did to it.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/mman.h>

#include <linux/sizes.h>

#include "../../../../drivers/dma-buf/dma-buf-mock-uapi.h"
#include "vfio_pci_dmabuf_dma.h"
#include "vfio_pci_unmappable.h"

FIXTURE(private) {
	struct iommu *iommu;
	struct vfio_pci_device *device;
	u64 page;
	iova_t iova;
	int bar;
};

/* How the host was kept out of the memory. */
FIXTURE_VARIANT(private) {
	bool device;
};

FIXTURE_VARIANT_ADD(private, device) { .device = true };
FIXTURE_VARIANT_ADD(private, buffer) { .device = false };

/* The BAR that VFIO would let be mapped, which it does not offer with the flag. */
static int find_bar(const char *bdf, struct iommu *iommu, u64 min_size)
{
	struct vfio_pci_device *device = vfio_pci_device_init_nomap(bdf, iommu);
	int bar = vfio_pci_largest_bar(device, min_size);

	vfio_pci_device_cleanup(device);
	return bar;
}

static struct vfio_pci_device *open_device(struct iommu *iommu, bool unmappable,
					   int *error)
{
	*error = 0;
	if (!unmappable)
		return vfio_pci_device_init_nomap(exporter_bdf, iommu);
	return __vfio_pci_device_init_unmappable(exporter_bdf, iommu, error);
}

FIXTURE_SETUP(private)
{
	int error;

	self->page = getpagesize();
	self->iova = SZ_1G;
	self->iommu = iommu_init(MODE_IOMMUFD);
	self->bar = find_bar(exporter_bdf, self->iommu, 8 * self->page);
	if (self->bar < 0)
		SKIP(return, "%s has no memory BAR of 8 pages", exporter_bdf);
	self->device = open_device(self->iommu, variant->device, &error);
	if (error == -EOPNOTSUPP)
		SKIP(return, "This kernel does not keep the host out");
	ASSERT_EQ(0, error);
}

FIXTURE_TEARDOWN(private)
{
	if (self->device)
		vfio_pci_device_cleanup(self->device);
	iommu_cleanup(self->iommu);
}

static int export_pages(FIXTURE_DATA(private) *self, u64 first, u64 nr)
{
	struct vfio_region_dma_range range = {
		.offset = first * self->page,
		.length = nr * self->page,
	};

	return __vfio_pci_dmabuf_export(self->device, self->bar, &range, 1,
					O_RDWR | O_CLOEXEC);
}

/* One whose memory the host cannot map. */
static int export_claimed(FIXTURE_DATA(private) *self,
			  const FIXTURE_VARIANT(private) *variant, u64 first, u64 nr)
{
	int fd = export_pages(self, first, nr);

	VFIO_ASSERT_GE(fd, 0);
	if (!variant->device)
		VFIO_ASSERT_EQ(__vfio_pci_dmabuf_unmappable(self->device, fd), 0);
	return fd;
}

static int set_private(FIXTURE_DATA(private) *self, int fd, bool private)
{
	return __vfio_pci_dmabuf_set_private(self->device, fd, private);
}

static int is_private(FIXTURE_DATA(private) *self, int fd)
{
	return __vfio_pci_dmabuf_is_private(self->device, fd);
}

static int map_page(FIXTURE_DATA(private) *self, int fd)
{
	return try_map(self->iommu, fd, self->page, self->iova);
}

#define EXPECT_PRIVATE(_self, _fd) do {			\
	EXPECT_EQ(1, is_private(_self, _fd));		\
	EXPECT_EQ(-EACCES, map_page(_self, _fd));	\
} while (0)

#define EXPECT_SHARED(_self, _fd) do {			\
	EXPECT_EQ(0, is_private(_self, _fd));		\
	EXPECT_EQ(0, map_page(_self, _fd));		\
} while (0)

TEST_F(private, set_and_get)
{
	int i, fd = export_claimed(self, variant, 0, 4);

	for (i = 0; i < 3; i++) {
		EXPECT_SHARED(self, fd);
		/* What it is already. */
		ASSERT_EQ(0, set_private(self, fd, false));
		EXPECT_SHARED(self, fd);
		ASSERT_EQ(0, set_private(self, fd, true));
		EXPECT_PRIVATE(self, fd);
		ASSERT_EQ(0, set_private(self, fd, true));
		EXPECT_PRIVATE(self, fd);
		EXPECT_EQ(0, vfio_pci_dmabuf_causes(self->device, fd));
		ASSERT_EQ(0, set_private(self, fd, false));
	}
	ASSERT_EQ(0, close(fd));
}

TEST_F(private, host_can_map)
{
	int fd;

	if (variant->device)
		SKIP(return, "The host cannot map anything");

	fd = export_pages(self, 0, 4);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(-EPERM, set_private(self, fd, true));
	EXPECT_EQ(0, set_private(self, fd, false));
	EXPECT_SHARED(self, fd);
	ASSERT_EQ(0, __vfio_pci_dmabuf_unmappable(self->device, fd));
	EXPECT_EQ(0, set_private(self, fd, true));
	EXPECT_PRIVATE(self, fd);
	ASSERT_EQ(0, close(fd));
}

/*
 * Root's ways to the memory of a BAR, at a page of private memory.  What registers
 * of the device elsewhere reach is not tried, nobody but the device knows it.
 */
TEST_F(private, no_way_of_the_host)
{
	struct bar bars[PCI_STD_NUM_BARS], *bar = NULL;
	int i, w, ret, nr_bars, fd, other;
	off_t offset;
	u8 *mem;
	u64 val;

	nr_bars = read_bars(bars);
	for (i = 0; i < nr_bars; i++)
		if (bars[i].index == self->bar)
			bar = &bars[i];
	ASSERT_NE(NULL, bar);
	offset = region_offset(self->device, bar);

	/* What was mapped before is gone by then. */
	mem = mmap(NULL, self->page, PROT_READ | PROT_WRITE, MAP_SHARED,
		   self->device->fd, offset);
	EXPECT_EQ(variant->device, mem == MAP_FAILED);
	if (mem != MAP_FAILED)
		ASSERT_EQ(0, touch((u32 *)mem));
	fd = export_claimed(self, variant, 0, 4);
	ASSERT_EQ(0, set_private(self, fd, true));
	if (mem != MAP_FAILED)
		EXPECT_EQ(SIGBUS, touch((u32 *)mem));

	for (w = 0; w < ARRAY_SIZE(ways); w++) {
		/* Of the rest of the BAR it would do; the page is above. */
		if (!variant->device && (ways[w].try == way_mmap ||
					 ways[w].try == way_mmap_read_only))
			continue;
		ret = ways[w].try(self->device, bar);
		TH_LOG("%s: %s", ways[w].name, ret ? strerror(-ret) : "possible");
		EXPECT_NE(0, ret);
		if (ways[w].vfio)
			EXPECT_EQ(-EPERM, ret);
	}
	EXPECT_EQ(-EPERM, __vfio_pci_bar_access(self->device, self->bar, 8, &val, 8, true));
	EXPECT_EQ(-EPERM, __vfio_pci_bar_access(self->device, self->bar,
						4 * self->page - 8, &val, 8, false));
	ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page, PROT_READ, MAP_SHARED, fd, 0));

	/* Nor by one that is exported later and stays when the first one goes. */
	other = export_pages(self, 1, 1);
	ASSERT_GE(other, 0);
	ASSERT_EQ(0, close(fd));
	EXPECT_EQ(1, is_private(self, other));
	EXPECT_EQ(-EPERM, __vfio_pci_bar_access(self->device, self->bar, self->page + 8,
						&val, 8, false));
	ASSERT_EQ(0, close(other));
	if (mem != MAP_FAILED) {
		EXPECT_EQ(0, touch((u32 *)mem));
		ASSERT_EQ(0, munmap(mem, self->page));
	}
}

TEST_F(private, overlap)
{
	int fd, below, above, other;

	below = export_claimed(self, variant, 0, 2);
	fd = export_claimed(self, variant, 2, 3);
	above = export_pages(self, 5, 3);
	other = export_pages(self, 4, 4);
	ASSERT_GE(other, 0);

	/* Neither can become private while the other one is shared. */
	EXPECT_EQ(-EBUSY, set_private(self, fd, true));
	EXPECT_SHARED(self, fd);
	EXPECT_SHARED(self, other);
	if (variant->device)
		EXPECT_EQ(-EBUSY, set_private(self, other, true));
	/* What it is already is no change. */
	EXPECT_EQ(0, set_private(self, fd, false));
	ASSERT_EQ(0, close(other));
	EXPECT_EQ(0, set_private(self, fd, true));

	EXPECT_PRIVATE(self, fd);
	EXPECT_SHARED(self, below);
	EXPECT_SHARED(self, above);
	EXPECT_EQ(0, set_private(self, below, true));
	ASSERT_EQ(0, close(below));
	ASSERT_EQ(0, close(above));
	ASSERT_EQ(0, close(fd));
}

TEST_F(private, overlap_mapped_only)
{
	int fd, other;

	/* The fd is closed, but iommufd has the buffer. */
	fd = export_claimed(self, variant, 0, 4);
	other = export_pages(self, 3, 2);
	ASSERT_GE(other, 0);
	iommu_map_file(self->iommu, other, self->page, self->page, self->iova);
	ASSERT_EQ(0, close(other));
	EXPECT_EQ(-EBUSY, set_private(self, fd, true));
	iommu_unmap_iova(self->iommu, self->iova, self->page);
	EXPECT_EQ(0, set_private(self, fd, true));
	ASSERT_EQ(0, close(fd));
}

/*
 * What is open with O_PATH cannot be imported, and does not count: the dma-buf is
 * there, its file is not, even if others have its memory by now.
 */
TEST_F(private, overlap_o_path)
{
	int fd, other, o_path, i, files[256];
	char path[64];

	fd = export_claimed(self, variant, 0, 4);
	other = export_pages(self, 3, 2);
	ASSERT_GE(other, 0);
	snprintf_assert(path, sizeof(path), "/proc/self/fd/%d", other);
	o_path = open(path, O_PATH | O_CLOEXEC);
	ASSERT_GE(o_path, 0);
	EXPECT_EQ(-EBUSY, set_private(self, fd, true));
	ASSERT_EQ(0, close(other));
	for (i = 0; i < ARRAY_SIZE(files); i++) {
		files[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
		ASSERT_GE(files[i], 0);
	}
	EXPECT_EQ(0, set_private(self, fd, true));
	for (i = 0; i < ARRAY_SIZE(files); i++)
		ASSERT_EQ(0, close(files[i]));
	ASSERT_EQ(0, close(o_path));
	ASSERT_EQ(0, close(fd));
}

TEST_F(private, export_over_private)
{
	struct vfio_region_dma_range across[] = {
		{ .offset = 3 * self->page, .length = self->page },
		{ .offset = 6 * self->page, .length = self->page },
	};
	struct vfio_region_dma_range inside[] = {
		{ .offset = 3 * self->page, .length = self->page },
		{ .offset = 2 * self->page, .length = 2 * self->page },
	};
	struct vfio_region_dma_range follow[] = {
		{ .offset = 1 * self->page, .length = self->page },
		{ .offset = 2 * self->page, .length = self->page },
	};
	struct vfio_region_dma_range apart[] = {
		{ .offset = 2 * self->page, .length = self->page },
		{ .offset = 1 * self->page, .length = self->page },
	};
	int fd, other, part;

	fd = export_claimed(self, variant, 2, 2);
	ASSERT_EQ(0, set_private(self, fd, true));

	/* With anything that is not private it is refused. */
	EXPECT_EQ(-EBUSY, export_pages(self, 0, 3));
	EXPECT_EQ(-EBUSY, export_pages(self, 3, 2));
	EXPECT_EQ(-EBUSY, export_pages(self, 0, 8));
	EXPECT_EQ(-EBUSY, __vfio_pci_dmabuf_export(self->device, self->bar, across, 2,
						   O_RDWR));
	other = export_pages(self, 4, 4);
	ASSERT_GE(other, 0);
	EXPECT_SHARED(self, other);
	ASSERT_EQ(0, close(other));

	/* All of it private: so is the new one. */
	part = export_pages(self, 3, 1);
	ASSERT_GE(part, 0);
	EXPECT_PRIVATE(self, part);
	other = __vfio_pci_dmabuf_export(self->device, self->bar, inside, 2, O_RDWR);
	ASSERT_GE(other, 0);
	EXPECT_PRIVATE(self, other);
	EXPECT_EQ(-EBUSY, set_private(self, part, false));
	EXPECT_EQ(-EBUSY, set_private(self, fd, false));
	ASSERT_EQ(0, close(fd));
	EXPECT_EQ(-EBUSY, set_private(self, part, false));
	EXPECT_PRIVATE(self, part);
	ASSERT_EQ(0, close(other));
	EXPECT_EQ(0, set_private(self, part, false));
	EXPECT_SHARED(self, part);
	ASSERT_EQ(0, close(part));

	/* Two of them, each of which has a part of a range, are none that has it. */
	fd = export_claimed(self, variant, 0, 2);
	part = export_claimed(self, variant, 2, 2);
	ASSERT_EQ(0, set_private(self, fd, true));
	ASSERT_EQ(0, set_private(self, part, true));
	EXPECT_EQ(-EBUSY, export_pages(self, 1, 2));
	EXPECT_EQ(-EBUSY, __vfio_pci_dmabuf_export(self->device, self->bar, follow, 2,
						   O_RDWR));
	other = __vfio_pci_dmabuf_export(self->device, self->bar, apart, 2, O_RDWR);
	ASSERT_GE(other, 0);
	EXPECT_PRIVATE(self, other);
	ASSERT_EQ(0, close(other));
	ASSERT_EQ(0, close(part));
	ASSERT_EQ(0, close(fd));

	/* It ended with the last of them. */
	fd = export_pages(self, 0, 8);
	ASSERT_GE(fd, 0);
	EXPECT_SHARED(self, fd);
	ASSERT_EQ(0, close(fd));
}

/* As many ranges as there can be: the ioctl takes a list of 4 MiB. */
#define MANY_RANGES	262144

static int export_ranges(FIXTURE_DATA(private) *self,
			 const struct vfio_region_dma_range *ranges)
{
	return __vfio_pci_dmabuf_export(self->device, self->bar, ranges, MANY_RANGES,
					O_RDWR | O_CLOEXEC);
}

/*
 * Buffers that have the same few pages again and again, and differ in the last
 * range.  Whoever waits for the device's locks, for a reset, does not wait long:
 * comparing each range with each would take longer than the test may.
 */
TEST_F_TIMEOUT(private, many_ranges, 120)
{
	struct vfio_region_dma_range *ranges;
	int i, fd, apart, other, part;
	u64 page = self->page;

	ranges = calloc_assert(MANY_RANGES, sizeof(*ranges));
	for (i = 0; i < MANY_RANGES; i++) {
		ranges[i].offset = (i & 1) * 2 * page;
		ranges[i].length = page;
	}
	fd = export_ranges(self, ranges);
	ASSERT_GE(fd, 0);
	if (!variant->device)
		ASSERT_EQ(0, __vfio_pci_dmabuf_unmappable(self->device, fd));

	/* Between and above. */
	for (i = 0; i < MANY_RANGES; i++)
		ranges[i].offset = (5 - (i & 1) * 4) * page;
	apart = export_ranges(self, ranges);
	ASSERT_GE(apart, 0);
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, set_private(self, fd, true));
		EXPECT_EQ(1, is_private(self, fd));
		EXPECT_EQ(0, is_private(self, apart));
		ASSERT_EQ(0, set_private(self, fd, false));
	}

	/* The last one is of the first buffer. */
	ranges[MANY_RANGES - 1].offset = 2 * page;
	other = export_ranges(self, ranges);
	ASSERT_GE(other, 0);
	EXPECT_EQ(-EBUSY, set_private(self, fd, true));
	EXPECT_EQ(0, is_private(self, fd));
	ASSERT_EQ(0, close(other));
	ASSERT_EQ(0, set_private(self, fd, true));
	EXPECT_EQ(-EBUSY, export_ranges(self, ranges));

	/* All of it, or all but the last one, is private. */
	for (i = 0; i < MANY_RANGES; i++)
		ranges[i].offset = (i & 1) * 2 * page;
	part = export_ranges(self, ranges);
	ASSERT_GE(part, 0);
	EXPECT_EQ(1, is_private(self, part));
	EXPECT_EQ(-EBUSY, set_private(self, fd, false));
	ASSERT_EQ(0, close(part));
	ranges[MANY_RANGES - 1].length = 2 * page;
	EXPECT_EQ(-EBUSY, export_ranges(self, ranges));
	ASSERT_EQ(0, set_private(self, fd, false));

	free(ranges);
	ASSERT_EQ(0, close(apart));
	ASSERT_EQ(0, close(fd));
}

/* iommufd: what it holds is empty while private, and comes back if it asked. */
TEST_F(private, iommufd)
{
	struct vfio_device_feature_dma_buf_state state;
	iova_t restore = self->iova, late = restore + 4 * self->page;
	iova_t for_ever = restore + 8 * self->page;
	u64 page = self->page;
	int fd, i;

	if (iommufd_dmabuf_mappings() < 0)
		SKIP(return, "No debugfs to see mappings of dma-bufs in");

	fd = export_claimed(self, variant, 0, 4);
	ASSERT_EQ(0, __iommu_map_file(self->iommu, fd, 0, page, restore, MAP_RW_RESTORE));
	iommu_map_file(self->iommu, fd, 0, page, for_ever);
	EXPECT_EQ(2, iommufd_dmabuf_mappings());

	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, set_private(self, fd, true));
		EXPECT_EQ(0, iommufd_dmabuf_mappings());
		/* One that is made now. */
		EXPECT_EQ(-EACCES, __iommu_map_file(self->iommu, fd, 0, page, late, MAP_RW));
		ASSERT_EQ(0, __iommu_map_file(self->iommu, fd, page, page, late,
					      MAP_RW_RESTORE));
		EXPECT_EQ(0, iommufd_dmabuf_mappings());
		/* Being revoked and restored meanwhile does not bring it back. */
		ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
		EXPECT_EQ(-ENODEV, __iommu_map_file(self->iommu, fd, 0, page,
						    late + page, MAP_RW));
		ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, fd));
		EXPECT_EQ(0, iommufd_dmabuf_mappings());
		/* That is no failure, neither now nor when it is shared. */
		ASSERT_EQ(0, __vfio_pci_dmabuf_get_state(self->device, fd, &state));
		EXPECT_EQ(0, state.nr_not_restored);
		EXPECT_EQ(VFIO_DMA_BUF_STATE_OK, state.state);

		ASSERT_EQ(0, set_private(self, fd, false));
		EXPECT_EQ(2, iommufd_dmabuf_mappings());
		ASSERT_EQ(0, __vfio_pci_dmabuf_get_state(self->device, fd, &state));
		EXPECT_EQ(0, state.nr_not_restored);
		iommu_unmap_iova(self->iommu, late, page);
	}
	iommu_unmap_iova(self->iommu, restore, page);
	iommu_unmap_iova(self->iommu, for_ever, page);
	ASSERT_EQ(0, close(fd));
}

/* What a device that takes a scatterlist gets; it cannot have one for DMA to it. */
static int import_sgt(int dev, int fd)
{
	struct dma_buf_mock_import args = {
		.fd = fd,
		.models = 1 << DMA_BUF_MOCK_REVOCABLE,
	};

	if (ioctl(dev, DMA_BUF_MOCK_IMPORT, &args))
		return -errno;
	VFIO_ASSERT_EQ(ioctl(dev, DMA_BUF_MOCK_UNIMPORT, &args), 0);
	return 0;
}

TEST_F(private, scatterlist)
{
	int dev, fd, shared;

	dev = open("/dev/dma-buf-mock", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		SKIP(return, "no /dev/dma-buf-mock (CONFIG_DMABUF_MOCK)");
	fd = export_claimed(self, variant, 0, 4);
	shared = import_sgt(dev, fd);
	EXPECT_NE(-EACCES, shared);
	ASSERT_EQ(0, set_private(self, fd, true));
	EXPECT_EQ(-EACCES, import_sgt(dev, fd));
	vfio_pci_set_memory_decode(self->device, false);
	EXPECT_EQ(-ENODEV, import_sgt(dev, fd));
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_EQ(-EACCES, import_sgt(dev, fd));
	ASSERT_EQ(0, set_private(self, fd, false));
	EXPECT_EQ(shared, import_sgt(dev, fd));
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(dev));
}

/* What takes it away for other reasons does not make it shared. */
TEST_F(private, survives)
{
	int fd = export_claimed(self, variant, 0, 4);

	ASSERT_EQ(0, set_private(self, fd, true));
	vfio_pci_set_memory_decode(self->device, false);
	EXPECT_EQ(-ENODEV, map_page(self, fd));
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_PRIVATE(self, fd);
	if (self->device->info.flags & VFIO_DEVICE_FLAGS_RESET) {
		vfio_pci_device_reset(self->device);
		vfio_pci_set_memory_decode(self->device, true);
		EXPECT_PRIVATE(self, fd);
		ASSERT_EQ(0, pci_sysfs_write(exporter_bdf, "reset", "1"));
		vfio_pci_set_memory_decode(self->device, true);
		EXPECT_PRIVATE(self, fd);
	}
	if (!__vfio_pci_set_power_state(self->device, 3)) {
		ASSERT_EQ(0, __vfio_pci_set_power_state(self->device, 0));
		vfio_pci_set_memory_decode(self->device, true);
		EXPECT_PRIVATE(self, fd);
	}
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, fd));
	EXPECT_PRIVATE(self, fd);
	ASSERT_EQ(0, set_private(self, fd, false));
	EXPECT_SHARED(self, fd);
	ASSERT_EQ(0, close(fd));
}

/* It can be changed while it is revoked, and stays so. */
TEST_F(private, while_revoked)
{
	int private, fd = export_claimed(self, variant, 0, 4);

	for (private = 1; private >= 0; private--) {
		vfio_pci_set_memory_decode(self->device, false);
		ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
		ASSERT_EQ(0, set_private(self, fd, private));
		EXPECT_EQ(private, is_private(self, fd));
		EXPECT_EQ(VFIO_DMA_BUF_CAUSE_DECODE | VFIO_DMA_BUF_CAUSE_USER,
			  vfio_pci_dmabuf_causes(self->device, fd));
		EXPECT_EQ(-ENODEV, map_page(self, fd));
		ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, fd));
		vfio_pci_set_memory_decode(self->device, true);
		EXPECT_EQ(private ? -EACCES : 0, map_page(self, fd));
	}
	ASSERT_EQ(0, close(fd));
}

TEST_F(private, eventfd)
{
	int efd, fd = export_claimed(self, variant, 0, 4);
	u64 val;

	efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ASSERT_GE(efd, 0);
	ASSERT_EQ(0, __vfio_pci_dmabuf_set_eventfd(self->device, fd, efd));
	ASSERT_EQ(0, set_private(self, fd, false));
	EXPECT_EQ(-1, read(efd, &val, sizeof(val)));
	/* Away and back. */
	ASSERT_EQ(0, set_private(self, fd, true));
	ASSERT_EQ(sizeof(val), read(efd, &val, sizeof(val)));
	EXPECT_EQ(2, val);
	ASSERT_EQ(0, close(efd));
	ASSERT_EQ(0, close(fd));
}

/* The MSI-X table is the PCI core's, and the pending bits can be read. */
TEST_F(private, msix)
{
	u64 page = self->page;
	struct msix m;
	u32 bar, i;
	u64 offset;
	int fd;

	read_msix(&m);
	if (!m.present)
		SKIP(return, "The device has no MSI-X");

	for (i = 0; i < 2; i++) {
		bar = i ? m.pba_bar : m.table_bar;
		offset = (i ? m.pba_offset : m.table_offset) & ~(page - 1);
		struct vfio_region_dma_range range = { .offset = offset, .length = page };

		fd = __vfio_pci_dmabuf_export(self->device, bar, &range, 1, O_RDWR);
		if (fd < 0) {
			TH_LOG("page of %s: %s", i ? "pending bits" : "table", strerror(-fd));
			continue;
		}
		if (!variant->device)
			ASSERT_EQ(0, __vfio_pci_dmabuf_unmappable(self->device, fd));
		EXPECT_EQ(-EPERM, set_private(self, fd, true));
		EXPECT_EQ(0, is_private(self, fd));
		ASSERT_EQ(0, close(fd));
	}
}

TEST_F(private, errnos)
{
	struct vfio_device_feature_dma_buf_private args = {};

	args.dmabuf_fd = export_claimed(self, variant, 0, 4);
	expect_state_errnos(_metadata, self->device, VFIO_DEVICE_FEATURE_DMA_BUF_PRIVATE,
			    &args, sizeof(args), VFIO_DMA_BUF_PRIVATE);
	EXPECT_SHARED(self, args.dmabuf_fd);
	ASSERT_EQ(0, close(args.dmabuf_fd));
}

TEST_F(private, another_device)
{
	struct vfio_pci_device *other;
	int bar, fd;

	if (!initiator_bdf)
		SKIP(return, "No second device given");

	other = vfio_pci_device_init_nomap(initiator_bdf, self->iommu);
	bar = vfio_pci_largest_bar(other, self->page);
	ASSERT_GE(bar, 0);
	fd = vfio_pci_dmabuf_export_bar(other, bar);
	EXPECT_EQ(-EINVAL, set_private(self, fd, true));
	EXPECT_EQ(-EINVAL, set_private(self, fd, false));
	EXPECT_EQ(-EINVAL, is_private(self, fd));
	ASSERT_EQ(0, close(fd));
	vfio_pci_device_cleanup(other);
}

TEST_F(private, closed)
{
	int error, fd = export_claimed(self, variant, 0, 4);

	ASSERT_EQ(0, set_private(self, fd, true));
	vfio_pci_device_cleanup(self->device);
	self->device = open_device(self->iommu, variant->device, &error);
	ASSERT_EQ(0, error);
	EXPECT_EQ(0, is_private(self, fd));
	EXPECT_EQ(-ENODEV, set_private(self, fd, false));
	EXPECT_EQ(-ENODEV, map_page(self, fd));
	ASSERT_EQ(0, close(fd));
	fd = export_pages(self, 0, 4);
	ASSERT_GE(fd, 0);
	EXPECT_SHARED(self, fd);
	ASSERT_EQ(0, close(fd));
}

/* DMA of another device: a fault while it is private, and works after. */

FIXTURE(private_dma) {
	struct iommu *iommu;
	struct vfio_pci_device *exporter;
	struct initiator initiator;
	iova_t bar_iova;
	u64 page;
	int bar;
};

FIXTURE_SETUP(private_dma)
{
	int error;

	if (!initiator_bdf)
		SKIP(return, "No device given that can DMA");

	self->page = getpagesize();
	self->iommu = iommu_init(MODE_IOMMUFD);
	self->bar = find_bar(exporter_bdf, self->iommu, 8 * self->page);
	if (self->bar < 0)
		SKIP(return, "%s has no memory BAR of 8 pages", exporter_bdf);
	self->exporter = open_device(self->iommu, true, &error);
	if (error == -EOPNOTSUPP)
		SKIP(return, "This kernel does not keep the host out");
	ASSERT_EQ(0, error);
	if (!initiator_init(&self->initiator, self->iommu))
		SKIP(return, "libvfio has no driver for %s", initiator_bdf);
	self->bar_iova = self->initiator.bar_iova;
}

FIXTURE_TEARDOWN(private_dma)
{
	initiator_cleanup(&self->initiator);
	vfio_pci_device_cleanup(self->exporter);
	iommu_cleanup(self->iommu);
}

static int dma_write(FIXTURE_DATA(private_dma) *self, iova_t iova, u8 byte)
{
	return initiator_fill(&self->initiator, iova, self->page, byte);
}

static int dma_read(FIXTURE_DATA(private_dma) *self, iova_t iova)
{
	return initiator_read(&self->initiator, iova, self->page);
}

TEST_F(private_dma, faults_while_private)
{
	u64 page = self->page;
	iova_t for_ever = self->bar_iova + 16 * page;
	int fd, i;

	fd = vfio_pci_dmabuf_export_bar(self->exporter, self->bar);
	ASSERT_EQ(0, __iommu_map_file(self->iommu, fd, 0, 2 * page, self->bar_iova,
				      MAP_RW_RESTORE));
	iommu_map_file(self->iommu, fd, 0, 2 * page, for_ever);
	ASSERT_EQ(0, dma_write(self, self->bar_iova, 0x11));
	ASSERT_EQ(0x11, dma_read(self, for_ever));

	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, dma_write(self, self->bar_iova, 0x20 + i));
		ASSERT_EQ(0, __vfio_pci_dmabuf_set_private(self->exporter, fd, true));
		/* The device would take it. */
		dma_write(self, self->bar_iova, 0x30);
		dma_write(self, for_ever, 0x40);
		EXPECT_NE(0x20 + i, dma_read(self, self->bar_iova));
		ASSERT_EQ(0, __vfio_pci_dmabuf_set_private(self->exporter, fd, false));
		EXPECT_EQ(0x20 + i, dma_read(self, self->bar_iova));
		dma_write(self, for_ever, 0x50);
		EXPECT_EQ(0x20 + i, dma_read(self, self->bar_iova));
	}

	/* One that was made while it was private. */
	ASSERT_EQ(0, __vfio_pci_dmabuf_set_private(self->exporter, fd, true));
	iommu_unmap_iova(self->iommu, for_ever, 2 * page);
	ASSERT_EQ(0, __iommu_map_file(self->iommu, fd, 0, 2 * page, for_ever,
				      MAP_RW_RESTORE));
	dma_write(self, for_ever, 0x60);
	ASSERT_EQ(0, __vfio_pci_dmabuf_set_private(self->exporter, fd, false));
	EXPECT_EQ(0x22, dma_read(self, for_ever));
	EXPECT_EQ(0, dma_write(self, for_ever, 0x70));
	EXPECT_EQ(0x70, dma_read(self, self->bar_iova));

	iommu_unmap_iova(self->iommu, self->bar_iova, 2 * page);
	iommu_unmap_iova(self->iommu, for_ever, 2 * page);
	ASSERT_EQ(0, close(fd));
}

int main(int argc, char *argv[])
{
	char **bdfs;
	int nr_bdfs;

	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_bdfs);
	exporter_bdf = bdfs[0];
	device_bdf = exporter_bdf;
	if (nr_bdfs > 1)
		initiator_bdf = bdfs[1];
	touch_init();

	return test_harness_run(argc, argv);
}
