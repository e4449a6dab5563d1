// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of dma-bufs of virtual functions, and of what virtual functions mean for
 * the dma-bufs of their physical function.
 *
 *	vfio_pci_dmabuf_sriov_test [options] PF
 *
 * PF is bound to vfio-pci and has no VFs yet; a VF has a memory BAR of a page.
 * The tests make vfio-pci accept SR-IOV (enable_sriov) and create one VF.
 *
 * As elsewhere a dma-buf is mapped once to be restored and once not to be: the
 * latter mapping stays if, and only if, the dma-buf was not revoked.
 */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
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

#define MAP_RW		(IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE)
#define VF_TOKEN	"8d9d2b5c-6f0e-4c5a-9d1f-3a1b6c0e7f52"
#define ENABLE_SRIOV	"/sys/module/vfio_pci/parameters/enable_sriov"

#define IOVA_RESTORE	((iova_t)SZ_1G)
#define IOVA_ONCE	((iova_t)SZ_1G + SZ_16M)
#define IOVA_TRY	((iova_t)SZ_1G + 2 * SZ_16M)
#define IOVA_PF		((iova_t)SZ_1G + 3 * SZ_16M)

static const char *pf_bdf;

FIXTURE(vfio_pci_dmabuf_sriov_test) {
	struct iommu *iommu;
	struct vfio_pci_device *pf;
	struct vfio_pci_device *vf;
	char *vf_bdf;
	char sriov_was;
	u64 page;
	int bar;
	int fd;
};

/* Have the parameter be what it is given and return what it was, or -errno. */
static int swap_enable_sriov(char val)
{
	int fd = open(ENABLE_SRIOV, O_RDWR), ret;
	char old;

	if (fd < 0)
		return -errno;
	ret = pread(fd, &old, 1, 0) == 1 && pwrite(fd, &val, 1, 0) == 1 ?
	      old : -errno;
	VFIO_ASSERT_EQ(close(fd), 0);

	return ret;
}

static bool live(FIXTURE_DATA(vfio_pci_dmabuf_sriov_test) *self, int fd)
{
	int ret = __iommu_map_file(self->iommu, fd, 0, self->page, IOVA_TRY,
				   MAP_RW);

	if (!ret)
		iommu_unmap_iova(self->iommu, IOVA_TRY, self->page);
	else
		VFIO_ASSERT_EQ(ret, -ENODEV);

	return !ret;
}

FIXTURE_SETUP(vfio_pci_dmabuf_sriov_test)
{
	int ret;

	self->page = getpagesize();
	self->fd = -1;
	self->iommu = iommu_init(MODE_IOMMUFD);
	if (sysfs_sriov_totalvfs_get(pf_bdf) <= 0)
		SKIP(return, "%s has no VFs", pf_bdf);
	if (iommufd_dmabuf_mappings() < 0)
		SKIP(return, "No debugfs to see mappings of dma-bufs in");
	ret = swap_enable_sriov('Y');
	if (ret < 0)
		SKIP(return, "vfio-pci has no SR-IOV: %s", strerror(-ret));
	self->sriov_was = ret;

	self->pf = vfio_pci_device_init_nomap(pf_bdf, self->iommu);
	vfio_device_set_vf_token(self->pf->fd, VF_TOKEN);
	ASSERT_EQ(0, sysfs_sriov_numvfs_get(pf_bdf));
	ASSERT_EQ(0, pci_sysfs_write(pf_bdf, "sriov_numvfs", "1"));

	self->vf_bdf = sysfs_sriov_vf_bdf_get(pf_bdf, 0);
	self->vf = vfio_pci_device_init_vf(self->vf_bdf, self->iommu, VF_TOKEN);
	self->bar = vfio_pci_largest_bar(self->vf, self->page);
	if (self->bar < 0) {
		/* There is no teardown then. */
		vfio_pci_device_cleanup(self->vf);
		vfio_pci_device_cleanup(self->pf);
		pci_sysfs_write(pf_bdf, "sriov_numvfs", "0");
		swap_enable_sriov(self->sriov_was);
		SKIP(return, "A VF of %s has no memory BAR of a page", pf_bdf);
	}

	self->fd = vfio_pci_dmabuf_export_bar(self->vf, self->bar);
	ASSERT_EQ(0, __iommu_map_file(self->iommu, self->fd, 0, self->page,
				      IOVA_RESTORE,
				      MAP_RW | IOMMU_IOAS_MAP_RESTORE));
	iommu_map_file(self->iommu, self->fd, 0, self->page, IOVA_ONCE);
	ASSERT_EQ(2, iommufd_dmabuf_mappings());
	ASSERT_TRUE(live(self, self->fd));
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_sriov_test)
{
	if (self->fd >= 0) {
		iommu_unmap_iova(self->iommu, IOVA_RESTORE, self->page);
		iommu_unmap_iova(self->iommu, IOVA_ONCE, self->page);
		close(self->fd);
	}
	if (self->vf)
		vfio_pci_device_cleanup(self->vf);
	if (self->pf)
		vfio_pci_device_cleanup(self->pf);
	sysfs_sriov_numvfs_set(pf_bdf, 0);
	if (self->sriov_was)
		ASSERT_EQ('Y', swap_enable_sriov(self->sriov_was));
	free(self->vf_bdf);
	iommu_cleanup(self->iommu);
}

