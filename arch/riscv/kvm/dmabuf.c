// SPDX-License-Identifier: GPL-2.0-only
/*
 * Faults on memslots backed by a dma-buf: G-stage of riscv
 *
 * Model: virt/kvm/dmabuf.c describes the model of these memslots. There is no
 * hva. The exporter says where the memory is and how it is to be mapped.
 *
 * Locks: a fault samples mmu_invalidate_seq, looks its page up without a lock,
 * and puts a leaf into the G-stage with mmu_lock held. If mmu_invalidate_seq
 * has changed in between, for instance by a revocation, nothing is mapped, and
 * the guest repeats the access.
 *
 * Invariants:
 *
 *  - Leaves are as large as the buffer and the slot permit, of any level that
 *    the G-stage has.
 *  - Memory that is not cacheable is mapped as IO (PBMT 2). It is never mapped
 *    as NC, even if the exporter allows write-combining: a guest without Svpbmt
 *    could not turn NC into IO for registers in the same BAR. Cacheable memory
 *    has the type that the platform gave it (PBMT 0). Without Svpbmt in the
 *    host, all memory has that type.
 *  - Memory that is not cacheable is not executable.
 *  - An access to revoked memory exits to the VMM (KVM_EXIT_MEMORY_FAULT). A
 *    fault must not make the vCPU retry, as the memory may be gone for good.
 *    KVM emulates an access only if it is a store to memory that cannot be
 *    written, or if the memory is revoked and the slot has
 *    KVM_MEM_REVOKED_MMIO.
 */

#include <linux/align.h>
#include <linux/errno.h>
#include <linux/kvm_host.h>
#include <linux/pfn.h>
#include <linux/pgtable.h>
#include <asm/kvm_dmabuf.h>
#include <asm/kvm_gstage.h>
#include <asm/kvm_mmu.h>

#include <trace/events/kvm.h>

/**
 * kvm_arch_supports_dmabuf - whether a VM can have memslots of dma-bufs
 * @kvm: the VM, or NULL for one of the default type
 *
 * Return: true, there is but one type.
 */
bool kvm_arch_supports_dmabuf(struct kvm *kvm)
{
	return true;
}

/* The largest leaf inside the naturally aligned block that the buffer allows. */
static u32 dmabuf_map_level(const struct kvm *kvm, const struct kvm_dmabuf_page *page)
{
	return min_t(u32, page->max_order / kvm_riscv_gstage_index_bits,
		     kvm->arch.pgd_levels - 1);
}

static pgprot_t dmabuf_prot(const struct kvm_dmabuf_page *page)
{
	if (page->cached)
		return page->writable ? PAGE_WRITE_EXEC : PAGE_READ_EXEC;

	return pgprot_noncached(page->writable ? PAGE_WRITE : PAGE_READ);
}

static int dmabuf_map(struct kvm_vcpu *vcpu, const struct kvm_memory_slot *memslot,
		      gpa_t gpa, const struct kvm_dmabuf_page *page,
		      unsigned long mmu_seq)
{
	struct kvm_mmu_memory_cache *pcache = &vcpu->arch.mmu_page_cache;
	u32 level = dmabuf_map_level(vcpu->kvm, page);
	u64 nr = BIT_ULL(level * kvm_riscv_gstage_index_bits);
	struct kvm_gstage_mapping map = {
		.addr	= ALIGN_DOWN(gpa, nr << PAGE_SHIFT),
		.level	= level,
		.pte	= pte_mkdirty(pfn_pte(ALIGN_DOWN(page->pfn, nr),
					      dmabuf_prot(page))),
	};
	struct kvm *kvm = vcpu->kvm;
	struct kvm_gstage gstage;
	int ret;

	ret = kvm_mmu_topup_memory_cache(pcache, kvm->arch.pgd_levels);
	if (ret)
		return ret;

	kvm_riscv_gstage_init(&gstage, kvm);

	write_lock(&kvm->mmu_lock);
	if (!mmu_invalidate_retry(kvm, mmu_seq)) {
		kvm_dmabuf_will_map(memslot, map.addr >> PAGE_SHIFT,
				    (map.addr >> PAGE_SHIFT) + nr);
		ret = kvm_riscv_gstage_set_pte(&gstage, pcache, &map);
	}
	write_unlock(&kvm->mmu_lock);

	return ret;
}

static int dmabuf_fault_exit(struct kvm_vcpu *vcpu, gpa_t gpa, bool write, bool exec,
			     u64 flags)
{
	kvm_prepare_memory_fault_exit(vcpu, ALIGN_DOWN(gpa, PAGE_SIZE), PAGE_SIZE,
				      write, exec, false);
	vcpu->run->memory_fault.flags |= flags;
	return -EFAULT;
}

/**
 * kvm_riscv_dmabuf_fault - resolve a G-stage fault in a memslot of a dma-buf
 * @vcpu: the vCPU that faulted
 * @memslot: the slot, not one that is being deleted
 * @gpa: the address of the fault, in @memslot
 * @write: the access was a write
 * @exec: it was an instruction fetch
 *
 * Context: kvm->srcu held; takes mmu_lock.
 *
 * Return: what kvm_riscv_vcpu_exit() returns, 1 to go on in the guest or a
 * negative errno, or one of %KVM_RISCV_DMABUF_MMIO and
 * %KVM_RISCV_DMABUF_ACCESS_FAULT. -EFAULT comes with KVM_EXIT_MEMORY_FAULT.
 */
int kvm_riscv_dmabuf_fault(struct kvm_vcpu *vcpu, const struct kvm_memory_slot *memslot,
			   gpa_t gpa, bool write, bool exec)
{
	struct kvm *kvm = vcpu->kvm;
	struct kvm_dmabuf_page page = {};
	gfn_t gfn = gpa >> PAGE_SHIFT;
	unsigned long mmu_seq;
	int ret;

	mmu_seq = kvm->mmu_invalidate_seq;
	/* Pairs with the smp_wmb() in kvm_mmu_invalidate_end(). */
	smp_rmb();

	ret = kvm_dmabuf_get_pfn(kvm, memslot, gfn, &page);
	trace_kvm_dmabuf_fault(gfn, ret ? 0 : dmabuf_map_level(kvm, &page), write, ret);
	if (ret && (memslot->flags & KVM_MEM_REVOKED_MMIO))
		return KVM_RISCV_DMABUF_MMIO;
	if (ret)
		return dmabuf_fault_exit(vcpu, gpa, write, exec,
					 KVM_MEMORY_EXIT_FLAG_REVOKED);

	/* Every gfn is shared, and mapped as such or not at all. */
	if (page.private)
		return dmabuf_fault_exit(vcpu, gpa, write, exec,
					 KVM_MEMORY_EXIT_FLAG_BACKING);

	/* The buffer may have changed under the slot. */
	if (!page.readable)
		return dmabuf_fault_exit(vcpu, gpa, write, exec, 0);
	if (write && !page.writable)
		return KVM_RISCV_DMABUF_MMIO;
	if (exec && !page.cached)
		return KVM_RISCV_DMABUF_ACCESS_FAULT;

	ret = dmabuf_map(vcpu, memslot, gpa, &page, mmu_seq);
	return ret ? ret : 1;
}
