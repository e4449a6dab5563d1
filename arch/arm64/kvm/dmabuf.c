// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memslots backed by a dma-buf: stage-2 faults and unmapping on arm64
 *
 * Model: virt/kvm/dmabuf.c describes the model of these memslots.  There is no
 * hva, no VMA and no struct page to look at.  The exporter of the dma-buf says
 * where the memory is, whether it may be written, and which memory type it
 * has.  Level and permissions of a stage-2 entry follow from that.
 *
 * Locks: a fault samples mmu_invalidate_seq, looks its page up once without a
 * lock, takes mmu_lock, and maps the page only if mmu_invalidate_seq has not
 * changed.  A revocation changes it.
 */

#include <linux/kvm_host.h>
#include <trace/events/kvm.h>
#include <asm/kvm_emulate.h>
#include <asm/kvm_mmu.h>
#include <asm/kvm_nested.h>
#include <asm/kvm_pgtable.h>
#include <asm/stage2_pgtable.h>
#include <asm/virt.h>

/* A stage-2 fault on a dma-buf slot that is to be resolved. */
struct dmabuf_fault {
	struct kvm_vcpu			*vcpu;
	const struct kvm_memory_slot	*memslot;
	/* What faulted, and the same in the L1 guest's physical address space */
	phys_addr_t			fault_ipa;
	phys_addr_t			ipa;
	struct kvm_s2_trans		*nested;
	unsigned long			mmu_seq;
};

/*
 * With pKVM it is the hypervisor that owns stage-2.  It gives guests pages of
 * the host and knows nothing of devices, let alone of taking them away.
 */
bool kvm_arch_supports_dmabuf(struct kvm *kvm)
{
	return !is_protected_kvm_enabled();
}

/*
 * There are no struct pages, so there is nowhere to keep the state of tags, and
 * no mapping in the host to maintain caches through.
 *
 * Uncached dma-bufs are another matter, with MTE, too.  Only Normal Write-Back
 * memory can be tagged, and stage-2 makes it Device or Normal-NC, whatever the
 * guest says: tags read as zero, and tag stores are ignored.  A VMA of a device
 * is refused because something else can be mapped there later.  A dma-buf that
 * changes its mind is told so by kvm_handle_dmabuf_abort().
 */
bool kvm_arch_supports_cached_dmabuf(struct kvm *kvm)
{
	return kvm_supports_cacheable_pfnmap() && !kvm_has_mte(kvm);
}

/*
 * Shadow stage-2s have no reverse map.  Drop them once, not for each slot.  What is
 * unmapped is flushed by the page table code, before mmu_lock can be dropped.
 */
bool kvm_arch_unmap_dmabuf(struct kvm *kvm, struct kvm_gfn_range *range,
			   bool flush)
{
	if (!kvm->arch.mmu.pgt)
		return flush;

	kvm_stage2_unmap_range(&kvm->arch.mmu, gfn_to_gpa(range->start),
			       gfn_to_gpa(range->end - range->start),
			       range->may_block);
	return flush;
}

bool kvm_arch_finish_unmap_dmabuf(struct kvm *kvm)
{
	if (kvm->arch.mmu.pgt)
		kvm_nested_s2_unmap(kvm, true);
	return false;
}

/*
 * The largest block that the buffer allows.  It is inside the slot, because the
 * extents that max_order is taken from are those of the slot's slice, and the
 * guest's and the host's address of it are equally aligned.  A nested guest's
 * mapping must not span more than its hypervisor's does.
 */
static s8 dmabuf_map_level(const struct dmabuf_fault *fault,
			   const struct kvm_dmabuf_page *page)
{
	u64 max = (u64)PAGE_SIZE << page->max_order;
	s8 level;

	if (fault->nested)
		max = min_t(u64, max, kvm_s2_trans_size(fault->nested));

	for (level = KVM_PGTABLE_MIN_BLOCK_LEVEL; level < KVM_PGTABLE_LAST_LEVEL; level++)
		if (kvm_granule_size(level) <= max)
			break;

	return level;
}

/*
 * The exporter has the last word on the memory type.  As for a VMA with
 * VM_ALLOW_ANY_UNCACHED, Normal-NC leaves it to the guest to choose between
 * that and Device; memory that is not cacheable is never executable.
 */
