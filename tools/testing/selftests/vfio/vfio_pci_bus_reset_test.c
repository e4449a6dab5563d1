// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of events that take the memory of all devices behind a bridge away at
 * once: VFIO_DEVICE_PCI_HOT_RESET, and the recovery from an error that AER
 * reports.
 *
 *	vfio_pci_bus_reset_test [options] DEVICE...
 *
 * Name two or more DEVICES that a hot reset of one of them resets, all of them
 * bound to vfio-pci.  A BAR of each is exported, and mapped into one IOAS to
 * be restored.  Some tests map it once more, not to be restored: that mapping
 * is gone for good if the dma-buf was revoked at all, however short.
 *
 * nonfatal_error_reset* are for one VFIO device alone.  Next to it there has
 * to be a device whose driver is not a VFIO driver and has the link reset after
 * any error, e1000 for example.
 *
 * Tests of errors need a device with AER among the DEVICES, and a kernel that
 * can inject errors.  That nothing reaches the memory while it is away is
 * tested with a guest that never stops reading it, see dmabuf_test of KVM.
 */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include <linux/iommufd.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define MAX_DEVICES	8
/*
 * How long the PCI core and other drivers may take.  Until e1000 has given up on its
 * PHY after a reset it is 11 seconds, under emulation and on a busy machine 20.
 */
#define WAIT_S		90
#define MAP_RW		(IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE)

static const char *device_bdfs[MAX_DEVICES];
static int nr_devices;

/* A device, and what was made of its memory. */
struct export {
	struct vfio_pci_device *device;
	iova_t iova;
	int bar;
	int fd;
};

FIXTURE(vfio_pci_bus_reset_test) {
	struct iommu *iommu;
	struct export exports[MAX_DEVICES];
	int nr_exports;
	u64 page;
};

/* Where a dma-buf is mapped to be restored, not to be, and tried to be mapped. */
#define IOVA_RESTORE(_e)	((_e)->iova)
#define IOVA_ONCE(_e)		((_e)->iova + SZ_1M)
#define IOVA_TRY(_e)		((_e)->iova + SZ_2M)

static bool live(FIXTURE_DATA(vfio_pci_bus_reset_test) *self, struct export *e)
{
	int ret = __iommu_map_file(self->iommu, e->fd, 0, self->page, IOVA_TRY(e),
				   MAP_RW);

	if (!ret)
		iommu_unmap_iova(self->iommu, IOVA_TRY(e), self->page);
	else
		VFIO_ASSERT_EQ(ret, -ENODEV);

	return !ret;
}

/* A bit for each dma-buf that is not revoked. */
static u32 live_mask(FIXTURE_DATA(vfio_pci_bus_reset_test) *self)
{
	u32 mask = 0;
	int i;

	for (i = 0; i < self->nr_exports; i++)
		if (live(self, &self->exports[i]))
			mask |= 1 << i;

	return mask;
}

#define ALL_LIVE(_self)		((1U << (_self)->nr_exports) - 1)

static void map_once(FIXTURE_DATA(vfio_pci_bus_reset_test) *self)
{
	int i;

	for (i = 0; i < self->nr_exports; i++)
		iommu_map_file(self->iommu, self->exports[i].fd, 0, self->page,
			       IOVA_ONCE(&self->exports[i]));
}

static void unmap_once(FIXTURE_DATA(vfio_pci_bus_reset_test) *self)
{
	int i;

	for (i = 0; i < self->nr_exports; i++)
		iommu_unmap_iova(self->iommu, IOVA_ONCE(&self->exports[i]),
				 self->page);
}

static void export_device(FIXTURE_DATA(vfio_pci_bus_reset_test) *self,
			  const char *bdf)
{
	struct export *e = &self->exports[self->nr_exports];

	e->device = vfio_pci_device_init_nomap(bdf, self->iommu);
	e->bar = vfio_pci_largest_bar(e->device, self->page);
	VFIO_ASSERT_GE(e->bar, 0, "%s has no memory BAR of a page\n", bdf);

	/* PCI_COMMAND is left alone: a device that was opened decodes. */
	e->iova = SZ_1G + (u64)self->nr_exports * SZ_4M;
	e->fd = vfio_pci_dmabuf_export_bar(e->device, e->bar);
	VFIO_ASSERT_EQ(__iommu_map_file(self->iommu, e->fd, 0, self->page,
					IOVA_RESTORE(e),
					MAP_RW | IOMMU_IOAS_MAP_RESTORE), 0);
	self->nr_exports++;
}

FIXTURE_SETUP(vfio_pci_bus_reset_test)
{
	int i;

	self->page = getpagesize();
	self->iommu = iommu_init(MODE_IOMMUFD);
	if (iommufd_dmabuf_mappings() < 0)
		SKIP(return, "No debugfs to see mappings of dma-bufs in");

	for (i = 0; i < nr_devices; i++)
		export_device(self, device_bdfs[i]);
	ASSERT_EQ(ALL_LIVE(self), live_mask(self));
	ASSERT_EQ(self->nr_exports, iommufd_dmabuf_mappings());
}

