// SPDX-License-Identifier: GPL-2.0-only
/*
 * dma-buf mapping types and memory models
 *
 * Model: see the DOC section below. The result of the negotiation is stored in
 * the attachment.
 *
 * Locks: negotiation takes no lock. The lists that it compares are constant, so
 * the result stays true until dma_buf_detach(). What changes of an attachment
 * without a device, &dma_buf_attachment.mapped and
 * &dma_buf_attachment.restore_error, is protected by the buffer's dma_resv,
 * which is held around every callback of an importer.
 *
 * Invariants:
 *
 *  - An attachment has a type and a model that both sides named.
 *  - An attachment that is not pinned has an invalidate_mappings callback. An
 *    attachment that is restorable has a mappings_restored callback, too.
 *  - An attachment without a device is never of the scatterlist type, and an
 *    exporter's ops never see it.
 */

#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/export.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>

#include "dma-buf-internal.h"

/**
 * DOC: mapping types and memory models
 *
 * Not every importer is a device that DMAs to a scatterlist. Some own a page
 * table, and need the memory mapped into it. And not all memory stays: some
 * moves, some is taken away. So importer and exporter negotiate when the
 * importer attaches.
 *
 * Both have a list of &struct dma_buf_match, each a mapping type and one memory
 * model. The first of the exporter's list that is also in the importer's is
 * taken. If there is none, attaching fails with -EOPNOTSUPP, before anything
 * was allocated and before the exporter was called.
 *
 * A mapping type says how the importer gets at the memory. Its identity is the
 * address of a &struct dma_buf_mapping_type, and it comes with functions of its
 * own. A type can be declared outside of drivers/dma-buf.
 *
 * &dma_buf_type_sgt is the scatterlist of DMA addresses that
 * dma_buf_map_attachment() returns. Exporters that give no list offer it,
 * movable or pinned. Other exporters name it if they can make a scatterlist.
 * Device importers (dma_buf_dynamic_attach()) take no other type, and name
 * their models in
 * &dma_buf_attach_ops.models.
 *
 * Importers that are no device attach with dma_buf_mapping_attach_locked().
 *
 * A memory model is what the exporter promises about the memory, and what the
 * importer has to do for it:
 *
 * ============== ============= ============= ============= =================
 * ..             pinned        movable       revocable     restorable
 * ============== ============= ============= ============= =================
 * promise        stays until   is there,     is there,     as revocable, and
 *                unpin, unmap  perhaps       until it is   a call when it
 *                or detach     elsewhere     taken away    comes back
 * duty           none          let go, and   let go, and   let go, and
 *                              map again     live without  map in the call
 * memory moves   never         invalidate,   invalidate,   invalidate, then
 *                              map again     may map       restored
 *                                            again
 * is revoked     the exporter  never         invalidate    invalidate
 *                waits
 * is restored    never         never         may map       restored
 *                                            again, is
 *                                            not told
 * exporter ends  the exporter  never         invalidate,   invalidate, then
 *                waits                       then -ENODEV  -ENODEV
 * ============== ============= ============= ============= =================
 *
 * Where the table says invalidate, &dma_buf_attach_ops.invalidate_mappings is
 * called, where it says restored, &dma_buf_attach_ops.mappings_restored. If the
 * buffer is revoked already when the exporter ends, importers are not called
 * again, but find out by mapping.
 *
 * The type says how soon the importer has to let go. A scatterlist importer can
 * leave fences, and unmaps within bounded time, see
 * dma_buf_invalidate_mappings(). An importer that owns a page table clears its
 * entries in the callback and flushes the caches of the page table. When the
 * callback returns, nothing reaches the memory through that page table. The
 * callback takes the importer's inner lock for that, and waits for nothing else.
 *
 * Pinning a revocable buffer keeps it from moving. It does not keep it from
 * being revoked.
 *
 * While a buffer is revoked, mapping it fails: with -ENODEV for a scatterlist,
 * since importers of these try again at once on -EAGAIN, for other types with
 * -EAGAIN, and with -ENODEV if the memory never comes back. An attachment can
 * be made at any time. An importer finds out by mapping whether the buffer is
 * revoked.
 *
 * Memory can be private to a confidential guest, and that can change during the
 * life of a buffer. While it is private, only the converter of such a guest's
 * page tables maps it. All others fail with -EACCES, scatterlists too. If a
 * restorable importer is told that the buffer can be mapped again and gets
 * -EACCES, it stays without a mapping. That is no error: it is told once more
 * when the memory is shared. Importers without a device set
 * &dma_buf_match.private if they know of private memory. If they do not, they
 * do not match an exporter of such memory.
 */

