// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of devices whose memory the host cannot map, and of what is left of the
 * ways to it.
 *
 *	vfio_pci_unmappable_test [options] DEVICE
 *
 * All ways to a BAR that root has are in ways[], and each is tried on a device
 * that was bound normally and on one that was bound as host-unmappable; both
 * results are printed.  Only memory BARs count.  Nothing writes to the device
 * but what is expected to be refused.
 *
 * Whether the kernel keeps user space away from claimed resources is found out
 * by mapping one: binding as host-unmappable has to fail where it does not.
 */
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <linux/dma-buf.h>
#include <linux/iommufd.h>
#include <linux/pci.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>
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

static void sysfs_path(char *path, const char *attr)
{
	snprintf_assert(path, PATH_MAX, "/sys/bus/pci/devices/%s/%s", device_bdf,
			attr);
}

/* Returns the number of memory BARs. */
static int read_bars(struct bar *bars)
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

static void read_msix(struct msix *m)
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

static bool in_msix(const struct msix *m, u32 bar, u64 offset)
{
	return m->present &&
	       ((bar == m->table_bar && offset >= m->table_offset &&
		 offset < m->table_offset + m->table_size) ||
		(bar == m->pba_bar && offset >= m->pba_offset &&
		 offset < m->pba_offset + m->pba_size));
}

/* Map a page of a file and unmap it again; 0 or -errno. */
static int try_mmap(int fd, u64 offset, bool write)
{
	void *mem;

	mem = mmap(NULL, getpagesize(), PROT_READ | (write ? PROT_WRITE : 0),
		   MAP_SHARED, fd, offset);
	if (mem == MAP_FAILED)
		return -errno;
	VFIO_ASSERT_EQ(munmap(mem, getpagesize()), 0);

	return 0;
}

static int try_mmap_path(const char *path, u64 offset)
{
	int fd, ret;

	fd = open(path, O_RDWR);
	if (fd < 0)
		return -errno;
	ret = try_mmap(fd, offset, true);
	VFIO_ASSERT_EQ(close(fd), 0);

	return ret;
}

static off_t region_offset(struct vfio_pci_device *device, const struct bar *bar)
{
	return device->bars[bar->index].info.offset;
}

static int way_mmap(struct vfio_pci_device *device, const struct bar *bar)
{
	return try_mmap(device->fd, region_offset(device, bar), true);
}

static int way_mmap_read_only(struct vfio_pci_device *device, const struct bar *bar)
{
	return try_mmap(device->fd, region_offset(device, bar), false);
}

static int way_read(struct vfio_pci_device *device, const struct bar *bar)
{
	u32 val;

	return pread(device->fd, &val, sizeof(val), region_offset(device, bar) +
		     bar->plain) == sizeof(val) ? 0 : -errno;
}

static int way_ioeventfd(struct vfio_pci_device *device, const struct bar *bar)
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

static int way_sysfs(struct vfio_pci_device *device, const struct bar *bar)
{
	char path[PATH_MAX], attr[32];

	snprintf_assert(attr, sizeof(attr), "resource%u", bar->index);
	sysfs_path(path, attr);

	return try_mmap_path(path, 0);
}

static int way_sysfs_wc(struct vfio_pci_device *device, const struct bar *bar)
{
	char path[PATH_MAX], attr[32];

	snprintf_assert(attr, sizeof(attr), "resource%u_wc", bar->index);
	sysfs_path(path, attr);

	return try_mmap_path(path, 0);
}

static int way_procfs(struct vfio_pci_device *device, const struct bar *bar)
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

static int way_devmem(struct vfio_pci_device *device, const struct bar *bar)
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

FIXTURE(vfio_pci_unmappable_test) {
	struct iommu *iommu;
	struct vfio_pci_device *device;
	struct bar bars[PCI_STD_NUM_BARS];
	struct msix msix;
	int nr_bars;
	int error;
	bool strict;
	u64 page;
};

FIXTURE_VARIANT(vfio_pci_unmappable_test) {
	bool unmappable;
};

FIXTURE_VARIANT_ADD(vfio_pci_unmappable_test, normal) {
	.unmappable = false,
};

FIXTURE_VARIANT_ADD(vfio_pci_unmappable_test, unmappable) {
	.unmappable = true,
};

static void describe(FIXTURE_DATA(vfio_pci_unmappable_test) *self)
{
	int i;

	self->page = getpagesize();
	self->nr_bars = read_bars(self->bars);
	read_msix(&self->msix);
	for (i = 0; i < self->nr_bars; i++) {
		struct bar *bar = &self->bars[i];

		bar->msix = self->msix.present &&
			    bar->index == self->msix.table_bar;
		while (bar->plain < bar->size &&
		       in_msix(&self->msix, bar->index, bar->plain))
			bar->plain += 8;
	}
}

