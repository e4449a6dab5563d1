// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of memslots that are backed by a dma-buf (KVM_MEM_DMABUF): what KVM's
 * interface takes, what it refuses and by which errno, and what can be seen of
 * such a slot from outside.
 *
 * Devices are those of dmabuf_fixture.h.  With them are dmabuf_slice_test (slices
 * and the sizes of leaves), dmabuf_revoke_test, dmabuf_load_test (everything while
 * vCPUs are busy), dmabuf_bus_test (resets of several devices),
 * x86/dmabuf_x86_test and arm64/dmabuf_arm64_test; dmabuf_mock_test needs no
 * device.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>

#ifdef __x86_64__
#include <linux/kvm_para.h>
#endif
#include <linux/sizes.h>
#include <linux/udmabuf.h>

#include "dmabuf_fixture.h"

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

#ifdef __x86_64__
static void set_paravirt_areas(FIXTURE_DATA(dmabuf) *self)
{
	_vcpu_set_msr(self->vcpu, MSR_KVM_SYSTEM_TIME_NEW, GPA_A | 1);
	_vcpu_set_msr(self->vcpu, MSR_KVM_WALL_CLOCK_NEW, GPA_A + 0x100);
	_vcpu_set_msr(self->vcpu, MSR_KVM_STEAL_TIME, (GPA_A + 0x40) | 1);
}
#elif defined(__riscv)
/* Steal time has to be enabled before the vCPU runs: see dmabuf_riscv_test. */
static void set_paravirt_areas(FIXTURE_DATA(dmabuf) *self)
{
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

/*
 * As the architecture counts: from 1 on x86, down to 3 on arm64.  There 2 MiB are
 * pages, unless these are of 4 KiB.
 */
#ifdef __riscv
#define LEVEL_2M	1
#else
#define LEVEL_2M	(getpagesize() == SZ_4K ? 2 : 3)
#endif

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
		 SLOT_A, gfn, (u64)(SZ_2M / PAGE_SIZE));
	snprintf(fault, sizeof(fault), "gfn %#lx max level %d read ret 0",
		 gfn + 3, LEVEL_2M);
	snprintf(fault_revoked, sizeof(fault_revoked), "gfn %#lx max level %d write ret %d",
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
	for (i = 0; i < 2; i++)
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + SZ_64K),
			       TAG(SZ_64K / PAGE_SIZE));
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

/* Only x86 has an emulator of all instructions. */
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

int main(int argc, char *argv[])
{
	return dmabuf_main(argc, argv);
}
