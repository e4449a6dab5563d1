// SPDX-License-Identifier: GPL-2.0
/*
 * riscv's G-stage tables without a machine: arch/riscv/kvm/gstage.c as it is, on
 * a model of a TLB.
 *
 * QEMU flushes its TLB whenever a CPU enters or leaves a guest, so no guest can
 * see an entry that was left in it, nor a table that was freed too early. Here
 * random mappings and unmappings run against a TLB that forgets nothing by itself:
 *
 *  - HFENCE.GVMA with an address forgets the leaf that contains it, and of tables
 *    nothing; without an address it forgets all.
 *  - While mmu_lock is dropped other vCPUs go on, and the VM's mm may go away.
 *    Nobody else would flush what was unmapped before: no TLB may have it.
 *
 * Checked after each step: the TLB has nothing that the tables do not have, a
 * table that is freed is in no walk cache, no table is left at the end, and no more
 * of them go in one step, under mmu_lock, than 1 GiB has.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* What the file takes of the kernel. */
typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64, gpa_t, gfn_t, phys_addr_t;
typedef struct { unsigned long pte; } pte_t;
typedef struct { unsigned long pgd; } pgd_t;
typedef struct { unsigned long pgprot; } pgprot_t;

#define CONFIG_64BIT
#define __init
#define __ro_after_init
#define BIT(n)			(1ul << (n))
#define BIT_ULL(n)		(1ull << (n))
#define BITS_PER_LONG		64
#define PAGE_SHIFT		12
#define HGATP_PAGE_SHIFT	12
#define PAGE_SIZE		4096ul
#define PTRS_PER_PTE		512
#define _PAGE_PRESENT		BIT(0)
#define _PAGE_READ		BIT(1)
#define _PAGE_WRITE		BIT(2)
#define _PAGE_EXEC		BIT(3)
#define _PAGE_DIRTY		BIT(7)
#define _PAGE_TABLE		_PAGE_PRESENT
#define PAGE_READ		__pgprot(_PAGE_PRESENT | _PAGE_READ)
#define PAGE_WRITE		__pgprot(_PAGE_PRESENT | _PAGE_READ | _PAGE_WRITE)
#define PAGE_READ_EXEC		__pgprot(_PAGE_PRESENT | _PAGE_READ | _PAGE_EXEC)
#define PAGE_WRITE_EXEC		__pgprot(_PAGE_PRESENT | _PAGE_READ | _PAGE_WRITE | _PAGE_EXEC)
#define pte_val(p)		((p).pte)
#define pgprot_val(p)		((p).pgprot)
#define __pte(v)		((pte_t){ v })
#define __pgprot(v)		((pgprot_t){ v })
#define pfn_pte(pfn, prot)	__pte(((unsigned long)(pfn) << 10) | pgprot_val(prot))
#define pte_pfn(p)		__page_val_to_pfn(pte_val(p))
#define pte_pgprot(p)		__pgprot(pte_val(p) & 0x3ff)
#define pte_mkdirty(p)		__pte(pte_val(p) | _PAGE_DIRTY)
#define __page_val_to_pfn(v)	((v) >> 10)
#define pfn_to_virt(pfn)	((void *)((unsigned long)(pfn) << 12))
#define __pa(v)			((unsigned long)(v))
#define PFN_DOWN(x)		((unsigned long)(x) >> 12)
#define PFN_PHYS(x)		((phys_addr_t)(x) << 12)
#define ALIGN(x, a)		(((x) + (a) - 1) & ~((typeof(x))(a) - 1))
#define ALIGN_DOWN(x, a)	((x) & ~((typeof(x))(a) - 1))
#define READ_ONCE(x)		(x)
#define cmpxchg(p, o, n)	__sync_val_compare_and_swap(p, o, n)
#define cpu_relax()		do { } while (0)
#define smp_wmb()		do { } while (0)
#define unlikely(x)		(x)
#define WARN_ON(x)		({ if (x) fail("WARN_ON(" #x ")"); (x); })
#define WARN_ON_ONCE(x)		WARN_ON(x)
#define WARN_ONCE(x, ...)	fail("WARN_ONCE")
#define RISCV_ISA_EXT_SVVPTC	0
#define riscv_has_extension_unlikely(x)	svvptc
#define csr_write(csr, val)	do { } while (0)
#define csr_read(csr)		0ul
#define HGATP_MODE_SHIFT	60
#define HGATP_MODE_OFF		0ul
#define HGATP_MODE_SV32X4	1ul
#define HGATP_MODE_SV39X4	8ul
#define HGATP_MODE_SV48X4	9ul
#define HGATP_MODE_SV57X4	10ul
#define bitmap_clear(mask, start, nr)	do { } while (0)

