// SPDX-License-Identifier: GPL-2.0
/*
 * dma-buf physical interconnect
 *
 * The model is in the DOC section below. Where its truth is stored:
 *
 * - &dma_buf.phys_revoked, a mask of causes, says whether the buffer may be
 *   mapped. Only the exporter changes it, through this file.
 * - &dma_buf.phys_attachments lists the importers, &dma_buf_phys_attachment.mapped
 *   says which of them hold a mapping.
 *
 * Locks: the buffer's dma_resv protects all of it and is held around every
 * callback into exporter and importer. Nothing here takes another lock, so an
 * exporter may call in with whatever it orders before dma_resv (VFIO's
 * memory_lock), and an importer's callback may take whatever it orders behind
 * (KVM's mmu_lock, iommufd's pages->mutex).
 *
 * Invariants, with dma_resv held:
 *  - an attachment is mapped only while phys_revoked is 0;
 *  - so when dma_buf_phys_revoke() returns, nobody reaches the memory through
 *    this interconnect;
 *  - an attachment that broke the contract is never mapped again.
 */

#include <linux/dma-buf-phys.h>
#include <linux/dma-resv.h>
#include <linux/export.h>
#include <linux/log2.h>
#include <linux/overflow.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "dma-buf-phys-internal.h"

#define CREATE_TRACE_POINTS
#include <trace/events/dma_buf_phys.h>

/*
 * Physical addresses are not for every module that can spell the function's
 * name: an importer that does not tear down in time corrupts somebody else's
 * memory. Each one is named here and reviewed.
 */
#define EXPORT_SYMBOL_FOR_PHYS_IMPORTERS(sym) \
	EXPORT_SYMBOL_FOR_MODULES(sym, "kvm,iommufd,dma-buf-phys-test")

/**
 * DOC: physical interconnect
 *
 * Some importers have no &struct device that could DMA: KVM puts the memory
 * into a guest's stage-2 page table, iommufd into an IOMMU page table that it
 * owns. They need physical addresses, and they have to lose them on demand. The
 * physical interconnect is the one way to get them.
 *
 * The importer calls dma_buf_phys_attach() and states what it can take. The
 * exporter states what the buffer has. Attaching fails with -EOPNOTSUPP, and
 * without a trace, unless the two have an address space and a memory model in
 * common, the importer honours every attribute the exporter may set, and the
 * exporter's granule is not below the importer's.
 *
 * There are three memory models:
 *
 * ============== ================== ================== ====================
 * ..             pinned             revocable          dynamic
 * ============== ================== ================== ====================
 * promise        memory stays       memory stays where as revocable, and a
 *                until detach       it is, or goes     call when it is back
 * needs          nothing            ``invalidate``     ``invalidate``,
 *                                                      ``restore``
 * move           never happens      never happens      invalidate, then
 *                                                      restore; other
 *                                                      addresses
 * revoke         exporter has to    invalidate         invalidate
 *                wait for detach
 * restore        never happens      may map again,     restore is called,
 *                                   is not told        may map at once
 * owner's end    exporter has to    invalidate, map    invalidate, map
 *                wait for detach    gives -ENODEV      gives -ENODEV
 * ============== ================== ================== ====================
 *
 * Promise is what the importer is promised, needs what it has to implement; the
 * rest is what happens when.
 *
 * Attaching to a revoked buffer works. dma_buf_phys_map() then gives -EAGAIN
 * until the buffer is restored, and -ENODEV when it never will be.
 *
 * A buffer is revoked by dma_buf_phys_revoke() for a cause, and can be revoked
 * for several at a time: a device in D3 that is also being reset. It is
 * restored when dma_buf_phys_restore() has cleared the last of them.
 *
 * Revocation is synchronous. There are no fences to wait for and no reference
 * to drain: when the importer's invalidate callback returns, it is done.
 */

