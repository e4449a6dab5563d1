// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of device memory as dma-bufs: what VMMs do with all BARs of a device, and
 * what that takes in the IOMMU.  See vfio_pci_dmabuf_util.h.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>

#include <linux/pci_regs.h>
#include <linux/sizes.h>

#include "vfio_pci_dmabuf_util.h"

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
	return dmabuf_main(argc, argv);
}