FIXTURE_SETUP(vfio_pci_unmappable_test)
{
	describe(self);
	self->iommu = iommu_init(MODE_IOMMUFD);
	if (!self->nr_bars)
		SKIP(return, "%s has no memory BAR", device_bdf);

	self->device = vfio_pci_device_init_nomap(device_bdf, self->iommu);
	self->strict = way_sysfs(self->device, &self->bars[0]) < 0;
	if (!variant->unmappable)
		return;

	vfio_pci_device_cleanup(self->device);
	self->device = __vfio_pci_device_init_unmappable(device_bdf, self->iommu,
							 &self->error);
	ASSERT_EQ(self->strict ? 0 : -EOPNOTSUPP, self->error);
}

FIXTURE_TEARDOWN(vfio_pci_unmappable_test)
{
	if (self->device)
		vfio_pci_device_cleanup(self->device);
	iommu_cleanup(self->iommu);
}

#define SKIP_IF_REFUSED()						\
	do {								\
		if (!self->device)					\
			SKIP(return, "Refused, as it has to be here");	\
	} while (0)

/* The transcript: what the VMM, as root, can still touch. */
TEST_F(vfio_pci_unmappable_test, ways)
{
	int i, ret;
	u32 w;

	SKIP_IF_REFUSED();

	for (i = 0; i < self->nr_bars; i++) {
		struct bar *bar = &self->bars[i];

		for (w = 0; w < ARRAY_SIZE(ways); w++) {
			if (bar->plain >= bar->size &&
			    (ways[w].try == way_read ||
			     ways[w].try == way_ioeventfd))
				continue;
			ret = ways[w].try(self->device, bar);
			TH_LOG("BAR %u, %s: %s", bar->index, ways[w].name,
			       ret ? strerror(-ret) : "possible");
			if (!variant->unmappable)
				continue;
			EXPECT_NE(0, ret);
			if (ways[w].vfio)
				EXPECT_EQ(-EPERM, ret);
		}
	}
}

/* The ways have to be ways: where nobody closed them, they are open. */
TEST_F(vfio_pci_unmappable_test, ways_are_ways)
{
	struct bar *bar = &self->bars[0];
	u32 w;

	if (variant->unmappable)
		SKIP(return, "Only without");

	for (w = 0; w < ARRAY_SIZE(ways); w++) {
		if (!ways[w].vfio || bar->plain >= bar->size)
			continue;
		if ((ways[w].try == way_mmap ||
		     ways[w].try == way_mmap_read_only) &&
		    !(self->device->bars[bar->index].info.flags &
		      VFIO_REGION_INFO_FLAG_MMAP))
			continue;
		EXPECT_EQ(0, ways[w].try(self->device, bar)) {
			TH_LOG("%s", ways[w].name);
		}
	}
}

TEST_F(vfio_pci_unmappable_test, write)
{
	u64 val = 0;
	int i;

	if (!variant->unmappable)
		SKIP(return, "Would write to the device");
	SKIP_IF_REFUSED();

	for (i = 0; i < self->nr_bars; i++) {
		struct bar *bar = &self->bars[i];

		if (bar->plain >= bar->size)
			continue;
		ASSERT_EQ(-1, pwrite(self->device->fd, &val, 4,
				     region_offset(self->device, bar) +
				     bar->plain));
		ASSERT_EQ(EPERM, errno);
	}
}

TEST_F(vfio_pci_unmappable_test, region_info)
{
	u32 rw = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	int i;

	SKIP_IF_REFUSED();

	for (i = 0; i < self->nr_bars; i++) {
		struct bar *bar = &self->bars[i];
		struct vfio_region_info *info;

		info = &self->device->bars[bar->index].info;
		ASSERT_EQ(bar->size, info->size);
		if (variant->unmappable) {
			EXPECT_EQ(bar->msix ? rw : 0, info->flags);
			EXPECT_EQ(sizeof(*info), info->argsz);
		} else {
			EXPECT_EQ(rw, info->flags & rw);
		}
	}
}

TEST_F(vfio_pci_unmappable_test, msix_table)
{
	struct msix *m = &self->msix;
	u8 *buf;
	u64 pos;
	u32 i;

	SKIP_IF_REFUSED();
	if (!m->present)
		SKIP(return, "%s has no MSI-X", device_bdf);

	pos = self->device->bars[m->table_bar].info.offset + m->table_offset;
	buf = calloc_assert(1, m->table_size);
	ASSERT_EQ(m->table_size, pwrite(self->device->fd, buf, m->table_size, pos));
	ASSERT_EQ(m->table_size, pread(self->device->fd, buf, m->table_size, pos));
	for (i = 0; i < m->table_size; i++)
		ASSERT_EQ(0xff, buf[i]);
	free(buf);
}

