// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of device memory as dma-bufs: the user takes memory away, asks for its
 * state and is told of changes.  See vfio_pci_dmabuf_util.h.
 */
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include <linux/dma-heap.h>
#include <linux/sizes.h>

#include "vfio_pci_dmabuf_fixture.h"

TEST_F(vfio_pci_dmabuf_test, user_revoke)
{
	int fd, other;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	other = vfio_pci_dmabuf_export_bar(self->device, self->bar);

	/* Nothing to restore. */
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, fd));
	EXPECT_LIVE(self, fd);

	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
	EXPECT_REVOKED(self, fd);
	EXPECT_LIVE(self, other);

	/* It does not count. */
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, fd));
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(other));
}

TEST_F(vfio_pci_dmabuf_test, user_revoke_survives)
{
	int fd;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));

	vfio_pci_set_memory_decode(self->device, false);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_REVOKED(self, fd);
	if (self->device->info.flags & VFIO_DEVICE_FLAGS_RESET) {
		vfio_pci_device_reset(self->device);
		EXPECT_REVOKED(self, fd);
		ASSERT_EQ(0, pci_sysfs_write(exporter_bdf, "reset", "1"));
		EXPECT_REVOKED(self, fd);
	}
	if (!__vfio_pci_set_power_state(self->device, 3)) {
		ASSERT_EQ(0, __vfio_pci_set_power_state(self->device, 0));
		EXPECT_REVOKED(self, fd);
	}

	/* And the other way round: restoring ends no cause but its own. */
	vfio_pci_set_memory_decode(self->device, false);
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, fd));
	EXPECT_REVOKED(self, fd);
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, user_revoke_mapped)
{
	u64 page = self->page;
	int fd;

	if (iommufd_dmabuf_mappings() < 0)
		SKIP(return, "No debugfs to see mappings of dma-bufs in");

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	iommu_map_file(self->iommu, fd, 0, page, self->iova);
	ASSERT_EQ(0, __iommu_map_file(self->iommu, fd, page, page,
				      self->iova + page,
				      MAP_RW | IOMMU_IOAS_MAP_RESTORE));
	ASSERT_EQ(2, iommufd_dmabuf_mappings());
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
	EXPECT_EQ(0, iommufd_dmabuf_mappings());

	/* The one that asked for it comes back. */
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, fd));
	EXPECT_EQ(1, iommufd_dmabuf_mappings());
	iommu_unmap_iova(self->iommu, self->iova, 2 * page);
	EXPECT_EQ(0, iommufd_dmabuf_mappings());
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, state_errno)
{
	const u32 ops[] = { VFIO_DEVICE_FEATURE_SET, VFIO_DEVICE_FEATURE_GET };
	u32 feature = VFIO_DEVICE_FEATURE_DMA_BUF_STATE;
	struct vfio_device_feature_dma_buf_state args = {}, bad;
	u32 size = sizeof(struct vfio_device_feature) + sizeof(args);
	u32 *fields[] = {
		&bad.causes, &bad.flags, &bad.nr_not_restored, &bad.__reserved,
	};
	u32 i, f;

	args.dmabuf_fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	expect_state_errnos(_metadata, self->device, feature, &args, sizeof(args),
			    VFIO_DMA_BUF_STATE_REVOKED);
	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		for (f = 0; f < ARRAY_SIZE(fields); f++) {
			bad = args;
			*fields[f] = 1;
			EXPECT_EQ(-EINVAL, feature_ioctl(self->device, feature | ops[i],
							 size, &bad, sizeof(bad)));
			*fields[f] = 1U << 31;
			EXPECT_EQ(-EINVAL, feature_ioctl(self->device, feature | ops[i],
							 size, &bad, sizeof(bad)));
		}
	}
	EXPECT_EQ(0, vfio_pci_dmabuf_causes(self->device, args.dmabuf_fd));
	ASSERT_EQ(0, close(args.dmabuf_fd));
}

