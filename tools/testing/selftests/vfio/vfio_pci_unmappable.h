/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Ways by which the host can get at a device's memory, and what the tests that
 * try them share.
 *
 *	vfio_pci_unmappable_..._test [options] DEVICE
 *
 * All ways to a BAR that root has are in ways[].  Only memory BARs count.
 * Nothing writes to the device but what is expected to be refused.
 */
#ifndef SELFTEST_VFIO_PCI_UNMAPPABLE_H
#define SELFTEST_VFIO_PCI_UNMAPPABLE_H

#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/pci.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

static const char *device_bdf;

/* A memory BAR, as the host sees it. */
struct bar {
	u32 index;
	u64 start;
	u64 size;
	bool msix;
	/* An offset in it that is not one of the MSI-X structures. */
	u64 plain;
};

struct msix {
	bool present;
	u32 table_bar, table_offset, table_size;
	u32 pba_bar, pba_offset, pba_size;
};

static inline void sysfs_path(char *path, const char *attr)
{
	snprintf_assert(path, PATH_MAX, "/sys/bus/pci/devices/%s/%s", device_bdf,
			attr);
}

/* Returns the number of memory BARs. */
static inline int read_bars(struct bar *bars)
{
	unsigned long long start, end, flags;
	int nr_fields, nr = 0;
	char path[PATH_MAX];
	FILE *f;
	u32 i;

	sysfs_path(path, "resource");
	f = fopen(path, "r");
	VFIO_ASSERT_NOT_NULL(f);
	for (i = 0; i < PCI_STD_NUM_BARS; i++) {
		nr_fields = fscanf(f, "%llx %llx %llx", &start, &end, &flags);
		VFIO_ASSERT_EQ(nr_fields, 3);
		/* IORESOURCE_MEM */
		if (!(flags & 0x200))
			continue;
		bars[nr++] = (struct bar){
			.index = i, .start = start, .size = end - start + 1,
		};
	}
	fclose(f);

	return nr;
}

static inline void read_msix(struct msix *m)
{
	char path[PATH_MAX];
	u8 config[256] = {};
	u16 entries;
	int left = 48;
	u8 pos;
	int fd;

	*m = (struct msix){};
	sysfs_path(path, "config");
	fd = open(path, O_RDONLY);
	VFIO_ASSERT_GE(fd, 0);
	VFIO_ASSERT_GE(read(fd, config, sizeof(config)), 64);
	VFIO_ASSERT_EQ(close(fd), 0);

	for (pos = config[PCI_CAPABILITY_LIST] & ~3; pos && left--;
	     pos = config[pos + PCI_CAP_LIST_NEXT] & ~3) {
		if (config[pos] != PCI_CAP_ID_MSIX)
			continue;
		entries = (*(u16 *)(config + pos + PCI_MSIX_FLAGS) &
			   PCI_MSIX_FLAGS_QSIZE) + 1;
		m->present = true;
		m->table_bar = config[pos + PCI_MSIX_TABLE] & PCI_MSIX_TABLE_BIR;
		m->table_offset = *(u32 *)(config + pos + PCI_MSIX_TABLE) & ~7;
		m->table_size = entries * PCI_MSIX_ENTRY_SIZE;
		m->pba_bar = config[pos + PCI_MSIX_PBA] & PCI_MSIX_PBA_BIR;
		m->pba_offset = *(u32 *)(config + pos + PCI_MSIX_PBA) & ~7;
		m->pba_size = (entries + 63) / 64 * 8;
	}
}

static inline bool in_msix(const struct msix *m, u32 bar, u64 offset)
{
	return m->present &&
	       ((bar == m->table_bar && offset >= m->table_offset &&
		 offset < m->table_offset + m->table_size) ||
		(bar == m->pba_bar && offset >= m->pba_offset &&
		 offset < m->pba_offset + m->pba_size));
}

/* Map a page of a file and unmap it again; 0 or -errno. */
static inline int try_mmap(int fd, u64 offset, bool write)
{
	void *mem;

	mem = mmap(NULL, getpagesize(), PROT_READ | (write ? PROT_WRITE : 0),
		   MAP_SHARED, fd, offset);
	if (mem == MAP_FAILED)
		return -errno;
	VFIO_ASSERT_EQ(munmap(mem, getpagesize()), 0);

	return 0;
}

static inline int try_mmap_path(const char *path, u64 offset)
{
	int fd, ret;

	fd = open(path, O_RDWR);
	if (fd < 0)
		return -errno;
	ret = try_mmap(fd, offset, true);
	VFIO_ASSERT_EQ(close(fd), 0);

	return ret;
}

static inline off_t region_offset(struct vfio_pci_device *device, const struct bar *bar)
{
	return device->bars[bar->index].info.offset;
}

static inline int way_mmap(struct vfio_pci_device *device, const struct bar *bar)
{
	return try_mmap(device->fd, region_offset(device, bar), true);
}

