/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where the memory of a dma-buf is: what an exporter tells built-in converters
 *
 * Model: a converter maps a slice of a buffer into the page table of an
 * importer that is no device: an IOMMU domain or the stage-2 of a VM. For that
 * it has to know physical addresses, and it is the only code that does. An
 * exporter that offers a mapping type with a converter gives &struct
 * dma_buf_extent_ops in &struct dma_buf_export_info.
 *
 * No importer includes this file. The functions at its end are not exported:
 * converters are built in, and the functions that they export to importers
 * return no address.
 *
 * Locks: all of it is used under the buffer's dma_resv.
 *
 * Invariants: an extent is a whole number of pages, is inside of the buffer,
 * and has known attributes only. The core checks each answer before a converter
 * sees it. An answer is valid until dma_resv is dropped or the exporter calls
 * dma_buf_invalidate_mappings(), whichever is first.
 */
#ifndef __DMA_BUF_EXTENTS_H__
#define __DMA_BUF_EXTENTS_H__

#include <linux/bits.h>
#include <linux/types.h>

struct dma_buf;
struct dma_buf_attachment;

/*
 * Attributes of an extent. Without WC and CACHED it is to be mapped uncached.
 * They are all that is known about the memory, nothing is derived from the
 * address. An IOMMU driver may let MMIO win over CACHED: only memory that is
 * right uncached, too, has both.
 */
#define DMA_BUF_EXTENT_READ	BIT(0)	/* may be read */
#define DMA_BUF_EXTENT_WRITE	BIT(1)	/* may be written */
#define DMA_BUF_EXTENT_MMIO	BIT(2)	/* a device's registers or memory */
#define DMA_BUF_EXTENT_WC	BIT(3)	/* may be mapped write-combining */
#define DMA_BUF_EXTENT_CACHED	BIT(4)	/* to be mapped write-back */
#define DMA_BUF_EXTENT_PRIVATE	BIT(5)	/* for confidential guests, see below */

/*
 * Memory with DMA_BUF_EXTENT_PRIVATE is reached by a confidential guest, as its
 * private memory, and by nobody else: a converter maps it for such a guest, or
 * refuses to. Memory without is never mapped as private. It can change, but not
 * while anybody may have it mapped: the exporter calls
 * dma_buf_invalidate_mappings(), changes it, with another layout generation, and
 * calls dma_buf_mappings_restored(). Exporters of such memory set
 * &dma_buf_match.private, which keeps importers away that know nothing of it.
 */

/**
 * struct dma_buf_extent - one physically contiguous part of a buffer
 * @phys: physical address of its first byte
 * @offset: where it begins in the buffer
 * @len: its length in bytes, not 0
 * @attrs: %DMA_BUF_EXTENT_READ and its siblings
 */
struct dma_buf_extent {
	phys_addr_t phys;
	u64 offset;
	u64 len;
	u32 attrs;
};

/**
 * struct dma_buf_extent_ops - what an exporter of extents implements
 *
 * All of them are required, and called under the buffer's dma_resv. Offset,
 * length and physical address of each extent are multiples of PAGE_SIZE.
 */
struct dma_buf_extent_ops {
	/**
	 * @get_extent:
	 *
	 * Fill in the extent that contains @offset, which is inside of the
	 * buffer, as a whole. Any offset, in any order, in time that is at most
	 * logarithmic in the number of extents.
	 *
	 * Neighbours that are contiguous and alike should be one extent. They
	 * are merged anyway, but importers bound the time of a walk by what it
	 * maps, and don't count them.
	 *
	 * Returns:
	 *
	 * 0, -EAGAIN while the buffer is revoked and may come back, -ENODEV if
	 * it never will, -EINTR if a fatal signal ended a wait for the device.
	 */
	int (*get_extent)(struct dma_buf *dmabuf, u64 offset,
			  struct dma_buf_extent *extent);

	/**
	 * @get_layout:
	 *
	 * As @get_extent, for what does not touch the memory: also while the
	 * buffer is revoked, then where it was and, as far as is known, will
	 * be.
	 *
	 * Returns:
	 *
	 * 0, or -ENODEV if the buffer is gone for ever.
	 */
	int (*get_layout)(struct dma_buf *dmabuf, u64 offset,
			  struct dma_buf_extent *extent);

	/**
	 * @layout_generation:
	 *
	 * A number that is another one whenever the answers of @get_layout
	 * changed. While it stays a converter can use what it built from them.
	 */
	u64 (*layout_generation)(struct dma_buf *dmabuf);
};

int dma_buf_next_extent(struct dma_buf_attachment *attach, u64 offset, u64 end,
			bool layout, struct dma_buf_extent *extent);
u64 dma_buf_layout_generation(struct dma_buf_attachment *attach);

#endif /* __DMA_BUF_EXTENTS_H__ */