/*
 * A VF has no memory decode of its own.  VFIO shows the bit to the user and
 * ignores it: the BAR is there, and so is what importers made of it.
 */
TEST_F(vfio_pci_dmabuf_sriov_test, decode_of_vf)
{
	int late;

	vfio_pci_set_memory_decode(self->vf, false);
	EXPECT_TRUE(live(self, self->fd));
	EXPECT_EQ(2, iommufd_dmabuf_mappings());
	late = vfio_pci_dmabuf_export_bar(self->vf, self->bar);
	EXPECT_TRUE(live(self, late));
	ASSERT_EQ(0, close(late));

	vfio_pci_set_memory_decode(self->vf, true);
	EXPECT_TRUE(live(self, self->fd));
	EXPECT_EQ(2, iommufd_dmabuf_mappings());
}

/* A VF that is reset is a device like any other. */
TEST_F(vfio_pci_dmabuf_sriov_test, reset_of_vf)
{
	if (!(self->vf->info.flags & VFIO_DEVICE_FLAGS_RESET))
		SKIP(return, "%s cannot be reset", self->vf_bdf);

	/* With the bit off, which must not be mistaken for a cause. */
	vfio_pci_set_memory_decode(self->vf, false);
	vfio_pci_device_reset(self->vf);
	EXPECT_TRUE(live(self, self->fd));
	EXPECT_EQ(1, iommufd_dmabuf_mappings());

	iommu_unmap_iova(self->iommu, IOVA_ONCE, self->page);
	iommu_map_file(self->iommu, self->fd, 0, self->page, IOVA_ONCE);
	ASSERT_EQ(0, pci_sysfs_write(self->vf_bdf, "reset", "1"));
	EXPECT_TRUE(live(self, self->fd));
	EXPECT_EQ(1, iommufd_dmabuf_mappings());
}

/* The reset of a PF takes its VFs with it: nothing of theirs is decoded meanwhile. */
TEST_F(vfio_pci_dmabuf_sriov_test, reset_of_pf)
{
	if (!(self->pf->info.flags & VFIO_DEVICE_FLAGS_RESET))
		SKIP(return, "%s cannot be reset", pf_bdf);

	vfio_pci_device_reset(self->pf);
	EXPECT_EQ(1, iommufd_dmabuf_mappings());
	EXPECT_TRUE(live(self, self->fd));

	iommu_unmap_iova(self->iommu, IOVA_ONCE, self->page);
	iommu_map_file(self->iommu, self->fd, 0, self->page, IOVA_ONCE);
	ASSERT_EQ(0, pci_sysfs_write(pf_bdf, "reset", "1"));
	EXPECT_EQ(1, iommufd_dmabuf_mappings());
	EXPECT_TRUE(live(self, self->fd));

	/* What the user has revoked does not come back by it. */
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->vf, self->fd));
	vfio_pci_device_reset(self->pf);
	EXPECT_FALSE(live(self, self->fd));
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->vf, self->fd));
	EXPECT_TRUE(live(self, self->fd));
	EXPECT_EQ(1, iommufd_dmabuf_mappings());
}

