// SPDX-License-Identifier: GPL-2.0-only
/*
 * KVM's mapping type of dma-bufs, and its tables
 *
 * Model: a guest accesses a dma-buf through its stage-2 page tables.  Only KVM
 * can write these, a page or a block at a time, when the guest faults.  So an
 * exporter cannot map the buffer on behalf of KVM, as it can for a device or an
 * IOMMU domain, and KVM has a mapping type of its own.
 *
 * This file is the type's converter, the only code that sees both the
 * exporter's extents and KVM's request.  It is built in.  It makes a table of
 * a slice of the buffer from the extents, &struct kvm_dmabuf_table, that is
 * opaque to KVM.  KVM can do one thing with a table: look up the page on which
 * a guest has faulted.  No function here returns an extent, and every exported
 * function is exported to KVM alone.
 *
 * A table is a copy of the exporter's extents at one layout generation.  While
 * the generation is the same, the table is valid, whether or not the buffer can
 * be accessed now.  So memory that comes back to where it was needs no new
 * table.
 *
 * Locks:
 *
 *  - Tables are made and changed under the buffer's dma_resv.
 *  - They are looked up under RCU, and freed after a grace period.
 *  - If the memory has moved and the number of extents is the same, a table is
 *    rewritten in place.  That is allowed only while KVM does not hand the
 *    table to new readers.  Earlier readers may still be using it; table->seq
 *    tells them that it changes.  They give up instead of waiting for the
 *    writer, because the writer can sleep.
 *
 * Invariants:
 *
 *  - The extents of a valid table cover the slice in order and without gaps.
 *    table->nr never changes, so a lookup that races with rewriting may read
 *    inconsistent extents, but does not read outside the table.
 *  - A table whose rewriting failed is not valid, and is not used before a
 *    later rewriting succeeds.
 */

#include <linux/bsearch.h>
#include <linux/dma-buf.h>
#include <linux/dma-buf-extents.h>
#include <linux/dma-buf-mapping.h>
#include <linux/dma-resv.h>
#include <linux/export.h>
#include <linux/kvm_dmabuf_table.h>
#include <linux/kvm_dmabuf_type.h>
#include <linux/log2.h>
#include <linux/pfn.h>
#include <linux/seqlock.h>
#include <linux/slab.h>

/* An importer of this type has to look up pages in a table. */
const struct dma_buf_mapping_type kvm_dmabuf_type = {
	.name = "kvm",
	.extents = true,
};
EXPORT_SYMBOL_FOR_MODULES(kvm_dmabuf_type, "kvm,vfio-pci-core,dma-buf-mock");

/* One physically contiguous part of the slice, alike in all attributes. */
struct kvm_dmabuf_extent {
	u64 start;		/* its first page, counted from the slice's */
	u64 npages;
	kvm_pfn_t pfn;		/* where the first page is */
	u32 attrs;		/* DMA_BUF_EXTENT_* */
};

struct kvm_dmabuf_table {
	struct rcu_head rcu;
	/* What generation the extents are of, if they are of one at all */
	u64 generation;
	bool valid;
	/* Attributes of all, and of any of the extents */
	u32 all_attrs;
	u32 any_attrs;
	/* Odd while the extents are being rewritten */
	seqcount_t seq;
	unsigned int nr;
	struct kvm_dmabuf_extent extents[] __counted_by(nr);
};

static int kvm_dmabuf_count_extents(struct dma_buf_attachment *attach,
				    u64 offset, u64 end)
{
	struct dma_buf_extent extent;
	int nr, r;

	for (nr = 0; offset < end; nr++) {
		if (nr == INT_MAX)
			return -EOVERFLOW;

		r = dma_buf_next_extent(attach, offset, end, true, &extent);
		if (r)
			return r;
		offset += extent.len;
	}
	return nr;
}

static int kvm_dmabuf_fill_table(struct kvm_dmabuf_table *table,
				 struct dma_buf_attachment *attach,
				 u64 offset, u64 size)
{
	u64 pos = offset, end = offset + size;
	struct dma_buf_extent extent;
	unsigned int i;
	int r;

	table->all_attrs = ~0;
	table->any_attrs = 0;

	for (i = 0; i < table->nr; i++) {
		r = dma_buf_next_extent(attach, pos, end, true, &extent);
		if (r)
			return r;

		table->extents[i] = (struct kvm_dmabuf_extent) {
			.start = PHYS_PFN(pos - offset),
			.npages = extent.len >> PAGE_SHIFT,
			.pfn = PHYS_PFN(extent.phys),
			.attrs = extent.attrs,
		};
		table->all_attrs &= extent.attrs;
		table->any_attrs |= extent.attrs;
		pos += extent.len;
	}
	table->generation = dma_buf_layout_generation(attach);
	table->valid = true;
	return 0;
}

static struct kvm_dmabuf_table *kvm_dmabuf_alloc_table(unsigned int nr,
						       gfp_t gfp)
{
	struct kvm_dmabuf_table *table;

	table = kvmalloc_flex(*table, extents, nr, gfp);
	if (!table)
		return NULL;

	table->nr = nr;
	table->valid = false;
	seqcount_init(&table->seq);
	return table;
}

