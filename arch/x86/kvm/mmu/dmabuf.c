// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memslots backed by a dma-buf: what x86's MMU does with them
 *
 * Model: virt/kvm/dmabuf.c describes the model of these memslots.  This file
 * has what is specific to x86:
 *
 *  - how a page fault on such a slot is resolved, how large the leaf may be,
 *    and which memory type it gets;
 *  - how the rmaps of the slot are found when the memory is taken back;
 *  - how leaves next to the one that faulted are mapped ahead.
 *
 * Locks: a page fault puts what kvm_dmabuf_get_pfn() returns into the fault.
 * That is valid once the fault was found not to be stale, with mmu_lock held.
 * It is not looked up again for the SPTEs of the fault, see struct
 * kvm_pfn_memtype.  slot->arch.rmap_used is written with mmu_lock held for
 * write.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitops.h>
#include <linux/kvm_host.h>
#include <linux/moduleparam.h>

#include <trace/events/kvm.h>

#include "dmabuf.h"
#include "mmu.h"
#include "mmu_internal.h"
#include "spte.h"
#include "tdp_mmu.h"

/*
 * Nobody has run these yet, for want of hardware: they are to be asked for.  Shared
 * MMIO is what such a guest has of a device before it trusts it, if it ever does.
 */
static bool __read_mostly protected_vm_dmabuf;
module_param(protected_vm_dmabuf, bool, 0444);

/*
 * Whether a VM can have MMIO as shared memory, which says nothing about private
 * memory: that is kvm_dmabuf_can_be_private().  To SEV and SEV-ES guests of the
 * default type it is what a VMA is.
 */
static bool kvm_dmabuf_can_be_shared(const struct kvm *kvm)
{
	switch (kvm->arch.vm_type) {
	case KVM_X86_DEFAULT_VM:
	case KVM_X86_SW_PROTECTED_VM:
		return true;
	case KVM_X86_SEV_VM:
	case KVM_X86_SEV_ES_VM:
	case KVM_X86_SNP_VM:
	case KVM_X86_TDX_VM:
		return protected_vm_dmabuf;
	default:
		return false;
	}
}

/* Dma-bufs are mapped by guest physical address, which needs TDP. */
bool kvm_arch_supports_dmabuf(struct kvm *kvm)
{
	return tdp_enabled && (!kvm || kvm_dmabuf_can_be_shared(kvm));
}

/*
 * What it takes to make a device's memory the private memory of a guest is known
 * of no hardware yet: a TSM has to be in it.  For KVM itself, private is a matter
 * of which gfns it maps, so guests that are protected by software can have it.
 */
static bool kvm_dmabuf_can_be_private(const struct kvm *kvm)
{
	return kvm->arch.vm_type == KVM_X86_SW_PROTECTED_VM;
}

/* What the dma-buf allows within the memslot's bounds. */
static u8 kvm_dmabuf_page_max_level(const struct kvm_dmabuf_page *page)
{
	if (page->max_order >= KVM_HPAGE_GFN_SHIFT(PG_LEVEL_1G))
		return PG_LEVEL_1G;

	if (page->max_order >= KVM_HPAGE_GFN_SHIFT(PG_LEVEL_2M))
		return PG_LEVEL_2M;

	return PG_LEVEL_4K;
}

u8 kvm_dmabuf_max_mapping_level(struct kvm *kvm, struct kvm_page_fault *fault,
				const struct kvm_memory_slot *slot, gfn_t gfn)
{
	struct kvm_dmabuf_page page;

	/* Resolved when the pfn was, and mmu_invalidate_seq says still true. */
	if (fault)
		return fault->max_level;

	if (kvm_dmabuf_get_pfn(kvm, slot, gfn, &page))
		return PG_LEVEL_4K;

	return kvm_dmabuf_page_max_level(&page);
}

static struct kvm_pfn_memtype page_memtype(const struct kvm_dmabuf_page *page)
{
	return (struct kvm_pfn_memtype) {
		.known = true,
		.mmio = page->mmio,
		.cached = page->cached,
	};
}

/*
 * For an SPTE that is made anew without a fault, for a shadowed page table.  Its
 * memory can be gone, while a revocation has dropped mmu_lock half way.  The entry
 * is about to be zapped; until then treating it as MMIO does no harm.
 */