#define MODELS_ALL	(BIT(DMA_BUF_MODEL_PINNED) |	\
			 BIT(DMA_BUF_MODEL_MOVABLE) |	\
			 BIT(DMA_BUF_MODEL_REVOCABLE) |	\
			 BIT(DMA_BUF_MODEL_RESTORABLE))

static const char *const model_names[] = {
	[DMA_BUF_MODEL_PINNED] = "pinned",
	[DMA_BUF_MODEL_MOVABLE] = "movable",
	[DMA_BUF_MODEL_REVOCABLE] = "revocable",
	[DMA_BUF_MODEL_RESTORABLE] = "restorable",
};

/*
 * A scatterlist of DMA addresses, mapped with dma_buf_map_attachment() by
 * importers that attached with dma_buf_attach() or dma_buf_dynamic_attach().
 */
const struct dma_buf_mapping_type dma_buf_type_sgt = {
	.name = "sgt",
};
EXPORT_SYMBOL_NS_GPL(dma_buf_type_sgt, "DMA_BUF");

/* What a device importer has of these is in its dma_buf_attach_ops. */
static const struct dma_buf_match sgt_importer[] = {
	[DMA_BUF_MODEL_PINNED] = {
		.type = &dma_buf_type_sgt, .model = DMA_BUF_MODEL_PINNED,
	},
	[DMA_BUF_MODEL_MOVABLE] = {
		.type = &dma_buf_type_sgt, .model = DMA_BUF_MODEL_MOVABLE,
	},
	[DMA_BUF_MODEL_REVOCABLE] = {
		.type = &dma_buf_type_sgt, .model = DMA_BUF_MODEL_REVOCABLE,
	},
	[DMA_BUF_MODEL_RESTORABLE] = {
		.type = &dma_buf_type_sgt, .model = DMA_BUF_MODEL_RESTORABLE,
	},
};

/* Of exporters that know nothing of types. They never revoke. */
static const struct dma_buf_match default_offer[] = {
	{ .type = &dma_buf_type_sgt, .model = DMA_BUF_MODEL_MOVABLE },
	{ .type = &dma_buf_type_sgt, .model = DMA_BUF_MODEL_PINNED },
};

static bool match_valid(const struct dma_buf_match *match)
{
	return match->type && match->model < ARRAY_SIZE(model_names);
}

/* Is what an exporter passes to dma_buf_export() complete? */
bool dma_buf_offer_valid(const struct dma_buf_export_info *exp_info)
{
	unsigned int i;

	if (!exp_info->matches != !exp_info->nr_matches)
		return false;
	if (exp_info->extent_ops && !dma_buf_extent_ops_valid(exp_info))
		return false;

	for (i = 0; i < exp_info->nr_matches; i++) {
		const struct dma_buf_match *match = &exp_info->matches[i];

		if (!match_valid(match))
			return false;
		if (match->type->extents && !exp_info->extent_ops)
			return false;
		/* There is nobody to name it: device importers have models only. */
		if (match->private && match->type == &dma_buf_type_sgt)
			return false;
	}
	return true;
}

