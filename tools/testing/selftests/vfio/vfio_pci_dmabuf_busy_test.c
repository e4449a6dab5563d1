// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of device memory as dma-bufs: an importer that needs time to let go.  See
 * vfio_pci_dmabuf_util.h; INITIATOR is any other PCI device bound to vfio-pci.
 *
 * It is without a driver meanwhile, so that /dev/dma-buf-mock can import with it:
 * by a scatterlist, as drivers of devices do, and busy until the test says that it
 * is not any more.  Whoever takes the memory away waits for that, unless a fatal
 * signal comes, or the PCI core cannot wait.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include <linux/pci_regs.h>

#include "../../../../drivers/dma-buf/dma-buf-mock-uapi.h"
#include "vfio_pci_dmabuf_fixture.h"

/* How long the kernel has a reset by the PCI core wait. */
#define RESET_WAIT_MS	2000
/* What takes longer than that waits for something else. */
#define LONG_MS		30000

/* A dma-buf, and who imports it */
struct busy {
	int dev;
	int fd;
	u32 id;
};

/* 0 or -errno: -EINVAL if there is no way from one device to the other. */
static int busy_import(struct busy *busy)
{
	struct dma_buf_mock_import args = {
		.fd = busy->fd,
		.flags = DMA_BUF_MOCK_BUSY | DMA_BUF_MOCK_PCI,
		.models = 1 << DMA_BUF_MOCK_REVOCABLE,
	};
	unsigned int segment, bus, dev, fn;
	int ret;

	ret = sscanf(initiator_bdf, "%x:%x:%x.%x", &segment, &bus, &dev, &fn);
	VFIO_ASSERT_EQ(ret, 4);
	args.pci_device = segment << 16 | bus << 8 | dev << 3 | fn;
	if (ioctl(busy->dev, DMA_BUF_MOCK_IMPORT, &args))
		return -errno;
	busy->id = args.id;
	return 0;
}

/* The device has done its work; returns whether it has the memory mapped still. */
static bool busy_end(struct busy *busy)
{
	struct dma_buf_mock_import args = { .id = busy->id };

	VFIO_ASSERT_EQ(ioctl(busy->dev, DMA_BUF_MOCK_IDLE, &args), 0);
	return args.mapped;
}

static void busy_close(struct busy *busy)
{
	VFIO_ASSERT_EQ(close(busy->fd), 0);
	VFIO_ASSERT_EQ(close(busy->dev), 0);
}

static int hold(struct busy *busy, u32 action)
{
	struct dma_buf_mock_hold args = { .fd = busy->fd, .action = action };

	return ioctl(busy->dev, DMA_BUF_MOCK_HOLD, &args) ? -errno : 0;
}

/* A dma-buf with a busy importer; NULL, or why there is none. */
static const char *__busy_export(FIXTURE_DATA(vfio_pci_dmabuf_test) *self,
				 struct busy *busy, bool unmappable)
{
	int ret;

	if (!initiator_bdf)
		return "No second device given";
	busy->dev = open("/dev/dma-buf-mock", O_RDWR | O_CLOEXEC);
	if (busy->dev < 0)
		return "no /dev/dma-buf-mock (CONFIG_DMABUF_MOCK)";
	busy->fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	if (unmappable && __vfio_pci_dmabuf_unmappable(self->device, busy->fd))
		return "This kernel does not keep the host out";
	ret = busy_import(busy);
	if (ret == -EINVAL)
		return "One device cannot reach the other";
	VFIO_ASSERT_EQ(ret, 0);
	return NULL;
}

static const char *busy_export(FIXTURE_DATA(vfio_pci_dmabuf_test) *self,
			       struct busy *busy)
{
	return __busy_export(self, busy, false);
}

/* A child that waits for the importer in the middle of @fn, which revokes. */
static pid_t waiter(FIXTURE_DATA(vfio_pci_dmabuf_test) *self, int fd,
		    int (*fn)(struct vfio_pci_device *device, int fd))
{
	pid_t pid = fork();

	VFIO_ASSERT_GE(pid, 0);
	if (!pid)
		_exit(!!fn(self->device, fd));
	while (try_map_page(self, fd) != -ENODEV)
		;
	wait_for_sleep(pid);
	return pid;
}

static int decode_off(struct vfio_pci_device *device, int fd)
{
	vfio_pci_set_memory_decode(device, false);
	return 0;
}

