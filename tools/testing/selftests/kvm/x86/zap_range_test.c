// SPDX-License-Identifier: GPL-2.0-only
/*
 * Zap ranges of a memslot, and check that neither less nor more than that is gone.
 *
 * Memory is mapped by 4 KiB, over several page tables.  Userspace discards a part,
 * for which KVM zaps what it has mapped of it: how much that was is seen in the
 * VM's statistics, and that it is what it should be by what the guest reads.
 */
#include <linux/bitops.h>
#include <linux/sizes.h>

#include <sys/mman.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define NR_PAGES	1600
/* Not where a page table begins: the first one has 512 - 24 pages. */
#define TEST_GPA	((u64)SZ_1G + SZ_2M + 24 * SZ_4K)

struct range {
	int start;
	int end;
};

/* Around cache lines of eight entries, and around the ends of page tables. */
static const struct range ranges[] = {
	{ 0, 1 }, { 1, 2 }, { 0, 8 }, { 3, 8 }, { 8, 16 }, { 7, 17 }, { 15, 16 },
	{ 486, 489 }, { 487, 488 }, { 488, 489 }, { 0, 488 }, { 488, 1000 },
	{ 480, 488 }, { 487, 1001 }, { 488, 1001 }, { 100, 1500 }, { 999, 1512 },
	{ 1599, 1600 }, { 1592, 1600 }, { 1, 1599 }, { 0, 1600 },
};

/* What is mapped, of an otherwise empty range. */
static const int sparse[] = {
	0, 7, 8, 9, 16, 31, 40, 100, 101, 479, 480, 487, 488, 496, 504, 600, 601,
	990, 999, 1000, 1007, 1008, 1016, 1500, 1511, 1512, 1591, 1592, 1599,
};

static struct kvm_vm *vm;
static struct kvm_vcpu *vcpu;
static u64 *mem;

/* Each VM has its own copy, as of any global. */
static u64 present[NR_PAGES / 64];

static bool is_present(const u64 *map, int page)
{
	return map[page / 64] & BIT_ULL(page % 64);
}

/* Read those pages that are to be mapped, a page of which nothing is left is 0. */
static void guest_code(void)
{
	int i;

	for (;;) {
		for (i = 0; i < NR_PAGES; i++) {
			u64 *p = (u64 *)(TEST_GPA + i * SZ_4K);

			if (is_present(present, i))
				GUEST_ASSERT_EQ(READ_ONCE(*p), i + 1);
		}
		GUEST_SYNC(0);
	}
}

static void guest_read(void)
{
	struct ucall uc;

	sync_global_to_guest(vm, present);
	vcpu_run(vcpu);
	if (get_ucall(vcpu, &uc) == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
	TEST_ASSERT_EQ(uc.cmd, UCALL_SYNC);
}

static u64 nr_mapped(void)
{
	return vm_get_stat(vm, pages_4k);
}

static u64 *page(int nr)
{
	return mem + nr * (SZ_4K / sizeof(*mem));
}

/* Have the guest map what is set in the bitmap, and nothing else of the slot. */
static void map_present(void)
{
	int i;

	TEST_ASSERT(!madvise(mem, NR_PAGES * SZ_4K, MADV_DONTNEED), "madvise()");
	for (i = 0; i < NR_PAGES; i++)
		if (is_present(present, i))
			*page(i) = i + 1;
	guest_read();
}

static void set_present(int start, int end)
{
	for (; start < end; start++)
		present[start / 64] |= BIT_ULL(start % 64);
}

static int forget(const struct range *range)
{
	int i, nr = 0;

	for (i = range->start; i < range->end; i++) {
		nr += is_present(present, i);
		present[i / 64] &= ~BIT_ULL(i % 64);
	}
	return nr;
}

static void zap(const struct range *range)
{
	u64 flushes = vm_get_stat(vm, remote_tlb_flush_requests);
	u64 before = nr_mapped();
	u64 nr = forget(range);
	u64 i;

	TEST_ASSERT(!madvise(page(range->start),
			     (range->end - range->start) * SZ_4K, MADV_DONTNEED),
		    "madvise()");
	TEST_ASSERT(before - nr_mapped() == nr,
		    "[%d, %d): %lu instead of %lu pages were zapped", range->start,
		    range->end, before - nr_mapped(), nr);
	TEST_ASSERT(!nr || vm_get_stat(vm, remote_tlb_flush_requests) > flushes,
		    "[%d, %d): no flush of TLBs", range->start, range->end);

	/* What is left is still mapped, and the guest has it without a fault. */
	before = vcpu_get_stat(vcpu, pf_taken);
	guest_read();
	TEST_ASSERT_EQ(vcpu_get_stat(vcpu, pf_taken), before);

	/* What is gone is gone: the guest finds what is there now. */
	for (i = range->start; i < range->end; i++)
		*page(i) = i + 1;
	set_present(range->start, range->end);
	guest_read();
}

static void map_sparse(void)
{
	int i;

	memset(present, 0, sizeof(present));
	for (i = 0; i < ARRAY_SIZE(sparse); i++)
		set_present(sparse[i], sparse[i] + 1);
	map_present();
}

int main(int argc, char *argv[])
{
	u64 others;
	int i;

	TEST_REQUIRE(kvm_is_tdp_enabled());

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	mem = mmap(NULL, NR_PAGES * SZ_4K, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(mem != MAP_FAILED, "mmap()");
	madvise(mem, NR_PAGES * SZ_4K, MADV_NOHUGEPAGE);
	vm_set_user_memory_region(vm, TEST_SLOT, 0, TEST_GPA, NR_PAGES * SZ_4K, mem);
	virt_map(vm, TEST_GPA, TEST_GPA, NR_PAGES);

	/* The guest's own pages, its page tables for the slot among them. */
	set_present(0, NR_PAGES);
	map_present();
	others = nr_mapped() - NR_PAGES;

	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		set_present(0, NR_PAGES);
		map_present();
		TEST_ASSERT_EQ(nr_mapped(), others + NR_PAGES);
		zap(&ranges[i]);
		TEST_ASSERT_EQ(nr_mapped(), others + NR_PAGES);
	}

	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		map_sparse();
		TEST_ASSERT_EQ(nr_mapped(), others + ARRAY_SIZE(sparse));
		zap(&ranges[i]);
	}

	kvm_vm_free(vm);
	munmap(mem, NR_PAGES * SZ_4K);
	return 0;
}