static bool svvptc;
static unsigned long seed;

#define fail(...) do {						\
	printf("seed %lu: ", seed);				\
	printf(__VA_ARGS__);					\
	printf(" (line %d)\n", __LINE__);			\
	exit(1);						\
} while (0)

struct list_head { struct list_head *next, *prev; };
#define LIST_HEAD(l)		struct list_head l = { &(l), &(l) }
#define list_empty(l)		((l)->next == (l))
static void list_add(struct list_head *n, struct list_head *l)
{
	n->next = l->next;
	n->prev = l;
	l->next->prev = n;
	l->next = n;
}
static void list_del(struct list_head *n)
{
	n->next->prev = n->prev;
	n->prev->next = n->next;
}
struct page { struct list_head lru; bool cached; };
#define to_page(l)		((struct page *)(l))
#define list_for_each_entry_safe(p, n, l, m)				\
	for (p = to_page((l)->next), n = to_page(p->lru.next); &p->lru != (l);	\
	     p = n, n = to_page(n->lru.next))

struct kvm_mmu_memory_cache { int unused; };
struct kvm {
	struct {
		pgd_t *pgd;
		unsigned long pgd_levels;
		struct { unsigned long vmid; } vmid;
	} arch;
	int mmu_lock;
};

/* Tables: a page, and behind it what the kernel has in struct page. */
static long nr_tables;
static int in_step;		/* collected since mmu_lock was taken */
static bool bounded;

static void *kvm_mmu_memory_cache_alloc(struct kvm_mmu_memory_cache *mc)
{
	void *table = aligned_alloc(PAGE_SIZE, 2 * PAGE_SIZE);

	memset(table, 0, 2 * PAGE_SIZE);
	nr_tables++;
	return table;
}

static struct page *table_page(const void *table)
{
	return (struct page *)((char *)table + PAGE_SIZE);
}

static struct page *virt_to_page(const void *table)
{
	if (++in_step > 513 && bounded)
		fail("more than 1 GiB of tables in one step");
	return table_page(table);
}

static void __free_page(struct page *page)
{
	void *table = (char *)page - PAGE_SIZE;

	if (page->cached)
		fail("a table is freed that a CPU may still walk");
	memset(table, 0xff, 2 * PAGE_SIZE);
	free(table);
	nr_tables--;
}

static pte_t ptep_get(pte_t *ptep) { return *ptep; }
static void set_pte(pte_t *ptep, pte_t pte) { *ptep = pte; }

/* The TLB, of the pages that the guest looks at, and the cache of walks. */
#define PROBES		3000
static struct probe {
	gpa_t gpa;
	u64 want;		/* the page that is mapped there, 0 for none */
	pte_t tlb;		/* 0: not in the TLB */
	u32 level;
} probe[PROBES];

static struct page *walked[1 << 20];
static int nr_walked;

static void flush_all(void)
{
	for (int i = 0; i < PROBES; i++)
		probe[i].tlb.pte = 0;
	while (nr_walked)
		walked[--nr_walked]->cached = false;
}

static void flush_addr(gpa_t gpa)
{
	for (struct probe *p = probe; p < probe + PROBES; p++)
		if (p->tlb.pte && p->gpa >> (12 + 9 * p->level) == gpa >> (12 + 9 * p->level))
			p->tlb.pte = 0;
}

static void flush_range(gpa_t gpa, u64 size, unsigned long order)
{
	if (size >> order > PTRS_PER_PTE)
		return flush_all();
	for (gpa_t pos = gpa; pos < gpa + size; pos += BIT(order))
		flush_addr(pos);
}

static void kvm_flush_remote_tlbs(struct kvm *kvm) { flush_all(); }
static void kvm_riscv_local_hfence_gvma_vmid_all(unsigned long vmid) { flush_all(); }
static void kvm_riscv_local_hfence_gvma_all(void) { flush_all(); }

static void kvm_riscv_local_hfence_gvma_vmid_gpa(unsigned long vmid, gpa_t gpa, gpa_t size,
						 unsigned long order)
{
	flush_range(gpa, size, order);
}

static void kvm_riscv_hfence_gvma_vmid_gpa(struct kvm *kvm, unsigned long base,
					   unsigned long mask, gpa_t gpa, gpa_t size,
					   unsigned long order, unsigned long vmid)
{
	flush_range(gpa, size, order);
}

