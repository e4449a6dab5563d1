// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of guest_memfds that are mapped for a device: memory of a guest by file
 * and offset, in KVM and in iommufd.
 *
 * The device on the command line (or $VFIO_SELFTESTS_BDF) needs a driver in
 * libvfio. It copies between host memory and the guest_memfd, and what it did is
 * looked at by the guest and, where there is a mapping, by the host.
 *
 * DMA that faults leaves memory as it was. That it was tried is known from DMA
 * that succeeded before, to the same IOVA.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/resource.h>

#include <linux/falloc.h>
#include <linux/iommufd.h>
#include <linux/sizes.h>

#include "dmabuf_vfio.h"

#define NR_PAGES	16
#define GMEM_SIZE	(NR_PAGES * PAGE_SIZE)
#define GMEM_GPA	SZ_4G
#define MAP_RW		(IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE)
#define MMAPABLE	(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)

FIXTURE(gmem_dma) {
	struct iommu *iommu;
	struct iova_allocator *iova_allocator;
	struct vfio_pci_device *dev;
	struct dma_region buf;
	iova_t iova;		/* where the guest_memfd goes */
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int gmem;
	u64 *mem;		/* mapping of the guest_memfd, if it can be had */
};

static void dma_region_setup(FIXTURE_DATA(gmem_dma) *self,
			     struct dma_region *region)
{
	region->size = SZ_2M;
	region->vaddr = kvm_mmap(region->size, PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1);
	region->iova = iova_allocator_alloc(self->iova_allocator, region->size);
	iommu_map(self->iommu, region);
}

static void dma_region_teardown(FIXTURE_DATA(gmem_dma) *self,
				struct dma_region *region)
{
	iommu_unmap(self->iommu, region);
	kvm_munmap(region->vaddr, region->size);
}

FIXTURE_SETUP(gmem_dma)
{
	self->gmem = -1;
	self->iommu = iommu_init(MODE_IOMMUFD);
	self->dev = vfio_pci_device_init(bdfs[0], self->iommu);
	if (!self->dev->driver.ops)
		SKIP(return, "libvfio has no driver for %s", bdfs[0]);

	self->iova_allocator = iova_allocator_init(self->iommu);
	dma_region_setup(self, &self->dev->driver.region);
	dma_region_setup(self, &self->buf);
	self->iova = iova_allocator_alloc(self->iova_allocator, SZ_2M);
	vfio_pci_driver_init(self->dev);
}

FIXTURE_TEARDOWN(gmem_dma)
{
	if (self->mem)
		kvm_munmap(self->mem, GMEM_SIZE);
	if (self->gmem >= 0)
		close(self->gmem);
	if (self->vm)
		kvm_vm_free(self->vm);
	vfio_pci_driver_remove(self->dev);
	dma_region_teardown(self, &self->buf);
	dma_region_teardown(self, &self->dev->driver.region);
	iova_allocator_cleanup(self->iova_allocator);
	vfio_pci_device_cleanup(self->dev);
	iommu_cleanup(self->iommu);
}

/* A VM with a slot of a guest_memfd, that userspace has no address of */
static void setup_vm(FIXTURE_DATA(gmem_dma) *self, u32 type, u64 gmem_flags)
{
	struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = type,
	};

	self->vm = __vm_create_shape_with_one_vcpu(shape, &self->vcpu,
						   EXTRA_PAGES,
						   guest_command_loop);
	self->gmem = vm_create_guest_memfd(self->vm, GMEM_SIZE, gmem_flags);
	vm_set_user_memory_region2(self->vm, SLOT_A, KVM_MEM_GUEST_MEMFD,
				   GMEM_GPA, GMEM_SIZE, NULL, self->gmem, 0);
	virt_map(self->vm, GMEM_GPA, GMEM_GPA, NR_PAGES);
}

static void setup_mmapable(FIXTURE_DATA(gmem_dma) *self)
{
	setup_vm(self, VM_TYPE_DEFAULT, MMAPABLE);
	self->mem = kvm_mmap(GMEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			     self->gmem);
}

