// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of devices whose memory the host cannot map, and of what is left of the
 * ways to it.  See vfio_pci_unmappable.h.
 *
 * Each of ways[] is tried on a device that was bound normally and on one that was
 * bound as host-unmappable; both results are printed.
 *
 * Whether the kernel keeps user space away from claimed resources is found out
 * by mapping one: binding as host-unmappable has to fail where it does not.
 *
 * The same for single buffers is in vfio_pci_unmappable_dmabuf_test, and
 * vfio_pci_unmappable_transcript_test compares all ways in all cases.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/dma-buf.h>
#include <linux/pci.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include "vfio_pci_unmappable.h"

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

int main(int argc, char *argv[])
{
	return unmappable_main(argc, argv);
}
