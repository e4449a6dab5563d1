// SPDX-License-Identifier: GPL-2.0-only
/*
 * Every way to a device's memory, in every case: what it gives is printed as a
 * table and compared with what it should.  See vfio_pci_unmappable.h.
 */
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/dma-buf.h>
#include <linux/iommufd.h>
#include <linux/pci.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include "vfio_pci_unmappable.h"

/*
 * The transcript: all that root and the VMM can try on one page of a BAR, with a
 * device that nobody has open, a normal device, with a dma-buf of that page that is
 * closed to the host (and then on a page of the same BAR that is not in it), and
 * with a device that is.  The BAR is that of MSI-X if it has room for both pages,
 * or else the largest.
 */
enum transcript_case {
	CASE_NOT_OPEN,
	CASE_NORMAL,
	CASE_BUFFER,
	CASE_BUFFER_REST,
	CASE_DEVICE,
	NR_CASES,
};

struct target {
	struct vfio_pci_device *device;
	struct bar bar;
	struct msix msix;
	/* Of the page, and of mappings of it from before it was closed */
	u64 page;
	void *mapped;
	void *sysfs_mapped;
	/* The dma-buf of it */
	int fd;
	struct iommu *iommu;
};

/* Map the page, read a word of it; 0, -errno or the signal. */
static int touch_fd(int fd, u64 offset, int prot)
{
	void *mem;
	int ret;

	mem = mmap(NULL, getpagesize(), prot, MAP_SHARED, fd, offset);
	if (mem == MAP_FAILED)
		return -errno;
	ret = touch(mem);
	VFIO_ASSERT_EQ(munmap(mem, getpagesize()), 0);

	return ret;
}

static int touch_path(const char *path, u64 offset)
{
	int fd = open(path, O_RDWR | O_SYNC), ret;

	if (fd < 0)
		return -errno;
	ret = touch_fd(fd, offset, PROT_READ | PROT_WRITE);
	VFIO_ASSERT_EQ(close(fd), 0);

	return ret;
}

#define NOT_APPLICABLE	INT_MAX

static u64 target_offset(struct target *t)
{
	return region_offset(t->device, &t->bar) + t->page;
}

static int try_touch_mmap(struct target *t)
{
	return touch_fd(t->device->fd, target_offset(t), PROT_READ | PROT_WRITE);
}

static int try_touch_mmap_read_only(struct target *t)
{
	return touch_fd(t->device->fd, target_offset(t), PROT_READ);
}

static int try_touch_mapped(struct target *t)
{
	return t->mapped ? touch(t->mapped) : NOT_APPLICABLE;
}

static int try_touch_sysfs_mapped(struct target *t)
{
	return touch(t->sysfs_mapped);
}

static int try_read(struct target *t)
{
	u32 val;

	return pread(t->device->fd, &val, sizeof(val), target_offset(t)) ==
	       sizeof(val) ? 0 : -errno;
}

/* Writes back what is there, or 0 where it cannot be read. */
static int try_write(struct target *t)
{
	u32 val = 0;

	if (pread(t->device->fd, &val, sizeof(val), target_offset(t)) < 0)
		val = 0;

	return pwrite(t->device->fd, &val, sizeof(val), target_offset(t)) ==
	       sizeof(val) ? 0 : -errno;
}

static int try_ioeventfd(struct target *t)
{
	struct vfio_device_ioeventfd args = {
		.argsz = sizeof(args),
		.flags = VFIO_DEVICE_IOEVENTFD_32,
		.offset = target_offset(t),
		.fd = -1,
	};
	struct bar bar = t->bar;
	int ret;

	bar.plain = t->page;
	ret = way_ioeventfd(t->device, &bar);
	/* It would be in the way of the claim. */
	if (!ret)
		ioctl_assert(t->device->fd, VFIO_DEVICE_IOEVENTFD, &args);

	return ret;
}

static int try_sysfs(struct target *t)
{
	char path[PATH_MAX], attr[32];

	snprintf_assert(attr, sizeof(attr), "resource%u", t->bar.index);
	sysfs_path(path, attr);

	return touch_path(path, t->page);
}

static int try_sysfs_wc(struct target *t)
{
	char path[PATH_MAX], attr[32];

	snprintf_assert(attr, sizeof(attr), "resource%u_wc", t->bar.index);
	sysfs_path(path, attr);

	return touch_path(path, t->page);
}

static int try_procfs(struct target *t)
{
	struct bar bar = t->bar;

	bar.start += t->page;
	return way_procfs(t->device, &bar);
}

static int try_devmem(struct target *t)
{
	return touch_path("/dev/mem", t->bar.start + t->page);
}