static int cond_resched_rwlock_write(int *lock);
#define need_resched()		(in_step = 0, !(rand() % 4))
#define rwlock_needbreak(l)	false

#include "gstage-kernel.c"

/* A walk by hardware. */
static pte_t walk(struct kvm *kvm, gpa_t gpa, u32 *level, bool cache)
{
	pte_t *table = (pte_t *)kvm->arch.pgd, *ptep;
	int l = kvm->arch.pgd_levels - 1;

	for (;; l--) {
		ptep = &table[(gpa >> (12 + 9 * l)) & (l == (int)kvm->arch.pgd_levels - 1 ?
						       2047 : 511)];
		*level = l;
		if (!ptep->pte || (ptep->pte & (_PAGE_READ | _PAGE_WRITE | _PAGE_EXEC)))
			return *ptep;
		if (!l)
			fail("a table below the last level");
		table = (pte_t *)gstage_pte_page_vaddr(*ptep);
		if (cache && !table_page(table)->cached) {
			table_page(table)->cached = true;
			walked[nr_walked++] = table_page(table);
		}
	}
}

static void access_some(struct kvm *kvm)
{
	for (int i = 0; i < 200; i++) {
		struct probe *p = &probe[rand() % PROBES];

		if (!p->tlb.pte)
			p->tlb = walk(kvm, p->gpa, &p->level, true);
	}
}

static void check(struct kvm *kvm, const char *what)
{
	for (struct probe *p = probe; p < probe + PROBES; p++) {
		u32 level;
		pte_t pte = walk(kvm, p->gpa, &level, false);
		u64 page = pte.pte ? (pte_pfn(pte) << 12 | (p->gpa & (BIT(12 + 9 * level) - 1)))
				     >> 12 : 0;

		if (page != p->want)
			fail("%s: 0x%lx has page 0x%lx, wanted 0x%lx", what, p->gpa, page,
			     p->want);
		if (p->tlb.pte && (p->tlb.pte != pte.pte || p->level != level))
			fail("%s: stale TLB entry at 0x%lx", what, p->gpa);
	}
}

static struct kvm kvm;
static bool mm_may_go, mm_is_gone;