FIXTURE_TEARDOWN(vfio_pci_bus_reset_test)
{
	int i;

	for (i = 0; i < self->nr_exports; i++) {
		struct export *e = &self->exports[i];

		iommu_unmap_iova(self->iommu, IOVA_RESTORE(e), self->page);
		close(e->fd);
		if (e->device)
			vfio_pci_device_cleanup(e->device);
	}
	iommu_cleanup(self->iommu);
}

/* What a hot reset of this device resets; its size or -errno. */
static int hot_reset_count(struct vfio_pci_device *device)
{
	struct vfio_pci_hot_reset_info info = { .argsz = sizeof(info) };

	if (!ioctl(device->fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &info))
		return info.count;

	return errno == ENOSPC ? info.count : -errno;
}

TEST_F(vfio_pci_bus_reset_test, info)
{
	int i;

	for (i = 0; i < self->nr_exports; i++)
		EXPECT_EQ(nr_devices, hot_reset_count(self->exports[i].device));
}

/* Asked for by each device in turn, it is done to all of them. */
TEST_F(vfio_pci_bus_reset_test, hot_reset)
{
	int i;

	for (i = 0; i < self->nr_exports; i++) {
		map_once(self);
		ASSERT_EQ(2 * self->nr_exports, iommufd_dmabuf_mappings());
		ASSERT_EQ(0, __vfio_pci_hot_reset(self->exports[i].device));
		EXPECT_EQ(self->nr_exports, iommufd_dmabuf_mappings());
		EXPECT_EQ(ALL_LIVE(self), live_mask(self));
		unmap_once(self);
	}
}

/* What a reset leaves to be done does not keep the next one from being done. */
TEST_F_TIMEOUT(vfio_pci_bus_reset_test, back_to_back, 120)
{
	int i, round;

	for (round = 0; round < 8; round++) {
		for (i = 0; i < self->nr_exports; i++) {
			struct vfio_pci_device *device = self->exports[i].device;

			if (device->info.flags & VFIO_DEVICE_FLAGS_RESET)
				vfio_pci_device_reset(device);
		}
		i = round % self->nr_exports;
		ASSERT_EQ(0, __vfio_pci_hot_reset(self->exports[i].device));
	}
	EXPECT_EQ(ALL_LIVE(self), live_mask(self));
	EXPECT_EQ(self->nr_exports, iommufd_dmabuf_mappings());
}

/* Nobody's own reason to be revoked ends with it, and nobody else's matters. */
TEST_F(vfio_pci_bus_reset_test, hot_reset_other_causes)
{
	struct export *first = &self->exports[0], *last;

	last = &self->exports[self->nr_exports - 1];
	vfio_pci_set_memory_decode(first->device, false);
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(last->device, last->fd));

	ASSERT_EQ(0, __vfio_pci_hot_reset(last->device));
	EXPECT_EQ(ALL_LIVE(self) & ~1U & ~(1U << (last - first)),
		  live_mask(self));

	vfio_pci_set_memory_decode(first->device, true);
	EXPECT_EQ(ALL_LIVE(self) & ~(1U << (last - first)), live_mask(self));
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(last->device, last->fd));
	EXPECT_EQ(ALL_LIVE(self), live_mask(self));
	EXPECT_EQ(self->nr_exports, iommufd_dmabuf_mappings());
}

/* As a reset of one: it leaves each device in D0. */
TEST_F(vfio_pci_bus_reset_test, hot_reset_in_d3hot)
{
	u32 asleep = 0;
	int i;

	for (i = 0; i < self->nr_exports; i++)
		if (!__vfio_pci_set_power_state(self->exports[i].device, 3))
			asleep |= 1 << i;
	if (!asleep)
		SKIP(return, "No device has a PM capability");
	EXPECT_EQ(ALL_LIVE(self) & ~asleep, live_mask(self));

	ASSERT_EQ(0, __vfio_pci_hot_reset(self->exports[0].device));
	EXPECT_EQ(ALL_LIVE(self), live_mask(self));
	EXPECT_EQ(self->nr_exports, iommufd_dmabuf_mappings());
}

TEST_F(vfio_pci_bus_reset_test, hot_reset_errnos)
{
	struct vfio_pci_hot_reset reset = {};
	int fd = self->exports[0].device->fd;

	map_once(self);

	reset.argsz = sizeof(reset) - 1;
	EXPECT_EQ(-1, ioctl(fd, VFIO_DEVICE_PCI_HOT_RESET, &reset));
	EXPECT_EQ(EINVAL, errno);
	reset.argsz = sizeof(reset);
	reset.flags = 1;
	EXPECT_EQ(-1, ioctl(fd, VFIO_DEVICE_PCI_HOT_RESET, &reset));
	EXPECT_EQ(EINVAL, errno);
	/* An array of groups is for devices that were opened by group. */
	reset.flags = 0;
	reset.count = 1;
	EXPECT_EQ(-1, ioctl(fd, VFIO_DEVICE_PCI_HOT_RESET, &reset));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, ioctl(fd, VFIO_DEVICE_PCI_HOT_RESET, NULL));
	EXPECT_EQ(EFAULT, errno);

	/* Nothing was ever revoked. */
	EXPECT_EQ(2 * self->nr_exports, iommufd_dmabuf_mappings());
	EXPECT_EQ(ALL_LIVE(self), live_mask(self));
	unmap_once(self);
}

