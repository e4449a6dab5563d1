// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of memslots that are backed by a dma-buf (KVM_MEM_DMABUF).
 *
 * The exporter is vfio-pci.  The first device on the command line (or
 * $VFIO_SELFTESTS_BDF) needs a BAR that is memory, that is one that keeps what
 * is written into it: QEMU's ivshmem-plain is one.  More devices may follow;
 * tests that need a function level reset or a BAR of a gigabyte take the first
 * that has it and are skipped without one.
 *
 * The test never maps the BAR.  It looks at the BAR with read() and write() of
 * the device's file, so what the guest sees through stage-2 is compared with
 * what VFIO sees.  The first TAG_PAGES pages begin with a tag that contains the
 * page's number; a page at a wrong offset is thus recognised, and so is a read
 * of a device that does not decode (all ones) or of other memory.
 *
 * Waiting is always for an event or a count, never for time.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#ifdef __x86_64__
#include <linux/kvm_para.h>
#endif
#include <linux/sizes.h>
#include <linux/udmabuf.h>

#include <libvfio.h>

#include "kvm_test_harness.h"
#include "dmabuf_util.h"
#include "test_util.h"

/* Nested virtualisation under emulation is slow. */
#define DMABUF_TEST(name)	TEST_F_TIMEOUT(dmabuf, name, 240)

#define TAG_PAGES	4096ul
#define TAG(page)	(0xbaf0000000000000ul | (page))
#define PATTERN		0x5157000000000000ul
#define MMIO_SENTINEL	0x6d6d696f6d6d696ful

/* Pages for page tables of what is mapped into a guest. */
#define EXTRA_PAGES	(4 * TAG_PAGES)

/* Slots and addresses; each address is congruent to the BAR's modulo 1 GiB. */
#define SLOT_A		10
#define SLOT_B		11
#define GPA_A		(self->gpa_base)
#define GPA_B		(self->gpa_base + SZ_1G)

#define NR_HAMMERS	4

static char **bdfs;
static int nr_bdfs;

FIXTURE(dmabuf) {
	struct iommu *iommu;
	struct vfio_pci_device *dev;
	int bar;
	u64 bar_size;
	u64 gpa_base;
	int fd;			/* the whole BAR, read-write */
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
};

static u64 bar_read64(FIXTURE_DATA(dmabuf) *self, u64 offset)
{
	return vfio_pci_bar_read64(self->dev, self->bar, offset);
}

static void bar_write64(FIXTURE_DATA(dmabuf) *self, u64 offset, u64 val)
{
	vfio_pci_bar_write64(self->dev, self->bar, offset, val);
}

static void decode(FIXTURE_DATA(dmabuf) *self, bool on)
{
	vfio_pci_set_memory_decode(self->dev, on);
}

static struct kvm_vm *create_vm(struct kvm_vcpu **vcpu)
{
	return __vm_create_with_one_vcpu(vcpu, EXTRA_PAGES, guest_command_loop);
}

/* A slot over a slice, and the guest's mapping of it. */
static void add_slot(struct kvm_vm *vm, u32 slot, u32 flags, u64 gpa, u64 size,
		     int fd, u64 offset)
{
	vm_set_dmabuf_region(vm, slot, flags, gpa, size, fd, offset);
	virt_map(vm, gpa, gpa, size / PAGE_SIZE);
}

static u64 guest_read(struct kvm_vcpu *vcpu, u64 gpa)
{
	enum guest_exit exit = guest_cmd(vcpu, GUEST_READ, gpa, 0, 0);

	TEST_ASSERT(exit == GUEST_DONE_CMD,
		    "read of 0x%lx: wanted no exit, got %s", gpa,
		    exit_reason_str(vcpu->run->exit_reason));
	return guest_res(vcpu);
}

static void guest_write(struct kvm_vcpu *vcpu, u64 gpa, u64 val)
{
	enum guest_exit exit = guest_cmd(vcpu, GUEST_WRITE, gpa, val, 0);

	TEST_ASSERT(exit == GUEST_DONE_CMD,
		    "write of 0x%lx: wanted no exit, got %s", gpa,
		    exit_reason_str(vcpu->run->exit_reason));
}

/*
 * An access that ends in the revoked exit, every time it is tried, because of
 * @fault_gpa.  The guest stays at the access.
 */
static void guest_revoked_at(struct kvm_vcpu *vcpu, enum guest_op op, u64 gpa,
			     u64 val, u64 fault_gpa)
{
	enum guest_exit exit = guest_cmd(vcpu, op, gpa, val, 0);
	int i;

	for (i = 0; ; i++) {
		TEST_ASSERT(exit == GUEST_FAULT,
			    "access to revoked 0x%lx, try %d: exit was %s", gpa, i,
			    exit_reason_str(vcpu->run->exit_reason));
		assert_revoked_exit(vcpu, fault_gpa);
		if (i == 3)
			break;
		exit = guest_run(vcpu);
	}
}

static void guest_revoked(struct kvm_vcpu *vcpu, enum guest_op op, u64 gpa, u64 val)
{
	guest_revoked_at(vcpu, op, gpa, val, gpa);
}

/* Let the access go on at which guest_revoked() left the guest. */
static u64 guest_resume(struct kvm_vcpu *vcpu)
{
	enum guest_exit exit = guest_run(vcpu);

	TEST_ASSERT(exit == GUEST_DONE_CMD, "wanted the access to complete, got %s",
		    exit_reason_str(vcpu->run->exit_reason));
	return guest_res(vcpu);
}

/* Complete a guest's read that exited as MMIO. */
static void complete_mmio_read(struct kvm_vcpu *vcpu, u64 gpa)
{
	struct kvm_run *run = vcpu->run;
	u64 val = MMIO_SENTINEL;

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MMIO);
	TEST_ASSERT(!run->mmio.is_write, "wanted a read, got a write");
	TEST_ASSERT_EQ(run->mmio.phys_addr, gpa);
	TEST_ASSERT_EQ(run->mmio.len, sizeof(val));
	memcpy(run->mmio.data, &val, sizeof(val));
}

/* The guest's read is MMIO: there is no slot at gpa, or one that asks for it. */
static void guest_no_slot(struct kvm_vcpu *vcpu, u64 gpa)
{
	enum guest_exit exit = guest_cmd(vcpu, GUEST_READ, gpa, 0, 0);

	TEST_ASSERT(exit == GUEST_MMIO, "wanted MMIO at 0x%lx, got %s", gpa,
		    exit_reason_str(vcpu->run->exit_reason));
	complete_mmio_read(vcpu, gpa);
	TEST_ASSERT_EQ(guest_resume(vcpu), MMIO_SENTINEL);
}

/* References to the file of a dma-buf beyond fdinfo's own. */
static long dmabuf_count(int fd)
{
	char path[64], line[128];
	long count = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "r");
	TEST_ASSERT(f, "Failed to open %s", path);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "count: %ld", &count) == 1)
			break;
	fclose(f);
	TEST_ASSERT(count > 0, "No count in %s", path);

	return count;
}

/* False if the BAR does not keep what is written. */
static bool tag_bar(struct vfio_pci_device *dev, int bar)
{
	u64 i;

	for (i = 0; i < TAG_PAGES; i++)
		vfio_pci_bar_write64(dev, bar, i * PAGE_SIZE, TAG(i));

	return vfio_pci_bar_read64(dev, bar, 0) == TAG(0) &&
	       vfio_pci_bar_read64(dev, bar, (TAG_PAGES - 1) * PAGE_SIZE) ==
	       TAG(TAG_PAGES - 1);
}

static void open_device(FIXTURE_DATA(dmabuf) *self)
{
	self->dev = vfio_pci_device_init_nomap(bdfs[0], self->iommu);
	decode(self, true);
}

static void close_device(FIXTURE_DATA(dmabuf) *self)
{
	vfio_pci_device_cleanup(self->dev);
	self->dev = NULL;
}

FIXTURE_SETUP(dmabuf)
{
	self->iommu = iommu_init(MODE_IOMMUFD);
	open_device(self);

	self->bar = vfio_pci_largest_bar(self->dev, 0);
	if (self->bar < 0)
		SKIP(return, "%s has no memory BAR", bdfs[0]);
	self->bar_size = self->dev->bars[self->bar].info.size;
	if (self->bar_size < TAG_PAGES * PAGE_SIZE)
		SKIP(return, "%s: BAR %d is smaller than %lu MiB", bdfs[0],
		     self->bar, (unsigned long)(TAG_PAGES * PAGE_SIZE / SZ_1M));

	if (!tag_bar(self->dev, self->bar))
		SKIP(return, "%s: BAR %d does not keep what is written",
		     bdfs[0], self->bar);

	self->gpa_base = 4ull * SZ_1G +
			 (pci_bar_phys(bdfs[0], self->bar) & (SZ_1G - 1ull));
	self->fd = vfio_pci_dmabuf_export_bar(self->dev, self->bar);
	self->vm = create_vm(&self->vcpu);
}

FIXTURE_TEARDOWN(dmabuf)
{
	if (self->vm)
		kvm_vm_free(self->vm);
	if (self->fd > 0)
		close(self->fd);
	if (self->dev)
		close_device(self);
	iommu_cleanup(self->iommu);
}

DMABUF_TEST(capability)
{
	int flags = vm_check_cap(self->vm, KVM_CAP_DMABUF_MEM);

	TEST_ASSERT(flags & KVM_MEM_DMABUF, "flags 0x%x", flags);
	TEST_ASSERT(!(flags & ~(KVM_MEM_DMABUF | KVM_MEM_READONLY |
				KVM_MEM_REVOKED_MMIO)), "flags 0x%x", flags);
	TEST_ASSERT_EQ(!!(flags & KVM_MEM_READONLY),
		       !!vm_check_cap(self->vm, KVM_CAP_READONLY_MEM));
	TEST_ASSERT_EQ(!!(flags & KVM_MEM_REVOKED_MMIO),
		       !!vm_check_cap(self->vm, KVM_CAP_READONLY_MEM));

	/* What the capability says is what the ioctl does. */
	vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	if (flags & KVM_MEM_READONLY)
		vm_set_dmabuf_region(self->vm, SLOT_B,
				     KVM_MEM_READONLY | KVM_MEM_REVOKED_MMIO,
				     GPA_B, SZ_2M, self->fd, 0);
}

/* Guest and host see the same memory, and the guest gets there without exits. */
DMABUF_TEST(read_write)
{
	const u64 nr = 16 * PAGE_SIZE / sizeof(u64);
	u64 *buf = malloc(nr * sizeof(u64));
	u64 i, mmio_exits;

	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	mmio_exits = guest_mmio_exits(self->vcpu);

	for (i = 0; i < 16; i++)
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + i * PAGE_SIZE), TAG(i));

	TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_FILL, GPA_A, PATTERN, nr),
		       GUEST_DONE_CMD);
	vfio_pci_bar_read(self->dev, self->bar, 0, buf, nr * sizeof(u64));
	for (i = 0; i < nr; i++)
		TEST_ASSERT_EQ(buf[i], PATTERN + i);
	TEST_ASSERT_EQ(bar_read64(self, 16 * PAGE_SIZE), TAG(16));

	for (i = 0; i < nr; i++)
		buf[i] = ~PATTERN + i;
	vfio_pci_bar_write(self->dev, self->bar, 0, buf, nr * sizeof(u64));
	TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_CHECK, GPA_A, ~PATTERN, nr),
		       GUEST_DONE_CMD);
	TEST_ASSERT_EQ(guest_res(self->vcpu), nr);

	TEST_ASSERT_EQ(guest_mmio_exits(self->vcpu), mmio_exits);
	free(buf);
}

static void expect_errno(FIXTURE_DATA(dmabuf) *self, int err, const char *what,
			 u32 flags, u64 gpa, u64 size, int fd, u64 offset)
{
	long count = dmabuf_count(self->fd);
	int ret;

	ret = __vm_set_dmabuf_region(self->vm, SLOT_B, flags, gpa, size, fd, offset);
	TEST_ASSERT(ret == -err, "%s: wanted %s, got %s", what, strerror(err),
		    ret ? strerror(-ret) : "success");
	TEST_ASSERT(dmabuf_count(self->fd) == count,
		    "%s: %ld references left behind", what,
		    dmabuf_count(self->fd) - count);
}

/* After failures: the slot that was there works, the one that failed is not. */
static void expect_unchanged(FIXTURE_DATA(dmabuf) *self)
{
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 5 * PAGE_SIZE), TAG(5));
	guest_no_slot(self->vcpu, GPA_B);
	/* The number is free, the address is too. */
	vm_set_dmabuf_region(self->vm, SLOT_B, 0, GPA_B, SZ_2M, self->fd, 0);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_B), TAG(0));
	vm_delete_region(self->vm, SLOT_B);
	guest_no_slot(self->vcpu, GPA_B);
}