struct kvm_pfn_memtype kvm_dmabuf_memtype(struct kvm_vcpu *vcpu,
					  const struct kvm_memory_slot *slot,
					  gfn_t gfn, kvm_pfn_t pfn)
{
	struct kvm_dmabuf_page page;

	if (!kvm_slot_is_dmabuf(slot))
		return (struct kvm_pfn_memtype) {};

	if (kvm_dmabuf_get_pfn(vcpu->kvm, slot, gfn, &page))
		return (struct kvm_pfn_memtype) { .known = true, .mmio = true };

	KVM_MMU_WARN_ON(page.pfn != pfn);
	return page_memtype(&page);
}

/*
 * What KVM cannot read it cannot emulate.  Without an MMIO SPTE, a guest whose
 * state is protected never learns that an access is MMIO, and would only repeat
 * it.  Legacy SEV-ES guests have protected vCPUs in a VM that does not say so;
 * for TDX it is the other way round while a vCPU is being debugged.  And what is
 * private is nothing to be handed to userspace, or to be taken from it.
 */
static bool kvm_dmabuf_can_emulate(const struct kvm_vcpu *vcpu,
				   const struct kvm_page_fault *fault)
{
	return !fault->is_private && !vcpu->arch.guest_state_protected &&
	       !vcpu->kvm->arch.has_protected_state;
}

static int kvm_dmabuf_fault_exit(struct kvm_vcpu *vcpu,
				 struct kvm_page_fault *fault, u64 flags)
{
	kvm_mmu_prepare_memory_fault_exit(vcpu, fault);
	vcpu->run->memory_fault.flags |= flags;
	return -EFAULT;
}

/*
 * The memory is not there.  That is for userspace to deal with, unless it wants
 * the access to be MMIO.  KVM must not make the vCPU retry: the memory may be gone
 * for good.
 */
static int kvm_dmabuf_faultin_revoked(struct kvm_vcpu *vcpu,
				      struct kvm_page_fault *fault)
{
	/* No MMIO SPTE: nothing would zap that when the memory is back. */
	if ((fault->slot->flags & KVM_MEM_REVOKED_MMIO) && !fault->prefetch &&
	    kvm_dmabuf_can_emulate(vcpu, fault))
		return RET_PF_EMULATE;

	return kvm_dmabuf_fault_exit(vcpu, fault,
				     KVM_MEMORY_EXIT_FLAG_REVOKED);
}

/* Tell what is about to be mapped, see kvm_dmabuf_will_map(). */
static void kvm_dmabuf_fault_will_map(struct kvm_page_fault *fault)
{
	gfn_t first = gfn_round_for_level(fault->gfn, fault->max_level);

	fault->dmabuf_ahead =
		kvm_dmabuf_will_map(fault->slot, first, first +
				    KVM_PAGES_PER_HPAGE(fault->max_level));
}

/*
 * The access is of the kind, private or shared, that the gfn's attribute says, or
 * the caller would not have come here, and fault->mmu_seq was sampled before that
 * was found out.  The memory has to be of that kind, too.  Which one of the two is
 * wrong is for userspace to know, and it has to be told that the attribute is not
 * all there is to look at.  In a VM that cannot have private memory it is the
 * attribute that is wrong, whatever the memory is.  Memory that is away is of no
 * kind.
 */
int kvm_mmu_faultin_pfn_dmabuf(struct kvm_vcpu *vcpu,
			       struct kvm_page_fault *fault)
{
	struct kvm_dmabuf_page page = {};
	int r;

	r = kvm_dmabuf_get_pfn(vcpu->kvm, fault->slot, fault->gfn, &page);
	trace_kvm_dmabuf_fault(fault->gfn,
			       r ? PG_LEVEL_NONE : kvm_dmabuf_page_max_level(&page),
			       fault->write, r);
	if (r)
		return kvm_dmabuf_faultin_revoked(vcpu, fault);

	if (fault->is_private && !kvm_dmabuf_can_be_private(vcpu->kvm))
		return kvm_dmabuf_fault_exit(vcpu, fault, 0);

	if (fault->is_private != page.private)
		return kvm_dmabuf_fault_exit(vcpu, fault,
					     KVM_MEMORY_EXIT_FLAG_BACKING);

	if (!page.readable)
		return kvm_dmabuf_fault_exit(vcpu, fault, 0);

	if (fault->write && !page.writable) {
		if (!kvm_dmabuf_can_emulate(vcpu, fault))
			return kvm_dmabuf_fault_exit(vcpu, fault, 0);

		/* As for a read-only memslot, the store is emulated MMIO. */
		fault->pfn = KVM_PFN_ERR_RO_FAULT;
		return RET_PF_CONTINUE;
	}