static void close_export(FIXTURE_DATA(vfio_pci_bus_reset_test) *self,
			 struct export *e)
{
	vfio_pci_device_cleanup(e->device);
	e->device = NULL;
}

/*
 * All devices of an IOMMU group belong to somebody else: another iommufd.  The
 * reset of any is refused, and what had been revoked by then is restored.
 */
static void refuse_not_owned(struct __test_metadata *_metadata,
			     FIXTURE_DATA(vfio_pci_bus_reset_test) *self,
			     const char *bdf)
{
	struct vfio_pci_device *foreign[MAX_DEVICES] = {};
	int i, group = sysfs_iommu_group_get(bdf), nr_ours = 0;
	struct iommu *other;
	u32 ours = 0;

	for (i = 0; i < self->nr_exports; i++)
		nr_ours += sysfs_iommu_group_get(device_bdfs[i]) != group;
	if (!nr_ours)
		SKIP(return, "All devices are in one IOMMU group");

	other = iommu_init(MODE_IOMMUFD);
	for (i = 0; i < self->nr_exports; i++) {
		if (sysfs_iommu_group_get(device_bdfs[i]) == group)
			close_export(self, &self->exports[i]);
		else
			ours |= 1 << i;
	}
	for (i = 0; i < self->nr_exports; i++)
		if (!(ours & (1 << i)))
			foreign[i] = vfio_pci_device_init_nomap(device_bdfs[i],
								other);
	ASSERT_EQ(ours, live_mask(self));

	for (i = 0; i < self->nr_exports; i++)
		EXPECT_EQ(-EINVAL, __vfio_pci_hot_reset(foreign[i] ?:
							self->exports[i].device));
	EXPECT_EQ(ours, live_mask(self));
	EXPECT_EQ(nr_ours, iommufd_dmabuf_mappings());

	for (i = 0; i < self->nr_exports; i++)
		if (foreign[i])
			vfio_pci_device_cleanup(foreign[i]);
	iommu_cleanup(other);
}

TEST_F(vfio_pci_bus_reset_test, hot_reset_first_not_owned)
{
	refuse_not_owned(_metadata, self, device_bdfs[0]);
}

TEST_F(vfio_pci_bus_reset_test, hot_reset_last_not_owned)
{
	refuse_not_owned(_metadata, self, device_bdfs[nr_devices - 1]);
}

/* A device of the bus that VFIO does not have cannot be reset by it. */
TEST_F(vfio_pci_bus_reset_test, hot_reset_not_bound)
{
	int i, last = self->nr_exports - 1;
	const char *bdf = device_bdfs[last];
	u32 rest = ALL_LIVE(self) & ~(1U << last);

	map_once(self);
	close_export(self, &self->exports[last]);
	ASSERT_EQ(0, pci_sysfs_write(bdf, "driver/unbind", bdf));

	for (i = 0; i < last; i++)
		EXPECT_EQ(-EINVAL, __vfio_pci_hot_reset(self->exports[i].device));
	EXPECT_EQ(rest, live_mask(self));
	/* Those that are not restored are still there. */
	EXPECT_EQ(2 * last, iommufd_dmabuf_mappings());
	unmap_once(self);

	ASSERT_EQ(0, pci_sysfs_write(device_bdfs[0], "driver/bind", bdf));
}

/* The IOMMU groups of all devices, in a container of the old kind. */
struct groups {
	struct vfio_pci_device devices[MAX_DEVICES];
	int container;
	int ids[MAX_DEVICES];
	int fds[MAX_DEVICES];
	int nr;
};

static int open_group(struct groups *groups, const char *bdf)
{
	int i, id = sysfs_iommu_group_get(bdf);
	char path[PATH_MAX];

	for (i = 0; i < groups->nr; i++)
		if (groups->ids[i] == id)
			return groups->fds[i];

	snprintf_assert(path, sizeof(path), "/dev/vfio/%d", id);
	groups->ids[i] = id;
	groups->fds[i] = open(path, O_RDWR);
	VFIO_ASSERT_GE(groups->fds[i], 0);
	ioctl_assert(groups->fds[i], VFIO_GROUP_SET_CONTAINER,
		     &groups->container);
	if (!groups->nr++)
		ioctl_assert(groups->container, VFIO_SET_IOMMU,
			     (void *)VFIO_TYPE1v2_IOMMU);

	return groups->fds[i];
}

/*
 * Have all devices opened by their groups instead.  The dma-bufs are still
 * imported by iommufd, which a device need not be bound to for that.
 */
static void open_groups(FIXTURE_DATA(vfio_pci_bus_reset_test) *self,
			struct groups *groups)
{
	struct vfio_region_dma_range range = { .length = self->page };
	int i;

	for (i = 0; i < self->nr_exports; i++) {
		close_export(self, &self->exports[i]);
		iommu_unmap_iova(self->iommu, IOVA_RESTORE(&self->exports[i]),
				 self->page);
		VFIO_ASSERT_EQ(close(self->exports[i].fd), 0);
	}