static void new_pgd(unsigned long levels)
{
	kvm.arch.pgd = mmap(NULL, 4 * PAGE_SIZE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	kvm.arch.pgd_levels = levels;
	for (int i = 0; i < PROBES; i++)
		probe[i].want = probe[i].tlb.pte = 0;
}

/* As kvm_riscv_mmu_free_pgd(). The root is not to be touched again. */
static void free_pgd(void)
{
	void *pgd = kvm.arch.pgd;
	struct kvm_gstage g;
	bool old = bounded;

	bounded = false;
	kvm_riscv_gstage_init(&g, &kvm);
	kvm_riscv_gstage_unmap_range(&g, 0, kvm_riscv_gstage_gpa_size(g.pgd_levels), false);
	flush_all();
	kvm.arch.pgd = NULL;
	kvm.arch.pgd_levels = 0;
	mprotect(pgd, 4 * PAGE_SIZE, PROT_NONE);
	bounded = old;
}

static void check_tlb(struct kvm *kvm)
{
	u32 level;

	for (struct probe *p = probe; p < probe + PROBES; p++)
		if (p->tlb.pte && (walk(kvm, p->gpa, &level, false).pte != p->tlb.pte ||
				   level != p->level))
			fail("stale TLB entry at 0x%lx while mmu_lock is dropped", p->gpa);
}

static int cond_resched_rwlock_write(int *lock)
{
	check_tlb(&kvm);
	if (mm_may_go && !(rand() % 50)) {
		mm_is_gone = true;
		free_pgd();
	} else {
		access_some(&kvm);
	}
	return 1;
}

/* Pages and blocks of 2 MiB in the first area, also of 1 GiB in the second. */
#define G		BIT(30)
static const struct { gpa_t start; u64 size; } areas[2] = {
	{ 4 * G, 4 * G }, { 510 * G, 6 * G },
};

static gpa_t area_addr(int area, unsigned int shift)
{
	return areas[area].start + ((u64)rand() % (areas[area].size >> shift) << shift);
}

static void map_one(void)
{
	int area = rand() % 2, i;
	u32 level = rand() % 8 ? 0 : 1 + area * (rand() % 2);
	unsigned int shift = 12 + 9 * level;
	gpa_t gpa = area_addr(area, shift);
	u64 pfn = (1 + rand() % 1000) << (9 * level);
	struct kvm_gstage_mapping map = { .addr = gpa, .level = level };
	struct kvm_mmu_memory_cache cache;
	struct kvm_gstage g;
	int ret;

	/* Half of them where somebody looks. */
	if (rand() % 2) {
		gpa = probe[rand() % PROBES].gpa;
		if (level == 2 && gpa < areas[1].start)
			return;
		map.addr = gpa = ALIGN_DOWN(gpa, BIT(shift));
	}
	map.pte = pfn_pte(pfn, PAGE_WRITE);
	kvm_riscv_gstage_init(&g, &kvm);
	ret = kvm_riscv_gstage_set_pte(&g, &cache, &map);
	if (ret && ret != -EEXIST)
		fail("set_pte: %d", ret);
	for (i = 0; i < PROBES && !ret; i++)
		if (probe[i].gpa >> shift == gpa >> shift)
			probe[i].want = pfn + ((probe[i].gpa & (BIT(shift) - 1)) >> 12);
	check(&kvm, "map");
}

/* No part of a leaf: in the first area to 4 KiB where there is no block. */
static gpa_t bound(int area)
{
	gpa_t gpa = area_addr(area, area ? 30 : 12);
	u32 level;

	if (!area && walk(&kvm, gpa, &level, false).pte && level)
		gpa = ALIGN_DOWN(gpa, BIT(21));
	return gpa;
}

static void unmap_some(void)
{
	int area = rand() % 2;
	gpa_t start = bound(area), end = bound(area), t;
	struct kvm_gstage g;

	if (!(rand() % 20)) {
		start = 0;
		end = 1024 * G;
	} else if (rand() % 4) {
		/* Short, so that something is left. */
		end = area ? start + G : ALIGN_DOWN(start + (rand() % 64) * BIT(19), BIT(21));
	}
	if (start > end)
		t = start, start = end, end = t;
	if (start == end)
		return;

	bounded = rand() % 2;
	in_step = 0;
	kvm_riscv_gstage_init(&g, &kvm);
	if (kvm_riscv_gstage_unmap_range(&g, start, end - start, bounded))
		flush_range(start, end - start, 12);
	bounded = false;
	if (mm_is_gone) {
		mm_is_gone = false;
		if (nr_tables)
			fail("%ld tables left when the mm went", nr_tables);
		new_pgd(3 + rand() % 3);
		return;
	}
	for (int i = 0; i < PROBES; i++)
		if (probe[i].gpa >= start && probe[i].gpa < end)
			probe[i].want = 0;
	check(&kvm, "unmap");
}

/* Two tables of 1 GiB below one of 512 GiB, all full. */
static void unmap_much(void)
{
	struct kvm_mmu_memory_cache cache;
	struct kvm_gstage g;

	new_pgd(4);
	kvm_riscv_gstage_init(&g, &kvm);
	for (gpa_t gpa = 0; gpa < 2 * G; gpa += BIT(21)) {
		struct kvm_gstage_mapping map = { .addr = gpa, .pte = pfn_pte(1, PAGE_WRITE) };

		if (kvm_riscv_gstage_set_pte(&g, &cache, &map))
			fail("set_pte");
	}
	bounded = true;
	in_step = 0;
	kvm_riscv_gstage_unmap_range(&g, 0, 512 * G, true);
	bounded = false;
	free_pgd();
	if (nr_tables)
		fail("%ld tables left", nr_tables);
}

int main(int argc, char *argv[])
{
	int rounds = argc > 1 ? atoi(argv[1]) : 8;

	unmap_much();
	for (seed = 1; seed <= (unsigned long)rounds; seed++) {
		srand(seed);
		svvptc = seed % 2;
		for (int i = 0; i < PROBES; i++)
			probe[i].gpa = area_addr(rand() % 2, 12);
		/* Neighbours, so that tables have more than one entry. */
		for (int i = 1; i < PROBES; i++)
			if (rand() % 2)
				probe[i].gpa = ALIGN_DOWN(probe[i - 1].gpa, BIT(21)) +
					       (u64)(rand() % 512) * PAGE_SIZE;
		new_pgd(3 + seed % 3);
		for (int i = 0; i < 3000; i++) {
			mm_may_go = !(rand() % 100);
			if (rand() % 40)
				map_one();
			else
				unmap_some();
			access_some(&kvm);
		}
		free_pgd();
		if (nr_tables)
			fail("%ld tables left", nr_tables);
	}
	return 0;
}
