// SPDX-License-Identifier: GPL-2.0-only
/*
 * dma-buf extents: the checked walk over an exporter's memory
 *
 * Model: see include/linux/dma-buf-extents.h. An exporter answers for one
 * offset at a time. This file checks the answers, cuts them to the slice that
 * the converter maps, and merges them. So a converter gets each slice as the
 * smallest possible number of extents, and never gets anything outside of the
 * slice.
 *
 * Locks: the caller holds the buffer's dma_resv. The exporter's answers do not
 * change while it is held.
 *
 * Invariants:
 *
 *  - Neighbours that differ in an attribute are never merged.
 *  - Nothing here is exported. The only callers are converters, which are built
 *    in.
 */

#include <linux/bug.h>
#include <linux/dma-buf-extents.h>
#include <linux/dma-resv.h>
#include <linux/mm.h>
#include <linux/overflow.h>

#include "dma-buf-internal.h"

/**
 * DOC: extents and converters
 *
 * Importers that own a page table need not know where the memory of a buffer is.
 * The exporter tells it to a converter, in &struct dma_buf_extent_ops, and the
 * converter maps it for the importer. There is a converter for each kind of
 * page table:
 *
 * ======================== ======================== =============================
 * type                     converter                what the importer has
 * ======================== ======================== =============================
 * ``dma_buf_type_iommu``   dma-buf-iommu.c          a struct iommu_domain
 * ``kvm_dmabuf_type``      kvm_dmabuf_table.c       stage-2 tables, by page fault
 * ======================== ======================== =============================
 *
 * A subsystem can have a type and a converter of its own. A converter is built
 * into the kernel, since the walk over extents is not exported. What it exports
 * to its importer returns no extent. Three of these functions tell something of
 * an address, each to the one module that it is exported to, KUnit apart:
 *
 * - kvm_dmabuf_table_lookup(), to KVM: the pfn of a page and how many come after
 *   it. Nobody but KVM can write its page tables, a fault at a time, so that is
 *   where the pfn goes, and nowhere else.
 * - dma_buf_iommu_congruence(), to iommufd: the address modulo a page size of at
 *   most 1 GiB, for the choice of an IOVA.
 * - dma_buf_iommu_count_items(), to iommufd: how many items a mapping takes, which
 *   depends on whether IOVA and address are congruent modulo the page sizes that
 *   fit into the slice.
 *
 * A scatterlist contains DMA addresses. Without an IOMMU these are physical
 * addresses, which the importer then gets.
 *
 * An importer could read an address from its own page table, and must not.
 * There is one exception: the IOAS of a device without an IOMMU. Its user needs
 * the address to program the device, and CAP_SYS_RAWIO to get it. iommufd returns
 * the address until the buffer is revoked. It cannot keep the device from using
 * the address afterwards.
 *
 * The attributes of an extent are all that is known about the memory: whether it
 * may be read and written, whether it is MMIO, how it is to be mapped (uncached,
 * write-combining, write-back), and whether it is private to a confidential
 * guest or shared.
 *
 * While a buffer is revoked, &dma_buf_extent_ops.get_extent fails, so nothing
 * can be mapped. &dma_buf_extent_ops.get_layout still answers: a converter uses
 * it to refuse at once what could not be mapped later, and to count.
 */

#define ATTRS_ALL	(DMA_BUF_EXTENT_READ | DMA_BUF_EXTENT_WRITE |	\
			 DMA_BUF_EXTENT_MMIO | DMA_BUF_EXTENT_WC |	\
			 DMA_BUF_EXTENT_CACHED | DMA_BUF_EXTENT_PRIVATE)
#define ATTRS_CACHE	(DMA_BUF_EXTENT_WC | DMA_BUF_EXTENT_CACHED)

bool dma_buf_extent_ops_valid(const struct dma_buf_export_info *exp_info)
{
	const struct dma_buf_extent_ops *ops = exp_info->extent_ops;

	return ops->get_extent && ops->get_layout && ops->layout_generation &&
	       PAGE_ALIGNED(exp_info->size);
}

/* Did the exporter say, in what was agreed on, that memory may be private? */
static bool private_announced(struct dma_buf_attachment *attach)
{
	const struct dma_buf_core *core = dma_buf_core(attach->dmabuf);
	const struct dma_buf_match *match = attach->match;
	unsigned int i;

	for (i = 0; i < core->nr_matches; i++)
		if (core->matches[i].type == match->type &&
		    core->matches[i].model == match->model &&
		    (match->private || !core->matches[i].private))
			return core->matches[i].private;

	return false;
}