	for (i = 0; i < self->nr_exports; i++) {
		struct vfio_pci_device *device = &groups->devices[i];
		struct export *e = &self->exports[i];

		device->group_fd = open_group(groups, device_bdfs[i]);
		__vfio_pci_group_get_device_fd(device, device_bdfs[i], NULL);
		VFIO_ASSERT_GE(device->fd, 0);
		e->fd = vfio_pci_dmabuf_export(device, e->bar, &range, 1, O_RDWR);
		VFIO_ASSERT_EQ(__iommu_map_file(self->iommu, e->fd, 0, self->page,
						IOVA_RESTORE(e), MAP_RW |
						IOMMU_IOAS_MAP_RESTORE), 0);
	}
}

static void close_groups(FIXTURE_DATA(vfio_pci_bus_reset_test) *self,
			 struct groups *groups)
{
	int i;

	for (i = 0; i < self->nr_exports; i++)
		VFIO_ASSERT_EQ(close(groups->devices[i].fd), 0);
	for (i = 0; i < groups->nr; i++)
		VFIO_ASSERT_EQ(close(groups->fds[i]), 0);
	VFIO_ASSERT_EQ(close(groups->container), 0);
}

/* VFIO_DEVICE_PCI_HOT_RESET with these groups; 0 or -errno. */
static int hot_reset_groups(int device_fd, const int *fds, int nr)
{
	u8 buf[sizeof(struct vfio_pci_hot_reset) + 64 * sizeof(int)] = {};
	struct vfio_pci_hot_reset *reset = (void *)buf;

	VFIO_ASSERT_GE(64, nr);
	reset->argsz = sizeof(*reset) + nr * sizeof(int);
	reset->count = nr;
	memcpy(reset->group_fds, fds, nr * sizeof(int));

	return ioctl(device_fd, VFIO_DEVICE_PCI_HOT_RESET, reset) ? -errno : 0;
}

/* Devices that were opened by group prove by the groups that they are the user's. */
TEST_F(vfio_pci_bus_reset_test, hot_reset_groups)
{
	int i, fd, nr = self->nr_exports, fds[64];
	struct groups groups = {};

	groups.container = open("/dev/vfio/vfio", O_RDWR);
	if (groups.container < 0)
		SKIP(return, "The kernel has no type1 container");
	open_groups(self, &groups);
	ASSERT_EQ(ALL_LIVE(self), live_mask(self));
	/* No device is in the IOAS now, so there is no domain to map into. */
	map_once(self);
	ASSERT_EQ(0, iommufd_dmabuf_mappings());

	/* The state is asked of the device, however it was opened. */
	for (i = 0; i < nr; i++) {
		fd = self->exports[i].fd;
		ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(&groups.devices[i], fd));
		EXPECT_EQ(ALL_LIVE(self) & ~(1U << i), live_mask(self));
		ASSERT_EQ(0, __vfio_pci_dmabuf_restore(&groups.devices[i], fd));
	}
	EXPECT_EQ(ALL_LIVE(self), live_mask(self));

	/* Not without groups, nor with anything else, too much or too little. */
	fd = groups.devices[0].fd;
	EXPECT_EQ(-EINVAL, hot_reset_groups(fd, &fd, 0));
	EXPECT_EQ(-EINVAL, hot_reset_groups(fd, &fd, 1));
	EXPECT_EQ(-EINVAL, hot_reset_groups(fd, &groups.container, 1));
	fds[0] = -1;
	EXPECT_EQ(-EBADF, hot_reset_groups(fd, fds, 1));
	for (i = 0; i < 64; i++)
		fds[i] = groups.fds[0];
	EXPECT_EQ(-EINVAL, hot_reset_groups(fd, fds, 64));
	for (i = 0; i < groups.nr && groups.nr > 1; i++) {
		memcpy(fds, groups.fds, sizeof(groups.fds));
		fds[i] = groups.fds[!i];
		EXPECT_EQ(-EINVAL, hot_reset_groups(fd, fds, groups.nr));
	}
	/* Whatever was revoked for that is restored. */
	EXPECT_EQ(ALL_LIVE(self), live_mask(self));

	for (i = 0; i < nr; i++) {
		EXPECT_EQ(0, hot_reset_groups(groups.devices[i].fd, groups.fds,
					      groups.nr));
		EXPECT_EQ(ALL_LIVE(self), live_mask(self));
	}
	unmap_once(self);
	close_groups(self, &groups);
	EXPECT_EQ(0, live_mask(self));
}

struct busy {
	FIXTURE_DATA(vfio_pci_bus_reset_test) *self;
	struct export *export;
	pthread_t thread;
	u64 nr;
	bool stop;
};