static int try_devmem_read(struct target *t)
{
	int fd = open("/dev/mem", O_RDONLY), ret;
	u32 val;

	if (fd < 0)
		return -errno;
	ret = pread(fd, &val, sizeof(val), t->bar.start + t->page) < 0 ? -errno : 0;
	VFIO_ASSERT_EQ(close(fd), 0);

	return ret;
}

static int try_legacy_mem(struct target *t)
{
	char path[PATH_MAX];

	snprintf_assert(path, sizeof(path), "/sys/class/pci_bus/%.7s/legacy_mem",
			device_bdf);

	return touch_path(path, 0);
}

static int try_vga(struct target *t)
{
	struct vfio_region_info info = {
		.argsz = sizeof(info),
		.index = VFIO_PCI_VGA_REGION_INDEX,
	};

	return ioctl(t->device->fd, VFIO_DEVICE_GET_REGION_INFO, &info) ? -errno : 0;
}

static int try_msix(struct target *t, u32 bar, u64 offset)
{
	u64 val;

	if (!t->msix.present)
		return NOT_APPLICABLE;

	return pread(t->device->fd, &val, sizeof(val),
		     t->device->bars[bar].info.offset + offset) == sizeof(val) ?
	       0 : -errno;
}

static int try_msix_table(struct target *t)
{
	return try_msix(t, t->msix.table_bar, t->msix.table_offset);
}

static int try_msix_pba(struct target *t)
{
	return try_msix(t, t->msix.pba_bar, t->msix.pba_offset);
}

static int try_dmabuf_mmap(struct target *t)
{
	return touch_fd(t->fd, 0, PROT_READ | PROT_WRITE);
}

static int try_dmabuf_cpu_access(struct target *t)
{
	struct dma_buf_sync sync = {
		.flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW,
	};

	return ioctl(t->fd, DMA_BUF_IOCTL_SYNC, &sync) ? -errno : 0;
}

static int try_import(struct target *t)
{
	int ret;

	ret = __iommu_map_file(t->iommu, t->fd, 0, getpagesize(), SZ_1G,
			       IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE);
	if (!ret)
		iommu_unmap_iova(t->iommu, SZ_1G, getpagesize());

	return ret;
}

static int try_config(struct target *t)
{
	u16 cmd;

	return pread(t->device->fd, &cmd, sizeof(cmd),
		     t->device->config_space.offset + PCI_COMMAND) == sizeof(cmd) &&
	       pwrite(t->device->fd, &cmd, sizeof(cmd),
		      t->device->config_space.offset + PCI_COMMAND) == sizeof(cmd) ?
	       0 : -errno;
}

/* Opened for writing it can move BARs: that is not tried. */
static int try_sysfs_config(struct target *t)
{
	char path[PATH_MAX];
	int fd;

	sysfs_path(path, "config");
	fd = open(path, O_RDWR);
	if (fd < 0)
		return -errno;
	VFIO_ASSERT_EQ(close(fd), 0);

	return 0;
}

/* Whose way that is, and whether it has to be closed where the host is kept out. */
static const struct transcript_row {
	const char *name;
	int (*try)(struct target *t);
	bool vfio;
	bool dmabuf;
	bool closed;
} transcript_rows[] = {
	{ "VFIO: mmap, and read there", try_touch_mmap, .vfio = true, .closed = true },
	{ "VFIO: read-only mmap, and read there", try_touch_mmap_read_only,
	  .vfio = true, .closed = true },
	{ "VFIO: read what was mapped before", try_touch_mapped,
	  .vfio = true, .closed = true },
	{ "VFIO: read()", try_read, .vfio = true, .closed = true },
	{ "VFIO: write()", try_write, .vfio = true, .closed = true },
	{ "VFIO: VFIO_DEVICE_IOEVENTFD", try_ioeventfd, .vfio = true, .closed = true },
	{ "VFIO: VGA region", try_vga, .vfio = true, .closed = true },
	{ "sysfs: mmap resourceN, and read there", try_sysfs, .closed = true },
	{ "sysfs: mmap resourceN_wc, and read there", try_sysfs_wc, .closed = true },
	{ "sysfs: read what was mapped before", try_touch_sysfs_mapped, .closed = true },
	{ "sysfs: mmap legacy_mem", try_legacy_mem, .closed = true },
	{ "/proc/bus/pci: mmap", try_procfs, .closed = true },
	{ "/dev/mem: mmap, and read there", try_devmem, .closed = true },
	{ "/dev/mem: read()", try_devmem_read, .closed = true },
	{ "dma-buf: mmap, and read there", try_dmabuf_mmap, .dmabuf = true,
	  .closed = true },
	{ "dma-buf: DMA_BUF_IOCTL_SYNC", try_dmabuf_cpu_access, .dmabuf = true,
	  .closed = true },
	{ "dma-buf: import into an IOAS", try_import, .dmabuf = true },
	{ "VFIO: read() of the MSI-X table", try_msix_table, .vfio = true },
	{ "VFIO: read() of the MSI-X pending bits", try_msix_pba, .vfio = true },
	{ "VFIO: read() and write() of config space", try_config, .vfio = true },
	{ "sysfs: open config for writing", try_sysfs_config },
};