static u64 *mem_page(FIXTURE_DATA(gmem_dma) *self, u64 page)
{
	return self->mem + page * PAGE_SIZE / sizeof(u64);
}

static u64 gpa(u64 page)
{
	return GMEM_GPA + page * PAGE_SIZE;
}

/* Have the device write a word at an offset from the mapping's IOVA, or try */
static int dma_write(FIXTURE_DATA(gmem_dma) *self, u64 page, u64 val)
{
	u64 *buf = self->buf.vaddr;
	int i;

	/* No driver copies as little as that */
	for (i = 0; i < 16; i++)
		buf[i] = val + i;
	return vfio_pci_driver_memcpy(self->dev, self->buf.iova,
				      self->iova + page * PAGE_SIZE,
				      16 * sizeof(u64));
}

static u64 dma_read(FIXTURE_DATA(gmem_dma) *self, u64 page)
{
	u64 *buf = self->buf.vaddr;

	memset(buf, 0xee, 16 * sizeof(u64));
	TEST_ASSERT_EQ(vfio_pci_driver_memcpy(self->dev,
					      self->iova + page * PAGE_SIZE,
					      self->buf.iova,
					      16 * sizeof(u64)), 0);
	return buf[0];
}

/* DMA neither writes to memory nor reads from it */
static void assert_no_dma(FIXTURE_DATA(gmem_dma) *self, u64 page, u64 secret)
{
	u64 *buf = self->buf.vaddr;

	dma_write(self, page, 0xbad);

	memset(buf, 0xee, 16 * sizeof(u64));
	vfio_pci_driver_memcpy(self->dev, self->iova + page * PAGE_SIZE,
			       self->buf.iova, 16 * sizeof(u64));
	TEST_ASSERT(buf[0] != secret, "a device has read what it must not");
}

static void punch(FIXTURE_DATA(gmem_dma) *self, u64 page, u64 nr)
{
	TEST_ASSERT(!fallocate(self->gmem,
			       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       page * PAGE_SIZE, nr * PAGE_SIZE),
		    "fallocate() failed, errno %d", errno);
}

static void map_gmem(FIXTURE_DATA(gmem_dma) *self, u64 page, u64 nr)
{
	iommu_map_file(self->iommu, self->gmem, page * PAGE_SIZE,
		       nr * PAGE_SIZE, self->iova);
}

static void unmap_gmem(FIXTURE_DATA(gmem_dma) *self, u64 nr)
{
	iommu_unmap_iova(self->iommu, self->iova, nr * PAGE_SIZE);
}

TEST_F(gmem_dma, errors)
{
	int fd;

	setup_mmapable(self);
	ASSERT_EQ(-EINVAL, __iommu_map_file(self->iommu, self->gmem, PAGE_SIZE,
					    GMEM_SIZE, self->iova, MAP_RW));
	ASSERT_EQ(-EINVAL, __iommu_map_file(self->iommu, self->gmem, GMEM_SIZE,
					    PAGE_SIZE, self->iova, MAP_RW));
	ASSERT_EQ(-EINVAL, __iommu_map_file(self->iommu, self->gmem, 0, 0,
					    self->iova, MAP_RW));
	ASSERT_EQ(-EINVAL, __iommu_map_file(self->iommu, self->gmem, 0,
					    GMEM_SIZE, self->iova,
					    MAP_RW | IOMMU_IOAS_MAP_RESTORE));
	ASSERT_EQ(-EBADF, __iommu_map_file(self->iommu, -1, 0, GMEM_SIZE,
					   self->iova, MAP_RW));

	/* Private to a guest of which the host does not know how it is so */
	fd = __vm_create_guest_memfd(self->vm, GMEM_SIZE, 0);
	ASSERT_LE(0, fd);
	ASSERT_EQ(-EOPNOTSUPP, __iommu_map_file(self->iommu, fd, 0, GMEM_SIZE,
						self->iova, MAP_RW));
	close(fd);

	map_gmem(self, 0, NR_PAGES);
	ASSERT_EQ(-EEXIST, __iommu_map_file(self->iommu, self->gmem, 0,
					    GMEM_SIZE, self->iova, MAP_RW));
	ASSERT_EQ(0, dma_write(self, 0, 0x123));
	ASSERT_EQ(0x123, guest_read(self->vcpu, gpa(0)));
	unmap_gmem(self, NR_PAGES);
}

