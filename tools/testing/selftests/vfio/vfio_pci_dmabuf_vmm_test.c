// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of device memory as dma-bufs: what VMMs do with all BARs of a device,
 * and which page table entries the IOMMU uses for it.  See
 * vfio_pci_dmabuf_util.h.
 *
 * The replays at the end do what some VMMs do today, in the order of these
 * VMMs.  They do not use the features that the exporter and iommufd have in
 * addition.
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
 * Seconds that a case can take.  vfio-pci maps the BARs of a device that it opens,
 * and KASAN then writes a shadow of an eighth of their size.
 */
#define CASE_S		240

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

/* What can be mapped of a BAR; of one that is smaller than a page it is the page. */
static u64 bar_length(struct vfio_pci_device *device, int bar, u64 page)
{
	u64 size = device->bars[bar].info.size;

	return size < page ? page : size;
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
		.length = bar_length(device, bar, page),
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
TEST_F_TIMEOUT(vfio_pci_dmabuf_vmm_test, qemu_whole_bars, CASE_S)
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
TEST_F_TIMEOUT(vfio_pci_dmabuf_vmm_test, qemu_ranges_with_hole, CASE_S)
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

TEST_F_TIMEOUT(vfio_pci_dmabuf_vmm_test, page_sizes, CASE_S)
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

/*
 * Replays.  A window is what the VMM maps by one IOMMU_IOAS_MAP_FILE, at a place
 * that follows from where the guest has the BAR.
 */
struct window {
	int bar;
	u64 bar_offset;
	int fd;
	u64 fd_offset;
	u64 length;
};

struct vmm {
	struct vfio_pci_device *device;
	struct iommu *iommu;
	struct window windows[PCI_STD_NUM_BARS * MAX_PIECES];
	int nr;
	/* Of each BAR: where it is now, where else it can be, and its register. */
	iova_t place[PCI_STD_NUM_BARS];
	iova_t other_place[PCI_STD_NUM_BARS];
	u32 regs[PCI_STD_NUM_BARS];
	bool mapped;
};

enum vmm_exports {
	/* {0, size} of a BAR, however small it is; what is mapped is a part of it. */
	EXPORT_BARS,
	/* Each window on its own. */
	EXPORT_WINDOWS,
};

static void vmm_init(FIXTURE_DATA(vfio_pci_dmabuf_vmm_test) *self, struct vmm *vmm,
		     enum vmm_exports exports)
{
	struct vfio_region_dma_range pieces[MAX_PIECES];
	struct vfio_pci_device *device = self->device;
	int bar, i, nr, fd;
	u64 length;

	*vmm = (struct vmm){ .device = device, .iommu = self->iommu };
	for (bar = 0; bar < PCI_STD_NUM_BARS; bar++) {
		struct vfio_region_info *info = &device->bars[bar].info;

		vmm->regs[bar] = vfio_pci_config_readl(device, PCI_BASE_ADDRESS_0 +
							       4 * bar);
		if (!(info->flags & VFIO_REGION_INFO_FLAG_MMAP) ||
		    (exports == EXPORT_WINDOWS && info->size < self->page))
			continue;

		length = bar_length(device, bar, self->page);
		vmm->place[bar] = iova_allocator_alloc(self->iova_allocator, length);
		vmm->other_place[bar] = iova_allocator_alloc(self->iova_allocator,
							     length);
		fd = exports == EXPORT_BARS ? vfio_pci_dmabuf_export_bar(device, bar) :
					      -1;
		nr = bar_pieces(device, bar, self->page, pieces);
		for (i = 0; i < nr; i++) {
			struct window *w = &vmm->windows[vmm->nr++];

			w->bar = bar;
			w->bar_offset = pieces[i].offset;
			w->length = pieces[i].length;
			if (exports == EXPORT_BARS) {
				w->fd = fd;
				w->fd_offset = pieces[i].offset;
			} else {
				w->fd = vfio_pci_dmabuf_export(device, bar,
							       &pieces[i], 1,
							       O_RDWR | O_CLOEXEC);
			}
		}
	}
	printf("# %d windows\n", vmm->nr);
}

static iova_t window_iova(struct vmm *vmm, struct window *w)
{
	return vmm->place[w->bar] + w->bar_offset;
}

static int window_map(struct vmm *vmm, struct window *w, u32 flags)
{
	return __iommu_map_file(vmm->iommu, w->fd, w->fd_offset, w->length,
				window_iova(vmm, w), flags);
}

static int window_unmap(struct vmm *vmm, struct window *w)
{
	return __iommu_unmap_iova(vmm->iommu, window_iova(vmm, w), w->length);
}

/* All of them are in the IOMMU, or none is; without debugfs there is no telling. */
static void vmm_assert_live(struct vmm *vmm, bool live)
{
	int nr = iommufd_dmabuf_mappings();

	if (nr >= 0)
		VFIO_ASSERT_EQ(nr, live ? vmm->nr : 0);
}

/* The guest sees the BARs, or does not any more. */
static void vmm_set_mapped(struct vmm *vmm, bool mapped)
{
	int i;

	for (i = 0; i < vmm->nr && mapped != vmm->mapped; i++)
		VFIO_ASSERT_EQ(mapped ? window_map(vmm, &vmm->windows[i], MAP_RW) :
					window_unmap(vmm, &vmm->windows[i]), 0);
	vmm->mapped = mapped;
	vmm_assert_live(vmm, mapped);
}

/* The guest has its BARs elsewhere from now on. */
static void vmm_move_bars(struct vmm *vmm)
{
	iova_t place;
	int bar;

	for (bar = 0; bar < PCI_STD_NUM_BARS; bar++) {
		place = vmm->place[bar];
		vmm->place[bar] = vmm->other_place[bar];
		vmm->other_place[bar] = place;
	}
}

static void vmm_write_bars(struct vmm *vmm, const u32 *vals)
{
	int bar;

	for (bar = 0; bar < PCI_STD_NUM_BARS; bar++)
		vfio_pci_config_writel(vmm->device, PCI_BASE_ADDRESS_0 + 4 * bar,
				       vals[bar]);
}

static void vmm_reset(struct vmm *vmm)
{
	if (vmm->device->info.flags & VFIO_DEVICE_FLAGS_RESET)
		vfio_pci_device_reset(vmm->device);
}

/* vfio_pci_write_config(): the device first, then the guest's address space. */
static void qemu_set_decode(struct vmm *vmm, bool on)
{
	vfio_pci_set_memory_decode(vmm->device, on);
	vmm_set_mapped(vmm, on);
}

/* vfio_pci_pre_reset(), VFIO_DEVICE_RESET, vfio_pci_post_reset() */
static void qemu_reset(struct vmm *vmm)
{
	static const u32 zeroes[PCI_STD_NUM_BARS];

	qemu_set_decode(vmm, false);
	vmm_reset(vmm);
	vmm_write_bars(vmm, zeroes);
	vmm_assert_live(vmm, false);
}

/*
 * QEMU 11: hw/vfio/pci.c, and hw/vfio/region.c since "hw/vfio/region: Create dmabuf
 * for PCI BAR per region" (20260113113754.1189-5-skolothumtho@nvidia.com).  When it
 * has mmapped a BAR it exports what it mmapped, the BAR as a whole, for the life of
 * the device.  So does Alioth (pull request 479).  A BAR smaller than a page is
 * mapped as the page, see vfio_sub_page_bar_update_mapping().  What fails is a
 * complaint and costs P2P, so that nothing may fail.
 */
TEST_F_TIMEOUT(vfio_pci_dmabuf_vmm_test, replay_qemu, CASE_S)
{
	static const u32 ones[PCI_STD_NUM_BARS] = { -1, -1, -1, -1, -1, -1 };
	struct vmm vmm;
	int i;

	vmm_init(self, &vmm, EXPORT_BARS);
	if (!vmm.nr)
		SKIP(return, "%s has no memory BAR", exporter_bdf);

	/* All devices of the machine are reset before it starts. */
	qemu_reset(&vmm);
	for (i = 0; i < 3; i++) {
		/* Firmware */
		vmm_write_bars(&vmm, vmm.regs);
		qemu_set_decode(&vmm, true);

		/* The guest's kernel: how large are the BARs?  It moves them, too. */
		qemu_set_decode(&vmm, false);
		vmm_write_bars(&vmm, ones);
		vmm_write_bars(&vmm, vmm.regs);
		vmm_move_bars(&vmm);
		qemu_set_decode(&vmm, true);

		/* Its pci_reset_function() switches decoding off for that. */
		qemu_set_decode(&vmm, false);
		__vfio_pci_config_flr(vmm.device);
		vmm_write_bars(&vmm, vmm.regs);
		qemu_set_decode(&vmm, true);

		/* The guest is reset, twice in a row. */
		qemu_reset(&vmm);
		qemu_reset(&vmm);
	}
}

/* update_bar_mappings(): mappings are there while the device decodes. */
static void openvmm_set_decode(struct vmm *vmm, bool on)
{
	if (on)
		vfio_pci_set_memory_decode(vmm->device, true);
	vmm_set_mapped(vmm, on);
	if (!on)
		vfio_pci_set_memory_decode(vmm->device, false);
}

/*
 * OpenVMM: vm/devices/pci/vfio_assigned_device since pull request 3936.  A dma-buf
 * for each part of a BAR that it mmaps, which is mapped from its beginning; MSI-X
 * table and PBA are left out.  Decoding is switched on before BARs are mapped,
 * because MAP_FILE fails with ENODEV else, and off after they are unmapped.  D0 and
 * D3 are handled in the same order.  BARs are virtual: the device is not told where
 * the guest has them, and they can move while they are decoded.
 */
TEST_F_TIMEOUT(vfio_pci_dmabuf_vmm_test, replay_openvmm, CASE_S)
{
	u8 feature[sizeof(struct vfio_device_feature_dma_buf) +
		   sizeof(struct vfio_region_dma_range)] = {};
	struct vmm vmm;
	int i, w;

	/* supports_dma_buf(): asking makes no file. */
	ASSERT_EQ(0, feature_ioctl(self->device, VFIO_DEVICE_FEATURE_PROBE |
				   VFIO_DEVICE_FEATURE_GET |
				   VFIO_DEVICE_FEATURE_DMA_BUF,
				   sizeof(struct vfio_device_feature) +
				   sizeof(feature), feature, sizeof(feature)));

	vmm_init(self, &vmm, EXPORT_WINDOWS);
	if (!vmm.nr)
		SKIP(return, "%s has no memory BAR of a page", exporter_bdf);

	for (i = 0; i < 3; i++) {
		/* This is what its order is for. */
		vfio_pci_set_memory_decode(vmm.device, false);
		for (w = 0; w < vmm.nr; w++)
			EXPECT_EQ(-ENODEV, window_map(&vmm, &vmm.windows[w], MAP_RW));
		openvmm_set_decode(&vmm, true);

		/* The guest writes to the BARs without switching decoding off. */
		vmm_set_mapped(&vmm, false);
		vmm_move_bars(&vmm);
		vmm_set_mapped(&vmm, true);

		/* D3hot: unmapped before, mapped after. */
		vmm_set_mapped(&vmm, false);
		if (!__vfio_pci_set_power_state(vmm.device, 3))
			__vfio_pci_set_power_state(vmm.device, 0);
		vmm_set_mapped(&vmm, true);

		openvmm_set_decode(&vmm, false);
		openvmm_set_decode(&vmm, true);

		/* Reset of the VM: the device goes on to decode. */
		vmm_set_mapped(&vmm, false);
		vmm_reset(&vmm);
		openvmm_set_decode(&vmm, true);
		openvmm_set_decode(&vmm, false);
	}
}

/*
 * The guest has switched decoding on: all is mapped again.  What is there by now is
 * a mapping that was revoked, or none, if mapping it has failed.
 */
static void ch_map_again(struct vmm *vmm, bool mapped)
{
	int i;

	for (i = 0; i < vmm->nr; i++) {
		VFIO_ASSERT_EQ(window_unmap(vmm, &vmm->windows[i]),
			       mapped ? 0 : -ENOENT);
		VFIO_ASSERT_EQ(window_map(vmm, &vmm->windows[i], MAP_RW), 0);
	}
	vmm_assert_live(vmm, true);
}

/*
 * Cloud Hypervisor, as its issue 8895 says: BARs are mapped when the VM is made,
 * and again whenever the guest switches decoding on, because what was revoked stays
 * revoked.  Nothing is unmapped when it is switched off.  A BAR that the guest has
 * moved is unmapped and mapped at once (pull request 7064), decoded or not, and a
 * failure is a warning.
 */
TEST_F_TIMEOUT(vfio_pci_dmabuf_vmm_test, replay_cloud_hypervisor, CASE_S)
{
	struct vmm vmm;
	int i, w, ret;

	vmm_init(self, &vmm, EXPORT_BARS);
	if (!vmm.nr)
		SKIP(return, "%s has no memory BAR", exporter_bdf);

	vmm_set_mapped(&vmm, true);
	for (i = 0; i < 3; i++) {
		vfio_pci_set_memory_decode(vmm.device, false);
		vmm_assert_live(&vmm, false);
		vfio_pci_set_memory_decode(vmm.device, true);
		/* This is what 8895 is about: it does not come back by itself. */
		vmm_assert_live(&vmm, false);
		ch_map_again(&vmm, true);

		/* Moved while it is not decoded. */
		vfio_pci_set_memory_decode(vmm.device, false);
		for (w = 0; w < vmm.nr; w++)
			EXPECT_EQ(0, window_unmap(&vmm, &vmm.windows[w]));
		vmm_move_bars(&vmm);
		for (w = 0; w < vmm.nr; w++)
			EXPECT_EQ(-ENODEV, window_map(&vmm, &vmm.windows[w], MAP_RW));
		vfio_pci_set_memory_decode(vmm.device, true);
		ch_map_again(&vmm, false);

		/* Moved while it is. */
		vmm_set_mapped(&vmm, false);
		vmm_move_bars(&vmm);
		vmm_set_mapped(&vmm, true);
	}

	/* Somebody else resets the device, of which it does not hear. */
	ret = pci_sysfs_write(exporter_bdf, "reset", "1");
	ASSERT_TRUE(!ret || ret == -ENOENT || ret == -ENOTTY);
	if (!ret) {
		vmm_assert_live(&vmm, false);
		vfio_pci_set_memory_decode(vmm.device, false);
		vfio_pci_set_memory_decode(vmm.device, true);
		ch_map_again(&vmm, true);
	}

	/* Asked to restore there is nothing to be done again, and it does no harm. */
	for (w = 0; w < vmm.nr; w++) {
		ASSERT_EQ(0, window_unmap(&vmm, &vmm.windows[w]));
		ASSERT_EQ(0, window_map(&vmm, &vmm.windows[w], MAP_RW_RESTORE));
	}
	vfio_pci_set_memory_decode(vmm.device, false);
	vmm_assert_live(&vmm, false);
	vfio_pci_set_memory_decode(vmm.device, true);
	vmm_assert_live(&vmm, true);
	if (!ret) {
		ASSERT_EQ(0, pci_sysfs_write(exporter_bdf, "reset", "1"));
		vmm_assert_live(&vmm, true);
	}
	ch_map_again(&vmm, true);

	/* Unplugged: the mappings are the last to go. */
	for (w = 0; w < vmm.nr; w++)
		if (!w || vmm.windows[w].fd != vmm.windows[w - 1].fd)
			ASSERT_EQ(0, close(vmm.windows[w].fd));
	vfio_pci_set_memory_decode(vmm.device, false);
	vmm_assert_live(&vmm, false);
	for (w = 0; w < vmm.nr; w++)
		EXPECT_EQ(0, window_unmap(&vmm, &vmm.windows[w]));
}

int main(int argc, char *argv[])
{
	return dmabuf_main(argc, argv);
}