DMABUF_TEST(errno_slice)
{
	u64 size = self->bar_size;

	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	virt_map(self->vm, GPA_B, GPA_B, SZ_2M / PAGE_SIZE);

	expect_errno(self, EINVAL, "unaligned offset", 0, GPA_B, SZ_2M, self->fd, 0x800);
	expect_errno(self, EINVAL, "unaligned size", 0, GPA_B, SZ_2M + 0x800, self->fd, 0);
	expect_errno(self, EINVAL, "unaligned gpa", 0, GPA_B + 0x800, SZ_2M, self->fd, 0);
	expect_errno(self, EINVAL, "size 0 of no slot", 0, GPA_B, 0, self->fd, 0);
	expect_errno(self, EINVAL, "longer than the buffer", 0, GPA_B,
		     size + PAGE_SIZE, self->fd, 0);
	expect_errno(self, EINVAL, "end beyond the buffer", 0, GPA_B, SZ_2M, self->fd,
		     size - SZ_2M + PAGE_SIZE);
	expect_errno(self, EINVAL, "offset at the end", 0, GPA_B, PAGE_SIZE, self->fd, size);
	expect_errno(self, EINVAL, "end wraps", 0, GPA_B, SZ_2M, self->fd,
		     -(u64)PAGE_SIZE);
	expect_errno(self, EINVAL, "offset is negative", 0, GPA_B, SZ_2M, self->fd,
		     1ull << 63);
	expect_errno(self, EEXIST, "overlaps a slot", 0, GPA_A + SZ_1M, SZ_2M, self->fd, 0);

	expect_unchanged(self);

	/* The last page is inside. */
	vm_set_dmabuf_region(self->vm, SLOT_B, 0, GPA_B, PAGE_SIZE, self->fd,
			     size - PAGE_SIZE);
}

DMABUF_TEST(errno_flags)
{
	struct kvm_userspace_memory_region2 region2 = {
		.slot = SLOT_B,
		.flags = KVM_MEM_DMABUF,
		.guest_phys_addr = GPA_B,
		.memory_size = SZ_2M,
		.dmabuf_fd = self->fd,
	};
	struct kvm_userspace_memory_region region = {
		.slot = SLOT_B,
		.flags = KVM_MEM_DMABUF,
		.guest_phys_addr = GPA_B,
		.memory_size = SZ_2M,
	};
	int bit;

	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	virt_map(self->vm, GPA_B, GPA_B, SZ_2M / PAGE_SIZE);

	expect_errno(self, EINVAL, "dirty log", KVM_MEM_LOG_DIRTY_PAGES, GPA_B,
		     SZ_2M, self->fd, 0);
	expect_errno(self, EINVAL, "dirty log, read-only",
		     KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY, GPA_B, SZ_2M,
		     self->fd, 0);
	expect_errno(self, EINVAL, "dirty log, MMIO",
		     KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_REVOKED_MMIO, GPA_B,
		     SZ_2M, self->fd, 0);
	expect_errno(self, EINVAL, "guest_memfd", KVM_MEM_GUEST_MEMFD, GPA_B,
		     SZ_2M, self->fd, 0);
	for (bit = 5; bit < 32; bit++)
		expect_errno(self, EINVAL, "unknown flag", 1u << bit, GPA_B,
			     SZ_2M, self->fd, 0);

	/* Only a buffer can be revoked. */
	region2.flags = KVM_MEM_REVOKED_MMIO;
	TEST_ASSERT_EQ(__vm_ioctl(self->vm, KVM_SET_USER_MEMORY_REGION2, &region2), -1);
	TEST_ASSERT_EQ(errno, EINVAL);
	region2.flags = KVM_MEM_DMABUF;

	/* There is no address in the host, not even a good one. */
	region2.userspace_addr = (u64)addr_gpa2hva(self->vm, 0);
	TEST_ASSERT_EQ(__vm_ioctl(self->vm, KVM_SET_USER_MEMORY_REGION2, &region2), -1);
	TEST_ASSERT_EQ(errno, EINVAL);
	region2.userspace_addr = PAGE_SIZE;
	TEST_ASSERT_EQ(__vm_ioctl(self->vm, KVM_SET_USER_MEMORY_REGION2, &region2), -1);
	TEST_ASSERT_EQ(errno, EINVAL);

	/* The ioctl without room for an fd. */
	TEST_ASSERT_EQ(__vm_ioctl(self->vm, KVM_SET_USER_MEMORY_REGION, &region), -1);
	TEST_ASSERT_EQ(errno, EINVAL);

	expect_unchanged(self);
}

static int create_udmabuf(void)
{
	struct udmabuf_create create = { .size = SZ_2M };
	int dev, fd;

	dev = open("/dev/udmabuf", O_RDWR);
	if (dev < 0)
		return -1;
	create.memfd = memfd_create("udmabuf", MFD_ALLOW_SEALING);
	TEST_ASSERT(!ftruncate(create.memfd, SZ_2M), "ftruncate()");
	TEST_ASSERT(!fcntl(create.memfd, F_ADD_SEALS, F_SEAL_SHRINK), "F_ADD_SEALS");
	fd = ioctl(dev, UDMABUF_CREATE, &create);
	TEST_ASSERT(fd >= 0, "UDMABUF_CREATE: %s", strerror(errno));
	close(create.memfd);
	close(dev);

	return fd;
}

DMABUF_TEST(errno_fd)
{
	struct vfio_region_dma_range range = { .length = SZ_2M };
	int null, memfd, gone, rdonly;

	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	virt_map(self->vm, GPA_B, GPA_B, SZ_2M / PAGE_SIZE);

	null = open("/dev/null", O_RDWR);
	memfd = memfd_create("not a dma-buf", 0);
	TEST_ASSERT(!ftruncate(memfd, SZ_2M), "ftruncate()");
	gone = dup(null);
	close(gone);

	expect_errno(self, EBADF, "no fd", 0, GPA_B, SZ_2M, -1, 0);
	expect_errno(self, EBADF, "closed fd", 0, GPA_B, SZ_2M, gone, 0);
	expect_errno(self, EINVAL, "/dev/null", 0, GPA_B, SZ_2M, null, 0);
	expect_errno(self, EINVAL, "memfd", 0, GPA_B, SZ_2M, memfd, 0);
	expect_errno(self, EINVAL, "the device itself", 0, GPA_B, SZ_2M, self->dev->fd, 0);

	rdonly = vfio_pci_dmabuf_export(self->dev, self->bar, &range, 1,
					O_RDONLY | O_CLOEXEC);
	expect_errno(self, EPERM, "writable slot of a read-only fd", 0, GPA_B,
		     SZ_2M, rdonly, 0);

	expect_unchanged(self);

	vm_set_dmabuf_region(self->vm, SLOT_B, KVM_MEM_READONLY, GPA_B, SZ_2M,
			     rdonly, 0);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_B + PAGE_SIZE), TAG(1));
}

/* An exporter that does not offer physical addresses. */
DMABUF_TEST(errno_exporter)
{
	int udmabuf = create_udmabuf();

	if (udmabuf < 0)
		SKIP(return, "no /dev/udmabuf");

	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	virt_map(self->vm, GPA_B, GPA_B, SZ_2M / PAGE_SIZE);

	expect_errno(self, EOPNOTSUPP, "udmabuf", 0, GPA_B, SZ_2M, udmabuf, 0);
	expect_errno(self, EOPNOTSUPP, "udmabuf, read-only", KVM_MEM_READONLY,
		     GPA_B, SZ_2M, udmabuf, 0);
	TEST_ASSERT_EQ(dmabuf_count(udmabuf), 1);

	expect_unchanged(self);
}

static int raw_set_region(struct kvm_vm *vm, u32 slot, u32 flags, u64 gpa,
			  u64 size, void *hva)
{
	return __vm_set_user_memory_region2(vm, slot, flags, gpa, size, hva, 0, 0) ?
		-errno : 0;
}

/* A slot can be deleted and nothing else. */
DMABUF_TEST(immutable)
{
	void *ram = kvm_mmap(SZ_2M, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct kvm_vm *vm = self->vm;
	int other;

	other = vfio_pci_dmabuf_export_bar(self->dev, self->bar);
	add_slot(vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, SZ_2M);

	/* Move, other memory, other flags. */
	TEST_ASSERT_EQ(__vm_set_dmabuf_region(vm, SLOT_A, 0, GPA_A + SZ_4M, SZ_2M,
					      self->fd, SZ_2M), -EINVAL);
	TEST_ASSERT_EQ(__vm_set_dmabuf_region(vm, SLOT_A, 0, GPA_A, SZ_2M,
					      self->fd, 0), -EINVAL);
	TEST_ASSERT_EQ(__vm_set_dmabuf_region(vm, SLOT_A, 0, GPA_A, SZ_2M,
					      other, SZ_2M), -EINVAL);
	TEST_ASSERT_EQ(__vm_set_dmabuf_region(vm, SLOT_A, 0, GPA_A, SZ_1M,
					      self->fd, SZ_2M), -EINVAL);
	TEST_ASSERT_EQ(__vm_set_dmabuf_region(vm, SLOT_A, KVM_MEM_READONLY, GPA_A,
					      SZ_2M, self->fd, SZ_2M), -EINVAL);

	/* The same without the flag: hva 0 is what the slot has in KVM. */
	TEST_ASSERT_EQ(raw_set_region(vm, SLOT_A, 0, GPA_A + SZ_4M, SZ_2M, NULL), -EINVAL);
	TEST_ASSERT_EQ(raw_set_region(vm, SLOT_A, 0, GPA_A + SZ_4M, SZ_2M, ram), -EINVAL);
	TEST_ASSERT_EQ(raw_set_region(vm, SLOT_A, KVM_MEM_READONLY, GPA_A, SZ_2M, NULL),
		       -EINVAL);
	TEST_ASSERT_EQ(raw_set_region(vm, SLOT_A, KVM_MEM_LOG_DIRTY_PAGES, GPA_A,
				      SZ_2M, NULL), -EINVAL);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(SZ_2M / PAGE_SIZE));

	/* A slot of memory does not become one of a dma-buf. */
	*(u64 *)ram = PATTERN;
	vm_set_user_memory_region2(vm, SLOT_B, 0, GPA_B, SZ_2M, ram, 0, 0);
	virt_map(vm, GPA_B, GPA_B, SZ_2M / PAGE_SIZE);
	TEST_ASSERT_EQ(__vm_set_dmabuf_region(vm, SLOT_B, 0, GPA_B, SZ_2M,
					      self->fd, 0), -EINVAL);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_B), PATTERN);
	TEST_ASSERT_EQ(dmabuf_count(other), 1);

	vm_delete_region(vm, SLOT_A);
	guest_no_slot(self->vcpu, GPA_A);
}

/* A slice of a few pages at an odd page; neighbours are out of reach. */
DMABUF_TEST(slice)
{
	const u64 first = 3, nr = 5, gpa = GPA_A + 7 * PAGE_SIZE;
	u64 i;

	virt_map(self->vm, gpa - PAGE_SIZE, gpa - PAGE_SIZE, nr + 2);
	vm_set_dmabuf_region(self->vm, SLOT_A, 0, gpa, nr * PAGE_SIZE, self->fd,
			     first * PAGE_SIZE);

	for (i = 0; i < nr; i++) {
		TEST_ASSERT_EQ(guest_read(self->vcpu, gpa + i * PAGE_SIZE), TAG(first + i));
		guest_write(self->vcpu, gpa + i * PAGE_SIZE + 8, PATTERN + i);
	}
	for (i = 0; i < nr; i++)
		TEST_ASSERT_EQ(bar_read64(self, (first + i) * PAGE_SIZE + 8), PATTERN + i);

	guest_no_slot(self->vcpu, gpa - PAGE_SIZE);
	guest_no_slot(self->vcpu, gpa + nr * PAGE_SIZE);
}

/* A dma-buf of two ranges with a hole between them, and slices of it. */
DMABUF_TEST(slice_two_ranges)
{
	const struct vfio_region_dma_range ranges[] = {
		{ .offset = 256 * PAGE_SIZE, .length = 3 * PAGE_SIZE },
		{ .offset = 1025 * PAGE_SIZE, .length = 5 * PAGE_SIZE },
	};
	const u64 pages[] = { 256, 257, 258, 1025, 1026, 1027, 1028, 1029 };
	u64 i, first, nr, gpa;
	int fd;

	fd = vfio_pci_dmabuf_export(self->dev, self->bar, ranges, 2, O_RDWR);
	virt_map(self->vm, GPA_A, GPA_A, 64);

	/* Every slice of the eight pages. */
	for (first = 0; first < 8; first++) {
		for (nr = 1; first + nr <= 8; nr++) {
			gpa = GPA_A + first * PAGE_SIZE;
			vm_set_dmabuf_region(self->vm, SLOT_A, 0, gpa, nr * PAGE_SIZE,
					     fd, first * PAGE_SIZE);
			for (i = 0; i < nr; i++)
				TEST_ASSERT_EQ(guest_read(self->vcpu, gpa + i * PAGE_SIZE),
					       TAG(pages[first + i]));
			vm_delete_region(self->vm, SLOT_A);
		}
	}
	TEST_ASSERT_EQ(__vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A,
					      9 * PAGE_SIZE, fd, 0), -EINVAL);

	/* Writes land in the ranges and nowhere else. */
	vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, 8 * PAGE_SIZE, fd, 0);
	for (i = 0; i < 8; i++)
		guest_write(self->vcpu, GPA_A + i * PAGE_SIZE, PATTERN + i);
	for (i = 0; i < 8; i++)
		TEST_ASSERT_EQ(bar_read64(self, pages[i] * PAGE_SIZE), PATTERN + i);
	TEST_ASSERT_EQ(bar_read64(self, 255 * PAGE_SIZE), TAG(255));
	TEST_ASSERT_EQ(bar_read64(self, 259 * PAGE_SIZE), TAG(259));
	TEST_ASSERT_EQ(bar_read64(self, 1024 * PAGE_SIZE), TAG(1024));
	TEST_ASSERT_EQ(bar_read64(self, 1030 * PAGE_SIZE), TAG(1030));
}