#ifdef __aarch64__
static bool cmdline_has(const char *option)
{
	char line[4096] = "";
	FILE *f;

	f = fopen("/proc/cmdline", "r");
	TEST_ASSERT(f && fgets(line, sizeof(line), f), "no /proc/cmdline");
	fclose(f);
	return strstr(line, option);
}

/* The host's IOMMUs have no memory of guests that the hypervisor gives and takes */
TEST_F(gmem_dma, pkvm)
{
	int fd;

	if (!cmdline_has("kvm-arm.mode=protected"))
		SKIP(return, "not under pKVM");

	self->vm = vm_create_barebones();
	fd = vm_create_guest_memfd(self->vm, GMEM_SIZE, MMAPABLE);
	ASSERT_EQ(-EOPNOTSUPP, __iommu_map_file(self->iommu, fd, 0, GMEM_SIZE,
						self->iova, MAP_RW));
	close(fd);
}
#endif

/* Device, guest and host have the same memory, whoever touches it first */
TEST_F(gmem_dma, agree)
{
	struct rlimit limit = {};

	setup_mmapable(self);
	guest_write(self->vcpu, gpa(3), 0x33);
	WRITE_ONCE(*mem_page(self, 4), 0x44);

	/* Nothing is pinned, so nothing is charged */
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &limit));
	map_gmem(self, 0, NR_PAGES);
	ASSERT_EQ(0x33, dma_read(self, 3));
	ASSERT_EQ(0x44, dma_read(self, 4));
	ASSERT_EQ(0, dma_read(self, 5));

	ASSERT_EQ(0, dma_write(self, 6, 0x66));
	ASSERT_EQ(0x66, guest_read(self->vcpu, gpa(6)));
	ASSERT_EQ(0x66, READ_ONCE(*mem_page(self, 6)));

	guest_write(self->vcpu, gpa(6), 0x67);
	ASSERT_EQ(0x67, dma_read(self, 6));
	WRITE_ONCE(*mem_page(self, 6), 0x68);
	ASSERT_EQ(0x68, dma_read(self, 6));
	unmap_gmem(self, NR_PAGES);

	dma_write(self, 6, 0xbad);
	ASSERT_EQ(0x68, guest_read(self->vcpu, gpa(6)));

	/* A slice: page 0 of the mapping is page 8 of the file */
	map_gmem(self, 8, 4);
	ASSERT_EQ(0, dma_write(self, 0, 0x88));
	ASSERT_EQ(0, dma_write(self, 3, 0xbb));
	ASSERT_EQ(0x88, guest_read(self->vcpu, gpa(8)));
	ASSERT_EQ(0xbb, guest_read(self->vcpu, gpa(11)));
	dma_write(self, 4, 0xbad);
	ASSERT_EQ(0, guest_read(self->vcpu, gpa(12)));
	unmap_gmem(self, 4);
}

#ifdef __x86_64__
/* How many use KVM's module, or -1 if it is none */
static int kvm_module_users(void)
{
	static const char * const paths[] = {
		"/sys/module/kvm_amd/refcnt",
		"/sys/module/kvm_intel/refcnt",
	};
	int i, users = -1;

	for (i = 0; i < ARRAY_SIZE(paths) && users < 0; i++) {
		FILE *f = fopen(paths[i], "r");

		if (!f)
			continue;
		if (fscanf(f, "%d", &users) != 1)
			users = -1;
		fclose(f);
	}
	return users;
}
#else
static int kvm_module_users(void)
{
	return -1;
}
#endif

