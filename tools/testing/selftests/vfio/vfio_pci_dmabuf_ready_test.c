// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of device memory as dma-bufs: a device that is not ready after a
 * reset.  See vfio_pci_dmabuf_util.h.  EXPORTER is bound to vfio-pci-slow
 * during the tests, and has to be a device that can be reset.
 *
 * An importer that maps without IOMMU_IOAS_MAP_RESTORE would take a revoked
 * dma-buf for one that is gone.  So if the only cause is that the device is
 * not ready, such a map waits.
 */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/wait.h>

#include "vfio_pci_dmabuf_util.h"

/* How long the driver has a map wait. */
#define WAIT_MS		5000

#define PARAM "/sys/module/vfio_pci_slow/parameters/ready_ms"

FIXTURE(ready) {
	struct iommu *iommu;
	struct vfio_pci_device *device;
	u64 page;
	iova_t iova;
	int bar;
};

/* From whatever driver it is bound to, if any. */
static void bind_to(const char *driver)
{
	int ret = pci_sysfs_write(exporter_bdf, "driver/unbind", exporter_bdf);

	VFIO_ASSERT_TRUE(!ret || ret == -ENOENT);
	VFIO_ASSERT_EQ(pci_sysfs_write(exporter_bdf, "driver_override", driver), 0);
	VFIO_ASSERT_EQ(pci_sysfs_write(exporter_bdf, "subsystem/drivers_probe",
				       exporter_bdf), 0);
}

static void set_ready_ms(int ms)
{
	FILE *f = fopen(PARAM, "w");

	VFIO_ASSERT_NOT_NULL(f);
	fprintf(f, "%d", ms);
	VFIO_ASSERT_EQ(fclose(f), 0);
}

FIXTURE_SETUP(ready)
{
	if (access(PARAM, W_OK))
		SKIP(return, "no vfio-pci-slow (CONFIG_VFIO_PCI_SLOW_TEST)");

	bind_to("vfio-pci-slow");
	set_ready_ms(10);
	self->page = getpagesize();
	self->iova = 1ull << 30;
	self->iommu = iommu_init(MODE_IOMMUFD);
	self->device = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	self->bar = vfio_pci_largest_bar(self->device, self->page);
	if (self->bar < 0 || !(self->device->info.flags & VFIO_DEVICE_FLAGS_RESET))
		SKIP(return, "%s has no memory BAR or cannot be reset", exporter_bdf);
}

/* The process ends, and the device and iommufd are closed, whatever it died of. */
FIXTURE_TEARDOWN(ready)
{
}

static int map_page(FIXTURE_DATA(ready) *self, int fd)
{
	return try_map(self->iommu, fd, self->page, self->iova);
}

/* Each reset that there is: who maps next gets it. */
TEST_F_TIMEOUT(ready, map_waits, 120)
{
	int i, fd;

	/* Opening it is a reset, too. */
	for (i = 0; i < 5; i++) {
		fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
		EXPECT_EQ(0, map_page(self, fd));
		ASSERT_EQ(0, close(fd));
		vfio_pci_device_cleanup(self->device);
		self->device = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	}

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	for (i = 0; i < 5; i++) {
		vfio_pci_device_reset(self->device);
		EXPECT_EQ(0, map_page(self, fd));
		ASSERT_EQ(0, pci_sysfs_write(exporter_bdf, "reset", "1"));
		EXPECT_EQ(0, map_page(self, fd));
		if (!__vfio_pci_config_flr(self->device))
			EXPECT_EQ(0, map_page(self, fd));
	}
	ASSERT_EQ(0, close(fd));
}

/* Other causes are not waited for. */
TEST_F(ready, no_other_cause)
{
	int fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	long start;

	set_ready_ms(-1);
	vfio_pci_device_reset(self->device);
	EXPECT_EQ(VFIO_DMA_BUF_CAUSE_RESET, vfio_pci_dmabuf_causes(self->device, fd));
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
	start = now_ms();
	EXPECT_EQ(-ENODEV, map_page(self, fd));
	EXPECT_GT(WAIT_MS, now_ms() - start);
	ASSERT_EQ(0, close(fd));
}

