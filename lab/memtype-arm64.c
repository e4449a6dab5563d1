// SPDX-License-Identifier: GPL-2.0
/*
 * Does a block of arm64's stage 2 keep its memory type when it is split?
 *
 * Nothing shows the type of an entry: stage2_page_tables in debugfs has none, and
 * QEMU makes no use of it.  As in memtype.c the functions are cut out of the
 * kernel's sources: stage2_split_walker() is run on one block, and instead of a
 * table the entry is made that all of the table's would be like.
 */
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef int8_t s8;
typedef uint32_t u32;
typedef uint64_t u64, kvm_pte_t;

/* As in the kernel's headers. */
#define BIT(n)			(1ull << (n))
#define GENMASK(h, l)		((~0ull >> (63 - (h))) & (~0ull << (l)))
#define FIELD_GET(mask, reg)	(((reg) & (mask)) / ((mask) & -(mask)))
#define FIELD_PREP(mask, val)	((val) * ((mask) & -(mask)))
#define container_of(ptr, type, member)	((type *)((char *)(ptr) - offsetof(type, member)))
#define IS_ERR(ptr)		((intptr_t)(ptr) < 0)
#define PTR_ERR(ptr)		((intptr_t)(ptr))
#define WARN_ON_ONCE(x)		((void)(x))
#define PTRS_PER_PTE		512
#define KVM_PGTABLE_MIN_BLOCK_LEVEL	1
#define KVM_PGTABLE_LAST_LEVEL		3
#define KVM_PTE_VALID			BIT(0)
#define KVM_PTE_LEAF_ATTR_LO_S2_MEMATTR	GENMASK(5, 2)
#define KVM_PTE_LEAF_ATTR_LO_S2_S2AP_R	BIT(6)
#define KVM_PTE_LEAF_ATTR_LO_S2_S2AP_W	BIT(7)
#define KVM_PTE_LEAF_ATTR_LO_S2_SH	GENMASK(9, 8)
#define KVM_PTE_LEAF_ATTR_LO_S2_SH_IS	3
#define KVM_PTE_LEAF_ATTR_LO_S2_AF	BIT(10)
#define KVM_PTE_LEAF_ATTR_HI_S2_XN	GENMASK(54, 53)
#define KVM_PTE_LEAF_ATTR_HI_SW		GENMASK(58, 55)
#define KVM_PTE_ADDR_MASK		GENMASK(47, 12)

enum kvm_pgtable_walk_flags { KVM_PGTABLE_WALK_LEAF = 1 };
enum kvm_pgtable_stage2_flags { KVM_PGTABLE_S2_AS_S1 = BIT(1) };

enum kvm_pgtable_prot {
	KVM_PGTABLE_PROT_PX		= BIT(0),
	KVM_PGTABLE_PROT_UX		= BIT(1),
	KVM_PGTABLE_PROT_X		= KVM_PGTABLE_PROT_PX | KVM_PGTABLE_PROT_UX,
	KVM_PGTABLE_PROT_W		= BIT(2),
	KVM_PGTABLE_PROT_R		= BIT(3),
	KVM_PGTABLE_PROT_DEVICE		= BIT(4),
	KVM_PGTABLE_PROT_NORMAL_NC	= BIT(5),
	KVM_PGTABLE_PROT_SW0		= BIT(55),
};

struct kvm_pgtable_mm_ops {};

struct kvm_pgtable {
	enum kvm_pgtable_stage2_flags flags;
};

struct kvm_mmu_memory_cache {
	int nobjs;
};

struct kvm_s2_mmu {
	struct kvm_pgtable *pgt;
	struct kvm_mmu_memory_cache split_page_cache;
};

struct kvm_pgtable_visit_ctx {
	struct kvm_pgtable_mm_ops *mm_ops;
	void *arg;
	kvm_pte_t old;
	s8 level;
};

/* Features of the CPU. */
static bool fwb, lpa2;

#define kvm_lpa2_is_enabled()	lpa2

/* MT_S2_FWB_*, MT_S2_* */
enum { NORMAL, NORMAL_NC, DEVICE_nGnRE, AS_S1 };