void dma_buf_set_offer(struct dma_buf *dmabuf,
		       const struct dma_buf_export_info *exp_info)
{
	struct dma_buf_core *core = dma_buf_core(dmabuf);

	core->extent_ops = exp_info->extent_ops;
	if (exp_info->matches) {
		core->matches = exp_info->matches;
		core->nr_matches = exp_info->nr_matches;
	} else {
		core->matches = default_offer;
		core->nr_matches = ARRAY_SIZE(default_offer);
	}
}

/* Can an importer with these callbacks do its duty in these models? */
static bool importer_valid(const struct dma_buf_attach_ops *ops, u32 models)
{
	if (models & ~MODELS_ALL)
		return false;
	if (!(models & ~BIT(DMA_BUF_MODEL_PINNED)))
		return true;
	if (!ops || !ops->invalidate_mappings)
		return false;
	return !(models & BIT(DMA_BUF_MODEL_RESTORABLE)) ||
	       ops->mappings_restored;
}

static const struct dma_buf_match *
find_match(const struct dma_buf_match *wanted,
	   const struct dma_buf_match *matches, unsigned int nr_matches)
{
	unsigned int i;

	for (i = 0; i < nr_matches; i++)
		if (matches[i].type == wanted->type &&
		    matches[i].model == wanted->model &&
		    (matches[i].private || !wanted->private))
			return &matches[i];
	return NULL;
}

/*
 * Find what an importer that is no device and the exporter have in common. The
 * importer's list outlives the attachment, so what is found is an entry of it.
 * -EOPNOTSUPP: nothing; -EINVAL: the importer lacks a callback.
 */
const struct dma_buf_match *
dma_buf_match(struct dma_buf *dmabuf, const struct dma_buf_match *matches,
	      unsigned int nr_matches,
	      const struct dma_buf_attach_ops *importer_ops)
{
	struct dma_buf_core *core = dma_buf_core(dmabuf);
	const struct dma_buf_match *match;
	unsigned int i;
	u32 models = 0;

	for (i = 0; i < nr_matches; i++) {
		if (WARN_ON_ONCE(!match_valid(&matches[i]) ||
				 matches[i].type == &dma_buf_type_sgt))
			return ERR_PTR(-EINVAL);
		models |= BIT(matches[i].model);
	}
	if (WARN_ON_ONCE(!importer_valid(importer_ops, models)))
		return ERR_PTR(-EINVAL);

	for (i = 0; i < core->nr_matches; i++) {
		match = find_match(&core->matches[i], matches, nr_matches);
		if (match)
			return match;
	}
	return ERR_PTR(-EOPNOTSUPP);
}

/* An importer that names nothing can live with what it always could. */
static u32 sgt_models(const struct dma_buf_attach_ops *importer_ops)
{
	if (!importer_ops)
		return BIT(DMA_BUF_MODEL_PINNED);
	if (importer_ops->models)
		return importer_ops->models;
	if (!importer_ops->invalidate_mappings)
		return BIT(DMA_BUF_MODEL_PINNED);
	return BIT(DMA_BUF_MODEL_PINNED) | BIT(DMA_BUF_MODEL_MOVABLE);
}

/* As dma_buf_match(), for a device that takes a scatterlist. */
const struct dma_buf_match *
dma_buf_match_sgt(struct dma_buf *dmabuf,
		  const struct dma_buf_attach_ops *importer_ops)
{
	struct dma_buf_core *core = dma_buf_core(dmabuf);
	u32 models = sgt_models(importer_ops);
	unsigned int i;

	if (WARN_ON_ONCE(!importer_valid(importer_ops, models)))
		return ERR_PTR(-EINVAL);

	for (i = 0; i < core->nr_matches; i++) {
		const struct dma_buf_match *offer = &core->matches[i];

		if (offer->type == &dma_buf_type_sgt &&
		    models & BIT(offer->model))
			return &sgt_importer[offer->model];
	}
	return ERR_PTR(-EOPNOTSUPP);
}