static enum kvm_pgtable_prot dmabuf_prot(const struct dmabuf_fault *fault,
					 const struct kvm_dmabuf_page *page)
{
	enum kvm_pgtable_prot prot = KVM_PGTABLE_PROT_R;

	if (page->writable)
		prot |= KVM_PGTABLE_PROT_W;

	if (fault->nested)
		prot = kvm_nested_fault_perms(fault->nested, prot);

	/* Cacheable takes CACHE_DIC, see kvm_arch_supports_cached_dmabuf(). */
	if (page->cached)
		prot |= KVM_PGTABLE_PROT_X;
	else if (page->wc)
		prot |= KVM_PGTABLE_PROT_NORMAL_NC;
	else
		prot |= KVM_PGTABLE_PROT_DEVICE;

	if (fault->nested)
		prot = kvm_nested_exec_perms(fault->vcpu->kvm, fault->nested, prot);

	return prot;
}

/* What is about to be mapped, as the L1 guest calls it; see kvm_dmabuf_will_map(). */
static void dmabuf_will_map(const struct dmabuf_fault *fault, u64 size)
{
	gfn_t start = gpa_to_gfn(ALIGN_DOWN(fault->ipa, size));

	kvm_dmabuf_will_map(fault->memslot, start, start + PHYS_PFN(size));
}

/* Without pKVM, so that it is KVM's own page tables and memory cache. */
static int dmabuf_map(const struct dmabuf_fault *fault,
		      const struct kvm_dmabuf_page *page)
{
	enum kvm_pgtable_walk_flags flags = KVM_PGTABLE_WALK_SHARED;
	enum kvm_pgtable_prot prot = dmabuf_prot(fault, page);
	struct kvm_vcpu *vcpu = fault->vcpu;
	struct kvm_mmu_memory_cache *memcache = &vcpu->arch.mmu_page_cache;
	bool perm_fault = kvm_vcpu_trap_is_permission_fault(vcpu);
	struct kvm_pgtable *pgt;
	u64 size;
	int ret;

	if (!perm_fault) {
		ret = kvm_mmu_topup_memory_cache(memcache,
						 kvm_mmu_cache_min_pages(vcpu->arch.hw_mmu));
		if (ret)
			return ret;
	}

	kvm_fault_lock(vcpu->kvm);
	ret = -EAGAIN;
	if (mmu_invalidate_retry(vcpu->kvm, fault->mmu_seq))
		goto out_unlock;

	pgt = vcpu->arch.hw_mmu->pgt;
	if (perm_fault) {
		/* The SW bits are those stored in the PTE. */
		prot &= ~KVM_NV_GUEST_MAP_SZ;
		ret = kvm_pgtable_stage2_relax_perms(pgt, fault->fault_ipa, prot,
						     flags);
	} else {
		size = kvm_granule_size(dmabuf_map_level(fault, page));
		dmabuf_will_map(fault, size);
		ret = kvm_pgtable_stage2_map(pgt, ALIGN_DOWN(fault->fault_ipa, size),
					     size,
					     ALIGN_DOWN(__pfn_to_phys(page->pfn), size),
					     prot, memcache, flags);
	}

out_unlock:
	kvm_fault_unlock(vcpu->kvm);
	return ret != -EAGAIN ? ret : 0;
}

static int dmabuf_fault_exit(const struct dmabuf_fault *fault, u64 flags)
{
	struct kvm_vcpu *vcpu = fault->vcpu;

	kvm_prepare_memory_fault_exit(vcpu, ALIGN_DOWN(fault->ipa, PAGE_SIZE),
				      PAGE_SIZE, kvm_is_write_fault(vcpu),
				      kvm_vcpu_trap_is_exec_fault(vcpu), false);
	vcpu->run->memory_fault.flags |= flags;
	return -EFAULT;
}

/*
 * An access that is MMIO: a store to memory that the guest can only read, or
 * what the VMM wants to be MMIO while the memory is revoked.  As without a
 * memslot, that does not go for the table walker and for instructions, and cache
 * maintenance is of no use where nothing is dirty.
 */
static int dmabuf_mmio_abort(const struct dmabuf_fault *fault)
{
	struct kvm_vcpu *vcpu = fault->vcpu;
	bool is_iabt = kvm_vcpu_trap_is_iabt(vcpu);
	bool no_mmio = is_iabt || kvm_vcpu_abt_iss1tw(vcpu);
	u64 hfar = kvm_vcpu_get_hfar(vcpu);

	if (!no_mmio && kvm_vcpu_dabt_is_cm(vcpu)) {
		kvm_incr_pc(vcpu);
		return 1;
	}

	/* No mapping will tell a nested guest what it must not do. */
	if (fault->nested && kvm_s2_access_denied(vcpu, fault->nested)) {
		kvm_inject_s2_fault(vcpu, kvm_s2_trans_esr(fault->nested));
		return 1;
	}

	if (no_mmio)
		return kvm_inject_sea(vcpu, is_iabt, hfar);

	return io_mem_abort(vcpu, fault->ipa | FAR_TO_FIPA_OFFSET(hfar));
}