static bool importer_valid(const struct dma_buf_phys_importer *importer)
{
	const struct dma_buf_phys_caps *caps = &importer->caps;

	if (!importer->name || !is_power_of_2(caps->granule))
		return false;
	if ((caps->models & (DMA_BUF_PHYS_REVOCABLE | DMA_BUF_PHYS_DYNAMIC)) &&
	    !importer->invalidate)
		return false;
	return !(caps->models & DMA_BUF_PHYS_DYNAMIC) || importer->restore;
}

static bool exporter_valid(const struct dma_buf_phys_caps *caps)
{
	return is_power_of_2(caps->granule) &&
	       !(caps->attrs & ~DMA_BUF_PHYS_ATTRS_ALL);
}

/*
 * Of several address spaces in common any will do, take the lowest. Of several
 * models take the weakest: it is the one that tells the importer most.
 */
static int negotiate(struct dma_buf_phys_attachment *attach)
{
	const struct dma_buf_phys_caps *imp = &attach->importer->caps;
	struct dma_buf *dmabuf = attach->dmabuf;
	struct dma_buf_phys_caps exp = {};
	u32 spaces, models;

	dmabuf->ops->phys_ops->get_caps(dmabuf, &exp);
	if (WARN_ON_ONCE(!exporter_valid(&exp)))
		return -EOPNOTSUPP;

	spaces = exp.spaces & imp->spaces;
	models = exp.models & imp->models;
	if (!spaces || !models || (exp.attrs & ~imp->attrs) ||
	    exp.granule < imp->granule)
		return -EOPNOTSUPP;

	attach->space = spaces & -spaces;
	attach->model = BIT(__fls(models));
	return 0;
}

/**
 * dma_buf_phys_attach - become an importer of a buffer's physical addresses
 * @dmabuf: the buffer; the caller holds a reference until it detached
 * @importer: what the importer is and can take, constant while attached
 * @priv: for the importer's callbacks, &dma_buf_phys_attachment.priv
 *
 * Negotiates, and on success puts the importer on the buffer's list. It has no
 * mapping then, see dma_buf_phys_map(). Callbacks can come as soon as it is on
 * the list, but invalidate only once there is a mapping; a restore that comes
 * before the importer is ready for it has to be left unanswered (return 0).
 *
 * A revoked buffer can be attached to.
 *
 * Context: may sleep, takes dma_resv; the caller holds no lock ordered behind.
 *
 * Return: the attachment, or an ERR_PTR:
 *
 * * -EOPNOTSUPP - the exporter does not take part in the interconnect, or has
 *   no common ground with the importer
 * * -EINVAL - @importer contradicts itself: a model without its callback, no
 *   name, a granule that is not a power of two
 * * -ENOMEM - out of memory
 */
struct dma_buf_phys_attachment *
dma_buf_phys_attach(struct dma_buf *dmabuf,
		    const struct dma_buf_phys_importer *importer, void *priv)
{
	struct dma_buf_phys_attachment *attach;
	int ret;

	might_sleep();

	if (WARN_ON_ONCE(!importer_valid(importer)))
		return ERR_PTR(-EINVAL);
	if (!dmabuf->ops->phys_ops)
		return ERR_PTR(-EOPNOTSUPP);

	attach = kzalloc_obj(*attach, GFP_KERNEL_ACCOUNT);
	if (!attach)
		return ERR_PTR(-ENOMEM);
	attach->dmabuf = dmabuf;
	attach->importer = importer;
	attach->priv = priv;

	dma_resv_lock(dmabuf->resv, NULL);
	ret = negotiate(attach);
	if (!ret) {
		list_add_tail(&attach->node, &dmabuf->phys_attachments);
		trace_dma_buf_phys_attach(attach, 0);
	}
	dma_resv_unlock(dmabuf->resv);

	if (ret) {
		kfree(attach);
		return ERR_PTR(ret);
	}
	return attach;
}
EXPORT_SYMBOL_FOR_PHYS_IMPORTERS(dma_buf_phys_attach);

