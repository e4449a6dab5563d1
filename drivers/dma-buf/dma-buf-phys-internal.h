/* SPDX-License-Identifier: GPL-2.0 */
/*
 * dma-buf physical interconnect: what dma-buf.c needs of it
 *
 * The buffer's side of the interconnect lives inside &struct dma_buf; these are
 * the points of the buffer's life at which it has to be looked after. None of
 * them does anything without CONFIG_DMA_SHARED_BUFFER_PHYS.
 */
#ifndef __DMA_BUF_PHYS_INTERNAL_H__
#define __DMA_BUF_PHYS_INTERNAL_H__

#include <linux/dma-buf.h>
#include <linux/list.h>

struct seq_file;

#ifdef CONFIG_DMA_SHARED_BUFFER_PHYS
static inline void dma_buf_phys_init(struct dma_buf *dmabuf)
{
	INIT_LIST_HEAD(&dmabuf->phys_attachments);
}

/* An importer holds a reference to the buffer, so none can be left. */
static inline void dma_buf_phys_fini(struct dma_buf *dmabuf)
{
	WARN_ON(!list_empty(&dmabuf->phys_attachments));
}

void dma_buf_phys_describe(struct dma_buf *dmabuf, struct seq_file *s);
#else
static inline void dma_buf_phys_init(struct dma_buf *dmabuf)
{
}

static inline void dma_buf_phys_fini(struct dma_buf *dmabuf)
{
}

static inline void dma_buf_phys_describe(struct dma_buf *dmabuf,
					 struct seq_file *s)
{
}
#endif

#endif /* __DMA_BUF_PHYS_INTERNAL_H__ */