/* An importer, and everything else that revokes, of one of the devices. */
static void *busy_thread(void *arg)
{
	struct busy *b = arg;
	struct export *e = b->export;
	u64 page = b->self->page;
	int ret;

	while (!__atomic_load_n(&b->stop, __ATOMIC_RELAXED)) {
		ret = __iommu_map_file(b->self->iommu, e->fd, 0, page,
				       IOVA_ONCE(e), MAP_RW |
				       (b->nr & 1 ? IOMMU_IOAS_MAP_RESTORE : 0));
		if (!(b->nr % 3)) {
			vfio_pci_set_memory_decode(e->device, false);
			vfio_pci_set_memory_decode(e->device, true);
		}
		if (!(b->nr % 5)) {
			VFIO_ASSERT_EQ(__vfio_pci_dmabuf_revoke(e->device, e->fd), 0);
			VFIO_ASSERT_EQ(__vfio_pci_dmabuf_restore(e->device, e->fd), 0);
		}
		if (ret)
			VFIO_ASSERT_EQ(ret, -ENODEV);
		else
			iommu_unmap_iova(b->self->iommu, IOVA_ONCE(e), page);
		__atomic_store_n(&b->nr, b->nr + 1, __ATOMIC_RELAXED);
	}

	return NULL;
}

/* It takes some dozens of tries, or hundreds, which in a debug kernel take time. */
TEST_F_TIMEOUT(vfio_pci_bus_reset_test, hot_reset_busy, 300)
{
	struct busy busy[MAX_DEVICES] = {};
	int i, ret, done = 0, tries = 0;
	u64 seen;

	for (i = 0; i < self->nr_exports; i++) {
		busy[i].self = self;
		busy[i].export = &self->exports[i];
		ASSERT_EQ(0, pthread_create(&busy[i].thread, NULL, busy_thread,
					    &busy[i]));
	}

	/* It does not wait for those who use the memory or reset the device. */
	while (!done && tries++ < 10000) {
		ret = __vfio_pci_hot_reset(self->exports[0].device);
		if (!ret)
			done++;
		else if (ret != -EBUSY && ret != -EAGAIN)
			break;
		/* Let each thread get somewhere in between. */
		for (i = 0; i < self->nr_exports; i++) {
			seen = __atomic_load_n(&busy[i].nr, __ATOMIC_RELAXED);
			while (__atomic_load_n(&busy[i].nr, __ATOMIC_RELAXED) == seen)
				sched_yield();
		}
	}
	printf("# hot reset in %d tries\n", tries);
	EXPECT_EQ(1, done);

	for (i = 0; i < self->nr_exports; i++)
		__atomic_store_n(&busy[i].stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < self->nr_exports; i++)
		ASSERT_EQ(0, pthread_join(busy[i].thread, NULL));
	EXPECT_EQ(ALL_LIVE(self), live_mask(self));
	EXPECT_EQ(self->nr_exports, iommufd_dmabuf_mappings());
}

/* Find the device that errors can be injected into; NULL if there is none. */
static struct export *inject(FIXTURE_DATA(vfio_pci_bus_reset_test) *self,
			     u32 error, int eventfd)
{
	int i, ret;

	for (i = 0; i < self->nr_exports; i++) {
		struct export *e = &self->exports[i];
		struct vfio_irq_info irq = {
			.argsz = sizeof(irq),
			.index = VFIO_PCI_ERR_IRQ_INDEX,
		};

		/* Closed, or not PCIe, which have none. */
		if (!e->device || ioctl(e->device->fd, VFIO_DEVICE_GET_IRQ_INFO, &irq) ||
		    !irq.count)
			continue;
		vfio_pci_set_irq_eventfd(e->device, VFIO_PCI_ERR_IRQ_INDEX,
					 eventfd);
		ret = pci_inject_error(device_bdfs[i], error);
		if (!ret)
			return e;
		printf("# %s: %s\n", device_bdfs[i], strerror(-ret));
		vfio_pci_set_irq_eventfd(e->device, VFIO_PCI_ERR_IRQ_INDEX, -1);
	}

	return NULL;
}

/* Wait until the bus was reset: config space cannot be read while it is. */
static bool wait_bus_reset(void)
{
	time_t end = time(NULL) + WAIT_S;
	int i;

	for (i = 0; i < nr_devices; i++)
		while (pci_sysfs_command(device_bdfs[i]) & PCI_COMMAND_MEMORY)
			if (time(NULL) > end)
				return false;

	return true;
}

/* Wait until a dma-buf is live, or is not. */
static bool wait_live(FIXTURE_DATA(vfio_pci_bus_reset_test) *self,
		      struct export *e, bool is_live)
{
	time_t end = time(NULL) + WAIT_S;

	while (live(self, e) != is_live)
		if (time(NULL) > end)
			return false;

	return true;
}

/* VFIO hears of the reset of the link after other drivers have done their part. */
static bool wait_unmapped(void)
{
	time_t end = time(NULL) + WAIT_S;

	while (iommufd_dmabuf_mappings())
		if (time(NULL) > end)
			return false;

	return true;
}

/* Where the AER capability of a device is that errors can be injected into. */
static u32 aer_capability(const char *bdf)
{
	u32 pos = PCI_CFG_SPACE_SIZE, header;

	while (pos) {
		header = pci_sysfs_config_read(bdf, pos, sizeof(header));
		if (PCI_EXT_CAP_ID(header) == PCI_EXT_CAP_ID_ERR)
			break;
		pos = PCI_EXT_CAP_NEXT(header);
	}
	VFIO_ASSERT_NE(pos, 0);

	return pos;
}