/**
 * dma_buf_phys_detach - stop being an importer
 * @attach: from dma_buf_phys_attach(), freed
 *
 * The importer has torn down what it made from the ranges. A mapping it still
 * holds is dropped. No callback runs once this returned.
 *
 * Context: may sleep, takes dma_resv. Not from a callback.
 */
void dma_buf_phys_detach(struct dma_buf_phys_attachment *attach)
{
	struct dma_buf *dmabuf = attach->dmabuf;

	dma_resv_lock(dmabuf->resv, NULL);
	trace_dma_buf_phys_detach(attach, 0);
	list_del(&attach->node);
	dma_resv_unlock(dmabuf->resv);
	kfree(attach);
}
EXPORT_SYMBOL_FOR_PHYS_IMPORTERS(dma_buf_phys_detach);

/* The exporter's word for one range, checked against its word at attach */
static int next_range(struct dma_buf *dmabuf,
		      const struct dma_buf_phys_caps *caps, unsigned int index,
		      u64 done, struct dma_buf_phys_range *range)
{
	u64 end;

	*range = (struct dma_buf_phys_range){};
	dmabuf->ops->phys_ops->get_range(dmabuf, index, range);

	if (WARN_ONCE(!range->len || range->len > dmabuf->size - done ||
		      check_add_overflow((u64)range->addr, range->len - 1, &end) ||
		      ((range->addr | range->len) & (caps->granule - 1)) ||
		      (range->attrs & ~caps->attrs),
		      "dma-buf: %s: range %u is not what was negotiated\n",
		      dmabuf->exp_name, index))
		return -EIO;
	return 0;
}

static bool can_merge(const struct dma_buf_phys_range *last,
		      const struct dma_buf_phys_range *next)
{
	return last->addr + last->len == next->addr &&
	       last->attrs == next->attrs;
}

/*
 * Walk the part [start, end) of the buffer. Returns the number of merged ranges,
 * the last of them in @last, and, where @out is given, stores them: the first
 * call counts what the second stores. Both see the same because the exporter's
 * ranges change only under dma_resv.
 */
static int walk_slice(struct dma_buf *dmabuf, u64 start, u64 end,
		      struct dma_buf_phys_range *last,
		      struct dma_buf_phys_ranges *out)
{
	struct dma_buf_phys_caps caps = {};
	unsigned int nr = 0, index = 0;
	u64 pos = 0;

	dmabuf->ops->phys_ops->get_caps(dmabuf, &caps);

	while (pos < end) {
		struct dma_buf_phys_range range;
		u64 next, skip;
		int ret;

		ret = next_range(dmabuf, &caps, index++, pos, &range);
		if (ret)
			return ret;

		next = pos + range.len;
		if (next <= start) {
			pos = next;
			continue;
		}

		skip = start > pos ? start - pos : 0;
		range.addr += skip;
		range.len = min(next, end) - pos - skip;
		pos = next;

		if (nr && can_merge(last, &range)) {
			last->len += range.len;
		} else {
			if (nr == INT_MAX)
				return -EOVERFLOW;
			*last = range;
			nr++;
		}
		if (out)
			out->ranges[nr - 1] = *last;
	}
	return nr;
}

