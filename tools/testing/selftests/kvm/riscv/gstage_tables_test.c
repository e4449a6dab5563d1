// SPDX-License-Identifier: GPL-2.0-only
/*
 * Are the page tables of the G-stage given back?
 *
 * The guest touches one page in each 2 MiB, which takes a table for each.  What
 * is free in the machine is compared before and after, with the pages themselves
 * already given back.  Other processes make noise: what is lost has to be a
 * fraction of the tables that were made.
 */
#include <fcntl.h>
#include <linux/sizes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dmabuf_mock.h"
#include "dmabuf_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define SLOT		10
#define GPA		(4ull * SZ_1G)
#define REGION		((u64)SZ_2M)

/* Tables made in a test, and how many may seem to be lost. */
#define TABLES		1024ul
#define NOISE		(TABLES / 4)

/* For blocks: this many regions, over and over. */
#define BLOCKS		32ul
#define ROUNDS		(TABLES / BLOCKS)

static void guest_code(u64 nr)
{
	GUEST_SYNC(0);
	for (;;) {
		for (u64 i = 0; i < nr; i++)
			WRITE_ONCE(*(u64 *)(GPA + i * REGION), i);
		GUEST_SYNC(0);
	}
}

static void run_guest(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
}

static struct kvm_vm *create_vm(struct kvm_vcpu **vcpu, u64 nr)
{
	struct kvm_vm *vm;

	/*
	 * The guest's own tables are as many as KVM's.  What is asked for here is
	 * pages, for each 256 of which there will be one for tables.
	 */
	vm = __vm_create_with_one_vcpu(vcpu, 256 * (nr + 512), guest_code);
	vcpu_args_set(*vcpu, 1, nr);
	for (u64 i = 0; i < nr; i++)
		virt_map(vm, GPA + i * REGION, GPA + i * REGION, 1);

	/* The vCPU's cache of pages for tables, and tables for the guest's own memory. */
	run_guest(*vcpu);

	return vm;
}

/* A line of /proc/meminfo, in pages. */
static long mem_pages(const char *name)
{
	char line[128], key[64];
	long val, found = -1;
	FILE *f;

	f = fopen("/proc/meminfo", "r");
	TEST_ASSERT(f, "no /proc/meminfo");
	while (found < 0 && fgets(line, sizeof(line), f))
		if (sscanf(line, "%63[^:]: %ld", key, &val) == 2 && !strcmp(key, name))
			found = val * 1024 / getpagesize();
	fclose(f);
	TEST_ASSERT(found >= 0, "no %s in /proc/meminfo", name);

	return found;
}

/* Free pages, those in the lists of CPUs included, which may be most of them. */
static long free_pages(void)
{
	long val, sum = 0;
	char line[128];
	FILE *f;

	f = fopen("/proc/zoneinfo", "r");
	TEST_ASSERT(f, "no /proc/zoneinfo");
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, " nr_free_pages %ld", &val) == 1 ||
		    sscanf(line, " count: %ld", &val) == 1)
			sum += val;
	fclose(f);

	return sum;
}

static void *map(void *addr, u64 size)
{
	void *mem = mmap(addr, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
			 (addr ? MAP_FIXED : 0), -1, 0);

	TEST_ASSERT(mem != MAP_FAILED, "mmap(): %s", strerror(errno));
	return mem;
}

static void *reserve(u64 size)
{
	u64 mem = (u64)map(NULL, size + REGION);

	return (void *)((mem + REGION - 1) & ~(REGION - 1));
}

static void advise(void *mem, u64 size, int advice)
{
	TEST_ASSERT(!madvise(mem, size, advice), "madvise(%d): %s", advice,
		    strerror(errno));
}

/* The memory goes, and so do the host's page tables for it. */
static void unmap(void *mem)
{
	TEST_ASSERT(!munmap(mem, TABLES * REGION), "munmap()");
	map(mem, TABLES * REGION);
	advise(mem, TABLES * REGION, MADV_NOHUGEPAGE);
}

/* A slot of what is at @offset of @mem, or none if @size is 0. */
static void set_slot(struct kvm_vm *vm, u32 slot, u64 offset, u64 size, void *mem)
{
	vm_set_user_memory_region(vm, slot, 0, GPA + offset, size, mem + offset);
}