static int restore_one(struct dma_buf_attachment *attach)
{
	int ret;

	/*
	 * The exporter's locks are held: end soon if the caller has to die.  Who
	 * has a mapping, by another attachment's callback for instance, has
	 * nothing to do but to say so.
	 */
	if (!attach->mapped && fatal_signal_pending(current))
		return -EINTR;

	ret = attach->importer_ops->mappings_restored(attach);
	if (WARN_ON_ONCE(ret > 0))
		ret = -EIO;
	/* What it had mapped before it failed is unmapped again. */
	if (ret)
		attach->mapped = false;
	return ret;
}

/**
 * dma_buf_mappings_restored - tell importers that a buffer can be mapped again
 * @dmabuf: the exporter's buffer
 *
 * Calls &dma_buf_attach_ops.mappings_restored of every restorable attachment.
 * The exporter has made the memory accessible before. Importers rely on that
 * and may map without asking. If the memory becomes inaccessible during the
 * call, the exporter invalidates after it, what was restored a moment ago as
 * well. An importer that fails stays without its mapping, and is tried again by
 * the next call; meanwhile its error is in &dma_buf_attachment.restore_error
 * and in debugfs.
 *
 * A fatal signal of the calling task stops it. The importers that it did not
 * reach and that have no mapping count as not restored, with -EINTR.
 *
 * Context: the caller holds the buffer's dma_resv. May sleep.
 *
 * Return: how many importers could not be restored.
 */
unsigned int dma_buf_mappings_restored(struct dma_buf *dmabuf)
{
	struct dma_buf_attachment *attach;
	unsigned int nr_errors = 0;

	dma_resv_assert_held(dmabuf->resv);

	list_for_each_entry(attach, &dmabuf->attachments, node) {
		if (dma_buf_attach_model(attach) != DMA_BUF_MODEL_RESTORABLE)
			continue;
		attach->restore_error = restore_one(attach);
		if (attach->restore_error)
			nr_errors++;
	}
	return nr_errors;
}
EXPORT_SYMBOL_NS_GPL(dma_buf_mappings_restored, "DMA_BUF");

/**
 * dma_buf_restore_errors - how many importers could not be restored
 * @dmabuf: the exporter's buffer
 *
 * Counts the importers whose last restore failed. An invalidation does not
 * change that: they still lack what they had before.
 *
 * Context: the caller holds the buffer's dma_resv.
 *
 * Return: their number.
 */
unsigned int dma_buf_restore_errors(struct dma_buf *dmabuf)
{
	struct dma_buf_attachment *attach;
	unsigned int nr_errors = 0;

	dma_resv_assert_held(dmabuf->resv);

	list_for_each_entry(attach, &dmabuf->attachments, node)
		if (attach->restore_error)
			nr_errors++;
	return nr_errors;
}
EXPORT_SYMBOL_NS_GPL(dma_buf_restore_errors, "DMA_BUF");

/* One attachment's line of debugfs dma_buf/bufinfo. Under dma_resv. */
void dma_buf_describe_attachment(struct dma_buf_attachment *attach,
				 struct seq_file *s)
{
	u64 nr_items;

	dma_resv_assert_held(attach->dmabuf->resv);

	seq_printf(s, "\t%s %s %s",
		   attach->dev ? dev_name(attach->dev) : "(no device)",
		   attach->match->type->name,
		   model_names[dma_buf_attach_model(attach)]);
	if (attach->mapped)
		seq_puts(s, " mapped");
	scoped_guard(spinlock, &dma_buf_core(attach->dmabuf)->items_lock)
		nr_items = attach->nr_items;
	if (nr_items)
		seq_printf(s, " items %llu", nr_items);
	if (attach->restore_error)
		seq_printf(s, " restore error %d", attach->restore_error);
	seq_putc(s, '\n');
}
