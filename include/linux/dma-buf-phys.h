/* SPDX-License-Identifier: GPL-2.0 */
/*
 * dma-buf physical interconnect
 *
 * An importer that is not a device (a KVM memslot, an iommufd IOAS) has no use
 * for a scatterlist of dma_addr_t: it writes its own page tables and needs to
 * know where the memory is, what may be done with it, and when it stops being
 * there.  The interconnect hands exactly that from the exporter to the importer
 * through the dma-buf core.  See "DOC: physical interconnect" in
 * drivers/dma-buf/dma-buf-phys.c for the model and the rules.
 *
 * Invariants: everything in a &struct dma_buf_phys_attachment but the constant
 * pointers is protected by the buffer's dma_resv; what dma_buf_phys_map()
 * returned is valid until dma_buf_phys_unmap() or until the importer's
 * invalidate callback returns, whichever is first.
 */
#ifndef __DMA_BUF_PHYS_H__
#define __DMA_BUF_PHYS_H__

#include <linux/bits.h>
#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/list.h>
#include <linux/types.h>

/*
 * Address spaces.  A range's address means something only within one of these.
 * Only CPU physical addresses exist today; a fabric between devices would add a
 * bit and a way to name its instance.
 */
#define DMA_BUF_PHYS_SPACE_CPU		BIT(0)

/*
 * Memory models, from the strongest promise of the exporter to the weakest.
 * An exporter sets every model it can serve, an importer every model it can
 * live with; the weakest one that both name is used, because it is the one in
 * which the importer learns most.
 *
 * PINNED:    the memory neither moves nor goes away while attached.
 * REVOCABLE: the memory may be taken away; &dma_buf_phys_importer.invalidate
 *	      is called and must tear down before it returns.
 * DYNAMIC:   REVOCABLE, and &dma_buf_phys_importer.restore is called when the
 *	      memory (possibly elsewhere) can be mapped again.
 */
#define DMA_BUF_PHYS_PINNED		BIT(0)
#define DMA_BUF_PHYS_REVOCABLE		BIT(1)
#define DMA_BUF_PHYS_DYNAMIC		BIT(2)

/*
 * Range attributes.  Without WC and CACHED the memory is to be mapped uncached.
 * Importers take these as the only truth and derive nothing from the address.
 */
#define DMA_BUF_PHYS_READ		BIT(0)	/* may be read */
#define DMA_BUF_PHYS_WRITE		BIT(1)	/* may be written */
#define DMA_BUF_PHYS_MMIO		BIT(2)	/* device registers or memory */
#define DMA_BUF_PHYS_WC			BIT(3)	/* write-combining is allowed */
#define DMA_BUF_PHYS_CACHED		BIT(4)	/* to be mapped write-back */
#define DMA_BUF_PHYS_NO_HOST		BIT(5)	/* the host cannot map it */
#define DMA_BUF_PHYS_PRIVATE		BIT(6)	/* private to a CoCo guest */

#define DMA_BUF_PHYS_ATTRS_ALL		GENMASK(6, 0)

/**
 * enum dma_buf_revoke_cause - why a buffer cannot be accessed now
 * @DMA_BUF_REVOKE_DECODE: the device does not decode its memory space
 * @DMA_BUF_REVOKE_LOW_POWER: the device is in a power state without memory
 * @DMA_BUF_REVOKE_RESET: a reset is in progress
 * @DMA_BUF_REVOKE_USER: the owner's userspace took the buffer back
 * @DMA_BUF_REVOKE_CLOSED: the owner is gone; never cleared
 *
 * One bit each.  A buffer is revoked while any is set.
 */
enum dma_buf_revoke_cause {
	DMA_BUF_REVOKE_DECODE		= BIT(0),
	DMA_BUF_REVOKE_LOW_POWER	= BIT(1),
	DMA_BUF_REVOKE_RESET		= BIT(2),
	DMA_BUF_REVOKE_USER		= BIT(3),
	DMA_BUF_REVOKE_CLOSED		= BIT(4),
};

/**
 * struct dma_buf_phys_range - one physically contiguous part of a buffer
 * @addr: start, in the address space that was negotiated
 * @len: length in bytes, never 0
 * @attrs: DMA_BUF_PHYS_READ and its siblings
 */
struct dma_buf_phys_range {
	phys_addr_t addr;
	u64 len;
	u32 attrs;
};

/**
 * struct dma_buf_phys_ranges - where a slice of a buffer is
 * @nr: number of entries in @ranges, at least 1
 * @ranges: the parts in buffer order; their lengths add up to the slice's.
 *	Neighbours that are contiguous and alike have been merged, neighbours
 *	that differ in an attribute never are.
 */
struct dma_buf_phys_ranges {
	unsigned int nr;
	struct dma_buf_phys_range ranges[] __counted_by(nr);
};

/**
 * struct dma_buf_phys_caps - what one side of the interconnect can do
 * @spaces: DMA_BUF_PHYS_SPACE_*, any of which will do
 * @models: DMA_BUF_PHYS_PINNED and its siblings, any of which will do
 * @attrs: exporter: every attribute that a range of this buffer can have;
 *	importer: every attribute that it honours
 * @granule: exporter: every range starts at and is a multiple of this many
 *	bytes; importer: the smallest such granule it can take. A power of two.
 */
