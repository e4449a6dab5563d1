// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a revocation and a restore cost with many ranges and many importers.
 *
 *	vfio_pci_dmabuf_perf_test EXPORTER
 *
 * A buffer of R ranges is the first page of the largest BAR, R times.  Each of N
 * importers is a mapping of one page of it in an IOAS, with
 * IOMMU_IOAS_MAP_RESTORE; the pages are spread over the buffer.  The user revokes
 * the buffer and restores it: the cost has to be that of N importers, times the
 * logarithm of R at most.
 *
 * Figures are nanoseconds.  Where the clock counts instructions (QEMU's -icount)
 * they are instructions, and reproducible; elsewhere they mean little.  Each is
 * a line of its own, fields separated by tabs:
 *
 *	BENCH <operation> <parameters> <path> <value> <unit>
 */
#include <stdio.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "vfio_pci_dmabuf_util.h"

#define NS_PER_SEC	1000000000ULL

static const u32 ranges[] = { 1, 1024, 262144 };
static const u32 importers[] = { 1, 256, 4096 };

static u64 page;

static u64 now(void)
{
	struct timespec ts;

	VFIO_ASSERT_EQ(clock_gettime(CLOCK_MONOTONIC, &ts), 0);
	return (u64)ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

static int export_ranges(struct vfio_pci_device *device, u32 bar, u32 nr)
{
	struct vfio_region_dma_range *list = calloc_assert(nr, sizeof(*list));
	u32 i;
	int fd;

	for (i = 0; i < nr; i++)
		list[i].length = page;
	fd = vfio_pci_dmabuf_export(device, bar, list, nr, O_RDWR | O_CLOEXEC);
	free(list);

	return fd;
}

static void report(const char *op, u32 nr_ranges, u32 nr, u64 ns)
{
	printf("BENCH\t%s\t%u ranges, %u importers\tdmabuf\t%llu\tns\n", op,
	       nr_ranges, nr, (unsigned long long)ns);
	fflush(stdout);
}

static void measure(struct vfio_pci_device *device, struct iommu *iommu, u32 bar,
		    u32 nr_ranges, u32 nr)
{
	struct vfio_device_feature_dma_buf_state state;
	int fd = export_ranges(device, bar, nr_ranges);
	iova_t iova = 0x100000000ULL;
	u64 t;
	u32 i;

	t = now();
	for (i = 0; i < nr; i++)
		VFIO_ASSERT_EQ(__iommu_map_file(iommu, fd,
						page * ((u64)i * nr_ranges / nr),
						page, iova + page * i,
						MAP_RW_RESTORE), 0);
	report("map of a page", nr_ranges, nr, (now() - t) / nr);

	t = now();
	VFIO_ASSERT_EQ(__vfio_pci_dmabuf_revoke(device, fd), 0);
	report("revoke", nr_ranges, nr, now() - t);

	t = now();
	VFIO_ASSERT_EQ(__vfio_pci_dmabuf_restore(device, fd), 0);
	report("restore", nr_ranges, nr, now() - t);

	/* All of it is back, or the figure says nothing. */
	VFIO_ASSERT_EQ(__vfio_pci_dmabuf_get_state(device, fd, &state), 0);
	VFIO_ASSERT_EQ(state.nr_not_restored, 0);
	iommu_unmap_iova(iommu, iova, page * nr);
	VFIO_ASSERT_EQ(close(fd), 0);
}

int main(int argc, char *argv[])
{
	const char *bdf = vfio_selftests_get_bdf(&argc, argv);
	struct iommu *iommu = iommu_init(MODE_IOMMUFD);
	struct vfio_pci_device *device;
	u32 r, n;
	int bar;

	page = getpagesize();
	device = vfio_pci_device_init_nomap(bdf, iommu);
	bar = vfio_pci_largest_bar(device, page);
	VFIO_ASSERT_GE(bar, 0, "%s has no BAR of a page\n", bdf);

	for (r = 0; r < ARRAY_SIZE(ranges); r++)
		for (n = 0; n < ARRAY_SIZE(importers); n++)
			measure(device, iommu, bar, ranges[r], importers[n]);

	vfio_pci_device_cleanup(device);
	iommu_cleanup(iommu);

	return 0;
}
