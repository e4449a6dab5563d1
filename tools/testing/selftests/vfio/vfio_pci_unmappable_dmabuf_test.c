// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of buffers whose memory the host cannot map, while it can map the rest of
 * the device.  See vfio_pci_unmappable.h.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <linux/pci.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/userfaultfd.h>
#include <linux/vfio.h>

#include "vfio_pci_unmappable.h"

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
	struct vfio_device_feature_dma_buf_unmappable *args;
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

/* The MSI-X table of a claimed page is what it always is: all ones. */
TEST_F(vfio_pci_unmappable_dmabuf_test, msix_table)
{
	struct vfio_region_dma_range range = { .length = self->page };
	u8 buf[2 * PCI_MSIX_ENTRY_SIZE];
	struct msix m;
	off_t table;
	int fd, i;

	SKIP_IF_NOT_STRICT();

	read_msix(&m);
	if (!m.present || m.table_size < sizeof(buf))
		SKIP(return, "The device has no MSI-X table");
	range.offset = m.table_offset & ~(self->page - 1);
	fd = __vfio_pci_dmabuf_export(self->device, m.table_bar, &range, 1, O_RDWR);
	if (fd < 0)
		SKIP(return, "The page of the table cannot be exported");
	ASSERT_EQ(0, __vfio_pci_dmabuf_unmappable(self->device, fd));

	table = self->device->bars[m.table_bar].info.offset + m.table_offset;
	EXPECT_EQ(sizeof(buf), pread(self->device->fd, buf, sizeof(buf), table));
	for (i = 0; i < sizeof(buf) && buf[i] == 0xff; i++)
		;
	EXPECT_EQ(sizeof(buf), i);
	EXPECT_EQ(sizeof(buf), pwrite(self->device->fd, buf, sizeof(buf), table));

	/* What is next to it, in the same page, is the dma-buf's. */
	if ((m.table_offset + m.table_size) & (self->page - 1)) {
		table += m.table_size;
		EXPECT_EQ(-1, pread(self->device->fd, buf, 8, table));
		EXPECT_EQ(EPERM, errno);
		EXPECT_EQ(-1, pread(self->device->fd, buf, sizeof(buf),
				    table - PCI_MSIX_ENTRY_SIZE));
		EXPECT_EQ(EPERM, errno);
	}
	ASSERT_EQ(0, close(fd));
}

/* Memory that is not there until uffd_resolve(), so that who writes to it waits. */
static int uffd_register(void *mem, size_t len)
{
	struct uffdio_register reg = {
		.range = { .start = (u64)mem, .len = len },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct uffdio_api api = { .api = UFFD_API };
	int uffd = syscall(__NR_userfaultfd, O_CLOEXEC);

	if (uffd >= 0) {
		VFIO_ASSERT_EQ(ioctl(uffd, UFFDIO_API, &api), 0);
		VFIO_ASSERT_EQ(ioctl(uffd, UFFDIO_REGISTER, &reg), 0);
	}
	return uffd;
}

static void uffd_wait(int uffd)
{
	struct uffd_msg msg;

	VFIO_ASSERT_EQ(read(uffd, &msg, sizeof(msg)), sizeof(msg));
	VFIO_ASSERT_EQ(msg.event, UFFD_EVENT_PAGEFAULT);
}

static void uffd_resolve(int uffd, void *mem, size_t len)
{
	struct uffdio_zeropage zero = { .range = { .start = (u64)mem, .len = len } };

	VFIO_ASSERT_EQ(ioctl(uffd, UFFDIO_ZEROPAGE, &zero), 0);
}

struct host_access {
	FIXTURE_DATA(vfio_pci_unmappable_dmabuf_test) *self;
	void *buf;
	int fd;
	pid_t tid;
	ssize_t ret;
};

static void *host_access_read(void *arg)
{
	struct host_access *a = arg;

	a->ret = pread(a->self->device->fd, a->buf, 4, a->self->offset);
	return NULL;
}

static void *host_access_claim(void *arg)
{
	struct host_access *a = arg;

	__atomic_store_n(&a->tid, gettid(), __ATOMIC_RELEASE);
	a->ret = __vfio_pci_dmabuf_unmappable(a->self->device, a->fd);
	return NULL;
}

/* Who waits for somebody that waits for userspace can be killed. */
TEST_F(vfio_pci_unmappable_dmabuf_test, killable)
{
	struct host_access reader = { .self = self }, claim = { .self = self };
	pthread_t reader_thread, claim_thread;
	int uffd, efd, status, i;
	pid_t pid;
	u32 val;

	SKIP_IF_NOT_STRICT();

	reader.buf = mmap(NULL, self->page, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, reader.buf);
	uffd = uffd_register(reader.buf, self->page);
	if (uffd < 0)
		SKIP(return, "The kernel has no userfaultfd");
	efd = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(efd, 0);

	/* It is in the middle of a read, which the claim has to wait for. */
	ASSERT_EQ(0, pthread_create(&reader_thread, NULL, host_access_read, &reader));
	uffd_wait(uffd);
	claim.fd = export_pages(self, 3, 1);
	ASSERT_EQ(0, pthread_create(&claim_thread, NULL, host_access_claim, &claim));
	while (!__atomic_load_n(&claim.tid, __ATOMIC_ACQUIRE))
		;
	wait_for_sleep(claim.tid);

	/* These have to wait for the claim. */
	for (i = 0; i < 2; i++) {
		pid = fork();
		ASSERT_GE(pid, 0);
		if (!pid) {
			if (i)
				ioeventfd(self, 0, efd);
			else
				pread(self->device->fd, &val, sizeof(val),
				      self->offset);
			_exit(0);
		}
		wait_for_sleep(pid);
		ASSERT_EQ(0, kill(pid, SIGKILL));
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_TRUE(WIFSIGNALED(status));
	}
	EXPECT_EQ(EBUSY, pthread_tryjoin_np(claim_thread, NULL));

	uffd_resolve(uffd, reader.buf, self->page);
	ASSERT_EQ(0, pthread_join(reader_thread, NULL));
	ASSERT_EQ(0, pthread_join(claim_thread, NULL));
	EXPECT_EQ(4, reader.ret);
	EXPECT_EQ(0, claim.ret);
	EXPECT_EQ(0xf7, readable(self));
	ASSERT_EQ(0, close(claim.fd));
	ASSERT_EQ(0, close(efd));
	ASSERT_EQ(0, close(uffd));
	ASSERT_EQ(0, munmap(reader.buf, self->page));
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
	return unmappable_main(argc, argv);
}