TEST_F(vfio_pci_unmappable_test, msix_pba)
{
	struct msix *m = &self->msix;
	u64 pos, val = 0;
	u8 *buf;
	u32 i;

	SKIP_IF_REFUSED();
	if (!m->present)
		SKIP(return, "%s has no MSI-X", device_bdf);

	pos = self->device->bars[m->pba_bar].info.offset + m->pba_offset;
	buf = malloc_assert(m->pba_size);
	memset(buf, 0xff, m->pba_size);
	ASSERT_EQ(m->pba_size, pread(self->device->fd, buf, m->pba_size, pos));
	for (i = 0; i < m->pba_size; i++)
		ASSERT_EQ(0, buf[i]);
	free(buf);

	if (!variant->unmappable)
		return;

	/* It ends where it ends, and is read only. */
	ASSERT_EQ(8, pread(self->device->fd, &val, 8, pos + m->pba_size - 8));
	if (!in_msix(m, m->pba_bar, m->pba_offset + m->pba_size)) {
		ASSERT_EQ(-1, pread(self->device->fd, &val, 8, pos + m->pba_size));
		ASSERT_EQ(EPERM, errno);
	}
	ASSERT_EQ(-1, pwrite(self->device->fd, &val, 8, pos));
	ASSERT_EQ(EPERM, errno);

	/* Not with memory decode off, as ever. */
	vfio_pci_set_memory_decode(self->device, false);
	ASSERT_EQ(-1, pread(self->device->fd, &val, 8, pos));
	ASSERT_EQ(EIO, errno);
	vfio_pci_set_memory_decode(self->device, true);
}

static int get_feature(struct vfio_pci_device *device, u32 flags, u32 argsz,
		       struct vfio_device_feature_host_unmappable *arg)
{
	u8 buf[sizeof(struct vfio_device_feature) + sizeof(*arg)] = {};
	struct vfio_device_feature *feature = (void *)buf;

	feature->argsz = sizeof(*feature) + argsz;
	feature->flags = VFIO_DEVICE_FEATURE_HOST_UNMAPPABLE | flags;
	memset(feature->data, 0xaa, sizeof(*arg));
	if (ioctl(device->fd, VFIO_DEVICE_FEATURE, feature))
		return -errno;
	memcpy(arg, feature->data, sizeof(*arg));

	return 0;
}

TEST_F(vfio_pci_unmappable_test, feature)
{
	struct vfio_device_feature_host_unmappable arg;
	u32 get = VFIO_DEVICE_FEATURE_GET;
	u32 i;

	SKIP_IF_REFUSED();

	ASSERT_EQ(0, get_feature(self->device, get | VFIO_DEVICE_FEATURE_PROBE,
				 0, &arg));
	ASSERT_EQ(0, get_feature(self->device, get, sizeof(arg), &arg));
	EXPECT_EQ(variant->unmappable, arg.host_unmappable);
	for (i = 0; i < sizeof(arg.reserved); i++)
		EXPECT_EQ(0, arg.reserved[i]);
	EXPECT_EQ(-EINVAL, get_feature(self->device, get, sizeof(arg) - 1, &arg));
	EXPECT_EQ(-EINVAL, get_feature(self->device, VFIO_DEVICE_FEATURE_SET,
				       sizeof(arg), &arg));
	EXPECT_EQ(-EINVAL, get_feature(self->device, VFIO_DEVICE_FEATURE_SET |
				       VFIO_DEVICE_FEATURE_PROBE, 0, &arg));
}

TEST_F(vfio_pci_unmappable_test, feature_fault)
{
	SKIP_IF_REFUSED();

	ASSERT_EQ(-EFAULT,
		  __vfio_pci_feature_fault(self->device,
					   VFIO_DEVICE_FEATURE_GET |
					   VFIO_DEVICE_FEATURE_HOST_UNMAPPABLE,
					   sizeof(struct vfio_device_feature_host_unmappable)));
}

/* Everything but the memory works as usual. */
TEST_F(vfio_pci_unmappable_test, rest_works)
{
	SKIP_IF_REFUSED();

	EXPECT_NE(0xffff, vfio_pci_config_readw(self->device, PCI_VENDOR_ID));
	vfio_pci_set_memory_decode(self->device, false);
	vfio_pci_set_memory_decode(self->device, true);
	if (self->device->info.flags & VFIO_DEVICE_FLAGS_RESET)
		vfio_pci_device_reset(self->device);
	if (self->device->msix_info.count) {
		vfio_pci_msix_enable(self->device, 0, 1);
		vfio_pci_irq_trigger(self->device, VFIO_PCI_MSIX_IRQ_INDEX, 0);
		vfio_pci_msix_disable(self->device);
	}
	if (variant->unmappable)
		EXPECT_EQ(-EPERM, way_mmap(self->device, &self->bars[0]));
}

TEST_F(vfio_pci_unmappable_test, dmabuf)
{
	struct dma_buf_sync sync = {
		.flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW,
	};
	u64 iova = SZ_1G;
	int i, fd;

	SKIP_IF_REFUSED();

	for (i = 0; i < self->nr_bars; i++) {
		if (self->bars[i].size < self->page)
			continue;
		fd = vfio_pci_dmabuf_export_bar(self->device,
						self->bars[i].index);
		iommu_map_file(self->iommu, fd, 0, self->page, iova);
		iommu_unmap_iova(self->iommu, iova, self->page);
		EXPECT_EQ(-EINVAL, try_mmap(fd, 0, true));
		EXPECT_EQ(variant->unmappable ? -1 : 0,
			  ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync));
		if (variant->unmappable)
			EXPECT_EQ(EPERM, errno);
		ASSERT_EQ(0, close(fd));
	}
}