/* Killed, and the device is as it was: the memory is back. */
TEST_F(vfio_pci_dmabuf_test, decode_killed)
{
	struct busy busy;
	const char *why;
	int status;
	pid_t pid;

	why = busy_export(self, &busy);
	if (why)
		SKIP(return, "%s", why);

	pid = waiter(self, busy.fd, decode_off);
	EXPECT_REVOKED(self, busy.fd);
	EXPECT_TRUE(pci_sysfs_command(exporter_bdf) & PCI_COMMAND_MEMORY);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_TRUE(pci_sysfs_command(exporter_bdf) & PCI_COMMAND_MEMORY);
	EXPECT_TRUE(vfio_pci_config_readw(self->device, PCI_COMMAND) &
		    PCI_COMMAND_MEMORY);
	EXPECT_LIVE(self, busy.fd);

	/* It was told all the same, and then there is nobody to wait for. */
	EXPECT_FALSE(busy_end(&busy));
	vfio_pci_set_memory_decode(self->device, false);
	EXPECT_REVOKED(self, busy.fd);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_LIVE(self, busy.fd);
	busy_close(&busy);
}

/* Not killed, it returns when the importer has let go, and not before. */
TEST_F(vfio_pci_dmabuf_test, decode_waits)
{
	struct busy busy;
	const char *why;
	int status;
	pid_t pid;

	why = busy_export(self, &busy);
	if (why)
		SKIP(return, "%s", why);

	pid = waiter(self, busy.fd, decode_off);
	EXPECT_TRUE(pci_sysfs_command(exporter_bdf) & PCI_COMMAND_MEMORY);
	EXPECT_EQ(0, waitpid(pid, &status, WNOHANG));
	EXPECT_FALSE(busy_end(&busy));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_FALSE(pci_sysfs_command(exporter_bdf) & PCI_COMMAND_MEMORY);
	EXPECT_REVOKED(self, busy.fd);
	busy_close(&busy);
}

/* The user's own revocation lasts if its wait is killed, and a restore ends one. */
TEST_F(vfio_pci_dmabuf_test, user_revoke)
{
	struct busy busy;
	const char *why;
	int status;
	pid_t pid;

	why = busy_export(self, &busy);
	if (why)
		SKIP(return, "%s", why);

	pid = waiter(self, busy.fd, __vfio_pci_dmabuf_revoke);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_REVOKED(self, busy.fd);

	/* Revoking it again waits for the same. */
	pid = waiter(self, busy.fd, __vfio_pci_dmabuf_revoke);
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, busy.fd));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_LIVE(self, busy.fd);
	EXPECT_FALSE(busy_end(&busy));
	busy_close(&busy);
}

static int make_private(struct vfio_pci_device *device, int fd)
{
	return __vfio_pci_dmabuf_set_private(device, fd, true);
}

/* While memory becomes private it belongs to the task that waits for that. */
TEST_F(vfio_pci_dmabuf_test, private_waits)
{
	struct vfio_region_dma_range part = { .length = self->page };
	struct busy busy;
	const char *why;
	int status, fd;
	pid_t pid;

	why = __busy_export(self, &busy, true);
	if (why)
		SKIP(return, "%s", why);

	pid = waiter(self, busy.fd, make_private);
	EXPECT_EQ(VFIO_DMA_BUF_CAUSE_CONVERT,
		  vfio_pci_dmabuf_causes(self->device, busy.fd));
	EXPECT_EQ(0, __vfio_pci_dmabuf_is_private(self->device, busy.fd));
	EXPECT_EQ(-EBUSY, __vfio_pci_dmabuf_set_private(self->device, busy.fd, true));
	EXPECT_EQ(-EBUSY, __vfio_pci_dmabuf_set_private(self->device, busy.fd, false));
	EXPECT_EQ(-EBUSY, __vfio_pci_dmabuf_export(self->device, self->bar, &part, 1,
						   O_RDWR | O_CLOEXEC));
	EXPECT_EQ(0, waitpid(pid, &status, WNOHANG));

	EXPECT_FALSE(busy_end(&busy));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, vfio_pci_dmabuf_causes(self->device, busy.fd));
	EXPECT_EQ(1, __vfio_pci_dmabuf_is_private(self->device, busy.fd));
	EXPECT_EQ(-EACCES, try_map_page(self, busy.fd));
	fd = __vfio_pci_dmabuf_export(self->device, self->bar, &part, 1,
				      O_RDWR | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(1, __vfio_pci_dmabuf_is_private(self->device, fd));
	ASSERT_EQ(0, close(fd));
	busy_close(&busy);
}

