// SPDX-License-Identifier: GPL-2.0-only
/*
 * dma-buf converter: map a slice of a buffer into an IOMMU domain
 *
 * Model: the importer (iommufd) brings a domain and an IOVA, the exporter
 * brings its extents. This file is the only one that sees both. It returns
 * three things to the importer: success or an error, the number of page table
 * items that a mapping takes, and the low bits of an address, which the
 * importer needs to choose an IOVA that allows large pages. It never returns
 * where the memory is.
 *
 * The importer unmaps with iommu_unmap(), which needs no address. When its
 * invalidate_mappings callback is called, it has to unmap before the callback
 * returns.
 *
 * Locks: the caller holds the buffer's dma_resv, which protects the answers of
 * the exporter. The counters of items have a spinlock of their own, so that an
 * importer that unmaps can give items back without waiting for the exporter.
 * The importer serializes its operations on one range of a domain.
 *
 * Invariants:
 *
 *  - Nothing outside of the slice is mapped, and nothing that the exporter's
 *    attributes do not allow. In particular no private memory is mapped.
 *  - A slice is mapped as a whole or not at all.
 *  - What a live mapping would refuse is refused while the buffer is revoked,
 *    too, because counting makes the same checks. Private memory is the
 *    exception: like a revocation, it is refused for now only, and counting
 *    accepts it.
 *  - The items of a buffer are the sum of its attachments' items.
 */

#include <linux/dma-buf-extents.h>
#include <linux/dma-buf-mapping.h>
#include <linux/dma-resv.h>
#include <linux/export.h>
#include <linux/iommu.h>
#include <linux/log2.h>
#include <linux/overflow.h>
#include <linux/sched.h>
#include <linux/sizes.h>

#include "dma-buf-internal.h"

/*
 * iommufd owns the domains of userspace. A driver that maps into a domain of
 * its own has the DMA API, and scatterlists.
 */
#if IS_ENABLED(CONFIG_DMABUF_MAPPING_KUNIT_TEST)
#define EXPORT_SYMBOL_FOR_IOMMUFD(sym) \
	EXPORT_SYMBOL_FOR_MODULES(sym, "iommufd,dma-buf-mapping-test")
#else
#define EXPORT_SYMBOL_FOR_IOMMUFD(sym) \
	EXPORT_SYMBOL_FOR_MODULES(sym, "iommufd")
#endif

/* More low bits of an address than this are nobody's business. */
#define MAX_ALIGN	SZ_1G

/* A slice of a buffer, and how it is to be mapped */
struct slice {
	struct dma_buf_attachment *attach;
	unsigned long pgsize_bitmap;
	unsigned long iova;
	u64 offset;
	u64 end;
	int prot;
	unsigned int flags;
};

static unsigned long min_pgsize(const struct slice *slice)
{
	return 1UL << __ffs(slice->pgsize_bitmap);
}

static int check_slice(const struct slice *slice, size_t len)
{
	struct dma_buf_attachment *attach = slice->attach;
	unsigned long last_iova;
	u64 end;

	dma_resv_assert_held(attach->dmabuf->resv);

	if (WARN_ON_ONCE(attach->match->type != &dma_buf_type_iommu ||
			 !slice->pgsize_bitmap))
		return -EINVAL;
	if (slice->prot & ~(IOMMU_READ | IOMMU_WRITE) ||
	    slice->flags & ~DMA_BUF_IOMMU_SMALL_PAGES)
		return -EINVAL;
	if (!len || check_add_overflow(slice->offset, len, &end) ||
	    end > attach->dmabuf->size ||
	    check_add_overflow(slice->iova, len - 1, &last_iova))
		return -EINVAL;
	if (!IS_ALIGNED(slice->iova | slice->offset | len, min_pgsize(slice)))
		return -EINVAL;
	return 0;
}

/* What the attributes make of the protection that the importer wants */
static int extent_prot(const struct dma_buf_extent *extent, int prot)
{
	if ((prot & IOMMU_READ) && !(extent->attrs & DMA_BUF_EXTENT_READ))
		return -EPERM;
	if ((prot & IOMMU_WRITE) && !(extent->attrs & DMA_BUF_EXTENT_WRITE))
		return -EPERM;

	/* An IOMMU that encrypts memory must not do so with a device's. */
	if (extent->attrs & DMA_BUF_EXTENT_MMIO)
		prot |= IOMMU_MMIO;
	if (extent->attrs & DMA_BUF_EXTENT_CACHED)
		prot |= IOMMU_CACHE;
	return prot;
}

/* The next part of the slice, from @offset on, and its protection or an errno */
static int next_part(const struct slice *slice, u64 offset, bool layout,
		     struct dma_buf_extent *part)
{
	int ret;