/* Nobody finds a table that is not filled in. */
static int kvm_dmabuf_replace_table(struct kvm_dmabuf_table __rcu **ptable,
				    struct dma_buf_attachment *attach,
				    u64 offset, u64 size, unsigned int nr,
				    gfp_t gfp)
{
	struct kvm_dmabuf_table *table, *old;
	int r;

	table = kvm_dmabuf_alloc_table(nr, gfp);
	if (!table)
		return -ENOMEM;

	r = kvm_dmabuf_fill_table(table, attach, offset, size);
	if (r) {
		kvfree(table);
		return r;
	}

	old = rcu_replace_pointer(*ptable, table,
				  dma_resv_held(attach->dmabuf->resv));
	kvm_dmabuf_table_free(old);
	return 0;
}

/*
 * The memory is elsewhere, or there was no table yet.  The layout is asked for,
 * which is the same whether or not the buffer is revoked, and dma_resv makes the
 * number of extents that is counted the one that is stored.
 */
static int kvm_dmabuf_make_table(struct dma_buf_attachment *attach, u64 offset,
				 u64 size, gfp_t gfp,
				 struct kvm_dmabuf_table __rcu **ptable)
{
	struct kvm_dmabuf_table *table;
	int nr, r;

	table = rcu_dereference_protected(*ptable,
					  dma_resv_held(attach->dmabuf->resv));

	nr = kvm_dmabuf_count_extents(attach, offset, offset + size);
	if (nr < 0)
		return nr;

	if (!table || table->nr != nr)
		return kvm_dmabuf_replace_table(ptable, attach, offset, size,
						nr, gfp);

	/* Readers do not spin on it, so that preemption can stay enabled. */
	table->valid = false;
	raw_write_seqcount_begin(&table->seq);
	r = kvm_dmabuf_fill_table(table, attach, offset, size);
	raw_write_seqcount_end(&table->seq);

	return r;
}

/**
 * kvm_dmabuf_can_map - can the buffer be mapped now?
 * @attach: of KVM's mapping type
 *
 * For who was not told: when the exporter restores the buffer, it can.
 *
 * Context: the caller holds dma_resv.
 *
 * Return: 0 if the buffer can be mapped now, or a negative errno:
 *
 * * -EAGAIN - the buffer is revoked now
 * * -EINTR - a fatal signal ended a wait for the device
 * * -ENODEV - the buffer's owner is gone
 * * -EIO - the exporter's extents violate their contract
 */
int kvm_dmabuf_can_map(struct dma_buf_attachment *attach)
{
	struct dma_buf_extent extent;

	/* A buffer is accessible, or it is not: any page of it tells. */
	return dma_buf_next_extent(attach, 0, PAGE_SIZE, false, &extent);
}
EXPORT_SYMBOL_FOR_MODULES(kvm_dmabuf_can_map, "kvm");

/**
 * kvm_dmabuf_generation - is the buffer where it was?
 * @attach: of KVM's mapping type
 *
 * Context: the caller holds dma_resv.
 *
 * Return: the generation of the layout; a table that was true when it was the same
 * is true
 */
u64 kvm_dmabuf_generation(struct dma_buf_attachment *attach)
{
	return dma_buf_layout_generation(attach);
}
EXPORT_SYMBOL_FOR_MODULES(kvm_dmabuf_generation, "kvm");

/**
 * kvm_dmabuf_table_update - make a table of a slice, or bring one up to date
 * @attach: of KVM's mapping type
 * @offset: where in the buffer the slice begins, in bytes, page-aligned
 * @size: its length in bytes, page-aligned; the slice is inside the buffer
 * @gfp: how to allocate a table, if that is needed
 * @table: the table of this slice, or NULL when there is none yet; updated
 *
 * A table that is valid already is left as it is, in a time that does not depend
 * on its size, and nothing can fail.  Otherwise it is rewritten in place, if that
 * is possible without allocating, or replaced.
 *
 * If the buffer is revoked now, *@table becomes the table of where the memory was
 * and, as far as the exporter knows, will be.
 *
 * Context: the caller holds dma_resv, and lets no new lookup of *@table begin.
 * Lookups that began before may still run.
 *
 * Return: 0, or a negative errno:
 *
 * * -ENODEV - the buffer's owner is gone
 * * -EIO - the exporter's extents violate their contract
 * * -EOVERFLOW - the slice has more than INT_MAX extents
 * * -ENOMEM - out of memory
 */
int kvm_dmabuf_table_update(struct dma_buf_attachment *attach, u64 offset,
			    u64 size, gfp_t gfp,
			    struct kvm_dmabuf_table __rcu **table)
{
	struct kvm_dmabuf_table *old;

	old = rcu_dereference_protected(*table,
					dma_resv_held(attach->dmabuf->resv));
	if (old && old->valid &&
	    old->generation == dma_buf_layout_generation(attach))
		return 0;

	return kvm_dmabuf_make_table(attach, offset, size, gfp, table);
}
EXPORT_SYMBOL_FOR_MODULES(kvm_dmabuf_table_update, "kvm");