/*
 * Recovery from an error that is not fatal ends with the PCI core clearing it in the
 * device, after all drivers were told that it is over.  An error that comes before
 * that is cleared as well: it is not handled, and nobody hears of it.
 */
static bool wait_recovered(struct export *e)
{
	u32 pos = aer_capability(e->device->bdf) + PCI_ERR_UNCOR_STATUS;
	time_t end = time(NULL) + WAIT_S;

	while (pci_sysfs_config_read(e->device->bdf, pos, sizeof(u32)) &
	       PCI_ERR_UNC_POISON_TLP)
		if (time(NULL) > end)
			return false;

	return true;
}

/*
 * Set a device up again.  What was written before the link was reset is gone, and
 * nothing tells when that was.
 */
static bool set_up_again(FIXTURE_DATA(vfio_pci_bus_reset_test) *self,
			 struct export *e)
{
	time_t end = time(NULL) + WAIT_S;

	do {
		vfio_pci_set_memory_decode(e->device, true);
		if (live(self, e))
			return true;
	} while (time(NULL) <= end);

	return false;
}

/*
 * A fatal error of one device: all behind the bridge are cut off and their link
 * is reset, after which the PCI core restores nothing.
 */
TEST_F_TIMEOUT(vfio_pci_bus_reset_test, fatal_error, 2 * WAIT_S)
{
	struct pollfd pfd = { .events = POLLIN };
	struct export *e;
	int i, ret, nr = self->nr_exports;

	pfd.fd = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(pfd.fd, 0);
	e = inject(self, PCI_ERR_UNC_MALF_TLP, pfd.fd);
	if (!e)
		SKIP(return, "No device to inject an error into");

	/*
	 * When the user hears of it, the memory is away, that of this device: the
	 * others are told one by one.
	 */
	ASSERT_EQ(1, poll(&pfd, 1, WAIT_S * 1000));
	EXPECT_GT(nr, iommufd_dmabuf_mappings());
	EXPECT_FALSE(live(self, e));
	ASSERT_TRUE(wait_bus_reset());
	EXPECT_EQ(0, live_mask(self));
	EXPECT_EQ(0, iommufd_dmabuf_mappings());

	/*
	 * Nothing else brings it back, in particular not what has VFIO look at
	 * the state of the device, whose PCI_COMMAND the user still sees as set.
	 */
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(e->device, e->fd));
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(e->device, e->fd));
	EXPECT_EQ(0, live_mask(self));
	if (!__vfio_pci_set_power_state(e->device, 3)) {
		ASSERT_EQ(0, __vfio_pci_set_power_state(e->device, 0));
		EXPECT_EQ(0, live_mask(self));
	}
	if (e->device->info.flags & VFIO_DEVICE_FLAGS_RESET) {
		/* The PCI core may still be telling the drivers that it is over. */
		while ((ret = __vfio_pci_device_reset(e->device)) == -EAGAIN)
			sched_yield();
		ASSERT_EQ(0, ret);
		EXPECT_EQ(0, live_mask(self));
	}
	for (i = 0; i < nr; i++) {
		struct export late = self->exports[i];

		late.fd = vfio_pci_dmabuf_export_bar(late.device, late.bar);
		EXPECT_FALSE(live(self, &late));
		ASSERT_EQ(0, close(late.fd));
	}

	/* One at a time they are set up again. */
	for (i = 0; i < nr; i++) {
		ASSERT_TRUE(set_up_again(self, &self->exports[i]));
		EXPECT_TRUE(pci_sysfs_command(device_bdfs[i]) & PCI_COMMAND_MEMORY);
		EXPECT_EQ((2U << i) - 1, live_mask(self));
		EXPECT_EQ(i + 1, iommufd_dmabuf_mappings());
	}
	ASSERT_EQ(0, close(pfd.fd));
}

static u32 bar_register(const char *bdf, int bar)
{
	return pci_sysfs_config_read(bdf, PCI_BASE_ADDRESS_0 + 4 * bar,
				     sizeof(u32));
}

/* Nobody has the device open: nobody sets it up again but the next to open it. */
TEST_F_TIMEOUT(vfio_pci_bus_reset_test, fatal_error_closed, 2 * WAIT_S)
{
	u32 bars[MAX_DEVICES][PCI_STD_NUM_BARS];
	int i, bar, ret = -ENOENT;
	time_t end;

	for (i = 0; i < nr_devices; i++)
		for (bar = 0; bar < PCI_STD_NUM_BARS; bar++)
			bars[i][bar] = bar_register(device_bdfs[i], bar);
	for (i = 0; i < self->nr_exports; i++) {
		close_export(self, &self->exports[i]);
		iommu_unmap_iova(self->iommu, IOVA_RESTORE(&self->exports[i]),
				 self->page);
		close(self->exports[i].fd);
	}

	for (i = 0; i < nr_devices && ret; i++)
		ret = pci_inject_error(device_bdfs[i], PCI_ERR_UNC_MALF_TLP);
	end = time(NULL) + WAIT_S;
	for (i = 0; i < nr_devices && !ret; i++)
		while (bar_register(device_bdfs[i], self->exports[i].bar) &
		       PCI_BASE_ADDRESS_MEM_MASK)
			ASSERT_GT(end, time(NULL));

	self->nr_exports = 0;
	for (i = 0; i < nr_devices; i++)
		export_device(self, device_bdfs[i]);
	if (ret)
		SKIP(return, "No device to inject an error into");
	for (i = 0; i < nr_devices; i++) {
		ASSERT_TRUE(set_up_again(self, &self->exports[i]));
		for (bar = 0; bar < PCI_STD_NUM_BARS; bar++)
			EXPECT_EQ(bars[i][bar], bar_register(device_bdfs[i], bar));
	}
	EXPECT_EQ(ALL_LIVE(self), live_mask(self));
	EXPECT_EQ(self->nr_exports, iommufd_dmabuf_mappings());
}

