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
 *
 * The test fails if one of many importers costs MAX_RATIO times what it does with
 * one range.  A search through all ranges instead of a bisection is hundreds of
 * times as expensive, which no clock can hide.
 */
#include <stdio.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "vfio_pci_dmabuf_util.h"

#define NS_PER_SEC	1000000000ULL
#define MAX_RATIO	4

static const u32 ranges[] = { 1, 1024, 262144 };
static const u32 importers[] = { 1, 64, 256, 4096 };

struct cost {
	u64 map;
	u64 revoke;
	u64 restore;
};

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

static struct cost measure(struct vfio_pci_device *device, struct iommu *iommu, u32 bar,
			   u32 nr_ranges, u32 nr)
{
	struct vfio_device_feature_dma_buf_state state;
	int fd = export_ranges(device, bar, nr_ranges);
	iova_t iova = 0x100000000ULL;
	struct cost cost;
	u64 t;
	u32 i;

	t = now();
	for (i = 0; i < nr; i++)
		VFIO_ASSERT_EQ(__iommu_map_file(iommu, fd,
						page * ((u64)i * nr_ranges / nr),
						page, iova + page * i,
						MAP_RW_RESTORE), 0);
	cost.map = (now() - t) / nr;
	report("map of a page", nr_ranges, nr, cost.map);

	t = now();
	VFIO_ASSERT_EQ(__vfio_pci_dmabuf_revoke(device, fd), 0);
	cost.revoke = now() - t;
	report("revoke", nr_ranges, nr, cost.revoke);

	t = now();
	VFIO_ASSERT_EQ(__vfio_pci_dmabuf_restore(device, fd), 0);
	cost.restore = now() - t;
	report("restore", nr_ranges, nr, cost.restore);

	/* All of it is back, or the figure says nothing. */
	VFIO_ASSERT_EQ(__vfio_pci_dmabuf_get_state(device, fd, &state), 0);
	VFIO_ASSERT_EQ(state.nr_not_restored, 0);
	iommu_unmap_iova(iommu, iova, page * nr);
	VFIO_ASSERT_EQ(close(fd), 0);

	return cost;
}

static void check(const struct cost *cost, const struct cost *one_range)
{
	VFIO_ASSERT_LE(cost->map, MAX_RATIO * one_range->map);
	VFIO_ASSERT_LE(cost->revoke, MAX_RATIO * one_range->revoke);
	VFIO_ASSERT_LE(cost->restore, MAX_RATIO * one_range->restore);
}

int main(int argc, char *argv[])
{
	const char *bdf = vfio_selftests_get_bdf(&argc, argv);
	struct iommu *iommu = iommu_init(MODE_IOMMUFD);
	struct cost costs[ARRAY_SIZE(ranges)][ARRAY_SIZE(importers)];
	struct vfio_pci_device *device;
	u32 r, n;
	int bar;

	page = getpagesize();
	device = vfio_pci_device_init_nomap(bdf, iommu);
	bar = vfio_pci_largest_bar(device, page);
	VFIO_ASSERT_GE(bar, 0, "%s has no BAR of a page\n", bdf);

	for (r = 0; r < ARRAY_SIZE(ranges); r++)
		for (n = 0; n < ARRAY_SIZE(importers); n++)
			costs[r][n] = measure(device, iommu, bar, ranges[r],
					      importers[n]);

	/* Of one importer, what each buffer costs once would be most of the figure. */
	for (r = 1; r < ARRAY_SIZE(ranges); r++)
		for (n = 1; n < ARRAY_SIZE(importers); n++)
			check(&costs[r][n], &costs[0][n]);

	vfio_pci_device_cleanup(device);
	iommu_cleanup(iommu);

	return 0;
}