/* So does the reset that comes with closing a PF, and with opening it. */
TEST_F(vfio_pci_dmabuf_sriov_test, close_of_pf)
{
	if (!(self->pf->info.flags & VFIO_DEVICE_FLAGS_RESET))
		SKIP(return, "%s cannot be reset", pf_bdf);

	vfio_pci_device_cleanup(self->pf);
	self->pf = NULL;
	EXPECT_EQ(1, iommufd_dmabuf_mappings());
	EXPECT_TRUE(live(self, self->fd));

	iommu_unmap_iova(self->iommu, IOVA_ONCE, self->page);
	iommu_map_file(self->iommu, self->fd, 0, self->page, IOVA_ONCE);
	self->pf = vfio_pci_device_init_vf(pf_bdf, self->iommu, VF_TOKEN);
	EXPECT_EQ(1, iommufd_dmabuf_mappings());
	EXPECT_TRUE(live(self, self->fd));
}

static u16 find_sriov(struct vfio_pci_device *device)
{
	u32 header;
	u16 pos = PCI_CFG_SPACE_SIZE;
	int left = 480;

	while (pos && left--) {
		header = vfio_pci_config_readl(device, pos);
		if (PCI_EXT_CAP_ID(header) == PCI_EXT_CAP_ID_SRIOV)
			return pos;
		pos = PCI_EXT_CAP_NEXT(header);
	}

	return 0;
}

/*
 * What decodes the memory of all VFs is a bit of the PF, which the PF's user
 * cannot write, nor anything else there that takes the VFs away.
 */
TEST_F(vfio_pci_dmabuf_sriov_test, decode_of_vfs_in_pf)
{
	u16 pos = find_sriov(self->pf), ctrl;

	if (!pos)
		SKIP(return, "VFIO does not show the SR-IOV capability");

	ctrl = vfio_pci_config_readw(self->pf, pos + PCI_SRIOV_CTRL);
	EXPECT_EQ(PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE,
		  ctrl & (PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE));
	vfio_pci_config_writew(self->pf, pos + PCI_SRIOV_CTRL, 0);
	EXPECT_EQ(ctrl, vfio_pci_config_readw(self->pf, pos + PCI_SRIOV_CTRL));
	EXPECT_TRUE(live(self, self->fd));
	EXPECT_EQ(2, iommufd_dmabuf_mappings());
}

/* The decode bit of the PF is that of its own memory. */
TEST_F(vfio_pci_dmabuf_sriov_test, decode_of_pf)
{
	int bar, fd;

	bar = vfio_pci_largest_bar(self->pf, self->page);
	ASSERT_GE(bar, 0);
	fd = vfio_pci_dmabuf_export_bar(self->pf, bar);
	EXPECT_TRUE(live(self, fd));
	vfio_pci_set_memory_decode(self->pf, false);
	EXPECT_FALSE(live(self, fd));
	EXPECT_TRUE(live(self, self->fd));
	EXPECT_EQ(2, iommufd_dmabuf_mappings());
	vfio_pci_set_memory_decode(self->pf, true);
	EXPECT_TRUE(live(self, fd));
	ASSERT_EQ(0, close(fd));
}

/* Registers of the SR-IOV capability that a reset clears, in the order to set. */
static const struct {
	u16 pos;
	u16 size;
} sriov_regs[] = {
	{ PCI_SRIOV_SYS_PGSIZE, 4 },
	{ PCI_SRIOV_BAR, 4 }, { PCI_SRIOV_BAR + 4, 4 },
	{ PCI_SRIOV_BAR + 8, 4 }, { PCI_SRIOV_BAR + 12, 4 },
	{ PCI_SRIOV_BAR + 16, 4 }, { PCI_SRIOV_BAR + 20, 4 },
	{ PCI_SRIOV_NUM_VF, 2 },
	{ PCI_SRIOV_CTRL, 2 },
};