static bool extent_valid(struct dma_buf_attachment *attach, u64 offset,
			 const struct dma_buf_extent *extent)
{
	struct dma_buf *dmabuf = attach->dmabuf;
	phys_addr_t last_phys;
	u64 end;

	if (!extent->len ||
	    !PAGE_ALIGNED(extent->phys | extent->offset | extent->len))
		return false;
	if (check_add_overflow(extent->offset, extent->len, &end) ||
	    check_add_overflow(extent->phys, extent->len - 1, &last_phys))
		return false;
	if (offset < extent->offset || offset >= end || end > dmabuf->size)
		return false;
	/* Not announced, so the importer may not know of it. */
	if ((extent->attrs & DMA_BUF_EXTENT_PRIVATE) &&
	    !private_announced(attach))
		return false;
	return !(extent->attrs & ~ATTRS_ALL) &&
	       (extent->attrs & ATTRS_CACHE) != ATTRS_CACHE;
}

static bool error_valid(int error, bool layout)
{
	return error == -ENODEV ||
	       (!layout && (error == -EAGAIN || error == -EINTR));
}

/* The exporter's own extent around @offset */
static int get_extent(struct dma_buf_attachment *attach, u64 offset,
		      bool layout, struct dma_buf_extent *extent)
{
	struct dma_buf *dmabuf = attach->dmabuf;
	const struct dma_buf_extent_ops *ops = dma_buf_core(dmabuf)->extent_ops;
	bool valid;
	int ret;

	*extent = (struct dma_buf_extent) {};
	if (layout)
		ret = ops->get_layout(dmabuf, offset, extent);
	else
		ret = ops->get_extent(dmabuf, offset, extent);

	valid = ret ? error_valid(ret, layout) :
		      extent_valid(attach, offset, extent);
	if (WARN_ONCE(!valid, "dma-buf: bad extent of exporter %s\n",
		      dmabuf->exp_name))
		return -EIO;
	return ret;
}

/* Cut off what is before @offset and from @end on */
static void cut_extent(struct dma_buf_extent *extent, u64 offset, u64 end)
{
	u64 skip = offset - extent->offset;

	extent->phys += skip;
	extent->offset += skip;
	extent->len = min(extent->len - skip, end - offset);
}

static bool extends(const struct dma_buf_extent *extent,
		    const struct dma_buf_extent *next)
{
	return next->phys == extent->phys + extent->len &&
	       next->attrs == extent->attrs;
}

/**
 * dma_buf_next_extent - the next contiguous part of a slice
 * @attach: attachment of an importer whose type uses extents
 * @offset: where the part begins in the buffer
 * @end: where the slice ends in the buffer
 * @layout: do not ask for access: works while the buffer is revoked, too
 * @extent: filled in, with @extent->offset == @offset, and not beyond @end. It
 *	is as long as the memory is contiguous and its attributes are the same.
 *
 * To walk a slice, add @extent->len to @offset until it is @end. A step looks up
 * each of the exporter's extents that it merges, and the one behind them, each in
 * time that is at most logarithmic in the number of all.
 *
 * For converters, which are built in: this function is not exported.
 *
 * Context: the caller holds the buffer's dma_resv. May sleep.
 *
 * Return: 0, or a negative errno:
 *
 * * -EINVAL - @offset is not before @end, or @end not inside of the buffer
 * * -EAGAIN - the buffer is revoked and may come back (not with @layout)
 * * -EINTR - a fatal signal ended a wait for the device (not with @layout)
 * * -ENODEV - the buffer is gone for ever
 * * -EIO - the exporter broke its contract, and was warned of
 */
int dma_buf_next_extent(struct dma_buf_attachment *attach, u64 offset, u64 end,
			bool layout, struct dma_buf_extent *extent)
{
	struct dma_buf *dmabuf = attach->dmabuf;
	struct dma_buf_extent next;
	int ret;

	dma_resv_assert_held(dmabuf->resv);

	if (WARN_ON_ONCE(!dma_buf_core(dmabuf)->extent_ops))
		return -EIO;
	if (offset >= end || end > dmabuf->size)
		return -EINVAL;

	ret = get_extent(attach, offset, layout, extent);
	if (ret)
		return ret;
	cut_extent(extent, offset, end);

	/* An error is met again when it is not a look ahead. */
	while (extent->offset + extent->len < end) {
		offset = extent->offset + extent->len;
		if (get_extent(attach, offset, layout, &next))
			break;
		cut_extent(&next, offset, end);
		if (!extends(extent, &next))
			break;
		extent->len += next.len;
	}
	return 0;
}

/**
 * dma_buf_layout_generation - has the memory moved?
 * @attach: attachment of an importer whose type uses extents
 *
 * Context: the caller holds the buffer's dma_resv.
 *
 * Return: a number that is the same as before only if every extent of the
 * buffer is.
 */
u64 dma_buf_layout_generation(struct dma_buf_attachment *attach)
{
	struct dma_buf *dmabuf = attach->dmabuf;

	dma_resv_assert_held(dmabuf->resv);
	return dma_buf_core(dmabuf)->extent_ops->layout_generation(dmabuf);
}