/* The mapping needs nobody: neither the file, nor the VM, nor the slot */
TEST_F(gmem_dma, after_close)
{
	setup_mmapable(self);
	map_gmem(self, 0, NR_PAGES);
	ASSERT_EQ(0, dma_write(self, 1, 0x11));

	vm_set_user_memory_region2(self->vm, SLOT_A, 0, GMEM_GPA, 0, NULL, -1, 0);
	ASSERT_EQ(0x11, dma_read(self, 1));
	kvm_munmap(self->mem, GMEM_SIZE);
	self->mem = NULL;
	ASSERT_EQ(0, close(self->gmem));
	self->gmem = -1;
	ASSERT_EQ(0x11, dma_read(self, 1));
	kvm_vm_free(self->vm);
	self->vm = NULL;
	ASSERT_EQ(0x11, dma_read(self, 1));
	ASSERT_EQ(0, dma_write(self, 2, 0x22));
	ASSERT_EQ(0x22, dma_read(self, 2));

	/* And KVM cannot be unloaded, as long as it is there */
	if (kvm_module_users() >= 0)
		ASSERT_LT(0, kvm_module_users());
	unmap_gmem(self, NR_PAGES);
	if (kvm_module_users() >= 0)
		ASSERT_EQ(0, kvm_module_users());
}

TEST_F(gmem_dma, punch)
{
	setup_mmapable(self);
	map_gmem(self, 4, 8);
	ASSERT_EQ(0, dma_write(self, 0, 0x44));
	ASSERT_EQ(0, dma_write(self, 7, 0xbb));

	/* Beside it */
	punch(self, 0, 4);
	punch(self, 12, 4);
	ASSERT_EQ(0x44, dma_read(self, 0));
	ASSERT_EQ(0xbb, dma_read(self, 7));

	/* One page: all of the mapping goes, all other memory stays */
	punch(self, 5, 1);
	assert_no_dma(self, 0, 0x44);
	assert_no_dma(self, 1, 0xbad);
	assert_no_dma(self, 7, 0xbb);
	ASSERT_EQ(0x44, guest_read(self->vcpu, gpa(4)));
	ASSERT_EQ(0, guest_read(self->vcpu, gpa(5)));
	ASSERT_EQ(0xbb, READ_ONCE(*mem_page(self, 11)));

	/* It stays empty, with memory there again */
	guest_write(self->vcpu, gpa(5), 0x55);
	assert_no_dma(self, 1, 0x55);
	ASSERT_EQ(0x55, guest_read(self->vcpu, gpa(5)));

	/* Until it is mapped again */
	unmap_gmem(self, 8);
	map_gmem(self, 4, 8);
	ASSERT_EQ(0x44, dma_read(self, 0));
	ASSERT_EQ(0x55, dma_read(self, 1));
	ASSERT_EQ(0, dma_write(self, 1, 0x56));
	ASSERT_EQ(0x56, guest_read(self->vcpu, gpa(5)));
	unmap_gmem(self, 8);
}

/* What the device writes to is never memory of somebody else */
TEST_F(gmem_dma, punch_under_load)
{
	int round;

	setup_mmapable(self);
	for (round = 0; round < 10; round++) {
		map_gmem(self, 0, NR_PAGES);
		ASSERT_EQ(0, dma_write(self, 0, round + 1));
		/* In flight while the memory goes, until the device gives up */
		vfio_pci_driver_memcpy_start(self->dev, self->buf.iova,
					     self->iova + 2 * PAGE_SIZE,
					     16 * sizeof(u64), 64);
		punch(self, 2, 1);
		vfio_pci_driver_memcpy_wait(self->dev);

		ASSERT_EQ(0, READ_ONCE(*mem_page(self, 2)));
		ASSERT_EQ(round + 1, guest_read(self->vcpu, gpa(0)));
		ASSERT_EQ(0, guest_read(self->vcpu, gpa(2)));
		unmap_gmem(self, NR_PAGES);
	}
}

#ifdef MADV_HWPOISON
static void ignore_sigbus(int sig)
{
}

/*
 * False if there is no such thing as an error of memory. The owner does not let
 * the page go, which is EBUSY here, and SIGBUS for who has written to the page.
 */
static bool poison(u64 *mem)
{
	struct sigaction old, new = { .sa_handler = ignore_sigbus };
	int ret;

	sigaction(SIGBUS, &new, &old);
	ret = madvise(mem, PAGE_SIZE, MADV_HWPOISON) ? errno : 0;
	sigaction(SIGBUS, &old, NULL);
	errno = ret;
	return !ret || ret == EBUSY;
}