static int bind(int fd, int iommufd, u32 flags)
{
	struct vfio_device_bind_iommufd args = {
		.argsz = sizeof(args),
		.flags = flags,
		.iommufd = iommufd,
	};

	return ioctl(fd, VFIO_DEVICE_BIND_IOMMUFD, &args) ? -errno : 0;
}

TEST_F(vfio_pci_unmappable_test, bind_twice)
{
	struct vfio_device_feature_host_unmappable arg;
	const u32 flags[] = { 0, VFIO_DEVICE_BIND_FLAG_HOST_UNMAPPABLE };
	const char *path;
	u32 i;
	int fd;

	SKIP_IF_REFUSED();

	path = vfio_pci_get_cdev_path(device_bdf);
	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		/* Neither the same file nor another changes anything. */
		EXPECT_EQ(-EINVAL, bind(self->device->fd, self->iommu->iommufd,
					flags[i]));
		fd = open(path, O_RDWR);
		ASSERT_GE(fd, 0);
		EXPECT_EQ(-EINVAL, bind(fd, self->iommu->iommufd, flags[i]));
		ASSERT_EQ(0, close(fd));
	}
	free((void *)path);

	ASSERT_EQ(0, get_feature(self->device, VFIO_DEVICE_FEATURE_GET,
				 sizeof(arg), &arg));
	EXPECT_EQ(variant->unmappable, arg.host_unmappable);
	if (variant->unmappable)
		EXPECT_EQ(-EPERM, way_mmap(self->device, &self->bars[0]));
}

TEST_F(vfio_pci_unmappable_test, bind_unknown_flag)
{
	const char *path;
	int fd;

	SKIP_IF_REFUSED();
	vfio_pci_device_cleanup(self->device);
	self->device = NULL;

	path = vfio_pci_get_cdev_path(device_bdf);
	fd = open(path, O_RDWR);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(-EINVAL, bind(fd, self->iommu->iommufd, 1 << 2));
	EXPECT_EQ(-EINVAL, bind(fd, self->iommu->iommufd, 1U << 31));
	ASSERT_EQ(0, close(fd));
	free((void *)path);
}

/* It ends with the open: refused or not, the next one is as it was asked for. */
TEST_F(vfio_pci_unmappable_test, next_open)
{
	struct vfio_device_feature_host_unmappable arg;

	if (self->device)
		vfio_pci_device_cleanup(self->device);
	self->device = vfio_pci_device_init_nomap(device_bdf, self->iommu);
	ASSERT_EQ(0, get_feature(self->device, VFIO_DEVICE_FEATURE_GET,
				 sizeof(arg), &arg));
	EXPECT_EQ(0, arg.host_unmappable);
	if (self->device->bars[self->bars[0].index].info.flags &
	    VFIO_REGION_INFO_FLAG_MMAP)
		EXPECT_EQ(0, way_mmap(self->device, &self->bars[0]));
	if (self->bars[0].plain < self->bars[0].size)
		EXPECT_EQ(0, way_read(self->device, &self->bars[0]));
}

static __thread sigjmp_buf touch_env;
static __thread volatile bool touching;

static void touch_fault(int sig)
{
	if (touching)
		siglongjmp(touch_env, sig);

	/* Not ours: the access is repeated, and ends the test. */
	signal(sig, SIG_DFL);
}

/* For all threads, so once. */
static void touch_init(void)
{
	struct sigaction sa = { .sa_handler = touch_fault };

	VFIO_ASSERT_EQ(sigaction(SIGBUS, &sa, NULL), 0);
	VFIO_ASSERT_EQ(sigaction(SIGSEGV, &sa, NULL), 0);
}

/* The signal that reading there raises, or 0. */
static int touch(volatile u32 *mem)
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

/* What was mapped while nobody had the device open is gone after the bind. */
TEST_F(vfio_pci_unmappable_test, mapped_before)
{
	struct bar *bar = &self->bars[0];
	char path[PATH_MAX], attr[32];
	void *mem[2];
	u64 offset[2] = { 0, bar->start };
	int i, fd;

	if (!variant->unmappable)
		SKIP(return, "Only with");
	SKIP_IF_REFUSED();
	vfio_pci_device_cleanup(self->device);

	snprintf_assert(attr, sizeof(attr), "resource%u", bar->index);
	sysfs_path(path, attr);
	for (i = 0; i < 2; i++) {
		fd = open(i ? "/dev/mem" : path, O_RDWR | O_SYNC);
		if (fd < 0) {
			mem[i] = MAP_FAILED;
			continue;
		}
		mem[i] = mmap(NULL, self->page, PROT_READ, MAP_SHARED, fd,
			      offset[i]);
		EXPECT_NE(MAP_FAILED, mem[i]);
		ASSERT_EQ(0, close(fd));
		if (mem[i] != MAP_FAILED)
			EXPECT_EQ(0, touch(mem[i]));
	}

	self->device = __vfio_pci_device_init_unmappable(device_bdf, self->iommu,
							 &self->error);
	ASSERT_EQ(0, self->error);
	for (i = 0; i < 2; i++) {
		if (mem[i] == MAP_FAILED)
			continue;
		EXPECT_NE(0, touch(mem[i]));
		ASSERT_EQ(0, munmap(mem[i], self->page));
	}
}