static inline int way_mmap_read_only(struct vfio_pci_device *device, const struct bar *bar)
{
	return try_mmap(device->fd, region_offset(device, bar), false);
}

static inline int way_read(struct vfio_pci_device *device, const struct bar *bar)
{
	u32 val;

	return pread(device->fd, &val, sizeof(val), region_offset(device, bar) +
		     bar->plain) == sizeof(val) ? 0 : -errno;
}

static inline int way_ioeventfd(struct vfio_pci_device *device, const struct bar *bar)
{
	struct vfio_device_ioeventfd args = {
		.argsz = sizeof(args),
		.flags = VFIO_DEVICE_IOEVENTFD_32,
		.offset = region_offset(device, bar) + bar->plain,
	};
	int ret;

	args.fd = eventfd(0, EFD_CLOEXEC);
	VFIO_ASSERT_GE(args.fd, 0);
	ret = ioctl(device->fd, VFIO_DEVICE_IOEVENTFD, &args) ? -errno : 0;
	VFIO_ASSERT_EQ(close(args.fd), 0);

	return ret;
}

static inline int way_sysfs(struct vfio_pci_device *device, const struct bar *bar)
{
	char path[PATH_MAX], attr[32];

	snprintf_assert(attr, sizeof(attr), "resource%u", bar->index);
	sysfs_path(path, attr);

	return try_mmap_path(path, 0);
}

static inline int way_sysfs_wc(struct vfio_pci_device *device, const struct bar *bar)
{
	char path[PATH_MAX], attr[32];

	snprintf_assert(attr, sizeof(attr), "resource%u_wc", bar->index);
	sysfs_path(path, attr);

	return try_mmap_path(path, 0);
}

static inline int way_procfs(struct vfio_pci_device *device, const struct bar *bar)
{
	unsigned int segment, bus, dev, fn;
	char path[PATH_MAX];
	int fd, ret;

	ret = sscanf(device_bdf, "%x:%x:%x.%x", &segment, &bus, &dev, &fn);
	VFIO_ASSERT_EQ(ret, 4);
	snprintf_assert(path, sizeof(path), "/proc/bus/pci/%02x/%02x.%x", bus,
			dev, fn);
	fd = open(path, O_RDWR);
	if (fd < 0 && errno == ENOENT) {
		/* Some architectures name the domain, too. */
		snprintf_assert(path, sizeof(path), "/proc/bus/pci/%04x:%02x/%02x.%x",
				segment, bus, dev, fn);
		fd = open(path, O_RDWR);
	}
	if (fd < 0)
		return -errno;
	/* Not every architecture can, see HAVE_PCI_MMAP in the kernel. */
	ret = ioctl(fd, PCIIOC_MMAP_IS_MEM) < 0 ? -EOPNOTSUPP :
	      try_mmap(fd, bar->start, true);
	VFIO_ASSERT_EQ(close(fd), 0);

	return ret;
}

static inline int way_devmem(struct vfio_pci_device *device, const struct bar *bar)
{
	return try_mmap_path("/dev/mem", bar->start);
}

/* The ways VFIO itself has end in EPERM, the others in what they always said. */
static const struct way {
	const char *name;
	int (*try)(struct vfio_pci_device *device, const struct bar *bar);
	bool vfio;
} ways[] = {
	{ "mmap of the device", way_mmap, true },
	{ "read-only mmap of the device", way_mmap_read_only, true },
	{ "read of the device", way_read, true },
	{ "ioeventfd", way_ioeventfd, true },
	{ "mmap of sysfs resource", way_sysfs },
	{ "mmap of sysfs resource_wc", way_sysfs_wc },
	{ "mmap of /proc/bus/pci", way_procfs },
	{ "mmap of /dev/mem", way_devmem },
};

static __thread sigjmp_buf touch_env;
static __thread volatile bool touching;

static inline void touch_fault(int sig)
{
	if (touching)
		siglongjmp(touch_env, sig);

	/* Not ours: the access is repeated, and ends the test. */
	signal(sig, SIG_DFL);
}

/* For all threads, so once. */
static inline void touch_init(void)
{
	struct sigaction sa = { .sa_handler = touch_fault };

	VFIO_ASSERT_EQ(sigaction(SIGBUS, &sa, NULL), 0);
	VFIO_ASSERT_EQ(sigaction(SIGSEGV, &sa, NULL), 0);
}

/* The signal that reading there raises, or 0. */
static inline int touch(volatile u32 *mem)
{
	int sig;

	sig = sigsetjmp(touch_env, 1);
	if (!sig) {
		touching = true;
		(void)*mem;
	}
	touching = false;

	return sig;
}

static inline int unmappable_main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	touch_init();

	return test_harness_run(argc, argv);
}

#endif /* SELFTEST_VFIO_PCI_UNMAPPABLE_H */
