/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What KVM is told about memory that it imports as a dma-buf
 *
 * KVM's mapping type, &kvm_dmabuf_type, has one kind of mapping: an opaque table
 * of a slice of a buffer, in which a page fault looks up one page at a time.  The
 * model, the locks and the invariants are at the top of
 * virt/lib/kvm_dmabuf_table.c, which makes the tables.
 */
#ifndef __KVM_DMABUF_TABLE_H__
#define __KVM_DMABUF_TABLE_H__

#include <linux/gfp_types.h>
#include <linux/kvm_types.h>

struct dma_buf_attachment;
struct kvm_dmabuf_table;

/**
 * struct kvm_dmabuf_page - a guest page of a dma-buf memslot
 * @pfn: where it is
 * @nr: pages from it to the end of the extent, over which gfn and pfn advance
 *	together and all else here stays the same
 * @before: pages before it in the extent, of which the same is true
 * @max_order: log2 of the pages of the largest naturally aligned block around
 *	it that one page table entry may map; it is inside the memslot
 * @mmio: it is device memory or device registers
 * @cached: it is to be mapped write-back, else uncached
 * @wc: if not @cached: write-combining is as good as uncached
 * @readable: the guest may read it; if it may not, it cannot be mapped
 * @writable: the guest may write it, says the buffer and says the memslot
 * @private: it is to be mapped as a guest's private memory, or not at all; else
 *	as shared memory, or not at all
 *
 * The exporter said all this, and it overrides what @pfn looks like.
 */
struct kvm_dmabuf_page {
	kvm_pfn_t pfn;
	u64 nr;
	u64 before;
	u8 max_order;
	bool mmio;
	bool cached;
	bool wc;
	bool readable;
	bool writable;
	bool private;
};

int kvm_dmabuf_can_map(struct dma_buf_attachment *attach);
u64 kvm_dmabuf_generation(struct dma_buf_attachment *attach);
int kvm_dmabuf_table_update(struct dma_buf_attachment *attach, u64 offset,
			    u64 size, gfp_t gfp,
			    struct kvm_dmabuf_table __rcu **table);
void kvm_dmabuf_table_free(struct kvm_dmabuf_table *table);
int kvm_dmabuf_table_check(const struct kvm_dmabuf_table *table, bool write,
			   bool cached);
int kvm_dmabuf_table_lookup(const struct kvm_dmabuf_table *table,
			    gfn_t base_gfn, gfn_t gfn,
			    struct kvm_dmabuf_page *page);

#endif /* __KVM_DMABUF_TABLE_H__ */