	ret = dma_buf_next_extent(slice->attach, offset, slice->end, layout,
				  part);
	if (ret)
		return ret;
	if (!IS_ALIGNED(part->phys | part->len, min_pgsize(slice)))
		return -EINVAL;
	if (!layout && (part->attrs & DMA_BUF_EXTENT_PRIVATE))
		return -EACCES;
	return extent_prot(part, slice->prot);
}

/* Map @part, which adds what it has mapped to *@mapped also if it fails. */
static int map_part(struct iommu_domain *domain, const struct slice *slice,
		    const struct dma_buf_extent *part, int prot, gfp_t gfp,
		    size_t *mapped)
{
	size_t step = part->len;
	size_t done;
	int ret;

	if (slice->flags & DMA_BUF_IOMMU_SMALL_PAGES)
		step = min_pgsize(slice);

	for (done = 0; done < part->len; done += step) {
		ret = iommu_map_nosync(domain, slice->iova + *mapped,
				       part->phys + done, step, prot, gfp);
		if (ret)
			return ret;
		*mapped += step;
		cond_resched();
	}
	return 0;
}

static int map_parts(struct iommu_domain *domain, const struct slice *slice,
		     gfp_t gfp, size_t *mapped)
{
	u64 offset = slice->offset;

	while (offset < slice->end) {
		struct dma_buf_extent part;
		int ret;

		ret = next_part(slice, offset, false, &part);
		if (ret < 0)
			return ret;
		ret = map_part(domain, slice, &part, ret, gfp, mapped);
		if (ret)
			return ret;
		offset += part.len;
	}
	return iommu_sync_map(domain, slice->iova, *mapped);
}

/**
 * dma_buf_map_attachment_iommu - map a slice of a buffer into an IOMMU domain
 * @attach: attachment of &dma_buf_type_iommu
 * @domain: a paging domain of the importer
 * @iova: where in @domain, nothing is mapped there yet
 * @offset: where the slice begins in the buffer, in bytes
 * @len: its length in bytes
 * @prot: %IOMMU_READ and %IOMMU_WRITE as wanted. The rest follows from the
 *	memory: a device's memory is mapped with %IOMMU_MMIO, memory to be
 *	mapped write-back with %IOMMU_CACHE
 * @flags: %DMA_BUF_IOMMU_SMALL_PAGES, or 0
 * @gfp: for the page table
 *
 * @iova, @offset and @len are multiples of the domain's smallest page size.
 * Memory that is contiguous and alike is mapped at once, so that the domain can
 * use large pages. All of the slice is mapped, or nothing.
 *
 * The mapping is good until the importer's invalidate_mappings callback, which
 * unmaps it with iommu_unmap() before it returns.
 *
 * The caller has counted and charged the items, see
 * dma_buf_iommu_count_items() and dma_buf_iommu_charge_items().
 *
 * Context: the caller holds the buffer's dma_resv. May sleep.
 *
 * Return: 0, or a negative errno:
 *
 * * -EINVAL - bounds, alignment, or an argument that is not known
 * * -EPERM - @prot is more than the memory allows
 * * -EACCES - a part of the slice is private, and may become shared
 * * -EAGAIN - the buffer is revoked and may come back
 * * -EINTR - a fatal signal ended a wait for the device
 * * -ENODEV - the buffer is gone for ever
 * * -EIO - the exporter broke its contract
 * * -ENOMEM, -EADDRINUSE and others - from iommu_map()
 */
int dma_buf_map_attachment_iommu(struct dma_buf_attachment *attach,
				 struct iommu_domain *domain,
				 unsigned long iova, u64 offset, size_t len,
				 int prot, unsigned int flags, gfp_t gfp)
{
	struct slice slice = {
		.attach = attach,
		.pgsize_bitmap = domain->pgsize_bitmap,
		.iova = iova,
		.offset = offset,
		.end = offset + len,
		.prot = prot,
		.flags = flags,
	};
	size_t mapped = 0;
	int ret;

	ret = check_slice(&slice, len);
	if (ret)
		return ret;

	ret = map_parts(domain, &slice, gfp, &mapped);
	if (ret && mapped)
		iommu_unmap(domain, iova, mapped);
	if (!ret)
		attach->mapped = true;
	return ret;
}
EXPORT_SYMBOL_FOR_IOMMUFD(dma_buf_map_attachment_iommu);

/*
 * The sizes that a page table writes as one item. Each level of a table of 8
 * byte items in pages of the smallest size has one, if the domain has it; sizes
 * in between are several items side by side with a hint for the TLB. What is
 * larger than the third level's size is counted in items of that size.
 */
#define NR_LEVELS	3