struct dma_buf_phys_caps {
	u32 spaces;
	u32 models;
	u32 attrs;
	u64 granule;
};

struct dma_buf_phys_attachment;

/**
 * struct dma_buf_phys_ops - what an exporter implements
 *
 * Set in &dma_buf_ops.phys_ops by an exporter that takes part.
 */
struct dma_buf_phys_ops {
	/**
	 * @get_caps:
	 *
	 * State what this buffer has. Constant while there are importers, see
	 * dma_buf_phys_attached(). Called under dma_resv.
	 */
	void (*get_caps)(struct dma_buf *dmabuf,
			 struct dma_buf_phys_caps *caps);

	/**
	 * @get_range:
	 *
	 * Fill in the part of the buffer with this index. Called under
	 * dma_resv and only while the buffer is not revoked, with an index that
	 * counts up from 0 until the lengths add up to the buffer's size.
	 */
	void (*get_range)(struct dma_buf *dmabuf, unsigned int index,
			  struct dma_buf_phys_range *range);
};

/**
 * struct dma_buf_phys_importer - what an importer is and implements
 */
struct dma_buf_phys_importer {
	/** @name: for debugfs and tracing, the importer's module name. */
	const char *name;

	/** @caps: what the importer can take. */
	struct dma_buf_phys_caps caps;

	/**
	 * @invalidate:
	 *
	 * The memory goes away. Called under dma_resv, only while the
	 * attachment holds a mapping. On return nothing that the importer made
	 * from the ranges may reach the memory any more, caches of
	 * translations included, and dma_buf_phys_unmap() was called. May take
	 * the importer's inner lock and flush TLBs; may wait for nothing else.
	 *
	 * Required unless the importer takes %DMA_BUF_PHYS_PINNED only.
	 */
	void (*invalidate)(struct dma_buf_phys_attachment *attach);

	/**
	 * @restore:
	 *
	 * The memory can be mapped again. Called under dma_resv, and may call
	 * dma_buf_phys_map() at once. An error is counted and traced; the
	 * attachment stays without a mapping and is asked again after the next
	 * revocation.
	 *
	 * Required if the importer takes %DMA_BUF_PHYS_DYNAMIC.
	 */
	int (*restore)(struct dma_buf_phys_attachment *attach);
};

/**
 * struct dma_buf_phys_attachment - an importer's hold on a buffer
 * @dmabuf: the buffer
 * @node: entry in &dma_buf.phys_attachments, protected by dma_resv
 * @importer: what was passed to dma_buf_phys_attach()
 * @priv: the importer's own pointer
 * @space: the one address space that was negotiated
 * @model: the one memory model that was negotiated
 * @mapped: the importer holds a mapping
 * @failed: the importer broke the contract, it gets no mapping any more
 * @nr_restore_errors: how often @importer's restore callback failed
 */
struct dma_buf_phys_attachment {
	struct dma_buf *dmabuf;
	struct list_head node;
	const struct dma_buf_phys_importer *importer;
	void *priv;
	u32 space;
	u32 model;
	bool mapped;
	bool failed;
	unsigned int nr_restore_errors;
};

#ifdef CONFIG_DMA_SHARED_BUFFER_PHYS
struct dma_buf_phys_attachment *
dma_buf_phys_attach(struct dma_buf *dmabuf,
		    const struct dma_buf_phys_importer *importer, void *priv);
void dma_buf_phys_detach(struct dma_buf_phys_attachment *attach);
int dma_buf_phys_map(struct dma_buf_phys_attachment *attach, u64 offset,
		     u64 len, struct dma_buf_phys_ranges **ranges);
void dma_buf_phys_unmap(struct dma_buf_phys_attachment *attach);
void dma_buf_phys_free_ranges(struct dma_buf_phys_ranges *ranges);

void dma_buf_phys_revoke(struct dma_buf *dmabuf,
			 enum dma_buf_revoke_cause cause);
void dma_buf_phys_restore(struct dma_buf *dmabuf,
			  enum dma_buf_revoke_cause cause);

/**
 * dma_buf_phys_attached - does the buffer have physical importers?
 * @dmabuf: the exporter's buffer
 *
 * For an exporter that wants to change what it told importers when they
 * attached: it may while there are none.
 *
 * Context: the caller holds dma_resv.
 *
 * Return: true if there is one, mapped or not.
 */
static inline bool dma_buf_phys_attached(struct dma_buf *dmabuf)
{
	dma_resv_assert_held(dmabuf->resv);
	return !list_empty(&dmabuf->phys_attachments);
}
#else
static inline bool dma_buf_phys_attached(struct dma_buf *dmabuf)
{
	return false;
}

static inline void dma_buf_phys_revoke(struct dma_buf *dmabuf,
				       enum dma_buf_revoke_cause cause)
{
}

static inline void dma_buf_phys_restore(struct dma_buf *dmabuf,
					enum dma_buf_revoke_cause cause)
{
}
#endif

#endif /* __DMA_BUF_PHYS_H__ */