/* An access that ends with the error, however often it is tried */
static void guest_read_poisoned(struct kvm_vcpu *vcpu, u64 gpa)
{
	struct kvm_run *run = vcpu->run;
	int i, ret;

	*guest_cmd_hva(vcpu->vm) = (struct guest_cmd) {
		.op = GUEST_READ,
		.gpa = gpa,
	};
	for (i = 0; i < 3; i++) {
		do {
			ret = __vcpu_run(vcpu);
		} while (ret && errno == EINTR);
		TEST_ASSERT(ret && errno == EHWPOISON,
			    "read of poison: KVM_RUN is %d, errno %d", ret, errno);
		TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MEMORY_FAULT);
		TEST_ASSERT_EQ(run->memory_fault.flags, 0);
		TEST_ASSERT_EQ(run->memory_fault.gpa, gpa);
		TEST_ASSERT_EQ(run->memory_fault.size, PAGE_SIZE);
	}
}

/* An error in memory takes the page, not the mapping, and not the machine */
TEST_F(gmem_dma, poison)
{
	u64 *mem;

	setup_mmapable(self);
	map_gmem(self, 0, NR_PAGES);
	ASSERT_EQ(0, dma_write(self, 1, 0x11));
	guest_write(self->vcpu, gpa(3), 0x33);
	WRITE_ONCE(*mem_page(self, 4), 0x44);
	if (!poison(mem_page(self, 3))) {
		unmap_gmem(self, NR_PAGES);
		SKIP(return, "memory errors cannot be injected, errno %d", errno);
	}

	/* CPUs do not get to it, by this mapping, a new one, or the guest's */
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*mem_page(self, 3)));
	mem = kvm_mmap(GMEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
		       self->gmem);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(mem[3 * PAGE_SIZE / sizeof(*mem)]));
	kvm_munmap(mem, GMEM_SIZE);
	guest_read_poisoned(self->vcpu, gpa(3));

	/* Devices do, as nothing was taken from them: the error is injected */
	ASSERT_EQ(0x33, dma_read(self, 3));
	ASSERT_EQ(0x11, dma_read(self, 1));
	ASSERT_EQ(0x44, dma_read(self, 4));
	ASSERT_EQ(0, dma_write(self, 2, 0x22));
	ASSERT_EQ(0x22, READ_ONCE(*mem_page(self, 2)));

	/* What is mapped anew has no such page in it */
	unmap_gmem(self, NR_PAGES);
	ASSERT_EQ(-EHWPOISON, __iommu_map_file(self->iommu, self->gmem, 0,
					       GMEM_SIZE, self->iova, MAP_RW));
	ASSERT_EQ(-EHWPOISON, __iommu_map_file(self->iommu, self->gmem,
					       3 * PAGE_SIZE, PAGE_SIZE,
					       self->iova, MAP_RW));
	map_gmem(self, 0, 3);
	ASSERT_EQ(0x11, dma_read(self, 1));
	unmap_gmem(self, 3);
	map_gmem(self, 4, 12);
	ASSERT_EQ(0x44, dma_read(self, 0));

	/* The hole ends it. The guest is still at its read */
	punch(self, 3, 1);
	ASSERT_EQ(0, guest_resume(self->vcpu));
	ASSERT_EQ(0x44, dma_read(self, 0));
	unmap_gmem(self, 12);
	map_gmem(self, 0, NR_PAGES);
	ASSERT_EQ(0, dma_read(self, 3));
	ASSERT_EQ(0, dma_write(self, 3, 0x34));
	ASSERT_EQ(0x34, guest_read(self->vcpu, gpa(3)));
	ASSERT_EQ(0x44, guest_read(self->vcpu, gpa(4)));

	/* Except where the page was mapped, until that is done anew */
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*mem_page(self, 3)));
	ASSERT_EQ(0, madvise(mem_page(self, 3), PAGE_SIZE, MADV_DONTNEED));
	ASSERT_EQ(0x34, READ_ONCE(*mem_page(self, 3)));
	unmap_gmem(self, NR_PAGES);
}