/*
 * The reset of the link that follows a fatal error takes VF MSE away.  Nothing that
 * the user of a VF can write brings it back, nor can the user of the PF.
 */
TEST_F(vfio_pci_dmabuf_sriov_test, fatal_error)
{
	u16 pos = find_sriov(self->pf);
	struct pollfd pfd = { .events = POLLIN };
	u32 regs[ARRAY_SIZE(sriov_regs)], i;
	time_t end = time(NULL) + 30;
	int bar, fd, ret;

	if (!pos)
		SKIP(return, "VFIO does not show the SR-IOV capability");
	for (i = 0; i < ARRAY_SIZE(sriov_regs); i++)
		regs[i] = pci_sysfs_config_read(pf_bdf, pos + sriov_regs[i].pos,
						sriov_regs[i].size);

	pfd.fd = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(pfd.fd, 0);
	vfio_pci_set_irq_eventfd(self->vf, VFIO_PCI_ERR_IRQ_INDEX, pfd.fd);
	ret = pci_inject_error(pf_bdf, PCI_ERR_UNC_MALF_TLP);
	if (ret)
		SKIP(return, "Cannot inject an error into %s: %s", pf_bdf,
		     strerror(-ret));

	/* When the user hears of it, the memory is away. */
	ASSERT_EQ(1, poll(&pfd, 1, 30000));
	EXPECT_EQ(0, iommufd_dmabuf_mappings());
	EXPECT_FALSE(live(self, self->fd));

	/* When the PF is set up again, the PCI core is done with the error. */
	bar = vfio_pci_largest_bar(self->pf, self->page);
	ASSERT_GE(bar, 0);
	fd = vfio_pci_dmabuf_export_bar(self->pf, bar);
	do {
		vfio_pci_set_memory_decode(self->pf, true);
		ASSERT_GT(end, time(NULL));
	} while (!live(self, fd));
	ASSERT_EQ(0, close(fd));

	vfio_pci_set_memory_decode(self->vf, true);
	EXPECT_FALSE(live(self, self->fd));
	vfio_pci_set_memory_decode(self->vf, false);
	vfio_pci_set_memory_decode(self->vf, true);
	EXPECT_FALSE(live(self, self->fd));
	fd = vfio_pci_dmabuf_export_bar(self->vf, self->bar);
	EXPECT_FALSE(live(self, fd));
	ASSERT_EQ(0, close(fd));
	EXPECT_EQ(0, iommufd_dmabuf_mappings());

	/* Here root does what drivers of PFs do. */
	for (i = 0; i < ARRAY_SIZE(sriov_regs); i++)
		pci_sysfs_config_write(pf_bdf, pos + sriov_regs[i].pos, regs[i],
				       sriov_regs[i].size);
	EXPECT_FALSE(live(self, self->fd));
	vfio_pci_set_memory_decode(self->vf, true);
	EXPECT_TRUE(live(self, self->fd));
	EXPECT_EQ(1, iommufd_dmabuf_mappings());
	ASSERT_EQ(0, close(pfd.fd));
}

static void *remove_vfs(void *arg)
{
	*(int *)arg = pci_sysfs_write(pf_bdf, "sriov_numvfs", "0");

	return NULL;
}

/*
 * VFs that are to be removed are asked for.  Until the user closes them they are
 * as they were, then their memory is gone for good.
 */
static void remove_vf(struct __test_metadata *_metadata,
		      FIXTURE_DATA(vfio_pci_dmabuf_sriov_test) *self)
{
	struct pollfd pfd = { .events = POLLIN };
	pthread_t thread;
	int ret = 1;

	pfd.fd = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(pfd.fd, 0);
	vfio_pci_set_irq_eventfd(self->vf, VFIO_PCI_REQ_IRQ_INDEX, pfd.fd);

	ASSERT_EQ(0, pthread_create(&thread, NULL, remove_vfs, &ret));
	ASSERT_EQ(1, poll(&pfd, 1, 30000));
	EXPECT_TRUE(live(self, self->fd));

	vfio_pci_device_cleanup(self->vf);
	self->vf = NULL;
	EXPECT_FALSE(live(self, self->fd));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, ret);
	EXPECT_EQ(0, sysfs_sriov_numvfs_get(pf_bdf));
	EXPECT_FALSE(live(self, self->fd));
	ASSERT_EQ(0, close(pfd.fd));
}

