/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the KUnit tests of dma-buf share
 *
 * Locks: mapping_attach() takes the buffer's dma_resv.
 */
#ifndef _DMA_BUF_TEST_H
#define _DMA_BUF_TEST_H

#include <linux/dma-buf.h>
#include <linux/dma-resv.h>

/* As importers do that wait for nothing else meanwhile */
static inline struct dma_buf_attachment *
mapping_attach(struct dma_buf *dmabuf, const struct dma_buf_match *matches,
	       unsigned int nr_matches, const struct dma_buf_attach_ops *ops,
	       void *priv)
{
	struct dma_buf_attachment *attach;

	dma_resv_lock(dmabuf->resv, NULL);
	attach = dma_buf_mapping_attach_locked(dmabuf, matches, nr_matches, ops,
					       priv);
	dma_resv_unlock(dmabuf->resv);
	return attach;
}

#endif
