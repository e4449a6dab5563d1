/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Data and functions that the files of the dma-buf core share. Importers and
 * exporters do not include this file. The model and the rules are in
 * dma-buf-match.c.
 */
#ifndef __DMA_BUF_INTERNAL_H__
#define __DMA_BUF_INTERNAL_H__

#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/lockdep.h>
#include <linux/spinlock.h>

struct seq_file;

/*
 * What the core keeps of a buffer and nobody else sees. Exporters and importers
 * know &struct dma_buf only, which is a part of it.
 */
struct dma_buf_core {
	struct dma_buf dmabuf;

	/* What the exporter offers, in its order of preference. Constant. */
	const struct dma_buf_match *matches;
	unsigned int nr_matches;

	/* How built-in converters find the memory, or NULL. Constant. */
	const struct dma_buf_extent_ops *extent_ops;

	/*
	 * Page table items that all attachments together were charged. The lock
	 * protects it, and &dma_buf_attachment.nr_items of all of them.
	 */
	spinlock_t items_lock;
	u64 nr_items;

	/* The buffer's own dma_resv, if the exporter does not bring one */
	struct dma_resv resv[];
};

static inline struct dma_buf_core *dma_buf_core(struct dma_buf *dmabuf)
{
	return container_of(dmabuf, struct dma_buf_core, dmabuf);
}

bool dma_buf_offer_valid(const struct dma_buf_export_info *exp_info);
void dma_buf_set_offer(struct dma_buf *dmabuf,
		       const struct dma_buf_export_info *exp_info);

const struct dma_buf_match *
dma_buf_match(struct dma_buf *dmabuf, const struct dma_buf_match *matches,
	      unsigned int nr_matches,
	      const struct dma_buf_attach_ops *importer_ops);
const struct dma_buf_match *
dma_buf_match_sgt(struct dma_buf *dmabuf,
		  const struct dma_buf_attach_ops *importer_ops);

void dma_buf_describe_attachment(struct dma_buf_attachment *attach,
				 struct seq_file *s);

/* @items: at most as many as @attach was charged */
static inline void dma_buf_uncharge_items(struct dma_buf_attachment *attach,
					  u64 items)
{
	struct dma_buf_core *core = dma_buf_core(attach->dmabuf);

	lockdep_assert_held(&core->items_lock);
	attach->nr_items -= items;
	core->nr_items -= items;
}

static inline bool
dma_buf_attachment_is_sgt(const struct dma_buf_attachment *attach)
{
	return attach->match->type == &dma_buf_type_sgt;
}

#ifdef CONFIG_DMA_SHARED_BUFFER_EXTENTS
bool dma_buf_extent_ops_valid(const struct dma_buf_export_info *exp_info);
#else
static inline bool
dma_buf_extent_ops_valid(const struct dma_buf_export_info *exp_info)
{
	return true;
}
#endif

#endif /* __DMA_BUF_INTERNAL_H__ */