/* One that never is: the wait has an end, and a fatal signal is one. */
TEST_F_TIMEOUT(ready, never, 120)
{
	int status, fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	long start;
	pid_t pid;

	set_ready_ms(-1);
	vfio_pci_device_reset(self->device);
	start = now_ms();
	EXPECT_EQ(-ENODEV, map_page(self, fd));
	EXPECT_LE(WAIT_MS, now_ms() - start);

	start = now_ms();
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(map_page(self, fd) == -ENODEV);
	wait_for_sleep(pid);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_GT(WAIT_MS, now_ms() - start);
	ASSERT_EQ(0, close(fd));
}

/* Nobody asks, and what was mapped comes back when it is ready. */
TEST_F(ready, restored)
{
	struct pollfd pfd = { .events = POLLIN };
	int fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	u64 val;

	if (iommufd_dmabuf_mappings() < 0)
		SKIP(return, "No debugfs to see mappings of dma-bufs in");

	pfd.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ASSERT_GE(pfd.fd, 0);
	ASSERT_EQ(0, __iommu_map_file(self->iommu, fd, 0, self->page, self->iova,
				      MAP_RW_RESTORE));
	set_ready_ms(-1);
	vfio_pci_device_reset(self->device);
	EXPECT_EQ(0, iommufd_dmabuf_mappings());
	ASSERT_EQ(0, __vfio_pci_dmabuf_set_eventfd(self->device, fd, pfd.fd));
	set_ready_ms(0);
	ASSERT_EQ(1, poll(&pfd, 1, 10000));
	ASSERT_EQ(sizeof(val), read(pfd.fd, &val, sizeof(val)));
	EXPECT_EQ(0, vfio_pci_dmabuf_causes(self->device, fd));
	EXPECT_EQ(1, iommufd_dmabuf_mappings());
	iommu_unmap_iova(self->iommu, self->iova, self->page);
	ASSERT_EQ(0, close(pfd.fd));
	ASSERT_EQ(0, close(fd));
}

/* This driver does not keep the host out, so its memory cannot be private. */
TEST_F(ready, private)
{
	int fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);

	EXPECT_EQ(-EOPNOTSUPP, __vfio_pci_dmabuf_set_private(self->device, fd, true));
	EXPECT_EQ(-EOPNOTSUPP, __vfio_pci_dmabuf_is_private(self->device, fd));
	ASSERT_EQ(0, close(fd));
}

/*
 * The device goes while it is still to be asked whether it is ready, which is half a
 * second later (slow_remove()).  With KASAN it shows if that is not cancelled.
 */
TEST_F_TIMEOUT(ready, unbind, 120)
{
	int i, fd;

	for (i = 0; i < 3; i++) {
		set_ready_ms(-1);
		fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
		vfio_pci_device_reset(self->device);
		EXPECT_EQ(VFIO_DMA_BUF_CAUSE_RESET,
			  vfio_pci_dmabuf_causes(self->device, fd));
		vfio_pci_device_cleanup(self->device);
		self->device = NULL;
		bind_to("vfio-pci-slow");
		set_ready_ms(10);
		EXPECT_EQ(-ENODEV, map_page(self, fd));
		self->device = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
		ASSERT_EQ(0, close(fd));
	}
}

static pid_t main_pid;

/* Others want the device back, however a test has ended. */
static void give_back(void)
{
	if (getpid() == main_pid)
		bind_to("vfio-pci");
}

int main(int argc, char *argv[])
{
	char **bdfs;
	int nr_bdfs;

	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_bdfs);
	exporter_bdf = bdfs[0];
	main_pid = getpid();
	if (!access(PARAM, W_OK))
		atexit(give_back);

	return test_harness_run(argc, argv);
}