	fault->pfn = page.pfn;
	fault->map_writable = page.writable;
	fault->memtype = page_memtype(&page);
	fault->max_level = min3(fault->max_level,
				kvm_dmabuf_page_max_level(&page),
				(u8)max_huge_page_level);
	kvm_dmabuf_fault_will_map(fault);

	return RET_PF_CONTINUE;
}

/*
 * The emulator cannot access @gfn, and would make MMIO of it.  A page fault on what
 * is private exits, and never gets here; but an instruction that is emulated because
 * of one operand can have another one.
 *
 * Returns 0 if it can be MMIO, -EFAULT if the access ends as the fault would have and
 * the exit is prepared, and -EPERM where the fault would have been resolved: there is
 * nothing to convert, and nothing that KVM can do.
 */
int kvm_dmabuf_emulate_private(struct kvm_vcpu *vcpu, gfn_t gfn, bool write)
{
	const struct kvm_memory_slot *slot = kvm_vcpu_gfn_to_memslot(vcpu, gfn);
	bool private = kvm_mem_is_private(vcpu->kvm, gfn);
	struct kvm_dmabuf_page page;
	u64 flags = 0;

	if (!kvm_slot_is_dmabuf(slot))
		return 0;

	if (kvm_dmabuf_get_pfn(vcpu->kvm, slot, gfn, &page))
		flags = KVM_MEMORY_EXIT_FLAG_REVOKED;
	else if (page.private != private)
		flags = KVM_MEMORY_EXIT_FLAG_BACKING;

	if (!private && flags != KVM_MEMORY_EXIT_FLAG_BACKING)
		return 0;
	/* A store to read-only memory is for userspace to resolve. */
	if (!flags && (!write || page.writable))
		return -EPERM;

	kvm_prepare_memory_fault_exit(vcpu, gfn_to_gpa(gfn), PAGE_SIZE, write,
				      false, private);
	vcpu->run->memory_fault.flags |= flags;
	return -EFAULT;
}

/*
 * Map the leaves from @start to @end that have @gfn in their extent and their page
 * table.  @gfn is the first one of a leaf, which may be @mapped, and which @start may be
 * in the middle of.
 * A whole extent of the buffer is known to be contiguous, and to look up each leaf of
 * it is most of the cost of mapping it.  Within one page table, which is one block of
 * the level above, all leaves of an extent have the same level.
 *
 * Returns the first gfn that was not mapped, or @gfn.
 */
static gfn_t kvm_mmu_map_dmabuf_run(struct kvm_vcpu *vcpu,
				    struct kvm_memory_slot *slot, gfn_t gfn,
				    gfn_t start, gfn_t end, u8 level,
				    bool mapped)
{
	struct kvm_page_fault fault = {
		.addr = gfn_to_gpa(gfn),
		.prefetch = true,
		.is_tdp = true,
		.max_level = level,
		.req_level = level,
		.goal_level = level,
		.slot = slot,
	};
	gfn_t nr_pages = KVM_PAGES_PER_HPAGE(level);
	gfn_t table = gfn_round_for_level(gfn, level + 1);
	struct kvm_dmabuf_page page;

	/* Memory attributes may say that a leaf is not like the one before. */
	if (!tdp_mmu_enabled || !kvm_slot_is_dmabuf(slot) ||
	    kvm_arch_has_private_mem(vcpu->kvm))
		return gfn;

	/* As in kvm_mmu_faultin_pfn(): a revocation from here on is noticed. */
	fault.mmu_seq = vcpu->kvm->mmu_invalidate_seq;
	/* Pairs with the smp_wmb() in kvm_mmu_invalidate_end(). */
	smp_rmb();

	/* There are no private gfns, see above. */
	if (kvm_dmabuf_get_pfn(vcpu->kvm, slot, gfn, &page) ||
	    page.private || !page.readable ||
	    min_t(u8, kvm_dmabuf_page_max_level(&page), max_huge_page_level) != level)
		return gfn;

	start = round_up(max3(start, gfn - page.before, table), nr_pages);
	end = min3(round_up(end, nr_pages),
		   gfn + round_down(page.nr, nr_pages),
		   table + KVM_PAGES_PER_HPAGE(level + 1));
	if (mapped && start == gfn)
		start += nr_pages;
	if (start >= end)
		return gfn;

	fault.gfn = start;
	fault.pfn = page.pfn + start - gfn;
	fault.map_writable = page.writable;
	fault.memtype = page_memtype(&page);
	kvm_dmabuf_will_map(slot, start, end);

	read_lock(&vcpu->kvm->mmu_lock);
	if (!kvm_mmu_is_dmabuf_fault_stale(vcpu, &fault))
		gfn = max(gfn, kvm_tdp_mmu_map_ahead(vcpu, &fault, end));
	read_unlock(&vcpu->kvm->mmu_lock);

	return gfn;
}

