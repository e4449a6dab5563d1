/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memslots backed by a dma-buf, as seen by the rest of x86's MMU
 *
 * Model and locks are in dmabuf.c.  Without CONFIG_KVM_DMABUF there are no
 * such slots: kvm_slot_is_dmabuf() is constant false, and the stubs below are
 * never reached.
 */
#ifndef __KVM_X86_MMU_DMABUF_H
#define __KVM_X86_MMU_DMABUF_H

#include "mmu_internal.h"

/* What the hardware can do and the administrator allows. */
extern int max_huge_page_level;

#ifdef CONFIG_KVM_DMABUF
/* How the memory has to be mapped, see struct kvm_pfn_memtype. */
static inline bool kvm_memtype_is_known(struct kvm_pfn_memtype memtype)
{
	return memtype.known;
}

static inline bool kvm_memtype_is_mmio(struct kvm_pfn_memtype memtype)
{
	return memtype.mmio;
}

static inline bool kvm_memtype_is_cached(struct kvm_pfn_memtype memtype)
{
	return memtype.cached;
}

int kvm_mmu_faultin_pfn_dmabuf(struct kvm_vcpu *vcpu,
			       struct kvm_page_fault *fault);
u8 kvm_dmabuf_max_mapping_level(struct kvm *kvm, struct kvm_page_fault *fault,
				const struct kvm_memory_slot *slot, gfn_t gfn);
struct kvm_pfn_memtype kvm_dmabuf_memtype(struct kvm_vcpu *vcpu,
					  const struct kvm_memory_slot *slot,
					  gfn_t gfn, kvm_pfn_t pfn);

bool kvm_mmu_is_dmabuf_fault_stale(struct kvm_vcpu *vcpu,
				   struct kvm_page_fault *fault);
gfn_t kvm_mmu_map_dmabuf_ahead(struct kvm_vcpu *vcpu, gfn_t gfn, gfn_t end,
			       u8 level);
void __kvm_mmu_dmabuf_fault_ahead(struct kvm_vcpu *vcpu,
				  const struct kvm_page_fault *fault);

static inline void
kvm_mmu_dmabuf_fault_ahead(struct kvm_vcpu *vcpu,
			   const struct kvm_page_fault *fault)
{
	if (fault->dmabuf_ahead)
		__kvm_mmu_dmabuf_fault_ahead(vcpu, fault);
}

bool kvm_rmap_zap_level(struct kvm *kvm, const struct kvm_memory_slot *slot,
			int level, gfn_t start, gfn_t end, bool can_yield,
			bool flush);
bool kvm_rmap_zap_dmabuf(struct kvm *kvm, struct kvm_gfn_range *range,
			 bool flush);
void kvm_rmap_set_used(struct kvm *kvm, const struct kvm_memory_slot *slot,
		       gfn_t gfn, int level);
#else
static inline bool kvm_memtype_is_known(struct kvm_pfn_memtype memtype)
{
	return false;
}

static inline bool kvm_memtype_is_mmio(struct kvm_pfn_memtype memtype)
{
	return false;
}

static inline bool kvm_memtype_is_cached(struct kvm_pfn_memtype memtype)
{
	return false;
}

static inline int kvm_mmu_faultin_pfn_dmabuf(struct kvm_vcpu *vcpu,
					     struct kvm_page_fault *fault)
{
	KVM_BUG_ON(1, vcpu->kvm);
	return -EFAULT;
}

static inline u8
kvm_dmabuf_max_mapping_level(struct kvm *kvm, struct kvm_page_fault *fault,
			     const struct kvm_memory_slot *slot, gfn_t gfn)
{
	return PG_LEVEL_4K;
}

static inline struct kvm_pfn_memtype
kvm_dmabuf_memtype(struct kvm_vcpu *vcpu, const struct kvm_memory_slot *slot,
		   gfn_t gfn, kvm_pfn_t pfn)
{
	return (struct kvm_pfn_memtype) {};
}

static inline gfn_t kvm_mmu_map_dmabuf_ahead(struct kvm_vcpu *vcpu, gfn_t gfn,
					     gfn_t end, u8 level)
{
	return gfn;
}

static inline void kvm_mmu_dmabuf_fault_ahead(struct kvm_vcpu *vcpu,
					      const struct kvm_page_fault *fault)
{
}

static inline bool kvm_rmap_zap_dmabuf(struct kvm *kvm,
				       struct kvm_gfn_range *range, bool flush)
{
	return flush;
}

static inline void kvm_rmap_set_used(struct kvm *kvm,
				     const struct kvm_memory_slot *slot,
				     gfn_t gfn, int level)
{
}
#endif /* CONFIG_KVM_DMABUF */

#endif /* __KVM_X86_MMU_DMABUF_H */