/**
 * dma_buf_phys_map - take hold of a slice of the buffer
 * @attach: from dma_buf_phys_attach(), without a mapping
 * @offset: start of the slice in the buffer, in bytes, any alignment
 * @len: length of the slice in bytes
 * @ranges: where the slice is; the importer's own copy, to be freed with
 *	dma_buf_phys_free_ranges() whenever it likes
 *
 * From now on and until dma_buf_phys_unmap() the importer may let its users
 * reach the ranges, as far as their attributes allow.
 *
 * Context: the caller holds dma_resv. May be called from
 * &dma_buf_phys_importer.restore. Allocates, so may enter reclaim.
 *
 * Return: 0, or a negative errno, with nothing changed:
 *
 * * -EAGAIN - the buffer is revoked now
 * * -ENODEV - the buffer's owner is gone, it never comes back
 * * -EINVAL - the slice is empty or not inside the buffer
 * * -EBUSY - the attachment has a mapping
 * * -EIO - the importer returned from an invalidate callback still holding a
 *   mapping, or the exporter's ranges are not what it negotiated
 * * -EOVERFLOW - the slice has more than INT_MAX ranges
 * * -ENOMEM - out of memory
 */
int dma_buf_phys_map(struct dma_buf_phys_attachment *attach, u64 offset,
		     u64 len, struct dma_buf_phys_ranges **ranges)
{
	struct dma_buf *dmabuf = attach->dmabuf;
	struct dma_buf_phys_ranges *out;
	struct dma_buf_phys_range last;
	int nr;

	dma_resv_assert_held(dmabuf->resv);

	if (!len || offset >= dmabuf->size || len > dmabuf->size - offset)
		return -EINVAL;
	if (attach->mapped)
		return -EBUSY;
	if (attach->failed)
		return -EIO;
	if (dmabuf->phys_revoked & DMA_BUF_REVOKE_CLOSED)
		return -ENODEV;
	if (dmabuf->phys_revoked)
		return -EAGAIN;

	nr = walk_slice(dmabuf, offset, offset + len, &last, NULL);
	if (nr < 0)
		return nr;

	/* A buffer has as many ranges as its creator asked for: account it. */
	out = kvmalloc_flex(*out, ranges, nr, GFP_KERNEL_ACCOUNT);
	if (!out)
		return -ENOMEM;
	out->nr = nr;
	if (nr == 1)
		out->ranges[0] = last;
	else
		walk_slice(dmabuf, offset, offset + len, &last, out);

	attach->mapped = true;
	trace_dma_buf_phys_map(attach, nr);
	*ranges = out;
	return 0;
}
EXPORT_SYMBOL_FOR_PHYS_IMPORTERS(dma_buf_phys_map);

/**
 * dma_buf_phys_unmap - let go of what dma_buf_phys_map() took
 * @attach: the attachment; one without a mapping is left as it is
 *
 * The importer promises that nothing it made from the ranges reaches the memory
 * any more. The ranges themselves stay allocated.
 *
 * Context: the caller holds dma_resv. Every invalidate callback ends with it.
 */
void dma_buf_phys_unmap(struct dma_buf_phys_attachment *attach)
{
	dma_resv_assert_held(attach->dmabuf->resv);
	attach->mapped = false;
}
EXPORT_SYMBOL_FOR_PHYS_IMPORTERS(dma_buf_phys_unmap);

/**
 * dma_buf_phys_free_ranges - free what dma_buf_phys_map() returned
 * @ranges: may be NULL
 *
 * Context: may sleep.
 */
void dma_buf_phys_free_ranges(struct dma_buf_phys_ranges *ranges)
{
	kvfree(ranges);
}
EXPORT_SYMBOL_FOR_PHYS_IMPORTERS(dma_buf_phys_free_ranges);

static void invalidate_one(struct dma_buf_phys_attachment *attach)
{
	if (!attach->mapped)
		return;

	attach->importer->invalidate(attach);
	if (WARN_ONCE(attach->mapped,
		      "dma-buf: importer %s kept a mapping of a revoked buffer\n",
		      attach->importer->name)) {
		attach->failed = true;
		attach->mapped = false;
	}
}

