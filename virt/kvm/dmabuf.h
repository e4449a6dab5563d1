/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Binding of memslots to dma-bufs, as seen by the memslot code
 *
 * The model, the locks and the invariants are at the top of dmabuf.c.  Functions
 * that take a memslot are called with slots_lock held, or on a VM that has no
 * users any more.  What architectures call is in kvm_host.h.
 */
#ifndef __KVM_DMABUF_H__
#define __KVM_DMABUF_H__

#include <linux/kvm_host.h>

#ifdef CONFIG_KVM_DMABUF
u32 kvm_dmabuf_supported_flags(struct kvm *kvm);
int kvm_dmabuf_bind(struct kvm *kvm, struct kvm_memory_slot *slot, int fd,
		    u64 offset);
void kvm_dmabuf_unbind(struct kvm_memory_slot *slot);
void kvm_dmabuf_unbind_all(struct kvm *kvm);

static inline void kvm_dmabuf_copy_binding(struct kvm_memory_slot *dest,
					   const struct kvm_memory_slot *src)
{
	dest->dmabuf = src->dmabuf;
}
#else
static inline int kvm_dmabuf_bind(struct kvm *kvm, struct kvm_memory_slot *slot,
				  int fd, u64 offset)
{
	WARN_ON_ONCE(1);
	return -EIO;
}

static inline void kvm_dmabuf_unbind(struct kvm_memory_slot *slot)
{
}

static inline void kvm_dmabuf_unbind_all(struct kvm *kvm)
{
}

static inline void kvm_dmabuf_copy_binding(struct kvm_memory_slot *dest,
					   const struct kvm_memory_slot *src)
{
}
#endif /* CONFIG_KVM_DMABUF */

#endif /* __KVM_DMABUF_H__ */