/*
 * How many leaves of which size a slot takes.  @dpages is the distance of the
 * slot from an address that is congruent to the BAR.
 */
static void check_leaves(FIXTURE_DATA(dmabuf) *self, const char *what, int fd,
			 u64 dpages, u64 offset, u64 size, u64 k4, u64 m2)
{
	u64 gpa = GPA_A + dpages * PAGE_SIZE;
	struct vm_leaves before, full, after;

	vm_set_dmabuf_region(self->vm, SLOT_A, 0, gpa, size, fd, offset);
	before = vm_leaves(self->vm);
	vcpu_map_range(self->vcpu, gpa, size, PAGE_SIZE);
	full = vm_leaves(self->vm);

	TEST_ASSERT(full.k4 - before.k4 == k4 && full.m2 - before.m2 == m2 &&
		    full.g1 == before.g1,
		    "%s: wanted %lu of 4 KiB, %lu of 2 MiB; got %lu, %lu (and %lu of 1 GiB)",
		    what, k4, m2, full.k4 - before.k4, full.m2 - before.m2,
		    full.g1 - before.g1);

	/* Revocation leaves none of them. */
	decode(self, false);
	after = vm_leaves(self->vm);
	TEST_ASSERT(after.k4 == before.k4 && after.m2 == before.m2,
		    "%s: revoked with %lu of 4 KiB, %lu of 2 MiB left", what,
		    after.k4 - before.k4, after.m2 - before.m2);
	decode(self, true);

	vm_delete_region(self->vm, SLOT_A);
}

DMABUF_TEST(leaf_sizes)
{
	const struct vfio_region_dma_range in_phase[] = {
		{ .offset = 0, .length = SZ_2M },
		{ .offset = SZ_4M, .length = SZ_2M },
	};
	const struct vfio_region_dma_range out_of_phase[] = {
		{ .offset = 0, .length = SZ_2M + PAGE_SIZE },
		{ .offset = SZ_8M, .length = SZ_2M },
	};
	int fd;

	if (!vm_has_leaves(self->vm))
		SKIP(return, "nothing tells the size of leaves");
	if (pci_bar_phys(bdfs[0], self->bar) & (SZ_2M - 1))
		SKIP(return, "the BAR is not aligned to 2 MiB");

	virt_map(self->vm, GPA_A, GPA_A, SZ_8M / PAGE_SIZE);

	check_leaves(self, "congruent", self->fd, 0, 0, SZ_8M, 0, 4);
	check_leaves(self, "gpa off by a page", self->fd, 1, 0, SZ_4M, 1024, 0);
	check_leaves(self, "offset off by a page", self->fd, 0, PAGE_SIZE, SZ_4M, 1024, 0);
	check_leaves(self, "both off by 3 pages", self->fd, 3, 3 * PAGE_SIZE, SZ_4M, 512, 1);
	check_leaves(self, "shorter than a large page", self->fd, 0, 0,
		     SZ_2M - PAGE_SIZE, 511, 0);
	check_leaves(self, "a page longer", self->fd, 0, 0, SZ_2M + PAGE_SIZE, 1, 1);

	fd = vfio_pci_dmabuf_export(self->dev, self->bar, in_phase, 2, O_RDWR);
	check_leaves(self, "two ranges in phase", fd, 0, 0, SZ_4M, 0, 2);

	fd = vfio_pci_dmabuf_export(self->dev, self->bar, out_of_phase, 2, O_RDWR);
	check_leaves(self, "two ranges, the second out of phase", fd, 0, 0,
		     SZ_4M + PAGE_SIZE, 513, 1);
	/* Move by what makes the second range congruent and the first not. */
	check_leaves(self, "two ranges, the first out of phase", fd, 511, 0,
		     SZ_4M + PAGE_SIZE, 513, 1);
}

/* A large BAR of another device in leaves of 1 GiB. */
DMABUF_TEST(leaf_size_1g)
{
	struct vfio_pci_device *dev = NULL;
	struct vm_leaves before, after;
	int i, bar = -1, fd;
	u64 gpa;

	if (!vm_has_leaves(self->vm))
		SKIP(return, "nothing tells the size of leaves");

	for (i = 1; i < nr_bdfs && bar < 0; i++) {
		dev = vfio_pci_device_init_nomap(bdfs[i], self->iommu);
		bar = vfio_pci_largest_bar(dev, 2ull * SZ_1G);
		if (bar >= 0)
			break;
		vfio_pci_device_cleanup(dev);
	}
	if (bar < 0)
		SKIP(return, "no second device with a BAR of 2 GiB");
	if (pci_bar_phys(bdfs[i], bar) & (SZ_1G - 1))
		SKIP(return, "the BAR is not aligned to 1 GiB");

	vfio_pci_set_memory_decode(dev, true);
	fd = vfio_pci_dmabuf_export_bar(dev, bar);
	gpa = 64ull * SZ_1G;

	vm_set_dmabuf_region(self->vm, SLOT_A, 0, gpa, 2ull * SZ_1G, fd, 0);
	virt_map(self->vm, gpa, gpa, 1);
	virt_map(self->vm, gpa + SZ_1G, gpa + SZ_1G, 1);
	before = vm_leaves(self->vm);
	vcpu_map_range(self->vcpu, gpa, 2ull * SZ_1G, SZ_1G);
	after = vm_leaves(self->vm);
	TEST_ASSERT_EQ(after.g1 - before.g1, 2);
	TEST_ASSERT_EQ(after.m2 - before.m2, 0);
	TEST_ASSERT_EQ(after.k4 - before.k4, 0);

	vfio_pci_set_memory_decode(dev, false);
	TEST_ASSERT_EQ(vm_leaves(self->vm).g1, before.g1);
	vfio_pci_set_memory_decode(dev, true);
	vfio_pci_device_cleanup(dev);
}

/* Many slots, in many VMs, of one dma-buf. */
DMABUF_TEST(shared)
{
	const u64 off = 9 * PAGE_SIZE, size = 16 * PAGE_SIZE;
	struct kvm_vcpu *vcpu2;
	struct kvm_vm *vm2 = create_vm(&vcpu2);
	int i;

	add_slot(self->vm, SLOT_A, 0, GPA_A, size, self->fd, off);
	add_slot(self->vm, SLOT_B, 0, GPA_B, size, self->fd, off + PAGE_SIZE);
	add_slot(vm2, SLOT_A, 0, GPA_B, size, self->fd, off);

	/* Written through one, read through the others. */
	guest_write(self->vcpu, GPA_A + PAGE_SIZE, PATTERN);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_B), PATTERN);
	TEST_ASSERT_EQ(guest_read(vcpu2, GPA_B + PAGE_SIZE), PATTERN);
	TEST_ASSERT_EQ(bar_read64(self, off + PAGE_SIZE), PATTERN);

	for (i = 0; i < 3; i++) {
		decode(self, false);
		guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
		guest_revoked(vcpu2, GUEST_READ, GPA_B + PAGE_SIZE, 0);
		decode(self, true);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(9));
		TEST_ASSERT_EQ(guest_resume(vcpu2), PATTERN);

		decode(self, false);
		guest_revoked(self->vcpu, GUEST_READ, GPA_B, 0);
		decode(self, true);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), PATTERN);
	}

	/* One goes, the others stay. */
	vm_delete_region(self->vm, SLOT_A);
	guest_no_slot(self->vcpu, GPA_A);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_B), PATTERN);
	TEST_ASSERT_EQ(guest_read(vcpu2, GPA_B + PAGE_SIZE), PATTERN);

	kvm_vm_free(self->vm);
	self->vm = NULL;
	TEST_ASSERT_EQ(guest_read(vcpu2, GPA_B + PAGE_SIZE), PATTERN);
	decode(self, false);
	guest_revoked(vcpu2, GUEST_READ, GPA_B, 0);
	decode(self, true);
	TEST_ASSERT_EQ(guest_resume(vcpu2), TAG(9));
	kvm_vm_free(vm2);
}

/* A slot lives on its own reference. */
DMABUF_TEST(fd_closed)
{
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	TEST_ASSERT_EQ(dmabuf_count(self->fd), 2);
	close(self->fd);
	self->fd = -1;

	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + PAGE_SIZE), TAG(1));
	guest_write(self->vcpu, GPA_A, PATTERN);
	TEST_ASSERT_EQ(bar_read64(self, 0), PATTERN);

	decode(self, false);
	guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
	decode(self, true);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), PATTERN);

	vm_delete_region(self->vm, SLOT_A);
	guest_no_slot(self->vcpu, GPA_A);
}

/* The guest's write is MMIO. */
static void guest_write_mmio(struct kvm_vcpu *vcpu, u64 gpa, u64 val)
{
	struct kvm_run *run = vcpu->run;
	u64 stored;

	TEST_ASSERT_EQ(guest_cmd(vcpu, GUEST_WRITE, gpa, val, 0), GUEST_MMIO);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MMIO);
	TEST_ASSERT(run->mmio.is_write, "wanted a write");
	TEST_ASSERT_EQ(run->mmio.phys_addr, gpa);
	TEST_ASSERT_EQ(run->mmio.len, sizeof(stored));
	memcpy(&stored, run->mmio.data, sizeof(stored));
	TEST_ASSERT_EQ(stored, val);
	guest_resume(vcpu);
}

/* Stores to a read-only slot are the VMM's business, loads are not. */
DMABUF_TEST(readonly)
{
	u64 mmio_exits;
	int i;

	if (!vm_check_cap(self->vm, KVM_CAP_READONLY_MEM))
		SKIP(return, "no KVM_CAP_READONLY_MEM");

	bar_write64(self, SZ_2M + 8, 0);
	add_slot(self->vm, SLOT_A, KVM_MEM_READONLY, GPA_A, SZ_2M, self->fd, SZ_2M);

	/* Store first (nothing is mapped), then after a load, then again. */
	for (i = 0; i < 3; i++) {
		guest_write_mmio(self->vcpu, GPA_A + 8, PATTERN + i);

		mmio_exits = guest_mmio_exits(self->vcpu);
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(SZ_2M / PAGE_SIZE));
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 8), 0);
		TEST_ASSERT_EQ(guest_mmio_exits(self->vcpu), mmio_exits);
	}

	decode(self, false);
	guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
	decode(self, true);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(SZ_2M / PAGE_SIZE));
}

/* Loads and stores, mapped before and not, across several revocations. */
DMABUF_TEST(revoke_restore)
{
	u64 mmio_exits;
	int i;

	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_4M, self->fd, 0);
	mmio_exits = guest_mmio_exits(self->vcpu);

	for (i = 0; i < 8; i++) {
		u64 mapped = GPA_A + 0x10, fresh = GPA_A + SZ_2M + i * PAGE_SIZE;

		bar_write64(self, SZ_2M + i * PAGE_SIZE + 0x18, 0);
		guest_write(self->vcpu, mapped, PATTERN + i);
		decode(self, false);
		guest_revoked(self->vcpu, GUEST_READ, mapped, 0);
		decode(self, true);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), PATTERN + i);

		decode(self, false);
		guest_revoked(self->vcpu, GUEST_WRITE, fresh + 0x18, PATTERN + i);
		decode(self, true);
		/* The store did not land; it lands when the guest goes on. */
		TEST_ASSERT_EQ(bar_read64(self, SZ_2M + i * PAGE_SIZE + 0x18), 0);
		guest_resume(self->vcpu);
		TEST_ASSERT_EQ(bar_read64(self, SZ_2M + i * PAGE_SIZE + 0x18), PATTERN + i);

		/* What is off stays off when it is switched off again. */
		decode(self, false);
		decode(self, false);
		guest_revoked(self->vcpu, GUEST_READ, fresh, 0);
		decode(self, true);
		decode(self, true);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG((SZ_2M / PAGE_SIZE) + i));
	}

	TEST_ASSERT_EQ(guest_mmio_exits(self->vcpu), mmio_exits);
}

static bool offers_revoked_mmio(FIXTURE_DATA(dmabuf) *self)
{
	return vm_check_cap(self->vm, KVM_CAP_DMABUF_MEM) & KVM_MEM_REVOKED_MMIO;
}