/* As it is used in tables: 0, -errno or a signal. */
static const char *result_name(int ret)
{
	static const struct {
		int ret;
		const char *name;
	} names[] = {
		{ 0, "yes" }, { NOT_APPLICABLE, "-" }, { SIGBUS, "SIGBUS" }, { SIGSEGV, "SIGSEGV" },
		{ -EPERM, "EPERM" }, { -EINVAL, "EINVAL" }, { -ENOENT, "ENOENT" },
		{ -ENODEV, "ENODEV" }, { -EACCES, "EACCES" }, { -EBUSY, "EBUSY" },
		{ -EIO, "EIO" }, { -EFAULT, "EFAULT" }, { -ENXIO, "ENXIO" },
		{ -EOPNOTSUPP, "EOPNOTSUPP" }, { -ENOTTY, "ENOTTY" },
	};
	u32 i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i].ret == ret)
			return names[i].name;

	return strerror(-ret);
}

/* Two pages without MSI-X, and where the first is; false if it has not. */
static bool has_two_pages(const struct bar *bar, const struct msix *msix,
			  u64 *page)
{
	u64 size = getpagesize(), first;

	for (first = 0; first + 2 * size <= bar->size; first += size) {
		if (in_msix(msix, bar->index, first) ||
		    in_msix(msix, bar->index, first + size))
			continue;
		*page = first;
		return true;
	}

	return false;
}

static bool pick_page(struct target *t)
{
	struct bar bars[PCI_STD_NUM_BARS];
	bool found = false, is_msix;
	int i, nr = read_bars(bars);
	u64 page;

	read_msix(&t->msix);
	for (i = 0; i < nr; i++) {
		if (!has_two_pages(&bars[i], &t->msix, &page))
			continue;
		is_msix = t->msix.present && bars[i].index == t->msix.table_bar;
		if (found && !is_msix && bars[i].size <= t->bar.size)
			continue;
		t->bar = bars[i];
		t->page = page;
		found = true;
		if (is_msix)
			break;
	}

	return found;
}

static void try_all(struct target *t, enum transcript_case c,
		    int result[][NR_CASES])
{
	const struct transcript_row *row;
	u32 i;

	for (i = 0; i < ARRAY_SIZE(transcript_rows); i++) {
		row = &transcript_rows[i];
		if ((row->vfio && !t->device) || (row->dmabuf && t->fd < 0))
			result[i][c] = NOT_APPLICABLE;
		else
			result[i][c] = row->try(t);
	}
}

static int export_page(struct target *t)
{
	struct vfio_region_dma_range range = {
		.offset = t->page, .length = getpagesize(),
	};

	return vfio_pci_dmabuf_export(t->device, t->bar.index, &range, 1, O_RDWR);
}

static void *map_sysfs(struct target *t)
{
	char path[PATH_MAX], attr[32];
	void *mem;
	int fd;

	snprintf_assert(attr, sizeof(attr), "resource%u", t->bar.index);
	sysfs_path(path, attr);
	fd = open(path, O_RDWR | O_SYNC);
	VFIO_ASSERT_GE(fd, 0);
	mem = mmap(NULL, 2 * getpagesize(), PROT_READ, MAP_SHARED, fd, t->page);
	VFIO_ASSERT_NE(mem, MAP_FAILED);
	VFIO_ASSERT_EQ(close(fd), 0);

	return mem;
}

static void print_transcript(struct target *t, int result[][NR_CASES], int nr_cases)
{
	static const char * const heads[][NR_CASES] = {
		{ "not", "normal", "buffer", "rest of", "device" },
		{ "open", "", "closed", "the BAR", "closed" },
	};
	u32 i;
	int c;

	printf("# What root, and the VMM, reach of BAR %u of %s\n", t->bar.index,
	       device_bdf);
	for (i = 0; i < ARRAY_SIZE(heads); i++) {
		printf("# %-42s", "");
		for (c = 0; c < nr_cases; c++)
			printf(" %-*s", c < nr_cases - 1 ? 8 : 0, heads[i][c]);
		printf("\n");
	}
	for (i = 0; i < ARRAY_SIZE(transcript_rows); i++) {
		printf("# %-42s", transcript_rows[i].name);
		for (c = 0; c < nr_cases; c++)
			printf(" %-*s", c < nr_cases - 1 ? 8 : 0,
			       result_name(result[i][c]));
		printf("\n");
	}
}