TEST_F(vfio_pci_dmabuf_test, state_causes)
{
	int fd, late;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	EXPECT_EQ(0, vfio_pci_dmabuf_causes(self->device, fd));

	vfio_pci_set_memory_decode(self->device, false);
	EXPECT_EQ(VFIO_DMA_BUF_CAUSE_DECODE,
		  vfio_pci_dmabuf_causes(self->device, fd));
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
	EXPECT_EQ(VFIO_DMA_BUF_CAUSE_DECODE | VFIO_DMA_BUF_CAUSE_USER,
		  vfio_pci_dmabuf_causes(self->device, fd));
	/* One that is new has those of the device. */
	late = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	EXPECT_EQ(VFIO_DMA_BUF_CAUSE_DECODE,
		  vfio_pci_dmabuf_causes(self->device, late));
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_EQ(VFIO_DMA_BUF_CAUSE_USER,
		  vfio_pci_dmabuf_causes(self->device, fd));
	EXPECT_EQ(0, vfio_pci_dmabuf_causes(self->device, late));
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, fd));
	EXPECT_EQ(0, vfio_pci_dmabuf_causes(self->device, fd));

	if (!__vfio_pci_set_power_state(self->device, 3)) {
		EXPECT_EQ(VFIO_DMA_BUF_CAUSE_LOW_POWER, VFIO_DMA_BUF_CAUSE_LOW_POWER &
			  vfio_pci_dmabuf_causes(self->device, fd));
		ASSERT_EQ(0, __vfio_pci_set_power_state(self->device, 0));
		EXPECT_EQ(0, vfio_pci_dmabuf_causes(self->device, fd));
	}
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(late));
}

static u64 nr_events(int efd)
{
	u64 nr = 0;

	/* What was not signalled since the last time fails with EAGAIN. */
	return read(efd, &nr, sizeof(nr)) == sizeof(nr) ? nr : 0;
}

TEST_F(vfio_pci_dmabuf_test, event)
{
	int fd, other, efd, second;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	other = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	second = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ASSERT_GE(efd, 0);
	ASSERT_GE(second, 0);
	ASSERT_EQ(0, __vfio_pci_dmabuf_set_eventfd(self->device, fd, efd));
	EXPECT_EQ(0, nr_events(efd));

	/* Each change of the causes. */
	vfio_pci_set_memory_decode(self->device, false);
	EXPECT_EQ(1, nr_events(efd));
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
	EXPECT_EQ(1, nr_events(efd));
	vfio_pci_set_memory_decode(self->device, true);
	EXPECT_EQ(1, nr_events(efd));
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, fd));
	EXPECT_EQ(1, nr_events(efd));

	/* No change, and none of this one. */
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, fd));
	vfio_pci_set_memory_decode(self->device, true);
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, other));
	EXPECT_EQ(0, nr_events(efd));

	/* Nobody asks during the reset, but there is one. */
	if (self->device->info.flags & VFIO_DEVICE_FLAGS_RESET) {
		vfio_pci_device_reset(self->device);
		EXPECT_EQ(2, nr_events(efd));
	}

	/* One takes the place of the other. */
	ASSERT_EQ(0, __vfio_pci_dmabuf_set_eventfd(self->device, fd, second));
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
	EXPECT_EQ(0, nr_events(efd));
	EXPECT_EQ(1, nr_events(second));
	ASSERT_EQ(0, __vfio_pci_dmabuf_set_eventfd(self->device, fd, -1));
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, fd));
	EXPECT_EQ(0, nr_events(second));

	/* The end. */
	ASSERT_EQ(0, __vfio_pci_dmabuf_set_eventfd(self->device, fd, efd));
	vfio_pci_device_cleanup(self->device);
	EXPECT_EQ(1, nr_events(efd));
	self->device = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	EXPECT_EQ(0, nr_events(efd));
	EXPECT_EQ(-ENODEV, __vfio_pci_dmabuf_set_eventfd(self->device, fd, efd));
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(other));
	ASSERT_EQ(0, close(efd));
	ASSERT_EQ(0, close(second));
}