/* Without dma-bufs there is nothing to wait for: the user hears of it first. */
TEST_F_TIMEOUT(vfio_pci_bus_reset_test, fatal_error_no_dmabuf, 2 * WAIT_S)
{
	struct pollfd pfd = { .events = POLLIN };
	struct export *e;
	bool injected;
	int i;

	pfd.fd = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(pfd.fd, 0);
	for (i = 0; i < self->nr_exports; i++) {
		e = &self->exports[i];
		iommu_unmap_iova(self->iommu, IOVA_RESTORE(e), self->page);
		ASSERT_EQ(0, close(e->fd));
	}

	injected = inject(self, PCI_ERR_UNC_MALF_TLP, pfd.fd);
	if (injected) {
		ASSERT_TRUE(wait_bus_reset());
		EXPECT_EQ(1, poll(&pfd, 1, 0));
	}

	for (i = 0; i < self->nr_exports; i++) {
		e = &self->exports[i];
		e->fd = vfio_pci_dmabuf_export_bar(e->device, e->bar);
		ASSERT_EQ(0, __iommu_map_file(self->iommu, e->fd, 0, self->page,
					      IOVA_RESTORE(e),
					      MAP_RW | IOMMU_IOAS_MAP_RESTORE));
		ASSERT_TRUE(set_up_again(self, e));
	}
	EXPECT_EQ(self->nr_exports, iommufd_dmabuf_mappings());
	ASSERT_EQ(0, close(pfd.fd));
	if (!injected)
		SKIP(return, "No device to inject an error into");
}

/* Closed and opened again a device is as good as new. */
TEST_F_TIMEOUT(vfio_pci_bus_reset_test, fatal_error_reopen, 2 * WAIT_S)
{
	int fd = eventfd(0, EFD_CLOEXEC), i;

	ASSERT_GE(fd, 0);
	if (!inject(self, PCI_ERR_UNC_MALF_TLP, fd))
		SKIP(return, "No device to inject an error into");
	ASSERT_TRUE(wait_bus_reset());
	/* The last device is the last one that the PCI core is done with. */
	ASSERT_TRUE(set_up_again(self, &self->exports[self->nr_exports - 1]));

	for (i = 0; i < self->nr_exports; i++) {
		close_export(self, &self->exports[i]);
		iommu_unmap_iova(self->iommu, IOVA_RESTORE(&self->exports[i]),
				 self->page);
		close(self->exports[i].fd);
	}
	self->nr_exports = 0;
	for (i = 0; i < nr_devices; i++)
		export_device(self, device_bdfs[i]);
	EXPECT_EQ(ALL_LIVE(self), live_mask(self));
	EXPECT_EQ(self->nr_exports, iommufd_dmabuf_mappings());
	ASSERT_EQ(0, close(fd));
}

/* The user hears of an error that is not fatal, the memory stays where it is. */
TEST_F_TIMEOUT(vfio_pci_bus_reset_test, nonfatal_error, 2 * WAIT_S)
{
	struct pollfd pfd = { .events = POLLIN };
	struct export *e;

	pfd.fd = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(pfd.fd, 0);
	map_once(self);
	e = inject(self, PCI_ERR_UNC_POISON_TLP, pfd.fd);
	if (!e) {
		unmap_once(self);
		SKIP(return, "No device to inject an error into");
	}
	ASSERT_EQ(1, poll(&pfd, 1, WAIT_S * 1000));
	ASSERT_TRUE(wait_recovered(e));
	EXPECT_EQ(2 * self->nr_exports, iommufd_dmabuf_mappings());
	EXPECT_EQ(ALL_LIVE(self), live_mask(self));
	unmap_once(self);
	ASSERT_EQ(0, close(pfd.fd));
}

/*
 * Recovery fails for the sake of a device without a driver, which all others are
 * told of as a permanent failure.  Nothing has happened to them.
 */