/**
 * dma_buf_phys_revoke - take a buffer back from its importers
 * @dmabuf: the exporter's buffer
 * @cause: the cause, or several or'ed together, set until
 *	dma_buf_phys_restore() clears them. Setting one that is set does nothing.
 *
 * On return no importer of this interconnect reaches the memory. Says nothing
 * about device attachments, see dma_buf_invalidate_mappings() for these.
 *
 * An importer that took only %DMA_BUF_PHYS_PINNED cannot be revoked; an
 * exporter that offers it and revokes nevertheless gets a warning.
 *
 * Context: the caller holds dma_resv.
 */
void dma_buf_phys_revoke(struct dma_buf *dmabuf,
			 enum dma_buf_revoke_cause cause)
{
	struct dma_buf_phys_attachment *attach;

	dma_resv_assert_held(dmabuf->resv);

	if (!(cause & ~dmabuf->phys_revoked))
		return;
	dmabuf->phys_revoked |= cause;
	trace_dma_buf_phys_revoke(dmabuf, cause);

	list_for_each_entry(attach, &dmabuf->phys_attachments, node) {
		if (WARN_ON_ONCE(attach->mapped &&
				 attach->model == DMA_BUF_PHYS_PINNED))
			continue;
		invalidate_one(attach);
	}
}
EXPORT_SYMBOL_NS_GPL(dma_buf_phys_revoke, "DMA_BUF");

static void restore_one(struct dma_buf_phys_attachment *attach)
{
	int ret;

	if (attach->model != DMA_BUF_PHYS_DYNAMIC || attach->mapped ||
	    attach->failed)
		return;

	ret = attach->importer->restore(attach);
	if (ret)
		attach->nr_restore_errors++;
	trace_dma_buf_phys_importer_restore(attach, ret);
}

/**
 * dma_buf_phys_restore - a cause for which the buffer was revoked is over
 * @dmabuf: the exporter's buffer
 * @cause: the cause, or %DMA_BUF_REVOKE_USER and its siblings or'ed together.
 *	One that is not set is ignored; %DMA_BUF_REVOKE_CLOSED is for ever and
 *	cannot be cleared.
 *
 * When no cause is left the buffer can be mapped, and importers that asked for
 * it are told. The exporter has made the memory accessible before it calls.
 *
 * Context: the caller holds dma_resv.
 */
void dma_buf_phys_restore(struct dma_buf *dmabuf,
			  enum dma_buf_revoke_cause cause)
{
	struct dma_buf_phys_attachment *attach;

	dma_resv_assert_held(dmabuf->resv);

	if (WARN_ON_ONCE(cause & DMA_BUF_REVOKE_CLOSED))
		return;
	if (!(dmabuf->phys_revoked & cause))
		return;
	dmabuf->phys_revoked &= ~cause;
	trace_dma_buf_phys_restore(dmabuf, cause);
	if (dmabuf->phys_revoked)
		return;

	list_for_each_entry(attach, &dmabuf->phys_attachments, node)
		restore_one(attach);
}
EXPORT_SYMBOL_NS_GPL(dma_buf_phys_restore, "DMA_BUF");

static const char *model_name(u32 model)
{
	switch (model) {
	case DMA_BUF_PHYS_PINNED:
		return "pinned";
	case DMA_BUF_PHYS_REVOCABLE:
		return "revocable";
	default:
		return "dynamic";
	}
}

/* The physical importers' part of debugfs dma_buf/bufinfo */
void dma_buf_phys_describe(struct dma_buf *dmabuf, struct seq_file *s)
{
	struct dma_buf_phys_attachment *attach;

	dma_resv_assert_held(dmabuf->resv);

	if (!dmabuf->ops->phys_ops)
		return;

	seq_printf(s, "\tPhysical importers (revoked for %#x):\n",
		   dmabuf->phys_revoked);
	list_for_each_entry(attach, &dmabuf->phys_attachments, node)
		seq_printf(s, "\t%s %s%s%s restore-errors %u\n",
			   attach->importer->name, model_name(attach->model),
			   attach->mapped ? " mapped" : "",
			   attach->failed ? " failed" : "",
			   attach->nr_restore_errors);
}