TEST(transcript)
{
	int result[ARRAY_SIZE(transcript_rows)][NR_CASES];
	struct iommu *iommu = iommu_init(MODE_IOMMUFD);
	struct target t = { .iommu = iommu, .fd = -1 };
	const struct transcript_row *row;
	u64 page = getpagesize();
	int error, fd;
	bool strict;
	u32 i;

	if (!pick_page(&t))
		SKIP(return, "%s has no memory BAR of two pages", device_bdf);

	t.sysfs_mapped = map_sysfs(&t);
	try_all(&t, CASE_NOT_OPEN, result);

	/* Normal, and then with one page closed. */
	t.device = vfio_pci_device_init_nomap(device_bdf, iommu);
	strict = way_sysfs(t.device, &t.bar) < 0;
	t.mapped = mmap(NULL, 2 * page, PROT_READ, MAP_SHARED, t.device->fd,
			target_offset(&t));
	ASSERT_NE(MAP_FAILED, t.mapped);
	t.fd = export_page(&t);
	try_all(&t, CASE_NORMAL, result);

	error = __vfio_pci_dmabuf_unmappable(t.device, t.fd);
	ASSERT_EQ(strict ? 0 : -EOPNOTSUPP, error);
	if (strict) {
		try_all(&t, CASE_BUFFER, result);
		fd = t.fd;
		t.fd = -1;
		t.page += page;
		t.mapped += page;
		try_all(&t, CASE_BUFFER_REST, result);
		t.fd = fd;
		t.page -= page;
		t.mapped -= page;
	}
	ASSERT_EQ(0, munmap(t.mapped, 2 * page));
	ASSERT_EQ(0, close(t.fd));
	vfio_pci_device_cleanup(t.device);

	/* The device: nobody had it in time to map it. */
	t.device = __vfio_pci_device_init_unmappable(device_bdf, iommu, &error);
	ASSERT_EQ(strict ? 0 : -EOPNOTSUPP, error);
	if (strict) {
		t.mapped = NULL;
		t.fd = export_page(&t);
		try_all(&t, CASE_DEVICE, result);
		ASSERT_EQ(0, close(t.fd));
		vfio_pci_device_cleanup(t.device);
	}
	ASSERT_EQ(0, munmap(t.sysfs_mapped, 2 * page));
	iommu_cleanup(iommu);

	print_transcript(&t, result, strict ? NR_CASES : CASE_BUFFER);
	if (!strict)
		printf("# This kernel cannot: closing a buffer or a device is EOPNOTSUPP\n");

	for (i = 0; strict && i < ARRAY_SIZE(transcript_rows); i++) {
		row = &transcript_rows[i];
		if (row->closed) {
			EXPECT_NE(0, result[i][CASE_BUFFER])
				TH_LOG("%s", row->name);
			EXPECT_NE(0, result[i][CASE_DEVICE])
				TH_LOG("%s", row->name);
		} else {
			EXPECT_EQ(result[i][CASE_NORMAL], result[i][CASE_BUFFER])
				TH_LOG("%s", row->name);
			EXPECT_EQ(result[i][CASE_NORMAL], result[i][CASE_DEVICE])
				TH_LOG("%s", row->name);
		}
		/* What is not in the buffer is as ever. */
		if (!row->dmabuf)
			EXPECT_EQ(result[i][CASE_NORMAL], result[i][CASE_BUFFER_REST])
				TH_LOG("%s", row->name);
	}

	/* The ways have to be ways: each is open while nobody closed it. */
	for (i = 0; i < ARRAY_SIZE(transcript_rows); i++) {
		row = &transcript_rows[i];
		if (row->try == try_vga || row->try == try_legacy_mem ||
		    row->try == try_sysfs_wc || row->try == try_devmem_read ||
		    row->try == try_dmabuf_mmap)
			continue;
		if (result[i][row->vfio || row->dmabuf ? CASE_NORMAL : CASE_NOT_OPEN] ==
		    NOT_APPLICABLE)
			continue;
		if (row->try == try_procfs && result[i][CASE_NOT_OPEN] == -EOPNOTSUPP)
			continue;
		EXPECT_EQ(0, result[i][row->vfio || row->dmabuf ? CASE_NORMAL :
								  CASE_NOT_OPEN])
			TH_LOG("%s", row->name);
	}

	/* That nothing can be closed is tested, what it would close is not. */
	if (!strict && __test_passed(_metadata))
		SKIP(return, "This kernel does not keep root from claimed memory");
}

int main(int argc, char *argv[])
{
	return unmappable_main(argc, argv);
}