static unsigned int item_sizes(unsigned long pgsize_bitmap, u64 sizes[NR_LEVELS])
{
	unsigned int min_lg2 = __ffs(pgsize_bitmap);
	unsigned int bits = min_lg2 > 3 ? min_lg2 - 3 : 0;
	unsigned int level, nr = 0;

	for (level = 0; level < NR_LEVELS; level++) {
		unsigned int lg2 = min_lg2 + level * bits;

		if (lg2 >= BITS_PER_LONG || !(pgsize_bitmap & BIT(lg2)))
			continue;
		sizes[nr++] = BIT_ULL(lg2);
		if (!bits)
			break;
	}
	return nr;
}

/*
 * Count as iommu_map() maps: up to where the next size fits in small items,
 * then as many of the next size as there are, and what is left in small ones.
 */
static u64 count_part(const u64 *sizes, unsigned int nr, u64 iova, u64 phys,
		      u64 len)
{
	u64 items = 0;
	unsigned int i;

	for (i = 0; i + 1 < nr; i++) {
		u64 next = sizes[i + 1];
		u64 head, tail;

		/* Never aligned at the same time */
		if ((iova ^ phys) & (next - 1))
			break;
		head = min(-iova & (next - 1), len);
		tail = (len - head) & (next - 1);
		items += (head + tail) >> ilog2(sizes[i]);

		iova += head;
		phys += head;
		len -= head + tail;
		if (!len)
			return items;
	}
	return items + (len >> ilog2(sizes[i]));
}

/**
 * dma_buf_iommu_count_items - how many page table items a mapping takes
 * @attach: attachment of &dma_buf_type_iommu
 * @pgsize_bitmap: of the domain that is, or will be, mapped to
 * @iova: as for dma_buf_map_attachment_iommu()
 * @offset: as for dma_buf_map_attachment_iommu()
 * @len: as for dma_buf_map_attachment_iommu()
 * @prot: as for dma_buf_map_attachment_iommu()
 * @flags: as for dma_buf_map_attachment_iommu()
 * @items: filled in with their number
 *
 * Makes the checks that dma_buf_map_attachment_iommu() makes, without access to
 * the memory: so a slice that could not be mapped is refused while the buffer
 * is revoked, too, and not by the restore.
 *
 * The number is exact for page tables whose levels have the sizes
 * min << k * (ilog2(min) - 3), with min the smallest size in @pgsize_bitmap.
 *
 * Context: the caller holds the buffer's dma_resv. May sleep.
 *
 * Return: 0, or a negative errno:
 *
 * * -EINVAL, -EPERM, -ENODEV, -EIO - as dma_buf_map_attachment_iommu()
 * * -EDQUOT - more than %DMA_BUF_IOMMU_MAX_ATTACH_ITEMS
 */
int dma_buf_iommu_count_items(struct dma_buf_attachment *attach,
			      unsigned long pgsize_bitmap, unsigned long iova,
			      u64 offset, size_t len, int prot,
			      unsigned int flags, u64 *items)
{
	struct slice slice = {
		.attach = attach,
		.pgsize_bitmap = pgsize_bitmap,
		.iova = iova,
		.offset = offset,
		.end = offset + len,
		.prot = prot,
		.flags = flags,
	};
	u64 sizes[NR_LEVELS];
	unsigned int nr;
	int ret;

	ret = check_slice(&slice, len);
	if (ret)
		return ret;

	nr = item_sizes(pgsize_bitmap, sizes);
	if (flags & DMA_BUF_IOMMU_SMALL_PAGES)
		nr = 1;

	*items = 0;
	while (offset < slice.end) {
		struct dma_buf_extent part;

		ret = next_part(&slice, offset, true, &part);
		if (ret < 0)
			return ret;
		*items += count_part(sizes, nr, iova, part.phys, part.len);
		if (*items > DMA_BUF_IOMMU_MAX_ATTACH_ITEMS)
			return -EDQUOT;
		iova += part.len;
		offset += part.len;
		cond_resched();
	}
	return 0;
}
EXPORT_SYMBOL_FOR_IOMMUFD(dma_buf_iommu_count_items);

/**
 * dma_buf_iommu_check - whether a slice can be mapped at all
 * @attach: attachment of &dma_buf_type_iommu
 * @offset: where the slice begins in the buffer, a multiple of PAGE_SIZE
 * @len: its length in bytes, a multiple of PAGE_SIZE
 * @prot: as for dma_buf_map_attachment_iommu()
 * @live: whether it can be mapped now. Otherwise whether it could be if the
 *	buffer was not revoked
 *
 * For an importer that has no domain yet. For @live all that counts is whether
 * the buffer is revoked, and whether a part of the slice is private; @prot is
 * not looked at.
 *
 * Context: the caller holds the buffer's dma_resv. May sleep.
 *
 * Return: 0, or a negative errno:
 *
 * * -EACCES, -EAGAIN, -EINTR - as dma_buf_map_attachment_iommu(), only if @live
 * * -EINVAL, -EPERM, -ENODEV, -EIO - as dma_buf_map_attachment_iommu()
 */