/* A hole takes a page with an error from devices as it does any other */
TEST_F(gmem_dma, poison_punched)
{
	setup_mmapable(self);
	map_gmem(self, 0, NR_PAGES);
	ASSERT_EQ(0, dma_write(self, 1, 0x11));
	ASSERT_EQ(0, dma_write(self, 3, 0x33));
	if (!poison(mem_page(self, 3))) {
		unmap_gmem(self, NR_PAGES);
		SKIP(return, "memory errors cannot be injected, errno %d", errno);
	}
	ASSERT_EQ(0x33, dma_read(self, 3));
	punch(self, 3, 1);
	assert_no_dma(self, 3, 0x33);
	assert_no_dma(self, 1, 0x11);
	ASSERT_EQ(0, guest_read(self->vcpu, gpa(3)));
	ASSERT_EQ(0x11, guest_read(self->vcpu, gpa(1)));
	unmap_gmem(self, NR_PAGES);
}
#endif

/*
 * The address of a page in memory, or 0. Nobody else tells without
 * CONFIG_PROC_PAGE_MONITOR, so it is asked for what is refused here, as the page
 * is mapped, and which the kernel's log names the page for.
 */
static u64 phys_addr(void *mem)
{
	const char *what = "Soft offlining pfn ";
	char line[1024], *p;
	u64 pfn = 0;
	ssize_t len;
	int fd;

	fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	if (fd < 0)
		return 0;
	lseek(fd, 0, SEEK_END);
	madvise(mem, PAGE_SIZE, MADV_SOFT_OFFLINE);
	while ((len = read(fd, line, sizeof(line) - 1)) > 0) {
		line[len] = 0;
		p = strstr(line, what);
		if (p)
			pfn = strtoull(p + strlen(what), NULL, 16);
	}
	close(fd);
	return pfn * PAGE_SIZE;
}

static int write_string(const char *path, const char *s)
{
	int fd, ret = 0;

	fd = open(path, O_WRONLY);
	if (fd < 0)
		return -errno;
	if (write(fd, s, strlen(s)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

/*
 * Memory that begins to fail is given up when its contents can be had elsewhere.
 * Of memory that no CPU has written to the kernel may think so.
 */
TEST_F(gmem_dma, soft_offline)
{
	char addr[32];
	u64 phys;
	int ret;

	setup_mmapable(self);
	map_gmem(self, 0, NR_PAGES);
	ASSERT_EQ(0, dma_write(self, 3, 0x33));
	ASSERT_EQ(0x33, READ_ONCE(*mem_page(self, 3)));
	phys = phys_addr(mem_page(self, 3));
	kvm_munmap(self->mem, GMEM_SIZE);
	self->mem = NULL;

	/* Batches of pages on their way to somewhere have references */
	write_string("/proc/sys/vm/drop_caches", "1");
	snprintf(addr, sizeof(addr), "0x%lx", phys);
	ret = phys ? write_string("/sys/devices/system/memory/soft_offline_page",
				  addr) : -EPERM;
	if (ret == -ENOENT || ret == -EPERM || ret == -EACCES) {
		unmap_gmem(self, NR_PAGES);
		SKIP(return, "pages cannot be offlined, errno %d", -ret);
	}

	ASSERT_EQ(0x33, dma_read(self, 3));
	ASSERT_EQ(0x33, guest_read(self->vcpu, gpa(3)));
	ASSERT_EQ(0, dma_write(self, 3, 0x34));
	ASSERT_EQ(0x34, guest_read(self->vcpu, gpa(3)));
	unmap_gmem(self, NR_PAGES);
}

#ifdef __x86_64__
static bool setup_private(FIXTURE_DATA(gmem_dma) *self, u64 gmem_flags)
{
	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM)))
		return false;
	setup_vm(self, KVM_X86_SW_PROTECTED_VM, gmem_flags);
	vm_mem_set_private(self->vm, GMEM_GPA, GMEM_SIZE);
	return true;
}

