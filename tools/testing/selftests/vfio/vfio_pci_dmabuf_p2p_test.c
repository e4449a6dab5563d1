// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of device memory as dma-bufs: what reaches the memory, by DMA of another
 * device.  See vfio_pci_dmabuf_util.h.
 *
 * INITIATOR is a device with a driver in libvfio: it DMAs into EXPORTER's BAR,
 * and the BAR is written to with patterns, so name one only if the BAR is plain
 * memory.  Without it the tests are skipped.
 *
 * DMA into a BAR whose decoding is off proves nothing, as the device would drop
 * it; the proof is DMA to the same IOVA with decoding on again.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>

#include "vfio_pci_dmabuf_dma.h"

/* DMA of another device into the BAR.  Both devices share one IOAS. */
FIXTURE(vfio_pci_dmabuf_p2p_test) {
	struct iommu *iommu;
	struct vfio_pci_device *exporter;
	struct initiator initiator;
	iova_t bar_iova;
	u64 page;
	int bar;
};

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

	if (!initiator_init(&self->initiator, self->iommu))
		SKIP(return, "libvfio has no driver for %s", initiator_bdf);
	self->bar_iova = self->initiator.bar_iova;
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_p2p_test)
{
	initiator_cleanup(&self->initiator);
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

static int dma_fill(FIXTURE_DATA(vfio_pci_dmabuf_p2p_test) *self, iova_t iova,
		    u64 size, u8 byte)
{
	return initiator_fill(&self->initiator, iova, size, byte);
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
	ASSERT_EQ(0x22, initiator_read(&self->initiator, self->bar_iova + 2 * page, page));

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
 * What VFIO_DEVICE_BIND_FLAG_HOST_UNMAPPABLE does not find: a type1 container of
 * another device keeps what it has mapped of the BAR, until it is unmapped there.
 */
TEST(type1_keeps)
{
	u64 unmapped, page = getpagesize(), size = 2 * page;
	struct iommu *iommu, *container;
	struct vfio_pci_device *exporter;
	struct initiator initiator = {};
	struct dma_region region;
	int bar, error;

	if (!initiator_bdf)
		SKIP(return, "No device given that can DMA");
	if (access("/dev/vfio/vfio", R_OK | W_OK))
		SKIP(return, "The kernel has no type1 container");

	container = iommu_init(MODE_VFIO_TYPE1V2_IOMMU);
	if (!initiator_init(&initiator, container))
		SKIP(return, "libvfio has no driver for %s", initiator_bdf);
	/* iommufd's container, CONFIG_IOMMUFD_VFIO_CONTAINER, maps no device memory. */
	if (access("/sys/module/vfio_iommu_type1", F_OK))
		SKIP(return, "The container is iommufd's");
	iommu = iommu_init(MODE_IOMMUFD);
	exporter = vfio_pci_device_init_nomap(exporter_bdf, iommu);
	bar = vfio_pci_largest_bar(exporter, size);
	if (bar < 0)
		SKIP(return, "%s has no memory BAR of 2 pages", exporter_bdf);

	bar_fill(exporter, bar, 0, size, 0x11);
	region.iova = initiator.bar_iova;
	region.size = size;
	region.vaddr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED,
			    exporter->fd, exporter->bars[bar].info.offset);
	ASSERT_NE(MAP_FAILED, region.vaddr);
	ASSERT_EQ(0, __iommu_map(container, &region));
	ASSERT_EQ(0, munmap(region.vaddr, size));
	vfio_pci_device_cleanup(exporter);

	exporter = __vfio_pci_device_init_unmappable(exporter_bdf, iommu, &error);
	if (error == -EOPNOTSUPP)
		SKIP(goto out, "This kernel cannot keep the host out");
	ASSERT_EQ(0, error);
	vfio_pci_set_memory_decode(exporter, true);
	EXPECT_EQ(0x11, initiator_read(&initiator, region.iova, page));
	EXPECT_EQ(0, initiator_fill(&initiator, region.iova, page, 0x22));

	ASSERT_EQ(0, __iommu_unmap(container, &region, &unmapped));
	EXPECT_EQ(size, unmapped);
	initiator_fill(&initiator, region.iova + page, page, 0x33);
	vfio_pci_device_cleanup(exporter);

	exporter = vfio_pci_device_init_nomap(exporter_bdf, iommu);
	EXPECT_TRUE(bar_is(exporter, bar, 0, page, 0x22));
	EXPECT_TRUE(bar_is(exporter, bar, page, page, 0x11));
	vfio_pci_device_cleanup(exporter);
out:
	initiator_cleanup(&initiator);
	iommu_cleanup(iommu);
	iommu_cleanup(container);
}

int main(int argc, char *argv[])
{
	return dmabuf_main(argc, argv);
}