/**
 * kvm_dmabuf_table_free - free a table when nobody can be looking any more
 * @table: that nobody is told of any more; may be NULL
 *
 * Context: may sleep.
 */
void kvm_dmabuf_table_free(struct kvm_dmabuf_table *table)
{
	kvfree_rcu(table, rcu);
}
EXPORT_SYMBOL_FOR_MODULES(kvm_dmabuf_table_free, "kvm");

/**
 * kvm_dmabuf_table_check - can a memslot be had of this slice at all?
 * @table: from kvm_dmabuf_table_update()
 * @write: the slot is not read-only
 * @cached: the VM can map memory cacheable that the host has no mapping of
 *
 * Context: the caller holds the dma_resv under which the table was made.
 *
 * Return: 0, or a negative errno:
 *
 * * -EPERM - an extent cannot be read, or not be written though @write
 * * -EOPNOTSUPP - an extent has to be mapped cacheable, and cannot be
 */
int kvm_dmabuf_table_check(const struct kvm_dmabuf_table *table, bool write,
			   bool cached)
{
	if (!(table->all_attrs & DMA_BUF_EXTENT_READ))
		return -EPERM;
	if (write && !(table->all_attrs & DMA_BUF_EXTENT_WRITE))
		return -EPERM;
	if (!cached && (table->any_attrs & DMA_BUF_EXTENT_CACHED))
		return -EOPNOTSUPP;
	return 0;
}
EXPORT_SYMBOL_FOR_MODULES(kvm_dmabuf_table_check, "kvm");

static int kvm_dmabuf_cmp_page(const void *key, const void *elt)
{
	const struct kvm_dmabuf_extent *extent = elt;
	u64 page = *(const u64 *)key;

	if (page < extent->start)
		return -1;
	return page >= extent->start + extent->npages;
}

static const struct kvm_dmabuf_extent *
kvm_dmabuf_find_extent(const struct kvm_dmabuf_table *table, u64 page)
{
	/* What is not cut by a hole has one. */
	if (page < table->extents[0].npages)
		return &table->extents[0];

	return bsearch(&page, table->extents, table->nr,
		       sizeof(table->extents[0]), kvm_dmabuf_cmp_page);
}

/*
 * The largest naturally aligned block that contains @page, within which gfn and
 * pfn advance together, and that stays inside the extent.
 */
static unsigned int
kvm_dmabuf_max_order(const struct kvm_dmabuf_extent *extent, gfn_t base_gfn,
		     u64 page)
{
	gfn_t gfn = base_gfn + page;
	gfn_t start = base_gfn + extent->start;
	gfn_t skew = start ^ extent->pfn;
	unsigned int order = ilog2(extent->npages);

	if (skew)
		order = min_t(unsigned int, order, __ffs64(skew));

	for (; order; order--) {
		gfn_t first = ALIGN_DOWN(gfn, BIT_ULL(order));

		if (first >= start &&
		    first + BIT_ULL(order) <= start + extent->npages)
			break;
	}
	return order;
}

/**
 * kvm_dmabuf_table_lookup - where one page of the slice is
 * @table: from kvm_dmabuf_table_update()
 * @base_gfn: where in the guest the slice begins
 * @gfn: the page, inside the slice
 * @page: filled in on success
 *
 * Context: any; RCU read lock held.  Takes no lock and does not wait.
 *
 * Return: 0, or a negative errno:
 *
 * * -EAGAIN - the table is being rewritten: the buffer was revoked since the
 *   caller was told of the table
 * * -EINVAL - @gfn is not inside the slice
 */
int kvm_dmabuf_table_lookup(const struct kvm_dmabuf_table *table,
			    gfn_t base_gfn, gfn_t gfn,
			    struct kvm_dmabuf_page *page)
{
	const struct kvm_dmabuf_extent *found;
	struct kvm_dmabuf_extent extent = {};
	u64 index = gfn - base_gfn;
	unsigned int seq;

	if (!raw_seqcount_try_begin(&table->seq, seq))
		return -EAGAIN;

	found = kvm_dmabuf_find_extent(table, index);
	if (found)
		extent = *found;

	if (read_seqcount_retry(&table->seq, seq))
		return -EAGAIN;
	if (!found)
		return -EINVAL;

	*page = (struct kvm_dmabuf_page) {
		.pfn = extent.pfn + (index - extent.start),
		.nr = extent.npages - (index - extent.start),
		.before = index - extent.start,
		.max_order = kvm_dmabuf_max_order(&extent, base_gfn, index),
		.mmio = extent.attrs & DMA_BUF_EXTENT_MMIO,
		.cached = extent.attrs & DMA_BUF_EXTENT_CACHED,
		.wc = extent.attrs & DMA_BUF_EXTENT_WC,
		.readable = extent.attrs & DMA_BUF_EXTENT_READ,
		.writable = extent.attrs & DMA_BUF_EXTENT_WRITE,
		.private = extent.attrs & DMA_BUF_EXTENT_PRIVATE,
	};
	return 0;
}
EXPORT_SYMBOL_FOR_MODULES(kvm_dmabuf_table_lookup, "kvm");