/*
 * One dma-buf of a BAR that is used otherwise as well.  All of the BAR is mapped,
 * and touched, so that there is something to take away.
 */
FIXTURE(vfio_pci_unmappable_dmabuf_test) {
	struct iommu *iommu;
	struct vfio_pci_device *device;
	u64 page;
	u64 size;
	u64 start;
	u8 *mem;
	off_t offset;
	int bar;
	bool strict;
};

/* Aligned so that it can be mapped with huge pages. */
static void map_bar(FIXTURE_DATA(vfio_pci_unmappable_dmabuf_test) *self)
{
	u64 align = self->size < SZ_1G ? self->size : SZ_1G;

	self->mem = mmap_reserve(self->size, align, 0);
	self->mem = mmap(self->mem, self->size, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, self->device->fd, self->offset);
	VFIO_ASSERT_NE(self->mem, MAP_FAILED);
	madvise(self->mem, self->size, MADV_HUGEPAGE);
}

FIXTURE_SETUP(vfio_pci_unmappable_dmabuf_test)
{
	struct bar bars[PCI_STD_NUM_BARS];
	int i, nr_bars;

	self->page = getpagesize();
	self->iommu = iommu_init(MODE_IOMMUFD);
	self->device = vfio_pci_device_init_nomap(device_bdf, self->iommu);
	nr_bars = read_bars(bars);
	self->bar = -1;
	for (i = 0; i < nr_bars; i++) {
		struct vfio_pci_bar *bar = &self->device->bars[bars[i].index];

		self->strict = way_sysfs(self->device, &bars[i]) < 0;
		if (!(bar->info.flags & VFIO_REGION_INFO_FLAG_MMAP) ||
		    bars[i].size < 8 * self->page)
			continue;
		if (bars[i].size > self->size) {
			self->bar = bars[i].index;
			self->size = bars[i].size;
			self->start = bars[i].start;
		}
	}
	if (self->bar < 0)
		SKIP(return, "%s has no BAR of 8 pages to map", device_bdf);
	self->offset = self->device->bars[self->bar].info.offset;
	map_bar(self);
}

FIXTURE_TEARDOWN(vfio_pci_unmappable_dmabuf_test)
{
	if (self->mem)
		munmap(self->mem, self->size);
	vfio_pci_device_cleanup(self->device);
	iommu_cleanup(self->iommu);
}

#define PAGES 8

/* Which of the first pages can be touched, a bit each. */
static u32 touchable(FIXTURE_DATA(vfio_pci_unmappable_dmabuf_test) *self)
{
	u32 i, mask = 0;

	for (i = 0; i < PAGES; i++)
		if (!touch((void *)(self->mem + i * self->page)))
			mask |= 1 << i;

	return mask;
}

static u32 readable(FIXTURE_DATA(vfio_pci_unmappable_dmabuf_test) *self)
{
	u32 i, val, mask = 0;
	ssize_t ret;

	for (i = 0; i < PAGES; i++) {
		ret = pread(self->device->fd, &val, sizeof(val),
			    self->offset + i * self->page);
		if (ret == sizeof(val))
			mask |= 1 << i;
		else
			VFIO_ASSERT_EQ(errno, EPERM);
	}

	return mask;
}

/* Export pages of the BAR. */
static int export_pages(FIXTURE_DATA(vfio_pci_unmappable_dmabuf_test) *self,
			u64 first, u64 nr)
{
	struct vfio_region_dma_range range = {
		.offset = first * self->page,
		.length = nr * self->page,
	};

	return vfio_pci_dmabuf_export(self->device, self->bar, &range, 1,
				      O_RDWR | O_CLOEXEC);
}

#define SKIP_IF_NOT_STRICT()						\
	do {								\
		if (!self->strict)					\
			SKIP(return, "This kernel refuses, see refused"); \
	} while (0)

