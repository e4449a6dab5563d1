/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of the dma-buf core share, see dma-buf-match.c for model and
 * rules
 */
#ifndef __DMA_BUF_INTERNAL_H__
#define __DMA_BUF_INTERNAL_H__

#include <linux/dma-buf.h>

struct seq_file;

/* The two sides of what importer and exporter agreed on */
struct dma_buf_agreement {
	const struct dma_buf_match *importer;
	const struct dma_buf_match *exporter;
};

bool dma_buf_offer_valid(const struct dma_buf_export_info *exp_info);
void dma_buf_set_offer(struct dma_buf *dmabuf,
		       const struct dma_buf_export_info *exp_info);

int dma_buf_match(struct dma_buf *dmabuf, const struct dma_buf_match *matches,
		  unsigned int nr_matches,
		  const struct dma_buf_attach_ops *importer_ops,
		  struct dma_buf_agreement *agreed);
int dma_buf_match_sgt(struct dma_buf *dmabuf,
		      const struct dma_buf_attach_ops *importer_ops,
		      struct dma_buf_agreement *agreed);

void dma_buf_describe_attachment(struct dma_buf_attachment *attach,
				 struct seq_file *s);

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
