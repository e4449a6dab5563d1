// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of device memory as dma-bufs: resets, decoding, power states and
 * closing the device, which take the memory away, and events that do not.  See
 * vfio_pci_dmabuf_util.h.
 */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include <linux/pci_regs.h>

#include "vfio_pci_dmabuf_fixture.h"

/* The BAR, with its first page mapped where the page after self->iova is. */
static int export_and_map(FIXTURE_DATA(vfio_pci_dmabuf_test) *self)
{
	int fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);

	iommu_map_file(self->iommu, fd, 0, self->page, self->iova + self->page);
	return fd;
}

TEST_F(vfio_pci_dmabuf_test, decode)
{
	int early, late;

	early = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	EXPECT_LIVE(self, early);
	iommu_map_file(self->iommu, early, 0, self->page,
		       self->iova + self->page);

	vfio_pci_set_memory_decode(self->device, false);
	EXPECT_REVOKED(self, early);
	late = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	EXPECT_REVOKED(self, late);

	/* Saying it twice changes nothing. */
	vfio_pci_set_memory_decode(self->device, false);
	EXPECT_REVOKED(self, early);

	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_LIVE(self, early);
	EXPECT_LIVE(self, late);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_LIVE(self, early);

	/* A revoked mapping is still a mapping to its owner. */
	iommu_unmap_iova(self->iommu, self->iova + self->page, self->page);
	ASSERT_EQ(0, close(early));
	ASSERT_EQ(0, close(late));
}

TEST_F(vfio_pci_dmabuf_test, reset)
{
	int fd;

	if (!(self->device->info.flags & VFIO_DEVICE_FLAGS_RESET))
		SKIP(return, "%s cannot be reset", exporter_bdf);

	fd = export_and_map(self);
	vfio_pci_device_reset(self->device);
	/* It was revoked meanwhile; without debugfs there is no telling. */
	EXPECT_GE(0, iommufd_dmabuf_mappings());
	EXPECT_LIVE(self, fd);
	iommu_unmap_iova(self->iommu, self->iova + self->page, self->page);
	ASSERT_EQ(0, close(fd));
}

static int sysfs_reset(FIXTURE_DATA(vfio_pci_dmabuf_test) *self)
{
	return pci_sysfs_write(exporter_bdf, "reset", "1");
}

/* A function level reset that the user asks for in config space. */
static int config_reset(FIXTURE_DATA(vfio_pci_dmabuf_test) *self)
{
	return __vfio_pci_config_flr(self->device);
}

static void expect_reset_revokes(struct __test_metadata *_metadata,
				 FIXTURE_DATA(vfio_pci_dmabuf_test) *self,
				 int (*reset)(FIXTURE_DATA(vfio_pci_dmabuf_test) *self))
{
	int fd, ret;

	if (iommufd_dmabuf_mappings() < 0)
		SKIP(return, "No debugfs to see mappings of dma-bufs in");

	fd = export_and_map(self);
	ASSERT_EQ(1, iommufd_dmabuf_mappings());
	ret = reset(self);
	if (ret == -ENOENT || ret == -ENOTTY) {
		close(fd);
		SKIP(return, "%s has no such reset", exporter_bdf);
	}
	ASSERT_EQ(0, ret);
	EXPECT_EQ(0, iommufd_dmabuf_mappings());
	EXPECT_LIVE(self, fd);
	iommu_unmap_iova(self->iommu, self->iova + self->page, self->page);

	/* The other causes stay. */
	vfio_pci_set_memory_decode(self->device, false);
	ASSERT_EQ(0, reset(self));
	EXPECT_REVOKED(self, fd);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, sysfs_reset)
{
	expect_reset_revokes(_metadata, self, sysfs_reset);
}

TEST_F(vfio_pci_dmabuf_test, config_reset)
{
	expect_reset_revokes(_metadata, self, config_reset);
}