/* Killed, it stays shared, and the next one can try. */
TEST_F(vfio_pci_dmabuf_test, private_killed)
{
	struct busy busy;
	const char *why;
	int status;
	pid_t pid;

	why = __busy_export(self, &busy, true);
	if (why)
		SKIP(return, "%s", why);

	pid = waiter(self, busy.fd, make_private);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(0, vfio_pci_dmabuf_causes(self->device, busy.fd));
	EXPECT_EQ(0, __vfio_pci_dmabuf_is_private(self->device, busy.fd));
	EXPECT_LIVE(self, busy.fd);

	/* The importer was told all the same. */
	EXPECT_FALSE(busy_end(&busy));
	ASSERT_EQ(0, make_private(self->device, busy.fd));
	EXPECT_EQ(1, __vfio_pci_dmabuf_is_private(self->device, busy.fd));
	busy_close(&busy);
}

/* A reset by the PCI core: whoever asked for it holds locks that others need. */
TEST_F_TIMEOUT(vfio_pci_dmabuf_test, reset_is_bounded, 120)
{
	struct busy busy;
	const char *why;
	long start;

	if (!(self->device->info.flags & VFIO_DEVICE_FLAGS_RESET))
		SKIP(return, "%s cannot be reset", exporter_bdf);

	why = busy_export(self, &busy);
	if (why)
		SKIP(return, "%s", why);

	start = now_ms();
	ASSERT_EQ(0, pci_sysfs_write(exporter_bdf, "reset", "1"));
	EXPECT_LE(RESET_WAIT_MS, now_ms() - start);
	EXPECT_GT(LONG_MS, now_ms() - start);
	EXPECT_LIVE(self, busy.fd);
	EXPECT_FALSE(busy_end(&busy));

	/* Nobody is left to wait for. */
	start = now_ms();
	ASSERT_EQ(0, pci_sysfs_write(exporter_bdf, "reset", "1"));
	EXPECT_GT(RESET_WAIT_MS, now_ms() - start);
	busy_close(&busy);
}

struct holder {
	struct busy *busy;
	int ret;
};

static void *holder(void *arg)
{
	struct holder *h = arg;

	h->ret = hold(h->busy, DMA_BUF_MOCK_HOLD_LOCK);
	return NULL;
}

/*
 * The link is reset, whoever is in the way of telling importers: here one of them
 * that holds the lock of the dma-buf, waiting for a frozen device, say.
 */
TEST_F_TIMEOUT(vfio_pci_dmabuf_test, error_is_bounded, 120)
{
	struct holder h;
	struct busy busy;
	const char *why;
	pthread_t thread;
	long start;
	u64 nr;
	int efd, ret;

	why = busy_export(self, &busy);
	if (why)
		SKIP(return, "%s", why);

	efd = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(efd, 0);
	vfio_pci_set_irq_eventfd(self->device, VFIO_PCI_ERR_IRQ_INDEX, efd);
	h = (struct holder){ .busy = &busy };
	ASSERT_EQ(0, pthread_create(&thread, NULL, holder, &h));
	while (hold(&busy, DMA_BUF_MOCK_HOLD_QUERY))
		;

	ret = pci_inject_error(exporter_bdf, PCI_ERR_UNC_MALF_TLP);
	start = now_ms();
	/* A reset of the link clears it. */
	while (!ret && (pci_sysfs_command(exporter_bdf) & PCI_COMMAND_MEMORY)) {
		ASSERT_GT(LONG_MS, now_ms() - start);
	}
	ASSERT_EQ(0, hold(&busy, DMA_BUF_MOCK_HOLD_RELEASE));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, h.ret);
	if (ret) {
		busy_end(&busy);
		SKIP(return, "%s has no AER, or the kernel cannot inject errors",
		     exporter_bdf);
	}

	/* Then all are told, and nobody waits for the device. */
	ASSERT_EQ(sizeof(nr), read(efd, &nr, sizeof(nr)));
	EXPECT_REVOKED(self, busy.fd);
	EXPECT_FALSE(busy_end(&busy));
	ASSERT_EQ(0, close(efd));
	busy_close(&busy);
}

static pid_t main_pid;

/* Others want the device back, however a test has ended. */
static void give_back(void)
{
	if (getpid() == main_pid)
		pci_sysfs_write(initiator_bdf, "subsystem/drivers_probe", initiator_bdf);
}

int main(int argc, char *argv[])
{
	char **bdfs;
	int nr_bdfs;

	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_bdfs);
	exporter_bdf = bdfs[0];
	if (nr_bdfs > 1) {
		initiator_bdf = bdfs[1];
		main_pid = getpid();
		VFIO_ASSERT_EQ(pci_sysfs_write(initiator_bdf, "driver/unbind",
					       initiator_bdf), 0);
		atexit(give_back);
	}

	return test_harness_run(argc, argv);
}