static int write_file(const char *path, const char *val)
{
	int fd = open(path, O_WRONLY);
	int ret;

	if (fd < 0)
		return -errno;
	ret = write(fd, val, strlen(val)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

/* The n-th allocation of this thread fails, 0 for none; or -errno */
static int fail_nth(unsigned int n)
{
	char val[16];

	snprintf(val, sizeof(val), "%u", n);
	return write_file("/proc/thread-self/fail-nth", val);
}

/* What could not be mapped again is counted and signalled, and tried once more. */
TEST_F_TIMEOUT(vfio_pci_dmabuf_test, restore_fails, 180)
{
	struct vfio_device_feature_dma_buf_state state;
	u64 size = 4 * SZ_2M;
	unsigned int n;
	iova_t iova;
	int fd, efd;

	if (iommufd_dmabuf_mappings() < 0)
		SKIP(return, "No debugfs to see mappings of dma-bufs in");
	if (self->size < size + SZ_2M)
		SKIP(return, "%s has too small a BAR", exporter_bdf);
	if (write_file("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N") ||
	    write_file("/sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem", "N") ||
	    write_file("/sys/kernel/debug/fail_page_alloc/min-order", "0") ||
	    fail_nth(0))
		SKIP(return, "The kernel has no fault injection");
	write_file("/sys/kernel/debug/fail_page_alloc/verbose", "0");

	/* At an odd address, so that there are tables to be allocated. */
	iova = self->iova + self->page;
	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	ASSERT_EQ(0, __iommu_map_file(self->iommu, fd, 0, size, iova, MAP_RW_RESTORE));
	efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ASSERT_GE(efd, 0);
	ASSERT_EQ(0, __vfio_pci_dmabuf_set_eventfd(self->device, fd, efd));

	for (n = 1; n < 100; n++) {
		ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
		ASSERT_EQ(0, iommufd_dmabuf_mappings());
		nr_events(efd);
		ASSERT_EQ(0, fail_nth(n));
		if (__vfio_pci_dmabuf_restore(self->device, fd)) {
			fail_nth(0);
			continue;
		}
		fail_nth(0);
		ASSERT_EQ(0, __vfio_pci_dmabuf_get_state(self->device, fd, &state));
		if (state.nr_not_restored)
			break;
	}
	EXPECT_EQ(1, state.nr_not_restored);
	EXPECT_EQ(VFIO_DMA_BUF_STATE_OK, state.state);
	EXPECT_EQ(0, iommufd_dmabuf_mappings());
	EXPECT_EQ(1, nr_events(efd));

	/* Others can have it, and the one that failed by being asked again. */
	EXPECT_EQ(0, try_map(self->iommu, fd, self->page, iova + size));
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, fd));
	ASSERT_EQ(0, __vfio_pci_dmabuf_get_state(self->device, fd, &state));
	EXPECT_EQ(0, state.nr_not_restored);
	EXPECT_EQ(1, iommufd_dmabuf_mappings());
	EXPECT_EQ(1, nr_events(efd));

	iommu_unmap_iova(self->iommu, iova, size);
	ASSERT_EQ(0, close(efd));
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_test, event_errno)
{
	u32 argsz = sizeof(struct vfio_device_feature);
	u32 feature = VFIO_DEVICE_FEATURE_DMA_BUF_EVENTFD;
	u32 set = feature | VFIO_DEVICE_FEATURE_SET;
	struct vfio_device_feature_dma_buf_eventfd args = { .eventfd = -1 };

	args.dmabuf_fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	EXPECT_EQ(0, feature_ioctl(self->device, set | VFIO_DEVICE_FEATURE_PROBE,
				   argsz, NULL, 0));
	EXPECT_EQ(-EINVAL, feature_ioctl(self->device, feature |
					 VFIO_DEVICE_FEATURE_GET,
					 argsz + sizeof(args), &args,
					 sizeof(args)));
	EXPECT_EQ(-EINVAL, feature_ioctl(self->device, set,
					 argsz + sizeof(args) - 1, &args,
					 sizeof(args)));
	EXPECT_EQ(0, feature_ioctl(self->device, set, argsz + sizeof(args), &args,
				   sizeof(args)));
	EXPECT_EQ(-EFAULT, __vfio_pci_feature_fault(self->device, set,
						    sizeof(args)));
	EXPECT_EQ(-EINVAL, __vfio_pci_dmabuf_set_eventfd(self->device,
							 args.dmabuf_fd, -2));
	EXPECT_EQ(-EBADF, __vfio_pci_dmabuf_set_eventfd(self->device,
							args.dmabuf_fd, 9999));
	EXPECT_EQ(-EINVAL, __vfio_pci_dmabuf_set_eventfd(self->device,
							 args.dmabuf_fd,
							 self->device->fd));
	EXPECT_EQ(-EBADF, __vfio_pci_dmabuf_set_eventfd(self->device, -1, -1));
	EXPECT_EQ(-EINVAL, __vfio_pci_dmabuf_set_eventfd(self->device,
							 self->device->fd, -1));
	ASSERT_EQ(0, close(args.dmabuf_fd));
}