int dma_buf_iommu_check(struct dma_buf_attachment *attach, u64 offset,
			size_t len, int prot, bool live)
{
	struct slice slice = {
		.attach = attach,
		.pgsize_bitmap = PAGE_SIZE,
		.offset = offset,
		.end = offset + len,
		.prot = live ? 0 : prot,
	};
	int ret;

	ret = check_slice(&slice, len);
	if (ret)
		return ret;

	while (offset < slice.end) {
		struct dma_buf_extent part;

		ret = next_part(&slice, offset, !live, &part);
		if (ret < 0)
			return ret;
		offset += part.len;
		cond_resched();
	}
	return 0;
}
EXPORT_SYMBOL_FOR_IOMMUFD(dma_buf_iommu_check);

/**
 * dma_buf_iommu_charge_items - account for the page table items of a mapping
 * @attach: the attachment
 * @items: their number, see dma_buf_iommu_count_items()
 *
 * An exporter revokes and restores under its locks, and every item takes time
 * there. So their number is bounded, an attachment and a buffer. It is charged
 * from before the first mapping until the importer gives the slice up, over
 * revocations: what was restored once can be restored again.
 *
 * A mapping that is not restored writes nothing there, but it is visited. The
 * importer charges one item for it, so that the bound is one for the number of
 * mappings as well.
 *
 * Context: any that can take a spinlock. The number that was counted is right
 * for as long as the caller holds the buffer's dma_resv.
 *
 * Return: 0, or -EDQUOT if it would be more than
 * %DMA_BUF_IOMMU_MAX_ATTACH_ITEMS or %DMA_BUF_IOMMU_MAX_BUFFER_ITEMS.
 */
int dma_buf_iommu_charge_items(struct dma_buf_attachment *attach, u64 items)
{
	struct dma_buf_core *core = dma_buf_core(attach->dmabuf);

	guard(spinlock)(&core->items_lock);

	if (items > DMA_BUF_IOMMU_MAX_ATTACH_ITEMS - attach->nr_items ||
	    items > DMA_BUF_IOMMU_MAX_BUFFER_ITEMS - core->nr_items)
		return -EDQUOT;

	attach->nr_items += items;
	core->nr_items += items;
	return 0;
}
EXPORT_SYMBOL_FOR_IOMMUFD(dma_buf_iommu_charge_items);

/**
 * dma_buf_iommu_uncharge_items - undo dma_buf_iommu_charge_items()
 * @attach: the attachment
 * @items: as many as were charged, or a part of them. dma_buf_detach()
 *	uncharges what is left.
 *
 * Context: any that can take a spinlock, so that an importer that unmaps need
 * not wait for the exporter.
 */
void dma_buf_iommu_uncharge_items(struct dma_buf_attachment *attach, u64 items)
{
	guard(spinlock)(&dma_buf_core(attach->dmabuf)->items_lock);

	if (WARN_ON_ONCE(items > attach->nr_items))
		items = attach->nr_items;
	dma_buf_uncharge_items(attach, items);
}
EXPORT_SYMBOL_FOR_IOMMUFD(dma_buf_iommu_uncharge_items);

/**
 * dma_buf_iommu_congruence - what an IOVA has to look like for large pages
 * @attach: attachment of &dma_buf_type_iommu
 * @offset: an offset in the buffer
 * @max_align: the largest page size of interest, a power of two. Beyond 1 GiB
 *	it counts as 1 GiB
 * @skew: filled in with the physical address of @offset modulo @max_align. An
 *	IOVA with the same remainder can be mapped with the largest pages that
 *	the memory allows.
 *
 * Works while the buffer is revoked, too.
 *
 * Context: the caller holds the buffer's dma_resv. May sleep.
 *
 * Return: 0, or a negative errno:
 *
 * * -EINVAL - @offset is not in the buffer, or @max_align no power of two
 * * -ENODEV - the buffer is gone for ever
 * * -EIO - the exporter broke its contract
 */
int dma_buf_iommu_congruence(struct dma_buf_attachment *attach, u64 offset,
			     u64 max_align, u64 *skew)
{
	struct dma_buf_extent extent;
	int ret;

	if (WARN_ON_ONCE(attach->match->type != &dma_buf_type_iommu))
		return -EINVAL;
	if (!max_align || max_align & (max_align - 1) ||
	    offset >= attach->dmabuf->size)
		return -EINVAL;

	ret = dma_buf_next_extent(attach, offset, offset + 1, true, &extent);
	if (ret)
		return ret;
	*skew = extent.phys & (min_t(u64, max_align, MAX_ALIGN) - 1);
	return 0;
}
EXPORT_SYMBOL_FOR_IOMMUFD(dma_buf_iommu_congruence);