TEST_F(vfio_pci_unmappable_dmabuf_test, refused)
{
	int fd;

	fd = export_pages(self, 2, 2);
	EXPECT_EQ(self->strict ? 0 : -EOPNOTSUPP,
		  __vfio_pci_dmabuf_unmappable(self->device, fd));
	EXPECT_EQ(self->strict ? 0xf3 : 0xff, touchable(self));
	EXPECT_EQ(self->strict ? 0xf3 : 0xff, readable(self));
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_unmappable_dmabuf_test, hole)
{
	int fd;

	SKIP_IF_NOT_STRICT();

	/* One page out of a mapping, of a huge page where the BAR is large. */
	ASSERT_EQ(0xff, touchable(self));
	ASSERT_EQ(0, touch((void *)(self->mem + self->size - self->page)));
	fd = export_pages(self, 3, 1);
	ASSERT_EQ(0xff, touchable(self));
	ASSERT_EQ(0, __vfio_pci_dmabuf_unmappable(self->device, fd));
	EXPECT_EQ(0xf7, touchable(self));
	EXPECT_EQ(0xf7, readable(self));
	EXPECT_EQ(0, touch((void *)(self->mem + self->size - self->page)));

	/* Twice is once. */
	ASSERT_EQ(0, __vfio_pci_dmabuf_unmappable(self->device, fd));
	EXPECT_EQ(0xf7, touchable(self));

	/* A new mapping of the same file is no better. */
	EXPECT_EQ(0, try_mmap(self->device->fd, self->offset, true));
	vfio_pci_set_memory_decode(self->device, false);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_EQ(0xf7, touchable(self));

	ASSERT_EQ(0, close(fd));
	EXPECT_EQ(0xff, touchable(self));
	EXPECT_EQ(0xff, readable(self));
}

TEST_F(vfio_pci_unmappable_dmabuf_test, overlap)
{
	int a, b, other;

	SKIP_IF_NOT_STRICT();

	a = export_pages(self, 1, 3);
	b = export_pages(self, 3, 2);
	other = export_pages(self, 0, 8);
	ASSERT_EQ(0, __vfio_pci_dmabuf_unmappable(self->device, a));
	ASSERT_EQ(0, __vfio_pci_dmabuf_unmappable(self->device, b));
	EXPECT_EQ(0xe1, touchable(self));
	ASSERT_EQ(0, close(a));
	EXPECT_EQ(0xe7, touchable(self));
	EXPECT_EQ(0xe7, readable(self));
	ASSERT_EQ(0, close(other));
	EXPECT_EQ(0xe7, touchable(self));
	ASSERT_EQ(0, close(b));
	EXPECT_EQ(0xff, touchable(self));
}

TEST_F(vfio_pci_unmappable_dmabuf_test, ranges)
{
	struct vfio_region_dma_range ranges[] = {
		{ .offset = 5 * self->page, .length = self->page },
		{ .offset = 1 * self->page, .length = 2 * self->page },
	};
	int fd;

	SKIP_IF_NOT_STRICT();

	ASSERT_EQ(0xff, touchable(self));
	fd = vfio_pci_dmabuf_export(self->device, self->bar, ranges, 2, O_RDWR);
	ASSERT_EQ(0, __vfio_pci_dmabuf_unmappable(self->device, fd));
	EXPECT_EQ(0xd9, touchable(self));
	EXPECT_EQ(0xd9, readable(self));
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_unmappable_dmabuf_test, access_across)
{
	u64 val = 0;
	int fd;

	SKIP_IF_NOT_STRICT();

	fd = export_pages(self, 3, 1);
	ASSERT_EQ(0, __vfio_pci_dmabuf_unmappable(self->device, fd));

	/* An access that only ends or begins there is refused as a whole. */
	EXPECT_EQ(-1, pread(self->device->fd, &val, 8,
			    self->offset + 3 * self->page - 4));
	EXPECT_EQ(EPERM, errno);
	EXPECT_EQ(-1, pread(self->device->fd, &val, 8,
			    self->offset + 4 * self->page - 4));
	EXPECT_EQ(EPERM, errno);
	EXPECT_EQ(-1, pwrite(self->device->fd, &val, 8,
			     self->offset + 3 * self->page));
	EXPECT_EQ(EPERM, errno);
	EXPECT_EQ(8, pread(self->device->fd, &val, 8,
			   self->offset + 3 * self->page - 8));
	EXPECT_EQ(8, pread(self->device->fd, &val, 8,
			   self->offset + 4 * self->page));
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_unmappable_dmabuf_test, fork)
{
	int fd, status, go[2];
	pid_t pid;
	char c;

	SKIP_IF_NOT_STRICT();

	ASSERT_EQ(0xff, touchable(self));
	ASSERT_EQ(0, pipe(go));
	fd = export_pages(self, 3, 1);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		/* Has the mapping, has touched it, and then the parent goes. */
		close(fd);
		if (touchable(self) != 0xff || write(go[1], "", 1) != 1)
			_exit(1);
		while (touchable(self) == 0xff)
			;
		_exit(touchable(self) == 0xf7 ? 0 : 2);
	}
	ASSERT_EQ(1, read(go[0], &c, 1));
	ASSERT_EQ(0, __vfio_pci_dmabuf_unmappable(self->device, fd));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	ASSERT_EQ(0, close(go[0]));
	ASSERT_EQ(0, close(go[1]));
	ASSERT_EQ(0, close(fd));
}

struct toucher {
	volatile u32 *mem;
	bool claimed;
	bool stop;
	bool late;
	bool ready;
};