static void result(const char *what, long before, unsigned long made)
{
	long lost;
	int i;

	/* Some is freed a grace period later. */
	for (i = 0; i < 50; i++) {
		lost = before - free_pages();
		if (lost < (long)NOISE)
			break;
		usleep(20000);
	}

	ksft_test_result(lost < (long)NOISE, "%s: %ld of %lu tables lost\n", what,
			 lost > 0 ? lost : 0, made);
}

/* With the slot that they are for. */
static void test_slot(void *mem)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	long before;

	vm = create_vm(&vcpu, TABLES);
	before = free_pages();
	set_slot(vm, SLOT, 0, TABLES * REGION, mem);
	run_guest(vcpu);
	set_slot(vm, SLOT, 0, 0, mem);
	unmap(mem);
	result("slot deleted", before, TABLES);
	kvm_vm_free(vm);
}

/* With the VM. */
static void test_vm(void *mem)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	long before;

	before = free_pages();
	vm = create_vm(&vcpu, TABLES);
	set_slot(vm, SLOT, 0, TABLES * REGION, mem);
	run_guest(vcpu);
	kvm_vm_free(vm);
	unmap(mem);
	result("VM destroyed", before, TABLES);
}

/* A slot as set_slot() makes it, but of the buffer @fd if there is one. */
static void block_slot(struct kvm_vm *vm, u32 slot, u64 offset, u64 size, void *mem, int fd)
{
	if (fd < 0)
		set_slot(vm, slot, offset, size, mem);
	else if (size)
		vm_set_dmabuf_region(vm, slot, 0, GPA + offset, size, fd, offset);
	else
		vm_delete_region(vm, slot);
}

/*
 * When a block takes the place of one.  A slot of a page makes each table.  It is
 * less than a table is about, and leaves it behind, empty, when it is deleted.
 */
static void replace_by_blocks(const char *what, void *mem, int fd)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	long before;

	vm = create_vm(&vcpu, BLOCKS);
	before = free_pages();
	for (int round = 0; round < ROUNDS; round++) {
		for (u64 i = 0; i < BLOCKS; i++)
			block_slot(vm, SLOT + i, i * REGION, getpagesize(), mem, fd);
		run_guest(vcpu);
		for (u64 i = 0; i < BLOCKS; i++)
			block_slot(vm, SLOT + i, i * REGION, 0, mem, fd);

		block_slot(vm, SLOT, 0, BLOCKS * REGION, mem, fd);
		run_guest(vcpu);
		block_slot(vm, SLOT, 0, 0, mem, fd);
	}
	result(what, before, ROUNDS * BLOCKS);
	kvm_vm_free(vm);
}

static void test_block(void *mem)
{
	const u64 size = BLOCKS * REGION;
	long huge = mem_pages("AnonHugePages");

	advise(mem, size, MADV_HUGEPAGE);
	for (u64 i = 0; i < BLOCKS; i++)
		WRITE_ONCE(*(char *)(mem + i * REGION), 1);
	if (mem_pages("AnonHugePages") - huge < (long)(size / getpagesize()))
		ksft_test_result_skip("block: no huge pages\n");
	else
		replace_by_blocks("replaced by a block", mem, -1);
}

static void test_block_dmabuf(void)
{
	const int order = __builtin_ctz(REGION / getpagesize());
	struct dma_buf_mock_extent extents[BLOCKS];
	int dev, fd;

	dev = open("/dev/dma-buf-mock", O_RDWR | O_CLOEXEC);
	if (dev < 0) {
		ksft_test_result_skip("block of a dma-buf: no /dev/dma-buf-mock\n");
		return;
	}

	mock_blocks(extents, BLOCKS, order, MOCK_RW);
	fd = mock_create(dev, extents, BLOCKS);
	replace_by_blocks("replaced by a block of a dma-buf", NULL, fd);
	close(fd);
	close(dev);
}

int main(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	void *mem;

	mem = reserve(TABLES * REGION);
	advise(mem, TABLES * REGION, MADV_NOHUGEPAGE);

	/* What stays allocated once anything was done, this process's heap included. */
	vm = create_vm(&vcpu, TABLES);
	kvm_vm_free(vm);

	ksft_print_header();
	ksft_set_plan(4);
	test_slot(mem);
	test_vm(mem);
	test_block(mem);
	test_block_dmabuf();
	ksft_finished();
}