TEST_F(vfio_pci_dmabuf_sriov_test, remove_vf)
{
	remove_vf(_metadata, self);
	EXPECT_EQ(0, iommufd_dmabuf_mappings());

	/* The next VF may have the same address: it is another device. */
	ASSERT_EQ(0, pci_sysfs_write(pf_bdf, "sriov_numvfs", "1"));
	self->vf = vfio_pci_device_init_vf(self->vf_bdf, self->iommu, VF_TOKEN);
	EXPECT_FALSE(live(self, self->fd));
	EXPECT_EQ(-ENODEV, __vfio_pci_dmabuf_restore(self->vf, self->fd));
}

struct busy {
	FIXTURE_DATA(vfio_pci_dmabuf_sriov_test) *self;
	struct iommu *iommu;
	pthread_t thread;
	u64 nr;
	bool stop;
};

/* Maps as fast as it can, into an IOAS of its own; ends when that fails. */
static void *busy_importer(void *arg)
{
	struct busy *b = arg;
	u64 page = b->self->page;

	while (!__iommu_map_file(b->iommu, b->self->fd, 0, page, IOVA_PF,
				 MAP_RW | (b->nr & 1 ? IOMMU_IOAS_MAP_RESTORE : 0))) {
		iommu_unmap_iova(b->iommu, IOVA_PF, page);
		__atomic_store_n(&b->nr, b->nr + 1, __ATOMIC_RELAXED);
		if (__atomic_load_n(&b->stop, __ATOMIC_RELAXED))
			break;
	}

	return NULL;
}

TEST_F(vfio_pci_dmabuf_sriov_test, remove_vf_busy)
{
	struct busy b = { .self = self };
	u64 nr;

	b.iommu = iommu_init(MODE_IOMMUFD);
	ASSERT_EQ(0, pthread_create(&b.thread, NULL, busy_importer, &b));
	while (__atomic_load_n(&b.nr, __ATOMIC_RELAXED) < 10)
		sched_yield();
	remove_vf(_metadata, self);

	/* It is not told, it finds out: a revoked buffer cannot be mapped. */
	nr = __atomic_load_n(&b.nr, __ATOMIC_RELAXED);
	__atomic_store_n(&b.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(b.thread, NULL));
	EXPECT_GE(nr + 1, b.nr);
	EXPECT_NE(0, __iommu_map_file(b.iommu, self->fd, 0, self->page, IOVA_PF,
				      MAP_RW));
	iommu_cleanup(b.iommu);
	EXPECT_EQ(0, iommufd_dmabuf_mappings());
}

/* VFs need their PF awake: making them ends the PF's low power state. */
TEST_F(vfio_pci_dmabuf_sriov_test, low_power_of_pf)
{
	int bar, fd;

	remove_vf(_metadata, self);
	bar = vfio_pci_largest_bar(self->pf, self->page);
	ASSERT_GE(bar, 0);
	fd = vfio_pci_dmabuf_export_bar(self->pf, bar);
	if (__vfio_pci_set_power_state(self->pf, 3)) {
		close(fd);
		SKIP(return, "%s has no PM capability", pf_bdf);
	}
	EXPECT_FALSE(live(self, fd));

	ASSERT_EQ(0, pci_sysfs_write(pf_bdf, "sriov_numvfs", "1"));
	EXPECT_TRUE(live(self, fd));

	/* And it cannot be put to sleep while there are VFs. */
	ASSERT_EQ(0, __vfio_pci_set_power_state(self->pf, 3));
	EXPECT_TRUE(live(self, fd));
	ASSERT_EQ(0, close(fd));
}

int main(int argc, char *argv[])
{
	pf_bdf = vfio_selftests_get_bdf(&argc, argv);

	return test_harness_run(argc, argv);
}