/*
 * The leaf before @gfn was just mapped, with @level.  If it is one of a dma-buf,
 * go on to the end of its page table, or to @end if that comes first.
 *
 * Returns the first gfn that was not mapped.
 */
gfn_t kvm_mmu_map_dmabuf_ahead(struct kvm_vcpu *vcpu, gfn_t gfn, gfn_t end,
			       u8 level)
{
	struct kvm_memory_slot *slot = kvm_vcpu_gfn_to_memslot(vcpu, gfn);

	/*
	 * The leaf before may be one of another slot.  Nobody would zap what is
	 * mapped into one that is being deleted: that happened already.
	 */
	if (!kvm_is_visible_memslot(slot))
		return gfn;

	return kvm_mmu_map_dmabuf_run(vcpu, slot, gfn, gfn, end, level, false);
}

/* How many leaves a fault of a guest that goes through may map ahead of it. */
#define KVM_DMABUF_FAULT_AHEAD	64

/*
 * A guest that faulted on one leaf after the other will do so on the next, and
 * an exit costs more than to map some leaves.  A guest that had the neighbours
 * when the memory was taken away will want them back: all that there is a page
 * table for, and that can be mapped in one go, which is the extent of this one.
 * Without accessed bits a leaf that was mapped ahead faults nevertheless.
 */
void __kvm_mmu_dmabuf_fault_ahead(struct kvm_vcpu *vcpu,
				  const struct kvm_page_fault *fault)
{
	gfn_t nr_pages = KVM_PAGES_PER_HPAGE(fault->goal_level);
	gfn_t first = gfn_round_for_level(fault->gfn, fault->goal_level);
	gfn_t start, end;

	if (fault->prefetch || !kvm_ad_enabled)
		return;

	if (kvm_dmabuf_had_mapped(fault->slot, fault->gfn, &start, &end))
		kvm_mmu_map_dmabuf_run(vcpu, fault->slot, first, start, end,
				       fault->goal_level, true);
	else
		kvm_mmu_map_dmabuf_ahead(vcpu, first + nr_pages,
					 first + (KVM_DMABUF_FAULT_AHEAD + 1) * nr_pages,
					 fault->goal_level);
}

/*
 * A dma-buf is revoked while some task waits for the device, and a BAR can be
 * hundreds of GiB of which little is mapped.  Walking the rmap of each of its
 * pages would take much longer than zapping.  So a dma-buf slot has bitmaps that
 * tell for each 2 MiB whether it can have 4 KiB rmaps, and whether it can have a
 * 2 MiB rmap.
 *
 * Bits are set and cleared with mmu_lock held for write.  A clear bit says that
 * there is none, a set bit says nothing.  The bitmaps exist if and only if the
 * rmaps do.
 */
int kvm_mmu_alloc_rmap_used(struct kvm_memory_slot *slot, unsigned long npages)
{
	int i, lpages;

	if (!kvm_slot_is_dmabuf(slot))
		return 0;

	lpages = __kvm_mmu_slot_lpages(slot, npages, PG_LEVEL_2M);
	for (i = 0; i < ARRAY_SIZE(slot->arch.rmap_used); i++) {
		if (slot->arch.rmap_used[i])
			continue;

		slot->arch.rmap_used[i] = __vcalloc(BITS_TO_LONGS(lpages),
						    sizeof(long),
						    GFP_KERNEL_ACCOUNT);
		if (!slot->arch.rmap_used[i])
			return -ENOMEM;
	}
	return 0;
}

void kvm_mmu_free_rmap_used(struct kvm_memory_slot *slot)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(slot->arch.rmap_used); i++) {
		vfree(slot->arch.rmap_used[i]);
		slot->arch.rmap_used[i] = NULL;
	}
}