static u64 memattr_of(int type)
{
	static const u64 with_fwb[] = { 6, 5, 1, 7 }, without[] = { 0xf, 5, 1, 0xf };

	return (fwb ? with_fwb : without)[type] << 2;
}

#define KVM_S2_MEMATTR(pgt, attr)	\
	memattr_of((pgt)->flags & KVM_PGTABLE_S2_AS_S1 ? AS_S1 : (attr))

static int stage2_set_xn_attr(enum kvm_pgtable_prot prot, kvm_pte_t *attr)
{
	if (!(prot & KVM_PGTABLE_PROT_X))
		*attr |= FIELD_PREP(KVM_PTE_LEAF_ATTR_HI_S2_XN, 2);
	return 0;
}

static bool kvm_pte_valid(kvm_pte_t pte)
{
	return pte & KVM_PTE_VALID;
}

static u64 kvm_pte_to_phys(kvm_pte_t pte)
{
	return pte & KVM_PTE_ADDR_MASK;
}

kvm_pte_t *kvm_pgtable_stage2_create_unlinked(struct kvm_pgtable *pgt, u64 phys, s8 level,
					      enum kvm_pgtable_prot prot, void *mc,
					      bool force_pte);

static bool stage2_try_break_pte(const struct kvm_pgtable_visit_ctx *ctx,
				 struct kvm_s2_mmu *mmu)
{
	return true;
}

static void kvm_pgtable_stage2_free_unlinked(struct kvm_pgtable_mm_ops *mm_ops,
					     void *pgtable, s8 level)
{
}

static kvm_pte_t kvm_init_table_pte(kvm_pte_t *childp, struct kvm_pgtable_mm_ops *mm_ops)
{
	return 0;
}

static void stage2_make_pte(const struct kvm_pgtable_visit_ctx *ctx, kvm_pte_t new)
{
}

#include "memtype-functions.h"

static kvm_pte_t child;

kvm_pte_t *kvm_pgtable_stage2_create_unlinked(struct kvm_pgtable *pgt, u64 phys, s8 level,
					      enum kvm_pgtable_prot prot, void *mc,
					      bool force_pte)
{
	int ret = stage2_set_prot_attr(pgt, prot, &child);

	return ret ? (void *)(intptr_t)ret : &child;
}

static const struct {
	const char *what;
	u64 prot;
} types[] = {
	{ "Device", KVM_PGTABLE_PROT_DEVICE },
	{ "Normal-NC", KVM_PGTABLE_PROT_NORMAL_NC },
	{ "Normal", KVM_PGTABLE_PROT_SW0 },
	{ "Normal, executable", KVM_PGTABLE_PROT_X },
};

int main(void)
{
	int bad = 0;

	/* Bits of i: FWB, LPA2, types are those of stage 1, writable */
	for (unsigned int i = 0; i < 16; i++) {
		struct kvm_pgtable pgt = { .flags = i & 4 ? KVM_PGTABLE_S2_AS_S1 : 0 };
		struct kvm_s2_mmu mmu = { &pgt, { .nobjs = 1 } };

		fwb = i & 1;
		lpa2 = i & 2;
		for (unsigned int t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
			struct kvm_pgtable_visit_ctx ctx = {
				.arg = &mmu.split_page_cache,
				.level = KVM_PGTABLE_LAST_LEVEL - 1,
			};
			kvm_pte_t block = 0;
			int ret;

			ret = stage2_set_prot_attr(&pgt, types[t].prot | KVM_PGTABLE_PROT_R |
						   (i & 8 ? KVM_PGTABLE_PROT_W : 0), &block);
			ctx.old = block | KVM_PTE_VALID;
			child = 0;
			ret = ret ?: stage2_split_walker(&ctx, KVM_PGTABLE_WALK_LEAF);
			if (!ret && child == block)
				continue;
			printf("%s, FWB %d, LPA2 %d, S1 %d: error %d, block 0x%llx became 0x%llx\n",
			       types[t].what, fwb, lpa2, !!pgt.flags, ret,
			       (unsigned long long)block, (unsigned long long)child);
			bad++;
		}
	}
	return !!bad;
}