/* Refused before anything is revoked.  See vfio_pci_bus_reset_test for the rest. */
TEST_F(vfio_pci_dmabuf_test, hot_reset_impossible)
{
	struct vfio_pci_hot_reset_info info = { .argsz = sizeof(info) };
	int fd;

	if (iommufd_dmabuf_mappings() < 0)
		SKIP(return, "No debugfs to see mappings of dma-bufs in");
	if (!ioctl(self->device->fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &info) ||
	    errno != ENODEV)
		SKIP(return, "%s is not on a root bus", exporter_bdf);

	fd = export_and_map(self);
	EXPECT_EQ(-ENODEV, __vfio_pci_hot_reset(self->device));
	EXPECT_EQ(1, iommufd_dmabuf_mappings());
	EXPECT_LIVE(self, fd);
	iommu_unmap_iova(self->iommu, self->iova + self->page, self->page);
	ASSERT_EQ(0, close(fd));
}

/* Export the BAR, and put the device into D3hot; -1 if it has no such state. */
static int export_in_d3hot(FIXTURE_DATA(vfio_pci_dmabuf_test) *self)
{
	int fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);

	if (!__vfio_pci_set_power_state(self->device, 3))
		return fd;

	close(fd);
	return -1;
}

TEST_F(vfio_pci_dmabuf_test, sysfs_reset_in_d3hot)
{
	int fd;

	if (!(self->device->info.flags & VFIO_DEVICE_FLAGS_RESET))
		SKIP(return, "%s cannot be reset", exporter_bdf);

	fd = export_in_d3hot(self);
	if (fd < 0)
		SKIP(return, "%s has no PM capability", exporter_bdf);
	EXPECT_REVOKED(self, fd);

	/* As with VFIO's own: the reset leaves the device in D0. */
	ASSERT_EQ(0, pci_sysfs_write(exporter_bdf, "reset", "1"));
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, reset_with_decode_off)
{
	int fd;

	if (!(self->device->info.flags & VFIO_DEVICE_FLAGS_RESET))
		SKIP(return, "%s cannot be reset", exporter_bdf);

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	vfio_pci_set_memory_decode(self->device, false);
	vfio_pci_device_reset(self->device);
	EXPECT_REVOKED(self, fd);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, d3hot)
{
	int fd;

	fd = export_in_d3hot(self);
	if (fd < 0)
		SKIP(return, "%s has no PM capability", exporter_bdf);
	EXPECT_REVOKED(self, fd);

	/* Two causes: neither's end alone brings the memory back. */
	vfio_pci_set_memory_decode(self->device, false);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_REVOKED(self, fd);
	vfio_pci_set_memory_decode(self->device, false);
	ASSERT_EQ(0, __vfio_pci_set_power_state(self->device, 0));
	EXPECT_REVOKED(self, fd);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

/* A state that the device does not have is ignored: what was mapped stays. */
TEST_F(vfio_pci_dmabuf_test, d1_d2_missing)
{
	u8 pos = vfio_pci_find_cap(self->device, PCI_CAP_ID_PM);
	u16 pmc;
	int fd;

	if (iommufd_dmabuf_mappings() < 0)
		SKIP(return, "No debugfs to see mappings of dma-bufs in");
	pmc = pos ? vfio_pci_config_readw(self->device, pos + PCI_PM_PMC) : 0;
	if (!pos || (pmc & (PCI_PM_CAP_D1 | PCI_PM_CAP_D2)))
		SKIP(return, "%s has D1, D2 or no power management", exporter_bdf);

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	iommu_map_file(self->iommu, fd, 0, self->page, self->iova);
	ASSERT_EQ(1, iommufd_dmabuf_mappings());
	ASSERT_EQ(0, __vfio_pci_set_power_state(self->device, 1));
	EXPECT_EQ(1, iommufd_dmabuf_mappings());
	ASSERT_EQ(0, __vfio_pci_set_power_state(self->device, 2));
	EXPECT_EQ(1, iommufd_dmabuf_mappings());

	/* One that it has is not. */
	ASSERT_EQ(0, __vfio_pci_set_power_state(self->device, 3));
	EXPECT_EQ(0, iommufd_dmabuf_mappings());
	iommu_unmap_iova(self->iommu, self->iova, self->page);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, d3hot_reset)
{
	int fd;

	if (!(self->device->info.flags & VFIO_DEVICE_FLAGS_RESET))
		SKIP(return, "%s cannot be reset", exporter_bdf);

	fd = export_in_d3hot(self);
	if (fd < 0)
		SKIP(return, "%s has no PM capability", exporter_bdf);
	EXPECT_REVOKED(self, fd);

	/* The reset leaves the device in D0. */
	vfio_pci_device_reset(self->device);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

/* A dma-buf may be live only if the hardware decodes, whatever its user sees. */
#define EXPECT_HW_DECODE(_on)						\
	EXPECT_EQ(_on, !!(pci_sysfs_command(exporter_bdf) & PCI_COMMAND_MEMORY))

/*
 * A device that does not keep its registers on the way from D3hot to D0, which
 * VFIO hides from its user.  QEMU's devices say that they do not and then keep
 * them, so they are taken away here.  -1 if the device keeps them.
 */
static int export_in_d3hot_lost(FIXTURE_DATA(vfio_pci_dmabuf_test) *self)
{
	int fd;

	if (vfio_pci_no_soft_reset(self->device))
		return -1;

	fd = export_in_d3hot(self);
	pci_sysfs_config_write(exporter_bdf, PCI_COMMAND, 0, sizeof(u16));

	return fd;
}

/* Waking is not enough for a device that does not decode: the user sets it up. */
static void wake_and_set_up(struct __test_metadata *const _metadata,
			    FIXTURE_DATA(vfio_pci_dmabuf_test) *self, int fd)
{
	ASSERT_EQ(0, __vfio_pci_set_power_state(self->device, 0));
	EXPECT_HW_DECODE(false);
	EXPECT_REVOKED(self, fd);

	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_HW_DECODE(true);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, d3hot_lost)
{
	int fd = export_in_d3hot_lost(self);

	if (fd < 0)
		SKIP(return, "%s keeps its registers in D3hot", exporter_bdf);
	ASSERT_EQ(0, __vfio_pci_set_power_state(self->device, 0));
	EXPECT_HW_DECODE(true);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, d3hot_lost_reset)
{
	int fd = export_in_d3hot_lost(self);

	if (fd < 0)
		SKIP(return, "%s keeps its registers in D3hot", exporter_bdf);
	vfio_pci_device_reset(self->device);
	EXPECT_HW_DECODE(true);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, d3hot_lost_config_reset)
{
	int fd = export_in_d3hot_lost(self);

	if (fd < 0)
		SKIP(return, "%s keeps its registers in D3hot", exporter_bdf);
	ASSERT_EQ(0, __vfio_pci_config_flr(self->device));
	EXPECT_HW_DECODE(true);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

/* VFIO hears of that too late to keep anything.  The user sets it up again. */
TEST_F(vfio_pci_dmabuf_test, d3hot_lost_sysfs_reset)
{
	int fd = export_in_d3hot_lost(self), late;

	if (fd < 0)
		SKIP(return, "%s keeps its registers in D3hot", exporter_bdf);
	ASSERT_EQ(0, pci_sysfs_write(exporter_bdf, "reset", "1"));
	EXPECT_HW_DECODE(false);
	EXPECT_REVOKED(self, fd);

	/* Nothing else brings it back. */
	late = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	EXPECT_REVOKED(self, late);
	ASSERT_EQ(0, close(late));
	vfio_pci_device_reset(self->device);
	EXPECT_REVOKED(self, fd);
	ASSERT_EQ(0, __vfio_pci_config_flr(self->device));
	EXPECT_REVOKED(self, fd);
	ASSERT_EQ(0, __vfio_pci_set_power_state(self->device, 3));
	wake_and_set_up(_metadata, self, fd);
}

/* What is written in D3hot goes with the registers, what was before comes back. */
TEST_F(vfio_pci_dmabuf_test, d3hot_lost_write)
{
	int fd;

	if (vfio_pci_no_soft_reset(self->device))
		SKIP(return, "%s keeps its registers in D3hot", exporter_bdf);

	vfio_pci_set_memory_decode(self->device, false);
	fd = export_in_d3hot(self);
	vfio_pci_set_memory_decode(self->device, true);
	wake_and_set_up(_metadata, self, fd);
}

TEST_F(vfio_pci_dmabuf_test, low_power)
{
	u32 set = VFIO_DEVICE_FEATURE_SET;
	u32 argsz = sizeof(struct vfio_device_feature);
	int fd, late;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	ASSERT_EQ(0, feature_ioctl(self->device, set |
				   VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
				   argsz, NULL, 0));
	EXPECT_REVOKED(self, fd);
	/* A second entry fails and leaves the first in force. */
	ASSERT_EQ(-EINVAL, feature_ioctl(self->device, set |
					 VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
					 argsz, NULL, 0));

	/* Each of these wakes the device for as long as it takes. */
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_REVOKED(self, fd);
	late = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	EXPECT_REVOKED(self, late);

	ASSERT_EQ(0, feature_ioctl(self->device, set |
				   VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
				   argsz, NULL, 0));
	EXPECT_LIVE(self, fd);
	EXPECT_LIVE(self, late);
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(late));
}

/* 1 if it is, 0 if not, -1 if the kernel has no runtime power management. */
static int runtime_suspended(const char *bdf)
{
	char path[PATH_MAX], status[32] = {};
	int fd;

	snprintf_assert(path, sizeof(path),
			"/sys/bus/pci/devices/%s/power/runtime_status", bdf);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return -1;
	VFIO_ASSERT_GT(read(fd, status, sizeof(status) - 1), 0);
	VFIO_ASSERT_EQ(close(fd), 0);

	return !strncmp(status, "suspended", strlen("suspended"));
}

TEST_F(vfio_pci_dmabuf_test, low_power_wakeup)
{
	struct vfio_device_low_power_entry_with_wakeup entry = {};
	u32 set = VFIO_DEVICE_FEATURE_SET;
	time_t end = time(NULL) + 10;
	struct pollfd pfd;
	int fd;

	if (runtime_suspended(exporter_bdf) < 0)
		SKIP(return, "The kernel has no runtime power management");

	pfd.fd = eventfd(0, EFD_CLOEXEC);
	pfd.events = POLLIN;
	ASSERT_GE(pfd.fd, 0);
	entry.wakeup_eventfd = pfd.fd;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	ASSERT_EQ(0, feature_ioctl(self->device, set |
				   VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
				   sizeof(struct vfio_device_feature) +
				   sizeof(entry), &entry, sizeof(entry)));
	EXPECT_REVOKED(self, fd);

	/* Runtime PM suspends from a work item. */
	while (!runtime_suspended(exporter_bdf)) {
		if (time(NULL) > end)
			SKIP(return, "%s is not suspended in 10 s", exporter_bdf);
	}

	/* The access wakes the device, and that ends the low power state. */
	vfio_pci_config_readw(self->device, PCI_VENDOR_ID);
	ASSERT_EQ(1, poll(&pfd, 1, 0));
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(pfd.fd));
}

TEST_F(vfio_pci_dmabuf_test, close_device)
{
	struct iommu *iommu;
	int fd;

	fd = export_and_map(self);

	vfio_pci_device_cleanup(self->device);
	self->device = NULL;
	EXPECT_REVOKED(self, fd);
	iommu_unmap_iova(self->iommu, self->iova + self->page, self->page);

	/* For ever: not a new IOAS, nor opening the device again. */
	iommu = iommu_init(MODE_IOMMUFD);
	EXPECT_EQ(-ENODEV, try_map(iommu, fd, self->page, self->iova));
	iommu_cleanup(iommu);

	self->device = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	EXPECT_REVOKED(self, fd);
	vfio_pci_set_memory_decode(self->device, false);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_REVOKED(self, fd);
	ASSERT_EQ(0, close(fd));
}

/*
 * As after the reset of the link of a closed device: its BARs are 0.  Opening it
 * puts them where what is exported says that they are.
 */
TEST_F(vfio_pci_dmabuf_test, bars_lost_while_closed)
{
	off_t pos = PCI_BASE_ADDRESS_0 + 4 * self->bar;
	u32 bars[PCI_STD_NUM_BARS], val;
	int fd, i;

	vfio_pci_device_cleanup(self->device);
	self->device = NULL;
	/* Asleep it would get them back from the PCI core when it wakes. */
	pci_sysfs_write(exporter_bdf, "power/control", "on");
	for (i = 0; i < PCI_STD_NUM_BARS; i++)
		bars[i] = pci_sysfs_config_read(exporter_bdf,
						PCI_BASE_ADDRESS_0 + 4 * i, 4);
	for (i = 0; i < PCI_STD_NUM_BARS; i++)
		pci_sysfs_config_write(exporter_bdf, PCI_BASE_ADDRESS_0 + 4 * i,
				       0, 4);
	val = pci_sysfs_config_read(exporter_bdf, pos, 4);
	EXPECT_EQ(0, val & PCI_BASE_ADDRESS_MEM_MASK);

	self->device = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	for (i = 0; i < PCI_STD_NUM_BARS; i++) {
		val = pci_sysfs_config_read(exporter_bdf,
					    PCI_BASE_ADDRESS_0 + 4 * i, 4);
		EXPECT_EQ(bars[i], val);
		/* Nobody after this one should have to suffer. */
		pci_sysfs_config_write(exporter_bdf, PCI_BASE_ADDRESS_0 + 4 * i,
				       bars[i], 4);
	}
	pci_sysfs_write(exporter_bdf, "power/control", "auto");
	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, close_device_while_revoked)
{
	int fd;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	vfio_pci_set_memory_decode(self->device, false);
	vfio_pci_device_cleanup(self->device);
	self->device = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	EXPECT_REVOKED(self, fd);
	ASSERT_EQ(0, close(fd));
}

/*
 * A file that was opened with O_PATH keeps the dma-buf when its own file is gone.
 * Whoever goes through the dma-bufs of the device must not look at that.
 */
TEST_F(vfio_pci_dmabuf_test, o_path)
{
	char path[64];
	int fd, other;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	snprintf_assert(path, sizeof(path), "/proc/self/fd/%d", fd);
	other = open(path, O_PATH | O_CLOEXEC);
	ASSERT_GE(other, 0);
	ASSERT_EQ(0, close(fd));

	vfio_pci_set_memory_decode(self->device, false);
	vfio_pci_set_memory_decode(self->device, true);
	if (self->device->info.flags & VFIO_DEVICE_FLAGS_RESET)
		vfio_pci_device_reset(self->device);
	/* One that has a file is none the worse for it. */
	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	EXPECT_LIVE(self, fd);
	vfio_pci_device_cleanup(self->device);
	EXPECT_REVOKED(self, fd);
	ASSERT_EQ(0, close(other));
	self->device = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	ASSERT_EQ(0, close(fd));
}

static void *unbind(void *arg)
{
	*(int *)arg = pci_sysfs_write(exporter_bdf, "driver/unbind", exporter_bdf);

	return NULL;
}

/*
 * The driver goes, as in a hot-unplug: the device is asked for, and is let go of
 * when it is closed, not when the last dma-buf is.
 */
TEST_F(vfio_pci_dmabuf_test, unbind)
{
	struct pollfd pfd = { .events = POLLIN };
	int fd, unbound = 1;
	pthread_t thread;

	pfd.fd = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(pfd.fd, 0);
	vfio_pci_set_irq_eventfd(self->device, VFIO_PCI_REQ_IRQ_INDEX, pfd.fd);
	fd = export_and_map(self);

	ASSERT_EQ(0, pthread_create(&thread, NULL, unbind, &unbound));
	ASSERT_EQ(1, poll(&pfd, 1, 10000));
	EXPECT_LIVE(self, fd);

	vfio_pci_device_cleanup(self->device);
	self->device = NULL;
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, unbound);
	EXPECT_REVOKED(self, fd);
	iommu_unmap_iova(self->iommu, self->iova + self->page, self->page);

	ASSERT_EQ(0, pci_sysfs_write(exporter_bdf,
				     "subsystem/drivers/vfio-pci/bind",
				     exporter_bdf));
	self->device = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	EXPECT_REVOKED(self, fd);
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(pfd.fd));
}

int main(int argc, char *argv[])
{
	return dmabuf_main(argc, argv);
}