/* The device reaches what the host's CPUs do not */
TEST_F(gmem_dma, private)
{
	u64 *mem;

	if (!setup_private(self, GUEST_MEMFD_FLAG_MMAP))
		SKIP(return, "no software-protected VMs");

	guest_write(self->vcpu, gpa(1), 0x11);
	map_gmem(self, 0, NR_PAGES);
	ASSERT_EQ(0x11, dma_read(self, 1));
	ASSERT_EQ(0, dma_write(self, 2, 0x22));
	ASSERT_EQ(0x22, guest_read(self->vcpu, gpa(2)));

	mem = kvm_mmap(GMEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
		       self->gmem);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*mem));
	kvm_munmap(mem, GMEM_SIZE);

	punch(self, 3, 1);
	assert_no_dma(self, 1, 0x11);
	ASSERT_EQ(0x11, guest_read(self->vcpu, gpa(1)));
	unmap_gmem(self, NR_PAGES);
}

TEST_F(gmem_dma, conversion)
{
	if (!setup_private(self, 0))
		SKIP(return, "no software-protected VMs");

	guest_write(self->vcpu, gpa(1), 0x11);
	map_gmem(self, 0, NR_PAGES / 2);
	ASSERT_EQ(0x11, dma_read(self, 1));

	/* Gfns whose memory is not in the slice */
	vm_mem_set_shared(self->vm, gpa(NR_PAGES / 2), PAGE_SIZE);
	ASSERT_EQ(0x11, dma_read(self, 1));
	/* Gfns that are what they become */
	vm_mem_set_private(self->vm, gpa(0), GMEM_SIZE / 2);
	ASSERT_EQ(0x11, dma_read(self, 1));
	/* Gfns that become private, after they were in no mapping */
	vm_mem_set_private(self->vm, gpa(NR_PAGES / 2), PAGE_SIZE);
	ASSERT_EQ(0x11, dma_read(self, 1));

	/* Now one of the slice */
	vm_mem_set_shared(self->vm, gpa(3), PAGE_SIZE);
	assert_no_dma(self, 1, 0x11);
	ASSERT_EQ(0x11, guest_read(self->vcpu, gpa(1)));

	/* A new mapping does not care what is shared */
	unmap_gmem(self, NR_PAGES / 2);
	map_gmem(self, 0, NR_PAGES / 2);
	ASSERT_EQ(0x11, dma_read(self, 1));
	ASSERT_EQ(0, dma_write(self, 3, 0x33));

	/* Nothing of the slice that is shared again has to be taken away */
	vm_mem_set_shared(self->vm, gpa(3), PAGE_SIZE);
	ASSERT_EQ(0x11, dma_read(self, 1));

	/* The other way takes nothing away either */
	vm_mem_set_private(self->vm, gpa(3), PAGE_SIZE);
	ASSERT_EQ(0x11, dma_read(self, 1));
	ASSERT_EQ(0x33, guest_read(self->vcpu, gpa(3)));

	/* A range that is larger than the slot, and shared in part */
	vm_mem_set_shared(self->vm, gpa(0), PAGE_SIZE);
	unmap_gmem(self, NR_PAGES / 2);
	map_gmem(self, 0, NR_PAGES);
	ASSERT_EQ(0x11, dma_read(self, 1));
	vm_mem_set_shared(self->vm, GMEM_GPA - SZ_1M, GMEM_SIZE + SZ_2M);
	assert_no_dma(self, 1, 0x11);
	vm_mem_set_private(self->vm, GMEM_GPA, GMEM_SIZE);
	ASSERT_EQ(0x11, guest_read(self->vcpu, gpa(1)));
	unmap_gmem(self, NR_PAGES);
}
#endif

int main(int argc, char *argv[])
{
	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_bdfs);
	__TEST_REQUIRE(!access("/dev/iommu", R_OK | W_OK), "no /dev/iommu");
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_GUEST_MEMFD));
	__TEST_REQUIRE((kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & MMAPABLE) ==
		       MMAPABLE, "no guest_memfd can be mapped");

	return test_harness_run(argc, argv);
}