/* With KVM_MEM_REVOKED_MMIO: MMIO while the memory is away, and only then. */
DMABUF_TEST(revoked_mmio)
{
	u64 mmio_exits;
	int i;

	if (!offers_revoked_mmio(self))
		SKIP(return, "no KVM_MEM_REVOKED_MMIO");

	/* Next to it a slot that did not ask for it. */
	add_slot(self->vm, SLOT_A, KVM_MEM_REVOKED_MMIO, GPA_A, SZ_2M, self->fd, 0);
	add_slot(self->vm, SLOT_B, 0, GPA_B, SZ_2M, self->fd, 0);

	for (i = 0; i < 3; i++) {
		u64 fresh = GPA_A + (10 + i) * PAGE_SIZE;

		bar_write64(self, 8, 0);
		mmio_exits = guest_mmio_exits(self->vcpu);
		guest_write(self->vcpu, GPA_A + 8, PATTERN + i);
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
		TEST_ASSERT_EQ(guest_mmio_exits(self->vcpu), mmio_exits);

		decode(self, false);
		guest_no_slot(self->vcpu, GPA_A);
		guest_no_slot(self->vcpu, fresh);
		guest_write_mmio(self->vcpu, GPA_A + 8, ~PATTERN);
		guest_no_slot(self->vcpu, GPA_A);
		guest_revoked(self->vcpu, GUEST_READ, GPA_B, 0);
		decode(self, true);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(0));

		/* The VMM was told of the store, and nobody else. */
		TEST_ASSERT_EQ(bar_read64(self, 8), PATTERN + i);
		mmio_exits = guest_mmio_exits(self->vcpu);
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 8), PATTERN + i);
		TEST_ASSERT_EQ(guest_read(self->vcpu, fresh), TAG(10 + i));
		TEST_ASSERT_EQ(guest_mmio_exits(self->vcpu), mmio_exits);
	}

	/* The memory comes back while the VMM is about to complete the access. */
	decode(self, false);
	TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_READ, GPA_A, 0, 0), GUEST_MMIO);
	decode(self, true);
	complete_mmio_read(self->vcpu, GPA_A);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), MMIO_SENTINEL);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));

	/* For good. */
	close_device(self);
	guest_no_slot(self->vcpu, GPA_A);
	guest_no_slot(self->vcpu, GPA_A);
}

/* What is MMIO without a slot does not get to userspace with it, either. */
DMABUF_TEST(revoked_mmio_ioeventfd)
{
	struct kvm_ioeventfd ioeventfd = {
		.addr = GPA_A + PAGE_SIZE,
		.len = sizeof(u64),
		.fd = eventfd(0, EFD_NONBLOCK),
	};
	eventfd_t count;

	if (!offers_revoked_mmio(self))
		SKIP(return, "no KVM_MEM_REVOKED_MMIO");

	TEST_ASSERT(ioeventfd.fd >= 0, "eventfd()");
	add_slot(self->vm, SLOT_A, KVM_MEM_REVOKED_MMIO, GPA_A, SZ_2M, self->fd, 0);
	vm_ioctl(self->vm, KVM_IOEVENTFD, &ioeventfd);

	/* The memory is nearer than KVM's devices, as long as it is there. */
	guest_write(self->vcpu, GPA_A + PAGE_SIZE, PATTERN);
	TEST_ASSERT_EQ(eventfd_read(ioeventfd.fd, &count), -1);
	TEST_ASSERT_EQ(errno, EAGAIN);
	decode(self, false);
	guest_write(self->vcpu, GPA_A + PAGE_SIZE, ~PATTERN);
	TEST_ASSERT_EQ(eventfd_read(ioeventfd.fd, &count), 0);
	TEST_ASSERT_EQ(count, 1);
	decode(self, true);
	TEST_ASSERT_EQ(bar_read64(self, PAGE_SIZE), PATTERN);
	close(ioeventfd.fd);
}

/* The rest of what can be done with a slot does not change. */
DMABUF_TEST(revoked_mmio_slot)
{
	const u32 flags = KVM_MEM_REVOKED_MMIO | KVM_MEM_READONLY;

	if (!offers_revoked_mmio(self))
		SKIP(return, "no KVM_MEM_REVOKED_MMIO");

	decode(self, false);
	add_slot(self->vm, SLOT_A, flags, GPA_A, SZ_2M, self->fd, 0);
	guest_no_slot(self->vcpu, GPA_A);
	guest_write_mmio(self->vcpu, GPA_A, PATTERN);
	if (kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		TEST_ASSERT_EQ(__vcpu_pre_fault(self->vcpu, GPA_A, SZ_2M), -EFAULT);
	decode(self, true);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
	guest_write_mmio(self->vcpu, GPA_A, PATTERN);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));

	/* Immutable like any of these. */
	TEST_ASSERT_EQ(__vm_set_dmabuf_region(self->vm, SLOT_A, KVM_MEM_READONLY,
					      GPA_A, SZ_2M, self->fd, 0), -EINVAL);
	decode(self, false);
	guest_no_slot(self->vcpu, GPA_A);
	vm_delete_region(self->vm, SLOT_A);
	guest_no_slot(self->vcpu, GPA_A);
	decode(self, true);
	guest_no_slot(self->vcpu, GPA_A);
}

/* A slot can be made, and deleted, while the memory is away. */
DMABUF_TEST(revoked_slot)
{
	int fd;

	decode(self, false);
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
	decode(self, true);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(0));

	decode(self, false);
	guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
	vm_delete_region(self->vm, SLOT_A);
	TEST_ASSERT_EQ(guest_run(self->vcpu), GUEST_MMIO);
	complete_mmio_read(self->vcpu, GPA_A);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), MMIO_SENTINEL);

	/* Exported while the device does not decode. */
	fd = vfio_pci_dmabuf_export_bar(self->dev, self->bar);
	vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, SZ_2M, fd, PAGE_SIZE);
	close(fd);
	guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
	decode(self, true);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(1));
}

DMABUF_TEST(pre_fault)
{
	struct vm_leaves leaves;
	u64 mmio_exits;
	int ret;

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "no KVM_CAP_PRE_FAULT_MEMORY");

	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_4M, self->fd, 0);

	/* All of the guest's own memory that the accesses below take. */
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 37 * PAGE_SIZE), TAG(37));
	guest_write(self->vcpu, GPA_A + SZ_4M - 8, 0);

	/* Revoked: an error, at once, and nothing mapped. */
	decode(self, false);
	leaves = vm_leaves(self->vm);
	ret = __vcpu_pre_fault(self->vcpu, GPA_A, SZ_4M);
	TEST_ASSERT(ret == -EFAULT, "wanted EFAULT, got %s", strerror(-ret));
	TEST_ASSERT_EQ(vm_leaves(self->vm).k4, leaves.k4);
	TEST_ASSERT_EQ(vm_leaves(self->vm).m2, leaves.m2);
	decode(self, true);

	vcpu_pre_fault(self->vcpu, GPA_A, SZ_4M);
	vcpu_pre_fault(self->vcpu, GPA_A, SZ_4M);
	leaves = vm_leaves(self->vm);
	mmio_exits = guest_mmio_exits(self->vcpu);

	/* Nothing is left for the guest's accesses to map. */
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 37 * PAGE_SIZE), TAG(37));
	guest_write(self->vcpu, GPA_A + SZ_4M - 8, PATTERN);
	TEST_ASSERT_EQ(vm_leaves(self->vm).k4, leaves.k4);
	TEST_ASSERT_EQ(vm_leaves(self->vm).m2, leaves.m2);
	TEST_ASSERT_EQ(guest_mmio_exits(self->vcpu), mmio_exits);
	TEST_ASSERT_EQ(bar_read64(self, SZ_4M - 8), PATTERN);
}

/* Lines of debugfs dma_buf/bufinfo that begin like that, or -1. */
static int bufinfo_lines(const char *prefix)
{
	FILE *f = fopen("/sys/kernel/debug/dma_buf/bufinfo", "r");
	char line[256];
	int nr = 0;

	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		nr += !strncmp(line, prefix, strlen(prefix));
	fclose(f);

	return nr;
}

/* What an administrator sees: who imported, and how often it was taken away. */
DMABUF_TEST(bookkeeping)
{
	const char *all = "\tkvm dynamic ", *mapped = "\tkvm dynamic mapped ";
	u64 count = vm_get_stat(self->vm, dmabuf_revocations);
	u64 __maybe_unused flushes;
	bool debugfs = bufinfo_lines(all) >= 0;
	int i;

	TEST_ASSERT_EQ(count, 0);
	if (!debugfs)
		ksft_print_msg("no debugfs, bufinfo not tested\n");

	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	add_slot(self->vm, SLOT_B, 0, GPA_B, SZ_2M, self->fd, 0);
	for (i = 1; i < 4; i++) {
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
		TEST_ASSERT(!debugfs || bufinfo_lines(mapped) == 2, "bufinfo has %d mappings",
			    bufinfo_lines(mapped));
		/*
		 * Emulators of nested paging may flush their TLBs for reasons of
		 * their own, and the tests under load then miss nothing.  Only x86
		 * counts each flush, arm64 has instructions for ranges.
		 */
		flushes = vm_get_stat(self->vm, remote_tlb_flush_requests);
		decode(self, false);
#ifdef __x86_64__
		TEST_ASSERT(vm_get_stat(self->vm, remote_tlb_flush_requests) > flushes,
			    "revoked without a flush of TLBs");
#endif
		decode(self, false);
		TEST_ASSERT_EQ(vm_get_stat(self->vm, dmabuf_revocations), 2 * i);
		TEST_ASSERT(!debugfs || (!bufinfo_lines(mapped) && bufinfo_lines(all) == 2),
			    "revoked: bufinfo has %d mappings, %d importers",
			    bufinfo_lines(mapped), bufinfo_lines(all));
		decode(self, true);
	}
	vm_delete_region(self->vm, SLOT_A);
	TEST_ASSERT(!debugfs || bufinfo_lines(all) == 1, "bufinfo has %d importers",
		    bufinfo_lines(all));
}

#ifdef __x86_64__
static void set_paravirt_areas(FIXTURE_DATA(dmabuf) *self)
{
	_vcpu_set_msr(self->vcpu, MSR_KVM_SYSTEM_TIME_NEW, GPA_A | 1);
	_vcpu_set_msr(self->vcpu, MSR_KVM_WALL_CLOCK_NEW, GPA_A + 0x100);
	_vcpu_set_msr(self->vcpu, MSR_KVM_STEAL_TIME, (GPA_A + 0x40) | 1);
}
#else
/* Steal time is refused an area in a BAR, and may find itself in one later. */
static void set_paravirt_areas(FIXTURE_DATA(dmabuf) *self)
{
	void *ram = kvm_mmap(SZ_2M, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1);
	u64 ipa = GPA_A;
	struct kvm_device_attr attr = {
		.group = KVM_ARM_VCPU_PVTIME_CTRL,
		.attr = KVM_ARM_VCPU_PVTIME_IPA,
		.addr = (u64)&ipa,
	};

	if (__vcpu_ioctl(self->vcpu, KVM_HAS_DEVICE_ATTR, &attr)) {
		ksft_print_msg("no steal time\n");
		return;
	}
	TEST_ASSERT_EQ(__vcpu_ioctl(self->vcpu, KVM_SET_DEVICE_ATTR, &attr), -1);
	TEST_ASSERT_EQ(errno, EINVAL);

	vm_set_user_memory_region2(self->vm, SLOT_B, 0, GPA_B, SZ_2M, ram, 0, 0);
	ipa = GPA_B;
	vcpu_ioctl(self->vcpu, KVM_SET_DEVICE_ATTR, &attr);
	vm_delete_region(self->vm, SLOT_B);
	vm_set_dmabuf_region(self->vm, SLOT_B, 0, GPA_B, SZ_2M, self->fd, 0);
}
#endif

#define TRACING "/sys/kernel/tracing/"

static const char * const trace_events[] = {
	"bind", "fault", "revoke", "restore", "unbind"
};

/* Returns false if the kernel cannot trace. */
static bool trace_dmabuf(bool on)
{
	char path[128];
	FILE *f;
	int i;

	for (i = 0; i < ARRAY_SIZE(trace_events); i++) {
		snprintf(path, sizeof(path), TRACING "events/kvm/kvm_dmabuf_%s/enable",
			 trace_events[i]);
		f = fopen(path, "w");
		if (!f)
			return false;
		fprintf(f, "%d", on);
		fclose(f);
	}
	return true;
}

/* The next line of @event in the trace, behind the event's name. */
static void assert_traced(FILE *trace, const char *event, const char *expected)
{
	char line[512], name[64], *text;

	snprintf(name, sizeof(name), " kvm_dmabuf_%s: ", event);
	while (fgets(line, sizeof(line), trace)) {
		text = strstr(line, name);
		if (!text)
			continue;
		text += strlen(name);
		text[strcspn(text, "\n")] = 0;
		TEST_ASSERT(!strcmp(text, expected), "%s traced as \"%s\", not \"%s\"",
			    event, text, expected);
		return;
	}
	TEST_FAIL("%s was not traced", event);
}

/* What happens to a slot can be watched from outside. */
DMABUF_TEST(tracepoints)
{
	u64 pfn = pci_bar_phys(bdfs[0], self->bar) / PAGE_SIZE + 3;
	u64 gfn = GPA_A / PAGE_SIZE;
	char slot[64], fault[128], fault_revoked[128];
	FILE *trace;

	trace = fopen(TRACING "trace", "w");
	if (!trace || !trace_dmabuf(true))
		SKIP(return, "the kernel has no event tracing");

	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 3 * PAGE_SIZE), TAG(3));
	decode(self, false);
	TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_WRITE, GPA_A, 0, 0), GUEST_FAULT);
	decode(self, true);
	vm_delete_region(self->vm, SLOT_A);
	trace_dmabuf(false);

	snprintf(slot, sizeof(slot), "slot 0:%u gfn %#lx npages %#lx ret 0",
		 SLOT_A, gfn, SZ_2M / PAGE_SIZE);
	/* Level 2 is the one of 2 MiB on x86, and on arm64 with 4 KiB pages. */
	snprintf(fault, sizeof(fault), "gfn %#lx pfn %#lx max level %d read ret 0",
		 gfn + 3, pfn, 2);
	snprintf(fault_revoked, sizeof(fault_revoked), "gfn %#lx pfn 0x0 max level %d write ret %d",
		 gfn, 0, -EFAULT);

	trace = freopen(TRACING "trace", "r", trace);
	TEST_ASSERT(trace, "Failed to open " TRACING "trace");
	assert_traced(trace, "bind", slot);
	assert_traced(trace, "fault", fault);
	assert_traced(trace, "revoke", slot);
	assert_traced(trace, "fault", fault_revoked);
	assert_traced(trace, "restore", slot);
	assert_traced(trace, "unbind", slot);
	fclose(trace);
}

