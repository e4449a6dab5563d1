/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memslots backed by a dma-buf, as seen by the rest of riscv's KVM. Model,
 * locks and rules are in arch/riscv/kvm/dmabuf.c.
 */

#ifndef __RISCV_KVM_DMABUF_H_
#define __RISCV_KVM_DMABUF_H_

#include <linux/kvm_host.h>

/* Results of kvm_riscv_dmabuf_fault() beyond those of an exit handler. */
#define KVM_RISCV_DMABUF_MMIO		2	/* as without a memslot */
#define KVM_RISCV_DMABUF_ACCESS_FAULT	3	/* for the guest to handle */

#ifdef CONFIG_KVM_DMABUF
int kvm_riscv_dmabuf_fault(struct kvm_vcpu *vcpu, const struct kvm_memory_slot *memslot,
			   gpa_t gpa, bool write, bool exec);
#else
static inline int kvm_riscv_dmabuf_fault(struct kvm_vcpu *vcpu,
					 const struct kvm_memory_slot *memslot,
					 gpa_t gpa, bool write, bool exec)
{
	return -EFAULT;
}
#endif

#endif