TEST_F(vfio_pci_dmabuf_test, user_revoke_foreign)
{
	struct dma_heap_allocation_data heap = { .len = self->page };
	struct vfio_pci_device *second;
	int fd;

	fd = open("/dev/dma_heap/system", O_RDWR);
	if (fd >= 0) {
		heap.fd_flags = O_RDWR;
		ASSERT_EQ(0, ioctl(fd, DMA_HEAP_IOCTL_ALLOC, &heap));
		EXPECT_EQ(-EINVAL, __vfio_pci_dmabuf_revoke(self->device,
							    heap.fd));
		EXPECT_EQ(-EINVAL, __vfio_pci_dmabuf_restore(self->device,
							     heap.fd));
		ASSERT_EQ(0, close(heap.fd));
		ASSERT_EQ(0, close(fd));
	}

	if (!initiator_bdf)
		SKIP(return, "No second device given");

	second = vfio_pci_device_init_nomap(initiator_bdf, self->iommu);
	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	EXPECT_EQ(-EINVAL, __vfio_pci_dmabuf_revoke(second, fd));
	EXPECT_LIVE(self, fd);
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
	EXPECT_EQ(-EINVAL, __vfio_pci_dmabuf_restore(second, fd));
	EXPECT_REVOKED(self, fd);
	ASSERT_EQ(0, close(fd));
	vfio_pci_device_cleanup(second);
}

TEST_F(vfio_pci_dmabuf_test, user_revoke_closed)
{
	int fd;

	fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	vfio_pci_device_cleanup(self->device);
	self->device = vfio_pci_device_init_nomap(exporter_bdf, self->iommu);
	EXPECT_EQ(-ENODEV, __vfio_pci_dmabuf_revoke(self->device, fd));
	EXPECT_EQ(-ENODEV, __vfio_pci_dmabuf_restore(self->device, fd));
	EXPECT_EQ(VFIO_DMA_BUF_CAUSE_CLOSED, VFIO_DMA_BUF_CAUSE_CLOSED &
		  vfio_pci_dmabuf_causes(self->device, fd));
	EXPECT_REVOKED(self, fd);
	ASSERT_EQ(0, close(fd));
}

struct busy_revoker {
	struct vfio_pci_device *device;
	int fd;
	int ret;
	bool stop;
};

static void *busy_revoke(void *arg)
{
	struct busy_revoker *r = arg;

	while (!r->ret && !__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) {
		r->ret = __vfio_pci_dmabuf_revoke(r->device, r->fd);
		if (!r->ret)
			r->ret = __vfio_pci_dmabuf_restore(r->device, r->fd);
	}

	return NULL;
}

TEST_F_TIMEOUT(vfio_pci_dmabuf_test, user_revoke_busy, 180)
{
	struct busy_revoker r = { .device = self->device };
	pthread_t thread;
	int i, ret;

	r.fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	ASSERT_EQ(0, pthread_create(&thread, NULL, busy_revoke, &r));

	/* Against an importer, and against each other cause there is. */
	for (i = 0; i < 200; i++) {
		ret = __iommu_map_file(self->iommu, r.fd, 0, 2 * self->page,
				       self->iova, MAP_RW |
				       (i & 1 ? IOMMU_IOAS_MAP_RESTORE : 0));
		if (ret) {
			EXPECT_EQ(0, i & 1);
			EXPECT_EQ(-ENODEV, ret);
		}
		if (!(i % 3)) {
			vfio_pci_set_memory_decode(self->device, false);
			vfio_pci_set_memory_decode(self->device, true);
		}
		if (!(i % 7) &&
		    !__vfio_pci_set_power_state(self->device, 3))
			__vfio_pci_set_power_state(self->device, 0);
		if (!(i % 50))
			pci_sysfs_write(exporter_bdf, "reset", "1");
		if (i % 50 == 25 &&
		    (self->device->info.flags & VFIO_DEVICE_FLAGS_RESET))
			vfio_pci_device_reset(self->device);
		if (!ret)
			iommu_unmap_iova(self->iommu, self->iova,
					 2 * self->page);
	}

	__atomic_store_n(&r.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, r.ret);
	EXPECT_LIVE(self, r.fd);
	ASSERT_EQ(0, close(r.fd));
}

int main(int argc, char *argv[])
{
	return dmabuf_main(argc, argv);
}