/*
 * KVM has no host address for these slots, in particular not 0: put something
 * there and see that nothing reads, writes or zaps because of it.
 */
static void check_no_host_address(struct __test_metadata *_metadata,
				  FIXTURE_DATA(dmabuf) *self)
{
	struct vm_leaves leaves;
	unsigned char *zero, *low;
	void *log = calloc(1, PAGE_SIZE);
	struct kvm_dirty_log dirty = { .slot = SLOT_A, .dirty_bitmap = log };
	int i;

	TEST_ASSERT_EQ(__vm_ioctl(self->vm, KVM_GET_DIRTY_LOG, &dirty), -1);
	TEST_ASSERT_EQ(errno, ENOENT);

	/* An unmap in [0, size of the slot) is not an unmap of the slot. */
	low = mmap((void *)SZ_64K, SZ_64K, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	TEST_ASSERT(low == (void *)SZ_64K, "mmap() at 64K: %s", strerror(errno));
	memset(low, 1, SZ_64K);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 16 * PAGE_SIZE), TAG(16));
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 16 * PAGE_SIZE), TAG(16));
	if (vm_has_leaves(self->vm)) {
		leaves = vm_leaves(self->vm);
		munmap(low, SZ_64K);
		TEST_ASSERT_EQ(vm_leaves(self->vm).k4, leaves.k4);
		TEST_ASSERT_EQ(vm_leaves(self->vm).m2, leaves.m2);
	}

	/* Users of a host address: clock and steal time write when the vCPU runs. */
	zero = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (zero == MAP_FAILED)
		SKIP(return, "cannot map address 0: %s", strerror(errno));
	asm volatile("" : "+r"(zero));
	memset(zero, 0x5a, PAGE_SIZE);

	set_paravirt_areas(self);
	for (i = 0; i < 4; i++)
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + PAGE_SIZE), TAG(1));
	for (i = 0; i < PAGE_SIZE; i++)
		TEST_ASSERT(zero[i] == 0x5a, "address 0x%x of the host was written", i);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
	munmap(zero, PAGE_SIZE);
	free(log);
}

DMABUF_TEST(no_host_address)
{
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	check_no_host_address(_metadata, self);
}

/* arm64 has no emulator of instructions. */
#ifdef __x86_64__
/* An access by KVM's emulator goes to the VMM. */
static void check_emulated_access(FIXTURE_DATA(dmabuf) *self)
{
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
	TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_READ_EMULATED, GPA_A, 0, 0), GUEST_MMIO);
	complete_mmio_read(self->vcpu, GPA_A);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), MMIO_SENTINEL);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
}

DMABUF_TEST(emulated_access)
{
	if (!is_forced_emulation_enabled)
		SKIP(return, "kvm.force_emulation_prefix is not set");

	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	check_emulated_access(self);
}
#endif

/*
 * A slot of memory that the host must not reach works like any other, and KVM
 * does not reach it for the VMM: who wants a host address gets what he gets of
 * any dma-buf.
 */
static void check_unmappable(struct __test_metadata *_metadata,
			     FIXTURE_DATA(dmabuf) *self)
{
	u64 val, mmio_exits;

	TEST_ASSERT_EQ(__vfio_pci_bar_access(self->dev, self->bar, 0, &val,
					     sizeof(val), false), -EPERM);

	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	mmio_exits = guest_mmio_exits(self->vcpu);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 7 * PAGE_SIZE), TAG(7));
	guest_write(self->vcpu, GPA_A + 7 * PAGE_SIZE + 8, PATTERN);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 7 * PAGE_SIZE + 8), PATTERN);
	TEST_ASSERT_EQ(guest_mmio_exits(self->vcpu), mmio_exits);

	/* Taken away and given back, by the device and by the user. */
	decode(self, false);
	guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
	decode(self, true);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(0));
	TEST_ASSERT_EQ(__vfio_pci_dmabuf_revoke(self->dev, self->fd), 0);
	guest_revoked(self->vcpu, GUEST_WRITE, GPA_A + 8, PATTERN);
	TEST_ASSERT_EQ(__vfio_pci_dmabuf_restore(self->dev, self->fd), 0);
	guest_resume(self->vcpu);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 8), PATTERN);

#ifdef __x86_64__
	if (is_forced_emulation_enabled)
		check_emulated_access(self);
	else
		ksft_print_msg("kvm.force_emulation_prefix is not set\n");
#endif
	check_no_host_address(_metadata, self);
	vm_delete_region(self->vm, SLOT_A);
	guest_no_slot(self->vcpu, GPA_A);

	/* Not because of the guest either: still closed to the VMM. */
	TEST_ASSERT_EQ(__vfio_pci_bar_access(self->dev, self->bar, 0, &val,
					     sizeof(val), false), -EPERM);
}

DMABUF_TEST(unmappable_buffer)
{
	struct vfio_region_dma_range range = { .length = SZ_2M };
	int ret;

	close(self->fd);
	self->fd = vfio_pci_dmabuf_export(self->dev, self->bar, &range, 1,
					  O_RDWR | O_CLOEXEC);
	ret = __vfio_pci_dmabuf_unmappable(self->dev, self->fd);
	if (ret == -EOPNOTSUPP)
		SKIP(return, "the kernel cannot keep the host out");
	TEST_ASSERT_EQ(ret, 0);
	check_unmappable(_metadata, self);

	/* It is that buffer alone. */
	TEST_ASSERT_EQ(bar_read64(self, SZ_2M), TAG(SZ_2M / PAGE_SIZE));
}

DMABUF_TEST(unmappable_device)
{
	int error;

	close(self->fd);
	close_device(self);
	self->fd = -1;
	self->dev = __vfio_pci_device_init_unmappable(bdfs[0], self->iommu, &error);
	if (!self->dev && error == -EOPNOTSUPP)
		SKIP(return, "the kernel cannot keep the host out");
	TEST_ASSERT(self->dev, "bind: %s", strerror(-error));
	decode(self, true);
	self->fd = vfio_pci_dmabuf_export_bar(self->dev, self->bar);
	check_unmappable(_metadata, self);
}

/*
 * vCPUs that hammer the BAR, and proof that none of them got through after a
 * revocation had returned.
 *
 * Each vCPU has a marker in the BAR.  It stores n to the marker, loads it back,
 * fails if it got anything else (a device that does not decode gives all ones),
 * then stores n to its own memory as done.  When the revocation returns the
 * test takes a snapshot of done: a vCPU that had both of its accesses behind it
 * can still add one, never two.  When all vCPUs are held in their exit the
 * marker is done, or done + 1 if the exit came between store and load.
 */
static struct hammer_state {
	u64 done;
	u64 pad[7];
} hammer_state[NR_HAMMERS];
static bool hammer_stop;

static void guest_hammer(u64 gpa, u64 id)
{
	u64 *marker = (u64 *)gpa;
	u64 n, val;

	for (n = 1; !READ_ONCE(hammer_stop); n++) {
		WRITE_ONCE(*marker, n);
		val = READ_ONCE(*marker);
		GUEST_ASSERT_EQ(val, n);
		WRITE_ONCE(hammer_state[id].done, n);
	}
	GUEST_DONE();
}

struct hammer {
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	struct hammer_state *state;
	u64 gpa;
	u64 marker;		/* offset in the BAR */
	sem_t exited;
	sem_t go;
};

struct hammers {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[NR_HAMMERS];
	struct hammer h[NR_HAMMERS];
};

static void *hammer_thread(void *arg)
{
	struct hammer *h = arg;
	enum guest_exit exit;

	while ((exit = guest_run(h->vcpu)) != GUEST_FINISHED) {
		TEST_ASSERT(exit == GUEST_FAULT, "vCPU %u: exit was %s", h->vcpu->id,
			    exit_reason_str(h->vcpu->run->exit_reason));
		assert_revoked_exit(h->vcpu, h->gpa);
		sem_post(&h->exited);
		while (sem_wait(&h->go))
			;
	}

	return NULL;
}

static void hammers_create(struct hammers *hs, u64 gpa, u64 offset, int fd)
{
	u64 size = NR_HAMMERS * PAGE_SIZE;
	struct hammer_state *state;
	int i;

	hs->vm = __vm_create_with_vcpus(VM_SHAPE_DEFAULT, NR_HAMMERS, EXTRA_PAGES,
					guest_hammer, hs->vcpus);
	add_slot(hs->vm, SLOT_A, 0, gpa, size, fd, offset);
	state = addr_gva2hva(hs->vm, (gva_t)hammer_state);

	for (i = 0; i < NR_HAMMERS; i++) {
		struct hammer *h = &hs->h[i];

		h->vcpu = hs->vcpus[i];
		h->state = &state[i];
		h->gpa = gpa + i * PAGE_SIZE + 8;
		h->marker = offset + i * PAGE_SIZE + 8;
		sem_init(&h->exited, 0, 0);
		sem_init(&h->go, 0, 0);
		vcpu_args_set(h->vcpu, 2, h->gpa, (u64)i);
		kvm_pthread_create(&h->thread, NULL, hammer_thread, h);
	}
}

/* Wait until each vCPU has done some more. */
static void hammers_progress(struct hammers *hs)
{
	u64 target[NR_HAMMERS];
	int i;

	for (i = 0; i < NR_HAMMERS; i++)
		target[i] = READ_ONCE(hs->h[i].state->done) + 20;
	for (i = 0; i < NR_HAMMERS; i++)
		while (READ_ONCE(hs->h[i].state->done) < target[i])
			sched_yield();
}

static void hammers_snapshot(struct hammers *hs, u64 *done)
{
	int i;

	for (i = 0; i < NR_HAMMERS; i++)
		done[i] = READ_ONCE(hs->h[i].state->done);
}

/* All vCPUs are in their exit; @done is from when the revocation returned. */
static void hammers_wait_exits(struct hammers *hs, const u64 *done)
{
	u64 now;
	int i;

	for (i = 0; i < NR_HAMMERS; i++)
		while (sem_wait(&hs->h[i].exited))
			;
	for (i = 0; i < NR_HAMMERS; i++) {
		now = READ_ONCE(hs->h[i].state->done);
		TEST_ASSERT(now == done[i] || now == done[i] + 1,
			    "vCPU %d went on after the revocation: %lu, then %lu",
			    i, done[i], now);
	}
}

static void hammers_check_markers(FIXTURE_DATA(dmabuf) *self, struct hammers *hs)
{
	u64 done, marker;
	int i;

	for (i = 0; i < NR_HAMMERS; i++) {
		done = READ_ONCE(hs->h[i].state->done);
		marker = bar_read64(self, hs->h[i].marker);
		TEST_ASSERT(marker == done || marker == done + 1,
			    "vCPU %d: did %lu, the BAR has %lu", i, done, marker);
	}
}

static void hammers_go(struct hammers *hs)
{
	int i;

	for (i = 0; i < NR_HAMMERS; i++)
		sem_post(&hs->h[i].go);
}

static void hammers_join(struct hammers *hs)
{
	int i;

	WRITE_AND_SYNC_TO_GUEST(hs->vm, hammer_stop, true);
	for (i = 0; i < NR_HAMMERS; i++)
		kvm_pthread_join(hs->h[i].thread, NULL);
	kvm_vm_free(hs->vm);
}

DMABUF_TEST(revoke_under_load)
{
	struct hammers hs = {};
	u64 done[NR_HAMMERS];
	int round;

	hammers_create(&hs, GPA_A, 64 * PAGE_SIZE, self->fd);

	for (round = 0; round < 20; round++) {
		hammers_progress(&hs);

		decode(self, false);
		hammers_snapshot(&hs, done);
		hammers_wait_exits(&hs, done);

		decode(self, true);
		hammers_check_markers(self, &hs);
		hammers_go(&hs);
	}
	hammers_progress(&hs);
	hammers_join(&hs);
}

/*
 * The device is closed with the vCPUs running.  This revocation is for ever,
 * and the test can look at the BAR all the same because it opens the device
 * again: a stage-2 entry that was left would now reach the device.
 */