static void *toucher(void *arg)
{
	struct toucher *t = arg;
	bool claimed;

	while (!__atomic_load_n(&t->stop, __ATOMIC_ACQUIRE)) {
		claimed = __atomic_load_n(&t->claimed, __ATOMIC_ACQUIRE);
		if (!touch((u32 *)t->mem) && claimed)
			t->late = true;
		__atomic_store_n(&t->ready, true, __ATOMIC_RELEASE);
	}

	return NULL;
}

TEST_F(vfio_pci_unmappable_dmabuf_test, fault_race)
{
	struct toucher t = { .mem = (void *)(self->mem + 3 * self->page) };
	pthread_t thread;
	int i, fd;

	SKIP_IF_NOT_STRICT();

	ASSERT_EQ(0, pthread_create(&thread, NULL, toucher, &t));
	while (!__atomic_load_n(&t.ready, __ATOMIC_ACQUIRE))
		;
	for (i = 0; i < 100; i++) {
		fd = export_pages(self, 3, 1);
		ASSERT_EQ(0, __vfio_pci_dmabuf_unmappable(self->device, fd));
		__atomic_store_n(&t.claimed, true, __ATOMIC_RELEASE);
		EXPECT_NE(0, touch((u32 *)t.mem));
		__atomic_store_n(&t.claimed, false, __ATOMIC_RELEASE);
		/* What began before it is over is not late. */
		__atomic_store_n(&t.ready, false, __ATOMIC_RELEASE);
		while (!__atomic_load_n(&t.ready, __ATOMIC_ACQUIRE))
			;
		__atomic_store_n(&t.ready, false, __ATOMIC_RELEASE);
		while (!__atomic_load_n(&t.ready, __ATOMIC_ACQUIRE))
			;
		ASSERT_EQ(0, close(fd));
	}
	__atomic_store_n(&t.stop, true, __ATOMIC_RELEASE);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_FALSE(t.late);
}

static int ioeventfd(FIXTURE_DATA(vfio_pci_unmappable_dmabuf_test) *self,
		     u64 offset, int fd)
{
	struct vfio_device_ioeventfd args = {
		.argsz = sizeof(args),
		.flags = VFIO_DEVICE_IOEVENTFD_32,
		.offset = self->offset + offset,
		.fd = fd,
	};

	return ioctl(self->device->fd, VFIO_DEVICE_IOEVENTFD, &args) ? -errno : 0;
}

TEST_F(vfio_pci_unmappable_dmabuf_test, ioeventfd)
{
	u64 page = self->page;
	int fd, efd;

	SKIP_IF_NOT_STRICT();

	efd = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(efd, 0);
	fd = export_pages(self, 3, 1);

	ASSERT_EQ(0, ioeventfd(self, 4 * page - 4, efd));
	EXPECT_EQ(-EBUSY, __vfio_pci_dmabuf_unmappable(self->device, fd));
	EXPECT_EQ(0xff, touchable(self));
	ASSERT_EQ(0, ioeventfd(self, 4 * page - 4, -1));

	/* One next to it is none of its business. */
	ASSERT_EQ(0, ioeventfd(self, 4 * page, efd));
	EXPECT_EQ(0, __vfio_pci_dmabuf_unmappable(self->device, fd));
	EXPECT_EQ(-EPERM, ioeventfd(self, 4 * page - 4, efd));
	EXPECT_EQ(-EPERM, ioeventfd(self, 3 * page, efd));
	ASSERT_EQ(0, ioeventfd(self, 3 * page - 4, efd));
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(efd));
}

TEST_F(vfio_pci_unmappable_dmabuf_test, importers)
{
	u64 iova = SZ_1G;
	int fd;

	SKIP_IF_NOT_STRICT();

	fd = export_pages(self, 3, 1);
	iommu_map_file(self->iommu, fd, 0, self->page, iova);
	EXPECT_EQ(-EBUSY, __vfio_pci_dmabuf_unmappable(self->device, fd));
	EXPECT_EQ(0xff, touchable(self));
	iommu_unmap_iova(self->iommu, iova, self->page);
	EXPECT_EQ(0, __vfio_pci_dmabuf_unmappable(self->device, fd));

	/* It can be imported, and the importer keeps it as it is. */
	iommu_map_file(self->iommu, fd, 0, self->page, iova);
	ASSERT_EQ(0, close(fd));
	EXPECT_EQ(0xf7, touchable(self));
	iommu_unmap_iova(self->iommu, iova, self->page);
}

TEST_F(vfio_pci_unmappable_dmabuf_test, survives)
{
	int fd;

	SKIP_IF_NOT_STRICT();

	fd = export_pages(self, 3, 1);
	ASSERT_EQ(0, __vfio_pci_dmabuf_unmappable(self->device, fd));
	if (self->device->info.flags & VFIO_DEVICE_FLAGS_RESET) {
		vfio_pci_device_reset(self->device);
		vfio_pci_set_memory_decode(self->device, true);
	}
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
	EXPECT_EQ(0xf7, touchable(self));
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, fd));
	EXPECT_EQ(0xf7, touchable(self));
	EXPECT_EQ(0xf7, readable(self));

	/* Not the device, though. */
	ASSERT_EQ(0, munmap(self->mem, self->size));
	vfio_pci_device_cleanup(self->device);
	self->device = vfio_pci_device_init_nomap(device_bdf, self->iommu);
	map_bar(self);
	EXPECT_EQ(0xff, touchable(self));
	EXPECT_EQ(0xff, readable(self));
	EXPECT_EQ(-ENODEV, __vfio_pci_dmabuf_unmappable(self->device, fd));
	ASSERT_EQ(0, close(fd));
	EXPECT_EQ(0xff, touchable(self));
}