/*
 * The memory is not there.  That is for userspace to deal with, unless it wants
 * the access to be MMIO.  KVM must not make the vCPU retry: the memory may be gone
 * for good.
 */
static int dmabuf_revoked_abort(const struct dmabuf_fault *fault)
{
	if (fault->memslot->flags & KVM_MEM_REVOKED_MMIO)
		return dmabuf_mmio_abort(fault);

	return dmabuf_fault_exit(fault, KVM_MEMORY_EXIT_FLAG_REVOKED);
}

static int dmabuf_page_abort(const struct dmabuf_fault *fault,
			     const struct kvm_dmabuf_page *page)
{
	struct kvm_vcpu *vcpu = fault->vcpu;
	u64 hfar = kvm_vcpu_get_hfar(vcpu);
	int ret;

	/* Every gfn is shared, and mapped as such or not at all. */
	if (page->private)
		return dmabuf_fault_exit(fault, KVM_MEMORY_EXIT_FLAG_BACKING);

	/* Tags may have been enabled, or the buffer changed, under the slot. */
	if (!page->readable ||
	    (page->cached && !kvm_arch_supports_cached_dmabuf(vcpu->kvm)))
		return dmabuf_fault_exit(fault, 0);

	/* Not of this memory type, as for a VMA. */
	if (esr_fsc_is_excl_atomic_fault(kvm_vcpu_get_esr(vcpu))) {
		kvm_inject_dabt_excl_atomic(vcpu, hfar);
		return 1;
	}

	if (kvm_is_write_fault(vcpu) && !page->writable)
		return dmabuf_mmio_abort(fault);

	if (!page->cached && kvm_vcpu_trap_is_exec_fault(vcpu))
		return kvm_inject_sea_iabt(vcpu, hfar);

	/*
	 * With HCR_EL2.PTW set, the table walker is denied Device memory, however
	 * often that is mapped.
	 */
	if (!page->cached && !page->wc && kvm_vcpu_abt_iss1tw(vcpu))
		return kvm_inject_sea(vcpu, kvm_vcpu_trap_is_iabt(vcpu), hfar);

	ret = dmabuf_map(fault, page);
	return ret ? ret : 1;
}

/**
 * kvm_handle_dmabuf_abort - resolve a stage-2 fault on a memslot of a dma-buf
 * @vcpu: that faulted, not because of an access flag
 * @memslot: the slot, not one that is being deleted
 * @fault_ipa: what faulted
 * @ipa: the same in the L1 guest's physical address space
 * @nested: how the L1 guest's stage-2 translates it, or NULL
 *
 * Emulation is not the way out of anything but a store to read-only memory, or of
 * what userspace wants to be MMIO.
 *
 * Context: kvm->srcu held.
 *
 * Return: what kvm_handle_guest_abort() returns: 1 to go on in the guest, 0 to
 * exit to userspace, a negative errno to do so with an error.
 */
int kvm_handle_dmabuf_abort(struct kvm_vcpu *vcpu,
			    const struct kvm_memory_slot *memslot,
			    phys_addr_t fault_ipa, phys_addr_t ipa,
			    struct kvm_s2_trans *nested)
{
	struct dmabuf_fault fault = {
		.vcpu = vcpu,
		.memslot = memslot,
		.fault_ipa = fault_ipa,
		.ipa = ipa,
		.nested = nested,
		.mmu_seq = vcpu->kvm->mmu_invalidate_seq,
	};
	struct kvm_dmabuf_page page = {};
	int ret;

	/* Pairs with the smp_wmb() in kvm_mmu_invalidate_end(). */
	smp_rmb();

	ret = kvm_dmabuf_get_pfn(vcpu->kvm, memslot, gpa_to_gfn(ipa), &page);
	trace_kvm_dmabuf_fault(gpa_to_gfn(ipa),
			       ret ? 0 : dmabuf_map_level(&fault, &page),
			       kvm_is_write_fault(vcpu), ret);
	if (ret)
		return dmabuf_revoked_abort(&fault);

	return dmabuf_page_abort(&fault, &page);
}