DMABUF_TEST(close_under_load)
{
	struct hammers hs = {};
	u64 done[NR_HAMMERS];
	int i, try, fd;

	hammers_create(&hs, GPA_A, 64 * PAGE_SIZE, self->fd);
	hammers_progress(&hs);

	close_device(self);
	hammers_snapshot(&hs, done);
	hammers_wait_exits(&hs, done);

	/* The buffer's owner is gone. */
	TEST_ASSERT_EQ(__vm_set_dmabuf_region(hs.vm, SLOT_B, 0, GPA_B, PAGE_SIZE,
					      self->fd, 0), -ENODEV);
	TEST_ASSERT_EQ(dmabuf_count(self->fd), 2);

	open_device(self);
	for (try = 0; try < 3; try++) {
		hammers_snapshot(&hs, done);
		hammers_check_markers(self, &hs);
		hammers_go(&hs);
		hammers_wait_exits(&hs, done);
		for (i = 0; i < NR_HAMMERS; i++)
			TEST_ASSERT_EQ(READ_ONCE(hs.h[i].state->done), done[i]);
		hammers_check_markers(self, &hs);
		decode(self, false);
		decode(self, true);
	}

	/* The new owner's buffer at the same address, and on they go. */
	fd = vfio_pci_dmabuf_export_bar(self->dev, self->bar);
	vm_delete_region(hs.vm, SLOT_A);
	TEST_ASSERT_EQ(dmabuf_count(self->fd), 1);
	vm_set_dmabuf_region(hs.vm, SLOT_A, 0, GPA_A, NR_HAMMERS * PAGE_SIZE, fd,
			     64 * PAGE_SIZE);
	hammers_go(&hs);
	hammers_progress(&hs);
	hammers_join(&hs);
}

/*
 * vCPUs that read while slots come and go and the memory too.  A read gives the
 * page's tag or what the test gave for MMIO, whatever happens around it.
 */
static struct reader_state {
	u64 done;
	u64 last;
	u64 pad[6];
} reader_state[NR_HAMMERS];
static bool reader_stop;

static void guest_reader(u64 gpa, u64 id, u64 tag)
{
	struct reader_state *state = &reader_state[id];
	u64 n, val;

	for (n = 1; !READ_ONCE(reader_stop); n++) {
		val = READ_ONCE(*(u64 *)gpa);
		if (val != tag)
			GUEST_ASSERT_EQ(val, MMIO_SENTINEL);
		WRITE_ONCE(state->last, val);
		WRITE_ONCE(state->done, n);
	}
	GUEST_DONE();
}

struct reader {
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	struct reader_state *state;
	u64 gpa;
	u32 flags;		/* of the slot */
	u64 nr_mmio;
	u64 nr_revoked;
};

struct readers {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[NR_HAMMERS];
	struct reader r[NR_HAMMERS];
};

static void *reader_thread(void *arg)
{
	struct reader *r = arg;
	enum guest_exit exit;

	while ((exit = guest_run(r->vcpu)) != GUEST_FINISHED) {
		if (exit == GUEST_MMIO) {
			complete_mmio_read(r->vcpu, r->gpa);
			r->nr_mmio++;
		} else {
			TEST_ASSERT(exit == GUEST_FAULT, "unexpected exit %d", exit);
			assert_revoked_exit(r->vcpu, r->gpa);
			TEST_ASSERT(!(r->flags & KVM_MEM_REVOKED_MMIO),
				    "revoked exit, where MMIO was asked for");
			r->nr_revoked++;
			sched_yield();
		}
	}

	return NULL;
}

static void readers_create(struct readers *rs, u32 flags, u64 gpa, u64 size,
			   int fd)
{
	struct reader_state *state;
	int i;

	rs->vm = __vm_create_with_vcpus(VM_SHAPE_DEFAULT, NR_HAMMERS, EXTRA_PAGES,
					guest_reader, rs->vcpus);
	add_slot(rs->vm, SLOT_A, flags, gpa, size, fd, 0);
	state = addr_gva2hva(rs->vm, (gva_t)reader_state);

	for (i = 0; i < NR_HAMMERS; i++) {
		struct reader *r = &rs->r[i];
		u64 page = i * (size / PAGE_SIZE / NR_HAMMERS);

		r->vcpu = rs->vcpus[i];
		r->state = &state[i];
		r->gpa = gpa + page * PAGE_SIZE;
		r->flags = flags;
		vcpu_args_set(r->vcpu, 3, r->gpa, (u64)i, TAG(page));
		kvm_pthread_create(&r->thread, NULL, reader_thread, r);
	}
}

/*
 * Wait until each vCPU has done a read that began after now, and check what
 * that read gave: the first one to be counted may have begun before.
 */
static void readers_expect(struct readers *rs, bool mmio)
{
	u64 target[NR_HAMMERS], last;
	int i;

	for (i = 0; i < NR_HAMMERS; i++)
		target[i] = READ_ONCE(rs->r[i].state->done) + 2;
	for (i = 0; i < NR_HAMMERS; i++) {
		while (READ_ONCE(rs->r[i].state->done) < target[i])
			sched_yield();
		last = READ_ONCE(rs->r[i].state->last);
		TEST_ASSERT((last == MMIO_SENTINEL) == mmio,
			    "vCPU %d: wanted %s, read 0x%lx", i,
			    mmio ? "MMIO" : "the tag", last);
	}
}

static void readers_join(struct readers *rs)
{
	int i;

	WRITE_AND_SYNC_TO_GUEST(rs->vm, reader_stop, true);
	for (i = 0; i < NR_HAMMERS; i++)
		kvm_pthread_join(rs->r[i].thread, NULL);
}

DMABUF_TEST(delete_under_load)
{
	struct readers rs = {};
	int i;

	readers_create(&rs, 0, GPA_A, SZ_4M, self->fd);
	for (i = 0; i < 25; i++) {
		readers_expect(&rs, false);
		vm_delete_region(rs.vm, SLOT_A);
		readers_expect(&rs, true);
		vm_set_dmabuf_region(rs.vm, SLOT_A, 0, GPA_A, SZ_4M, self->fd, 0);
	}
	readers_expect(&rs, false);
	readers_join(&rs);
	for (i = 0; i < NR_HAMMERS; i++)
		TEST_ASSERT_EQ(rs.r[i].nr_revoked, 0);
	kvm_vm_free(rs.vm);
	TEST_ASSERT_EQ(dmabuf_count(self->fd), 1);
}

static bool toggle_stop;
static u64 nr_toggles;

static void *toggle_thread(void *arg)
{
	FIXTURE_DATA(dmabuf) *self = arg;

	while (!READ_ONCE(toggle_stop)) {
		decode(self, false);
		decode(self, true);
		WRITE_ONCE(nr_toggles, nr_toggles + 1);
	}

	return NULL;
}

/* Everything at once: faults, revocations, slots that come and go. */
DMABUF_TEST(churn)
{
	struct readers rs = {};
	pthread_t toggler;
	u64 toggles = 0;
	int i;

	readers_create(&rs, 0, GPA_A, SZ_4M, self->fd);
	kvm_pthread_create(&toggler, NULL, toggle_thread, self);
	for (i = 0; i < 50; i++) {
		vm_delete_region(rs.vm, SLOT_A);
		while (READ_ONCE(nr_toggles) < toggles + 1)
			sched_yield();
		toggles = READ_ONCE(nr_toggles);
		vm_set_dmabuf_region(rs.vm, SLOT_A, 0, GPA_A, SZ_4M, self->fd, 0);
		while (READ_ONCE(nr_toggles) < toggles + 2)
			sched_yield();
		toggles = READ_ONCE(nr_toggles);
	}
	WRITE_ONCE(toggle_stop, true);
	kvm_pthread_join(toggler, NULL);

	/* The memory is there, the slot is there. */
	readers_expect(&rs, false);
	readers_join(&rs);
	for (i = 0; i < NR_HAMMERS; i++)
		ksft_print_msg("vCPU %d: %lu reads, %lu MMIO, %lu revoked\n", i,
			       rs.r[i].state->done, rs.r[i].nr_mmio, rs.r[i].nr_revoked);
	kvm_vm_free(rs.vm);
	TEST_ASSERT_EQ(dmabuf_count(self->fd), 1);
}

/* Revocations in the middle of faults: an access is MMIO or it gets the memory. */
DMABUF_TEST(revoked_mmio_under_load)
{
	struct readers rs = {};
	int i;

	if (!offers_revoked_mmio(self))
		SKIP(return, "no KVM_MEM_REVOKED_MMIO");

	readers_create(&rs, KVM_MEM_REVOKED_MMIO, GPA_A, SZ_4M, self->fd);
	for (i = 0; i < 25; i++) {
		readers_expect(&rs, false);
		decode(self, false);
		readers_expect(&rs, true);
		decode(self, true);
	}
	for (i = 0; i < 200; i++) {
		decode(self, false);
		decode(self, true);
	}

	readers_expect(&rs, false);
	readers_join(&rs);
	kvm_vm_free(rs.vm);
	TEST_ASSERT_EQ(dmabuf_count(self->fd), 1);
}

/* A VM goes away, orderly and not, with the device open and in use. */
DMABUF_TEST(vm_destroyed)
{
	u64 marker = 80 * PAGE_SIZE + 8;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i, status;
	pid_t pid;

	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
	decode(self, false);
	decode(self, true);
	kvm_vm_free(self->vm);
	self->vm = NULL;
	TEST_ASSERT_EQ(dmabuf_count(self->fd), 1);
	decode(self, false);
	decode(self, true);

	for (i = 0; i < 3; i++) {
		bar_write64(self, marker, 0);

		pid = fork();
		TEST_ASSERT(pid >= 0, "fork()");
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			vm = __vm_create_with_one_vcpu(&vcpu, EXTRA_PAGES, guest_hammer);
			add_slot(vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, marker - 8);
			vcpu_args_set(vcpu, 2, GPA_A + 8, 0ul);
			/* The parent toggles decode while this runs. */
			while (guest_run(vcpu) == GUEST_FAULT)
				assert_revoked_exit(vcpu, GPA_A);
			_exit(1);
		}

		/* The guest runs; let it, then take the VM away from under it. */
		while (bar_read64(self, marker) < 100)
			TEST_ASSERT(!waitpid(pid, &status, WNOHANG),
				    "the VM's process ended, status 0x%x", status);
		if (i == 1)
			decode(self, false);
		kill(pid, SIGKILL);
		if (i == 2) {
			decode(self, false);
			decode(self, true);
		}
		TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
		TEST_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
			    "the VM's process ended, status 0x%x", status);
		decode(self, false);
		decode(self, true);
	}

	/* The buffer is as good as before. */
	self->vm = create_vm(&self->vcpu);
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
}

/* The device is closed and the VM does not notice until it looks. */
DMABUF_TEST(device_closed)
{
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));

	close_device(self);
	guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
	TEST_ASSERT_EQ(__vm_set_dmabuf_region(self->vm, SLOT_B, 0, GPA_B, SZ_2M,
					      self->fd, 0), -ENODEV);
	TEST_ASSERT_EQ(dmabuf_count(self->fd), 2);

	/* Another open of the device does not bring this buffer back. */
	open_device(self);
	assert_revoked_exit(self->vcpu, GPA_A);
	TEST_ASSERT_EQ(guest_run(self->vcpu), GUEST_FAULT);
	assert_revoked_exit(self->vcpu, GPA_A);

	vm_delete_region(self->vm, SLOT_A);
	TEST_ASSERT_EQ(guest_run(self->vcpu), GUEST_MMIO);
	complete_mmio_read(self->vcpu, GPA_A);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), MMIO_SENTINEL);
	TEST_ASSERT_EQ(dmabuf_count(self->fd), 1);
}

/* The first further device that can be reset alone and has registers in BAR 0. */
static struct vfio_pci_device *open_resettable(FIXTURE_DATA(dmabuf) *self)
{
	struct vfio_pci_device *dev;
	int i;

	for (i = 1; i < nr_bdfs; i++) {
		dev = vfio_pci_device_init_nomap(bdfs[i], self->iommu);
		if ((dev->info.flags & VFIO_DEVICE_FLAGS_RESET) &&
		    (dev->bars[0].info.flags & VFIO_REGION_INFO_FLAG_MMAP))
			return dev;
		vfio_pci_device_cleanup(dev);
	}

	return NULL;
}

/* Ways to lose the memory other than decode: reset and low power. */
DMABUF_TEST(reset_and_power)
{
	struct vfio_pci_device *dev;
	struct vm_leaves before, mapped;
	u64 val;
	int fd, i;

	if (!vm_has_leaves(self->vm))
		SKIP(return, "nothing tells the size of leaves");
	dev = open_resettable(self);
	if (!dev)
		SKIP(return, "no second device that can be reset");

	vfio_pci_set_memory_decode(dev, true);
	fd = vfio_pci_dmabuf_export_bar(dev, 0);
	add_slot(self->vm, SLOT_A, 0, GPA_A, PAGE_SIZE, fd, 0);

	/* All of the guest's own memory that the access below takes. */
	TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_READ32, GPA_A, 0, 0), GUEST_DONE_CMD);
	vfio_pci_set_memory_decode(dev, false);
	vfio_pci_set_memory_decode(dev, true);

	for (i = 0; i < 3; i++) {
		before = vm_leaves(self->vm);
		TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_READ32, GPA_A, 0, 0),
			       GUEST_DONE_CMD);
		val = guest_res(self->vcpu);
		mapped = vm_leaves(self->vm);
		TEST_ASSERT_EQ(mapped.k4, before.k4 + 1);

		/* The entry goes before the reset, the memory is back after. */
		vfio_pci_device_reset(dev);
		TEST_ASSERT_EQ(vm_leaves(self->vm).k4, before.k4);
		TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_READ32, GPA_A, 0, 0),
			       GUEST_DONE_CMD);
		TEST_ASSERT_EQ(guest_res(self->vcpu), val);

		/* Leave nothing mapped for the next round. */
		vfio_pci_set_memory_decode(dev, false);
		vfio_pci_set_memory_decode(dev, true);
	}

	if (__vfio_pci_set_power_state(dev, 3)) {
		ksft_print_msg("no PM capability, low power not tested\n");
	} else {
		guest_revoked(self->vcpu, GUEST_READ32, GPA_A, 0);
		/* One reason to be away ends, the other does not. */
		vfio_pci_set_memory_decode(dev, false);
		vfio_pci_set_memory_decode(dev, true);
		TEST_ASSERT_EQ(guest_run(self->vcpu), GUEST_FAULT);
		assert_revoked_exit(self->vcpu, GPA_A);
		__vfio_pci_set_power_state(dev, 0);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), val);
	}
	vfio_pci_device_cleanup(dev);
}