TEST_F_TIMEOUT(vfio_pci_bus_reset_test, nonfatal_error_failed, 2 * WAIT_S)
{
	const char *bdf = device_bdfs[0];
	struct export *e;
	u64 nr, told = 0;
	int fd, i;

	if (nr_devices < 2)
		SKIP(return, "No other device to be without a driver");
	fd = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(fd, 0);
	close_export(self, &self->exports[0]);
	ASSERT_EQ(0, pci_sysfs_write(bdf, "driver/unbind", bdf));
	for (i = 1; i < self->nr_exports; i++)
		iommu_map_file(self->iommu, self->exports[i].fd, 0, self->page,
			       IOVA_ONCE(&self->exports[i]));

	e = inject(self, PCI_ERR_UNC_POISON_TLP, fd);
	/* Of the error, and of the failure. */
	while (e && told < 2) {
		ASSERT_EQ(sizeof(nr), read(fd, &nr, sizeof(nr)));
		told += nr;
	}
	EXPECT_EQ(2 * (self->nr_exports - 1), iommufd_dmabuf_mappings());
	EXPECT_EQ(ALL_LIVE(self) & ~1U, live_mask(self));

	for (i = 1; i < self->nr_exports; i++)
		iommu_unmap_iova(self->iommu, IOVA_ONCE(&self->exports[i]),
				 self->page);
	ASSERT_EQ(0, pci_sysfs_write(device_bdfs[1], "driver/bind", bdf));
	ASSERT_EQ(0, close(fd));
	if (!e)
		SKIP(return, "No device to inject an error into");
}

/* Is there a device next to the first one that has another driver? */
static bool has_other_driver(void)
{
	char path[PATH_MAX], link[PATH_MAX];
	struct dirent *entry;
	bool found = false;
	ssize_t len;
	DIR *dir;

	dir = opendir("/sys/bus/pci/devices");
	VFIO_ASSERT_NOT_NULL(dir);
	while (!found && (entry = readdir(dir))) {
		/* Domain and bus. */
		if (strncmp(entry->d_name, device_bdfs[0], strlen("0000:00:")))
			continue;
		snprintf_assert(path, sizeof(path),
				"/sys/bus/pci/devices/%s/driver", entry->d_name);
		len = readlink(path, link, sizeof(link) - 1);
		if (len < 0)
			continue;
		link[len] = '\0';
		found = strcmp(strrchr(link, '/'), "/vfio-pci");
	}
	closedir(dir);

	return found;
}

/* Another driver may have the link reset all the same: the memory is away then. */
TEST_F_TIMEOUT(vfio_pci_bus_reset_test, nonfatal_error_reset, 2 * WAIT_S)
{
	int fd = eventfd(0, EFD_CLOEXEC);
	struct export *e;

	ASSERT_GE(fd, 0);
	if (!has_other_driver())
		SKIP(return, "No device behind the bridge has another driver");
	e = inject(self, PCI_ERR_UNC_POISON_TLP, fd);
	if (!e)
		SKIP(return, "No device to inject an error into");

	ASSERT_TRUE(wait_bus_reset());
	EXPECT_TRUE(wait_live(self, e, false));
	EXPECT_TRUE(wait_unmapped());
	EXPECT_FALSE(pci_sysfs_command(device_bdfs[0]) & PCI_COMMAND_MEMORY);

	ASSERT_TRUE(set_up_again(self, e));
	EXPECT_TRUE(pci_sysfs_command(device_bdfs[0]) & PCI_COMMAND_MEMORY);
	EXPECT_EQ(1, iommufd_dmabuf_mappings());
	ASSERT_TRUE(wait_recovered(e));
	ASSERT_EQ(0, close(fd));
}

/*
 * The user is faster: writes when the link was reset, which is before VFIO hears of
 * it from the PCI core, that is kept waiting by the other driver.  Once is enough.
 */
TEST_F_TIMEOUT(vfio_pci_bus_reset_test, nonfatal_error_reset_set_up_early, 2 * WAIT_S)
{
	int fd = eventfd(0, EFD_CLOEXEC);
	time_t end = time(NULL) + WAIT_S;
	struct export *e;

	ASSERT_GE(fd, 0);
	if (!has_other_driver())
		SKIP(return, "No device behind the bridge has another driver");
	map_once(self);
	e = inject(self, PCI_ERR_UNC_POISON_TLP, fd);
	if (!e) {
		unmap_once(self);
		SKIP(return, "No device to inject an error into");
	}

	ASSERT_TRUE(wait_bus_reset());
	vfio_pci_set_memory_decode(e->device, true);
	while (iommufd_dmabuf_mappings() == 2)
		ASSERT_GT(end, time(NULL));
	EXPECT_TRUE(wait_live(self, e, true));
	EXPECT_TRUE(pci_sysfs_command(device_bdfs[0]) & PCI_COMMAND_MEMORY);
	EXPECT_EQ(1, iommufd_dmabuf_mappings());
	ASSERT_TRUE(wait_recovered(e));
	unmap_once(self);
	ASSERT_EQ(0, close(fd));
}

int main(int argc, char *argv[])
{
	char **bdfs;
	int i;

	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_devices);
	if (nr_devices > MAX_DEVICES)
		ksft_exit_skip("Name no more than %d devices\n", MAX_DEVICES);
	for (i = 0; i < nr_devices; i++)
		device_bdfs[i] = bdfs[i];

	return test_harness_run(argc, argv);
}