TEST_F(vfio_pci_unmappable_dmabuf_test, errnos)
{
	struct vfio_device_feature_dma_buf_user *args;
	struct vfio_device_feature *feature;
	size_t size = sizeof(*feature) + sizeof(*args);
	int fd, i;
	u8 *mem;

	SKIP_IF_NOT_STRICT();

	EXPECT_EQ(-EBADF, __vfio_pci_dmabuf_unmappable(self->device, -1));
	EXPECT_EQ(-EINVAL, __vfio_pci_dmabuf_unmappable(self->device,
							self->device->fd));

	fd = export_pages(self, 3, 1);
	mem = mmap(NULL, 2 * self->page, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, mem);
	ASSERT_EQ(0, mprotect(mem + self->page, self->page, PROT_NONE));

	/* 0: too short, 1: flags, 2: GET, 3: fault */
	for (i = 0; i < 4; i++) {
		feature = (void *)(mem + self->page - size + (i == 3));
		args = (void *)feature->data;
		feature->argsz = size - (i == 0);
		feature->flags = VFIO_DEVICE_FEATURE_DMA_BUF_HOST_UNMAPPABLE |
				 (i == 2 ? VFIO_DEVICE_FEATURE_GET :
				  VFIO_DEVICE_FEATURE_SET);
		args->dmabuf_fd = fd;
		if (i != 3)
			args->flags = i == 1;
		ASSERT_EQ(-1, ioctl(self->device->fd, VFIO_DEVICE_FEATURE, feature));
		ASSERT_EQ(i == 3 ? EFAULT : EINVAL, errno);
	}
	feature = (void *)mem;
	feature->argsz = sizeof(*feature);
	feature->flags = VFIO_DEVICE_FEATURE_DMA_BUF_HOST_UNMAPPABLE |
			 VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_PROBE;
	EXPECT_EQ(0, ioctl(self->device->fd, VFIO_DEVICE_FEATURE, feature));

	EXPECT_EQ(0xff, touchable(self));
	ASSERT_EQ(0, munmap(mem, 2 * self->page));
	ASSERT_EQ(0, close(fd));
}

/* The third part of the transcript: what can be touched of one dma-buf. */
TEST_F(vfio_pci_unmappable_dmabuf_test, ways)
{
	struct bar bar = {
		.index = self->bar, .start = self->start, .size = self->size,
	};
	int fd, ret;
	u32 w;

	SKIP_IF_NOT_STRICT();

	fd = export_pages(self, 0, 1);
	ASSERT_EQ(0, __vfio_pci_dmabuf_unmappable(self->device, fd));
	ret = touch((void *)self->mem);
	EXPECT_EQ(SIGBUS, ret);
	TH_LOG("BAR %u, page of the dma-buf, mapped memory: %s", bar.index,
	       ret ? strsignal(ret) : "possible");
	for (w = 0; w < ARRAY_SIZE(ways); w++) {
		if (ways[w].try == way_mmap || ways[w].try == way_mmap_read_only)
			continue;
		ret = ways[w].try(self->device, &bar);
		TH_LOG("BAR %u, page of the dma-buf, %s: %s", bar.index,
		       ways[w].name, ret ? strerror(-ret) : "possible");
		EXPECT_NE(0, ret);
	}
	ASSERT_EQ(0, close(fd));
}

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

/* A container would keep what it has mapped. */
TEST(unmappable_dmabuf_type1)
{
	struct vfio_region_dma_range range = { .length = getpagesize() };
	struct vfio_pci_device *device;
	struct iommu *iommu;
	int i, fd;

	if (access("/dev/vfio/vfio", R_OK | W_OK))
		SKIP(return, "The kernel has no type1 container");

	iommu = iommu_init("vfio_type1v2_iommu");
	device = vfio_pci_device_init_nomap(device_bdf, iommu);
	for (i = 0; i < PCI_STD_NUM_BARS; i++) {
		if (!(device->bars[i].info.flags & VFIO_REGION_INFO_FLAG_MMAP))
			continue;
		fd = vfio_pci_dmabuf_export(device, i, &range, 1, O_RDWR);
		EXPECT_EQ(-EOPNOTSUPP, __vfio_pci_dmabuf_unmappable(device, fd));
		/* Revoking is another matter. */
		EXPECT_EQ(0, __vfio_pci_dmabuf_revoke(device, fd));
		ASSERT_EQ(0, close(fd));
	}
	vfio_pci_device_cleanup(device);
	iommu_cleanup(iommu);
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	touch_init();

	return test_harness_run(argc, argv);
}