/*
 * Resets of devices with memory, alone or with all that are on their bus, and
 * guests that never stop reading it.  What they read is the tag.  While the device
 * is in reset nothing answers for the address, and it would be anything else, so
 * the memory has to be out of their reach from before the reset to after it.  All
 * devices on the command line take part that have such memory.
 */
#define MAX_DEVICES	8
#define BUS_TEST(name)	TEST_F_TIMEOUT(dmabuf_bus, name, 240)

struct bus_device {
	struct vfio_pci_device *dev;
	const char *bdf;
	int bar;
	int fd;
	struct readers readers;
};

FIXTURE(dmabuf_bus) {
	struct iommu *iommu;
	struct bus_device memory[MAX_DEVICES];
	struct vfio_pci_device *others[MAX_DEVICES];
	int nr_memory;
	int nr_others;
};

FIXTURE_SETUP(dmabuf_bus)
{
	struct vfio_pci_device *dev;
	int i, bar;

	self->iommu = iommu_init(MODE_IOMMUFD);
	for (i = 0; i < nr_bdfs && i < MAX_DEVICES; i++) {
		struct bus_device *d = &self->memory[self->nr_memory];

		dev = vfio_pci_device_init_nomap(bdfs[i], self->iommu);
		vfio_pci_set_memory_decode(dev, true);
		bar = vfio_pci_largest_bar(dev, TAG_PAGES * PAGE_SIZE);
		if (bar < 0 || !tag_bar(dev, bar)) {
			self->others[self->nr_others++] = dev;
			continue;
		}
		d->dev = dev;
		d->bdf = bdfs[i];
		d->bar = bar;
		d->fd = vfio_pci_dmabuf_export_bar(dev, bar);
		self->nr_memory++;
	}
}

FIXTURE_TEARDOWN(dmabuf_bus)
{
	int i;

	for (i = 0; i < self->nr_memory; i++) {
		close(self->memory[i].fd);
		vfio_pci_device_cleanup(self->memory[i].dev);
	}
	for (i = 0; i < self->nr_others; i++)
		vfio_pci_device_cleanup(self->others[i]);
	iommu_cleanup(self->iommu);
}

static u64 nr_revoked(struct readers *rs)
{
	u64 nr = 0;
	int i;

	for (i = 0; i < NR_HAMMERS; i++)
		nr += READ_ONCE(rs->r[i].nr_revoked);

	return nr;
}

static void bus_readers_create(struct bus_device *d)
{
	readers_create(&d->readers, 0, 4ull * SZ_1G, SZ_4M, d->fd);
	readers_expect(&d->readers, false);
}

static void bus_readers_join(struct bus_device *d)
{
	readers_join(&d->readers);
	ksft_print_msg("%s: %lu reads were held up\n", d->bdf,
		       nr_revoked(&d->readers));
	/* A reset takes as long as thousands of reads. */
	TEST_ASSERT(nr_revoked(&d->readers), "%s was never revoked", d->bdf);
	kvm_vm_free(d->readers.vm);
}

BUS_TEST(reset)
{
	int i, round, nr = 0;

	for (i = 0; i < self->nr_memory; i++) {
		struct bus_device *d = &self->memory[i];

		if (!(d->dev->info.flags & VFIO_DEVICE_FLAGS_RESET))
			continue;
		nr++;
		bus_readers_create(d);
		for (round = 0; round < 3; round++) {
			vfio_pci_device_reset(d->dev);
			readers_expect(&d->readers, false);
			TEST_ASSERT_EQ(pci_sysfs_write(d->bdf, "reset", "1"), 0);
			readers_expect(&d->readers, false);
		}
		bus_readers_join(d);
	}

	if (!nr)
		SKIP(return, "no device with memory can be reset alone");
}

/* Does a hot reset of one reset the other? */
static bool reset_together(struct bus_device *a, struct bus_device *b)
{
	struct vfio_pci_hot_reset_info *info;
	size_t size = sizeof(*info) + 64 * sizeof(info->devices[0]);
	unsigned int segment, bus, dev, fn, i;
	bool found = false;
	int ret;

	ret = sscanf(b->bdf, "%x:%x:%x.%x", &segment, &bus, &dev, &fn);
	TEST_ASSERT_EQ(ret, 4);
	info = calloc(1, size);
	info->argsz = size;
	if (!ioctl(a->dev->fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, info))
		for (i = 0; i < info->count; i++)
			found |= info->devices[i].segment == segment &&
				 info->devices[i].bus == bus &&
				 info->devices[i].devfn == (dev << 3 | fn);
	free(info);

	return found;
}

BUS_TEST(hot_reset)
{
	struct bus_device *together[MAX_DEVICES];
	int i, j, nr = 0, round, ret;

	/* A device that is not alone on its bus, and those that are with it. */
	for (i = 0; i < self->nr_memory && nr < 2; i++)
		for (nr = 0, j = 0; j < self->nr_memory; j++)
			if (reset_together(&self->memory[i], &self->memory[j]))
				together[nr++] = &self->memory[j];
	if (nr < 2)
		SKIP(return, "no two devices with memory can be reset together");

	for (i = 0; i < nr; i++)
		bus_readers_create(together[i]);
	for (round = 0; round < 4; round++) {
		ret = __vfio_pci_hot_reset(together[round % nr]->dev);
		TEST_ASSERT(!ret, "hot reset: %s", strerror(-ret));
		for (i = 0; i < nr; i++)
			readers_expect(&together[i]->readers, false);
	}
	for (i = 0; i < nr; i++)
		bus_readers_join(together[i]);
}

/* The devices with memory that are in the same slot as @bdf. */
static int same_slot(FIXTURE_DATA(dmabuf_bus) *self, const char *bdf,
		     struct bus_device **hit)
{
	int i, nr = 0;

	for (i = 0; i < self->nr_memory; i++)
		if (!strncmp(self->memory[i].bdf, bdf, strlen("0000:00:00")))
			hit[nr++] = &self->memory[i];

	return nr;
}

/*
 * Set the device up again.  VFIO takes no notice of that before the PCI core is
 * done with the error, which cannot be seen from here: until a guest can read.
 */
static void set_up_again(struct bus_device *d)
{
	struct reader_state *state = d->readers.r[0].state;
	u64 done = READ_ONCE(state->done);

	do {
		vfio_pci_set_memory_decode(d->dev, true);
		sched_yield();
	} while (READ_ONCE(state->done) == done);
}

/*
 * A fatal error of one of the other devices takes those with memory with it that
 * are in the same slot.  They come back when they are set up again.
 */
BUS_TEST(fatal_error)
{
	struct bus_device *hit[MAX_DEVICES];
	int i, j, nr = 0, ret;

	for (j = 0; j < self->nr_others && !nr; j++)
		nr = same_slot(self, self->others[j]->bdf, hit);
	if (!nr)
		SKIP(return, "no device shares its slot with one that has memory");

	for (i = 0; i < nr; i++)
		bus_readers_create(hit[i]);

	ret = pci_inject_error(self->others[j - 1]->bdf, PCI_ERR_UNC_MALF_TLP);

	/* The link is reset when each device has lost its setup. */
	for (i = 0; i < nr && !ret; i++)
		while (pci_sysfs_command(hit[i]->bdf) & PCI_COMMAND_MEMORY)
			sched_yield();
	for (i = 0; i < nr && !ret; i++) {
		set_up_again(hit[i]);
		readers_expect(&hit[i]->readers, false);
		bus_readers_join(hit[i]);
	}
	if (ret) {
		for (i = 0; i < nr; i++)
			readers_join(&hit[i]->readers);
		SKIP(return, "no error can be injected: %s", strerror(-ret));
	}
}

#ifdef __aarch64__
/*
 * What stage-2 says about the memory.  vfio-pci allows write-combining, so the
 * guest's BAR is Normal-NC: an access need not be aligned, atomics work, the
 * guest's own attributes can still make it Device, and executing from it is an
 * external abort whoever asked for it.
 */
static struct {
	u64 esr;
	u64 far;
} guest_abort;

static void guest_abort_handler(struct ex_regs *regs)
{
	guest_abort.esr = read_sysreg(esr_el1);
	guest_abort.far = read_sysreg(far_el1);
	/* An instruction that could not be fetched was called. */
	if (ESR_ELx_EC(guest_abort.esr) == ESR_ELx_EC_IABT_CUR)
		regs->pc = regs->regs[30];
	else
		regs->pc += 4;
}

static void handle_aborts(struct kvm_vm *vm, struct kvm_vcpu *vcpu)
{
	vm_init_descriptor_tables(vm);
	vcpu_init_descriptor_tables(vcpu);
	vm_install_sync_handler(vm, VECTOR_SYNC_CURRENT, ESR_ELx_EC_DABT_CUR,
				guest_abort_handler);
	vm_install_sync_handler(vm, VECTOR_SYNC_CURRENT, ESR_ELx_EC_IABT_CUR,
				guest_abort_handler);
}

/* The command completed, with this abort taken by the guest, 0 for none. */
static void expect_abort(struct kvm_vm *vm, enum guest_exit exit, u64 ec, u64 fsc,
			 u64 far)
{
	TEST_ASSERT_EQ(exit, GUEST_DONE_CMD);
	sync_global_from_guest(vm, guest_abort);
	TEST_ASSERT(ec ? ESR_ELx_EC(guest_abort.esr) == ec : !guest_abort.esr,
		    "wanted class 0x%lx, ESR is 0x%lx", ec, guest_abort.esr);
	if (ec) {
		TEST_ASSERT_EQ(guest_abort.esr & ESR_ELx_FSC, fsc);
		TEST_ASSERT_EQ(guest_abort.far, far);
	}
	memset(&guest_abort, 0, sizeof(guest_abort));
	sync_global_to_guest(vm, guest_abort);
}

DMABUF_TEST(memory_type)
{
	u64 gpa = GPA_A + PAGE_SIZE;

	handle_aborts(self->vm, self->vcpu);
	bar_write64(self, PAGE_SIZE + 8, PATTERN);
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);

	expect_abort(self->vm, guest_cmd(self->vcpu, GUEST_READ_UNALIGNED, gpa + 4, 0, 0),
		     0, 0, 0);
	TEST_ASSERT_EQ(guest_res(self->vcpu), (TAG(1) >> 32) | (PATTERN << 32));

	expect_abort(self->vm, guest_cmd(self->vcpu, GUEST_ATOMIC, gpa, PATTERN, 0), 0, 0, 0);
	TEST_ASSERT_EQ(guest_res(self->vcpu), TAG(1));
	TEST_ASSERT_EQ(bar_read64(self, PAGE_SIZE), PATTERN);
}

DMABUF_TEST(execute)
{
	int i;

	handle_aborts(self->vm, self->vcpu);
	/* A "ret", should it be executed. */
	bar_write64(self, 2 * PAGE_SIZE, 0xd65f03c0);
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);

	/* Not mapped, then mapped; no exit in either case. */
	for (i = 0; i < 2; i++) {
		expect_abort(self->vm, guest_cmd(self->vcpu, GUEST_EXEC,
						 GPA_A + 2 * PAGE_SIZE, 0, 0),
			     ESR_ELx_EC_IABT_CUR, ESR_ELx_FSC_EXTABT,
			     GPA_A + 2 * PAGE_SIZE);
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 2 * PAGE_SIZE), 0xd65f03c0);
	}

	decode(self, false);
	guest_revoked(self->vcpu, GUEST_EXEC, GPA_A + 2 * PAGE_SIZE, 0);
	decode(self, true);
	expect_abort(self->vm, guest_run(self->vcpu), ESR_ELx_EC_IABT_CUR,
		     ESR_ELx_FSC_EXTABT, GPA_A + 2 * PAGE_SIZE);

	/* MMIO is no place for code, either. */
	vm_delete_region(self->vm, SLOT_A);
	vm_set_dmabuf_region(self->vm, SLOT_A, KVM_MEM_REVOKED_MMIO, GPA_A, SZ_2M,
			     self->fd, 0);
	decode(self, false);
	expect_abort(self->vm, guest_cmd(self->vcpu, GUEST_EXEC,
					 GPA_A + 2 * PAGE_SIZE, 0, 0),
		     ESR_ELx_EC_IABT_CUR, ESR_ELx_FSC_EXTABT, GPA_A + 2 * PAGE_SIZE);
	decode(self, true);
}

/*
 * A load that the CPU does not describe: KVM cannot make MMIO of it, with a slot
 * or without, and leaves it undone.
 */
