// SPDX-License-Identifier: GPL-2.0-only
/*
 * What it costs to map memory of a guest for a device, by file and by address.
 *
 *	guest_memfd_perf_test DEVICE [MEBIBYTES]
 *
 * The same amount of memory, 1 GiB by default, is put into the IOAS of DEVICE:
 *
 *	anon	anonymous memory, by IOMMU_IOAS_MAP
 *	memfd	a memfd, by IOMMU_IOAS_MAP_FILE
 *	gmem	a guest_memfd, by IOMMU_IOAS_MAP_FILE
 *
 * twice: "new" memory is allocated while it is mapped, "old" memory is there.
 * All of it is in pages of the smallest size, of which guest_memfd has no other;
 * what of them is contiguous by chance is up to the page allocator, and seen in
 * the size of the page tables, which is told as well. A revocation is a hole of
 * one page in a guest_memfd that is mapped, "hole" is the same without a mapping.
 *
 * Figures are nanoseconds. Where the clock counts instructions (QEMU's -icount)
 * they are instructions, and reproducible; elsewhere they mean little. Each is a
 * line of its own, fields separated by tabs:
 *
 *	COST <operation> <memory> <value> <unit>
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/falloc.h>
#include <linux/iommufd.h>
#include <linux/sizes.h>

#include "dmabuf_vfio.h"

#define IOVA	(4ull * SZ_1G)
#define MAP_RW	(IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE | \
		 IOMMU_IOAS_MAP_FIXED_IOVA)

static struct iommu *iommu;
static u64 size = SZ_1G;

static u64 now(void)
{
	struct timespec ts;

	TEST_ASSERT(!clock_gettime(CLOCK_MONOTONIC, &ts), "no clock");
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

/* Page tables of IOMMUs, and of KVM, which has none here */
static long page_tables_kib(void)
{
	char line[128];
	long kib = -1;
	FILE *f;

	f = fopen("/proc/meminfo", "r");
	TEST_ASSERT(f, "Failed to open /proc/meminfo");
	while (fgets(line, sizeof(line), f))
		sscanf(line, "SecPageTables: %ld", &kib);
	fclose(f);
	return kib;
}

static void report(const char *op, const char *memory, u64 val, const char *unit)
{
	printf("COST\t%s\t%s\t%llu\t%s\n", op, memory, (unsigned long long)val,
	       unit);
	fflush(stdout);
}

static void map(void *addr, int fd)
{
	struct iommu_ioas_map by_addr = {
		.size = sizeof(by_addr),
		.flags = MAP_RW,
		.ioas_id = iommu->ioas_id,
		.user_va = (u64)addr,
		.length = size,
		.iova = IOVA,
	};
	struct iommu_ioas_map_file by_file = {
		.size = sizeof(by_file),
		.flags = MAP_RW,
		.ioas_id = iommu->ioas_id,
		.fd = fd,
		.length = size,
		.iova = IOVA,
	};
	int r;

	if (addr)
		r = ioctl(iommu->iommufd, IOMMU_IOAS_MAP, &by_addr);
	else
		r = ioctl(iommu->iommufd, IOMMU_IOAS_MAP_FILE, &by_file);
	TEST_ASSERT(!r, "mapping failed, errno %d", errno);
}

static void unmap(void)
{
	struct iommu_ioas_unmap cmd = {
		.size = sizeof(cmd),
		.ioas_id = iommu->ioas_id,
		.iova = IOVA,
		.length = size,
	};

	TEST_ASSERT(!ioctl(iommu->iommufd, IOMMU_IOAS_UNMAP, &cmd),
		    "unmapping failed, errno %d", errno);
}

static u64 time_map(void *addr, int fd)
{
	u64 start = now();

	map(addr, fd);
	return now() - start;
}

static u64 time_unmap(void)
{
	u64 start = now();

	unmap();
	return now() - start;
}

static u64 time_hole(int fd)
{
	u64 start = now();

	TEST_ASSERT(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       0, getpagesize()),
		    "fallocate() failed, errno %d", errno);
	return now() - start;
}

static void measure(const char *memory, void *addr, int fd)
{
	static const char *const ops[][2] = {
		{ "map, new", "unmap, new" },
		{ "map, old", "unmap, old" },
	};
	long tables;
	int i;

	for (i = 0; i < 2; i++) {
		tables = page_tables_kib();
		report(ops[i][0], memory, time_map(addr, fd), "ns");
		report("page tables", memory, page_tables_kib() - tables, "KiB");
		report(ops[i][1], memory, time_unmap(), "ns");
	}
}

int main(int argc, char *argv[])
{
	struct vfio_pci_device *dev;
	struct kvm_vm *vm;
	void *mem;
	int fd;

	if (argc > 2)
		size = strtoul(argv[--argc], NULL, 0) * SZ_1M;
	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_bdfs);
	__TEST_REQUIRE(!access("/dev/iommu", R_OK | W_OK), "no /dev/iommu");
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_GUEST_MEMFD));

	ksft_print_header();
	ksft_set_plan(3);

	iommu = iommu_init(MODE_IOMMUFD);
	dev = vfio_pci_device_init_nomap(bdfs[0], iommu);

	mem = kvm_mmap(size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1);
	madvise(mem, size, MADV_NOHUGEPAGE);
	measure("anon", mem, -1);
	kvm_munmap(mem, size);
	ksft_test_result_pass("anonymous memory\n");

	fd = memfd_create("perf", MFD_CLOEXEC);
	TEST_ASSERT(fd >= 0 && !ftruncate(fd, size), "no memfd");
	measure("memfd", NULL, fd);
	close(fd);
	ksft_test_result_pass("memfd\n");

	vm = vm_create_barebones();
	fd = vm_create_guest_memfd(vm, size, GUEST_MEMFD_FLAG_MMAP |
					     GUEST_MEMFD_FLAG_INIT_SHARED);
	measure("gmem", NULL, fd);
	report("hole", "gmem", time_hole(fd), "ns");
	map(NULL, fd);
	report("hole, revoke", "gmem", time_hole(fd), "ns");
	report("unmap, revoked", "gmem", time_unmap(), "ns");
	close(fd);
	kvm_vm_free(vm);
	ksft_test_result_pass("guest_memfd\n");

	vfio_pci_device_cleanup(dev);
	iommu_cleanup(iommu);
	ksft_finished();
}