void kvm_rmap_set_used(struct kvm *kvm, const struct kvm_memory_slot *slot,
		       gfn_t gfn, int level)
{
	if (!kvm_slot_is_dmabuf(slot) || level > PG_LEVEL_2M)
		return;

	lockdep_assert_held_write(&kvm->mmu_lock);

	__set_bit(gfn_to_index(gfn, slot->base_gfn, PG_LEVEL_2M),
		  slot->arch.rmap_used[level - PG_LEVEL_4K]);
}

static bool kvm_rmaps_are_empty(const struct kvm_memory_slot *slot, int level,
				gfn_t start, gfn_t end)
{
	const struct kvm_rmap_head *rmaps = slot->arch.rmap[level - PG_LEVEL_4K];
	unsigned long idx = gfn_to_index(start, slot->base_gfn, level);
	unsigned long last = gfn_to_index(end - 1, slot->base_gfn, level);

	for (; idx <= last; idx++)
		if (atomic_long_read(&rmaps[idx].val))
			return false;

	return true;
}

/*
 * The part of @range in 2 MiB number @idx of its slot.  mmu_lock can be dropped
 * between one rmap and the next: others add rmaps then, or zap the same ones.
 */
static bool kvm_rmap_zap_dmabuf_2m(struct kvm *kvm, struct kvm_gfn_range *range,
				   unsigned long idx, int level, bool flush)
{
	const struct kvm_memory_slot *slot = range->slot;
	gfn_t nr_pages = KVM_PAGES_PER_HPAGE(PG_LEVEL_2M);
	gfn_t first = gfn_round_for_level(slot->base_gfn, PG_LEVEL_2M) +
		      idx * nr_pages;
	gfn_t start = max3(range->start, slot->base_gfn, first);
	gfn_t end = min3(range->end, slot->base_gfn + slot->npages,
			 first + nr_pages);

	lockdep_assert_held_write(&kvm->mmu_lock);

	flush = kvm_rmap_zap_level(kvm, slot, level, start, end,
				   range->may_block, flush);

	/*
	 * Clear the bit only now: mmu_lock may have been dropped, and a task
	 * that took it meanwhile must not find the bit clear while there are
	 * rmaps to be zapped.
	 */
	if (start == max(first, slot->base_gfn) &&
	    end == min(first + nr_pages, slot->base_gfn + slot->npages) &&
	    kvm_rmaps_are_empty(slot, level, start, end))
		__clear_bit(idx, slot->arch.rmap_used[level - PG_LEVEL_4K]);

	return flush;
}

static bool kvm_rmap_zap_dmabuf_level(struct kvm *kvm,
				      struct kvm_gfn_range *range, int level,
				      bool flush)
{
	const struct kvm_memory_slot *slot = range->slot;
	unsigned long *used = slot->arch.rmap_used[level - PG_LEVEL_4K];
	unsigned long idx, last;

	lockdep_assert_held_write(&kvm->mmu_lock);

	idx = gfn_to_index(range->start, slot->base_gfn, PG_LEVEL_2M);
	last = gfn_to_index(range->end - 1, slot->base_gfn, PG_LEVEL_2M);

	for_each_set_bit_from(idx, used, last + 1)
		flush = kvm_rmap_zap_dmabuf_2m(kvm, range, idx, level, flush);

	return flush;
}

bool kvm_rmap_zap_dmabuf(struct kvm *kvm, struct kvm_gfn_range *slots,
			 bool flush)
{
	const struct kvm_memory_slot *slot = slots->slot;
	struct kvm_gfn_range part = *slots, *range = &part;
	int level;

	/*
	 * If it goes on into other slots there were no rmaps when that was
	 * decided.  Nothing that faulted since then can have used any.
	 */
	part.end = min(part.end, slot->base_gfn + slot->npages);

	/*
	 * The slot was looked up and replaced before there were rmaps.  Nothing
	 * that faulted since then can have used it.
	 */
	if (!slot->arch.rmap_used[0])
		return flush;

	/*
	 * From the largest to the smallest: while mmu_lock is dropped a huge page
	 * can be split, and then its parts have to be still to come.
	 */
	flush = kvm_rmap_zap_level(kvm, slot, PG_LEVEL_1G, range->start,
				   range->end, range->may_block, flush);
	for (level = PG_LEVEL_2M; level >= PG_LEVEL_4K; level--)
		flush = kvm_rmap_zap_dmabuf_level(kvm, range, level, flush);

	return flush;
}