DMABUF_TEST(revoked_mmio_pair)
{
	struct guest_cmd cmd = { .op = GUEST_READ_PAIR, .gpa = GPA_A };
	int i;

	add_slot(self->vm, SLOT_A, KVM_MEM_REVOKED_MMIO, GPA_A, SZ_2M, self->fd, 0);
	TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_READ_PAIR, GPA_A, 0, 0), GUEST_DONE_CMD);

	decode(self, false);
	*guest_cmd_hva(self->vm) = cmd;
	for (i = 0; i < 2; i++) {
		TEST_ASSERT_EQ(__vcpu_run(self->vcpu), -1);
		TEST_ASSERT_EQ(errno, ENOSYS);
	}
	vm_enable_cap(self->vm, KVM_CAP_ARM_NISV_TO_USER, 0);
	TEST_ASSERT_EQ(__vcpu_run(self->vcpu), 0);
	TEST_ASSERT_KVM_EXIT_REASON(self->vcpu, KVM_EXIT_ARM_NISV);
	TEST_ASSERT_EQ(self->vcpu->run->arm_nisv.fault_ipa, GPA_A);
	decode(self, true);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(0));
}

/* Cache maintenance needs no permission and nobody's help. */
DMABUF_TEST(cache_maintenance)
{
	enum guest_exit exit;
	u32 flags;

	for (flags = 0; flags <= KVM_MEM_READONLY; flags += KVM_MEM_READONLY) {
		/* While it is MMIO there is nothing to do. */
		add_slot(self->vm, SLOT_A, flags | KVM_MEM_REVOKED_MMIO, GPA_A, SZ_2M,
			 self->fd, 0);
		decode(self, false);
		TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_CLEAN, GPA_A, 0, 0),
			       GUEST_DONE_CMD);
		decode(self, true);
		vm_delete_region(self->vm, SLOT_A);

		vm_set_dmabuf_region(self->vm, SLOT_A, flags, GPA_A, SZ_2M, self->fd, 0);
		TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_CLEAN, GPA_A, 0, 0),
			       GUEST_DONE_CMD);
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
		TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_CLEAN, GPA_A, 0, 0),
			       GUEST_DONE_CMD);

		/* An emulated CPU has no caches, and does not look the address up. */
		decode(self, false);
		exit = guest_cmd(self->vcpu, GUEST_CLEAN, GPA_A, 0, 0);
		if (exit == GUEST_FAULT)
			assert_revoked_exit(self->vcpu, GPA_A);
		else
			TEST_ASSERT_EQ(exit, GUEST_DONE_CMD);
		decode(self, true);
		if (exit == GUEST_FAULT)
			guest_resume(self->vcpu);
		vm_delete_region(self->vm, SLOT_A);
	}
}

/*
 * Guest page tables in the BAR: the table walker's accesses are accesses of the
 * slot, and revoked with it.  The exit's gpa is that of the descriptor.
 */
DMABUF_TEST(page_tables)
{
	const u64 table = 64 * PAGE_SIZE;
	u64 *pmd, gva, idx, old;
	gva_t page;
	u32 flags;

	if (getpagesize() != SZ_4K)
		SKIP(return, "the test knows the tables of 4 KiB pages");

	handle_aborts(self->vm, self->vcpu);
	page = vm_alloc(self->vm, PAGE_SIZE, KVM_UTIL_MIN_VADDR);
	*(u64 *)addr_gva2hva(self->vm, page) = PATTERN;

	for (flags = 0; flags <= KVM_MEM_READONLY; flags += KVM_MEM_READONLY) {
		/* The page once more, by an address that no TLB has seen yet. */
		gva = (3ull + flags) * SZ_1G;
		virt_map(self->vm, gva, addr_arch_gva2gpa(self->vm, page), 1);

		/* Move the last table of the walk into the BAR. */
		idx = (gva / PAGE_SIZE) % (PAGE_SIZE / 8);
		bar_write64(self, table + idx * 8,
			    *virt_get_pte_hva_at_level(self->vm, gva, 3));
		pmd = virt_get_pte_hva_at_level(self->vm, gva, 2);
		old = *pmd;
		*pmd = (old & ~GENMASK_ULL(47, 12)) | (GPA_A + table);
		vm_set_dmabuf_region(self->vm, SLOT_A, flags, GPA_A, SZ_2M, self->fd, 0);

		expect_abort(self->vm, guest_cmd(self->vcpu, GUEST_READ, gva, 0, 0), 0, 0, 0);
		TEST_ASSERT_EQ(guest_res(self->vcpu), PATTERN);
		decode(self, false);
		guest_revoked_at(self->vcpu, GUEST_READ, gva, 0, GPA_A + table);
		decode(self, true);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), PATTERN);

		/* MMIO is no place for page tables, either. */
		vm_delete_region(self->vm, SLOT_A);
		vm_set_dmabuf_region(self->vm, SLOT_A, flags | KVM_MEM_REVOKED_MMIO,
				     GPA_A, SZ_2M, self->fd, 0);
		decode(self, false);
		expect_abort(self->vm, guest_cmd(self->vcpu, GUEST_READ, gva, 0, 0),
			     ESR_ELx_EC_DABT_CUR, ESR_ELx_FSC_SEA_TTW(3), gva);
		decode(self, true);

		*pmd = old;
		vm_delete_region(self->vm, SLOT_A);
	}
}

/* Entries of stage-2 tables: of what is below, and of memory. */
#define S2_TABLE(pa)	((pa) | 3)
#define S2_BLOCK(pa)	((pa) | 0x7fd)	/* Normal, shareable, RW, accessed */
#define S2_PAGE(pa)	((pa) | 0x7ff)
#define S2_PAGE_RO(pa)	((pa) | 0x77f)
/* 39 bits of IPA from level 1, 40 bits of PA, 4 KiB */
#define S2_VTCR		((1ul << 31) | (2ul << 16) | (3ul << 12) | (5ul << 8) | \
			 (1ul << 6) | 25)

/*
 * A nested guest on the BAR, whose accesses KVM maps by a stage-2 of its own.
 * Revocation takes that away, too, and the exit has the address of the slot.
 */
DMABUF_TEST(nested)
{
	const u64 l2_ipa = 32ull * SZ_1G;
	const u32 code[] = {
		0xf9400020, 0xd4000002,		/* ldr x0, [x1]; hvc #0 */
		0xf9000020, 0xd4000002,		/* str x0, [x1]; hvc #0 */
	};
	const u64 ro_ipa = l2_ipa + SZ_2M + 511 * SZ_4K;
	struct kvm_vm *vm = self->vm;
	u64 *level1, *level2, *level3, ipa;
	gva_t gva;
	int i, j;

	if (!vcpu_has_el2(self->vcpu))
		SKIP(return, "no nested virtualisation (kvm-arm.mode=nested)");
	if (getpagesize() != SZ_4K)
		SKIP(return, "the test knows the tables of 4 KiB pages");

	vm_init_descriptor_tables(vm);
	vcpu_init_descriptor_tables(self->vcpu);
	vm_install_sync_handler(vm, VECTOR_SYNC_LOWER_64, ESR_ELx_EC_HVC64, guest_l2_exit);
	vm_install_sync_handler(vm, VECTOR_SYNC_LOWER_64, ESR_ELx_EC_DABT_LOW, guest_l2_exit);
	add_slot(vm, SLOT_A, 0, GPA_A, SZ_4M, self->fd, 0);

	/*
	 * The first half of the slot is a block and the second one is pages, in
	 * reverse order: a block of it would be wrong, whatever the BAR allows.
	 */
	gva = vm_alloc_pages(vm, 4);
	level1 = addr_gva2hva(vm, gva);
	level2 = addr_gva2hva(vm, gva + PAGE_SIZE);
	level3 = addr_gva2hva(vm, gva + 2 * PAGE_SIZE);
	memcpy(addr_gva2hva(vm, gva + 3 * PAGE_SIZE), code, sizeof(code));
	for (i = 0; i < 4; i++)
		level1[i] = S2_BLOCK(i * (u64)SZ_1G);
	level1[l2_ipa / SZ_1G] = S2_TABLE(addr_gva2gpa(vm, gva + PAGE_SIZE));
	level2[0] = S2_BLOCK(GPA_A);
	level2[1] = S2_TABLE(addr_gva2gpa(vm, gva + 2 * PAGE_SIZE));
	for (i = 0; i < 512; i++)
		level3[i] = S2_PAGE(GPA_A + SZ_4M - (i + 1) * SZ_4K);
	level3[511] = S2_PAGE_RO(GPA_A + SZ_4M - 512 * SZ_4K);

	guest_l2.vttbr = addr_gva2gpa(vm, gva);
	guest_l2.vtcr = S2_VTCR;
	guest_l2.code = addr_gva2gpa(vm, gva + 3 * PAGE_SIZE);
	sync_global_to_guest(vm, guest_l2);

	for (i = 0; i < 3; i++) {
		TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_L2,
					 l2_ipa + PAGE_SIZE, 0, 0), GUEST_DONE_CMD);
		sync_global_from_guest(vm, guest_l2);
		TEST_ASSERT(ESR_ELx_EC(guest_l2.esr) == ESR_ELx_EC_HVC64,
			    "exit of L2: ESR is 0x%lx", guest_l2.esr);
		TEST_ASSERT_EQ(guest_res(self->vcpu), TAG(1));

		decode(self, false);
		guest_revoked_at(self->vcpu, GUEST_L2, l2_ipa + PAGE_SIZE, 0,
				 GPA_A + PAGE_SIZE);
		decode(self, true);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(1));

		for (j = 0; j < 512; j += 170) {
			ipa = l2_ipa + SZ_2M + j * SZ_4K;
			TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_L2, ipa, 0, 0),
				       GUEST_DONE_CMD);
			TEST_ASSERT_EQ(guest_res(self->vcpu), TAG(1023 - j));
		}
	}

	/* L0's VMM is told by L1's address, and L2 gets what it says. */
	vm_delete_region(vm, SLOT_A);
	vm_set_dmabuf_region(vm, SLOT_A, KVM_MEM_REVOKED_MMIO, GPA_A, SZ_4M, self->fd, 0);
	decode(self, false);
	TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_L2, l2_ipa + PAGE_SIZE, 0, 0),
		       GUEST_MMIO);
	complete_mmio_read(self->vcpu, GPA_A + PAGE_SIZE);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), MMIO_SENTINEL);
	decode(self, true);
	TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_L2, l2_ipa + PAGE_SIZE, 0, 0),
		       GUEST_DONE_CMD);
	TEST_ASSERT_EQ(guest_res(self->vcpu), TAG(1));

	/*
	 * Stores: what L1 does not permit goes to L1, whether the memory is there,
	 * and its page tables ask L1, or not.
	 */
	guest_l2.code += 2 * sizeof(code[0]);
	sync_global_to_guest(vm, guest_l2);
	for (i = 0; i < 2; i++) {
		decode(self, !i);
		TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_L2, ro_ipa, 0, 0), GUEST_DONE_CMD);
		sync_global_from_guest(vm, guest_l2);
		TEST_ASSERT(ESR_ELx_EC(guest_l2.esr) == ESR_ELx_EC_DABT_LOW &&
			    (guest_l2.esr & ESR_ELx_FSC) == ESR_ELx_FSC_PERM_L(3),
			    "exit of L2, decode %d: ESR is 0x%lx", !i, guest_l2.esr);
	}
	TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_L2, l2_ipa + PAGE_SIZE, 0, 0), GUEST_MMIO);
	TEST_ASSERT(self->vcpu->run->mmio.is_write, "wanted a write");
	TEST_ASSERT_EQ(self->vcpu->run->mmio.phys_addr, GPA_A + PAGE_SIZE);
	guest_resume(self->vcpu);
	decode(self, true);
	TEST_ASSERT_EQ(bar_read64(self, PAGE_SIZE), TAG(1));
}
#endif /* __aarch64__ */

/*
 * A VM that cannot have such slots: without the capability there is no slot,
 * whatever the fd is.  A kernel that does not know the flag says EINVAL.
 */
static int test_refused(struct kvm_vm *vm)
{
	int ret = __vm_set_dmabuf_region(vm, SLOT_A, 0, SZ_1G, PAGE_SIZE, -1, 0);

	__TEST_REQUIRE(ret != -EINVAL, "the kernel does not know KVM_MEM_DMABUF");
	ksft_print_header();
	ksft_set_plan(1);
	ksft_test_result(ret == -EOPNOTSUPP, "no capability, no slot\n");
	kvm_vm_free(vm);
	ksft_finished();
}

int main(int argc, char *argv[])
{
	struct kvm_vm *vm;
	char path[128];
	int i, flags;

	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_bdfs);
	for (i = 0; i < nr_bdfs; i++) {
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", bdfs[i]);
		__TEST_REQUIRE(!access(path, F_OK), "%s is not bound to vfio-pci", bdfs[i]);
	}
	__TEST_REQUIRE(!access("/dev/iommu", R_OK | W_OK), "no /dev/iommu");

	vm = vm_create_barebones();
	flags = vm_check_cap(vm, KVM_CAP_DMABUF_MEM);
	if (!flags)
		return test_refused(vm);
	TEST_ASSERT(flags & KVM_MEM_DMABUF, "KVM_CAP_DMABUF_MEM is 0x%x", flags);
	kvm_vm_free(vm);

	return test_harness_run(argc, argv);
}
