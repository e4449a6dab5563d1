/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints of the dma-buf physical interconnect
 *
 * All fire with the buffer's dma_resv held, so the order of events in the trace
 * is the order in which they took effect. Buffers are named by exporter and
 * inode number, as in the dma_buf events, importers by module.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM dma_buf_phys

#if !defined(_TRACE_DMA_BUF_PHYS_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_DMA_BUF_PHYS_H

#include <linux/dma-buf-phys.h>
#include <linux/tracepoint.h>

#define show_dma_buf_revoke_causes(causes)				\
	__print_flags(causes, "|",					\
		      { DMA_BUF_REVOKE_DECODE,		"decode" },	\
		      { DMA_BUF_REVOKE_LOW_POWER,	"low-power" },	\
		      { DMA_BUF_REVOKE_RESET,		"reset" },	\
		      { DMA_BUF_REVOKE_USER,		"user" },	\
		      { DMA_BUF_REVOKE_CLOSED,		"closed" })

DECLARE_EVENT_CLASS(dma_buf_phys_attachment,
	TP_PROTO(struct dma_buf_phys_attachment *attach, int ret),
	TP_ARGS(attach, ret),

	TP_STRUCT__entry(
		__string(exp_name, attach->dmabuf->exp_name)
		__string(importer, attach->importer->name)
		__field(u64, ino)
		__field(u32, model)
		__field(int, ret)
	),

	TP_fast_assign(
		__assign_str(exp_name);
		__assign_str(importer);
		__entry->ino = file_inode(attach->dmabuf->file)->i_ino;
		__entry->model = attach->model;
		__entry->ret = ret;
	),

	TP_printk("exp_name=%s ino=%llu importer=%s model=%s ret=%d",
		  __get_str(exp_name), __entry->ino, __get_str(importer),
		  __print_symbolic(__entry->model,
				   { DMA_BUF_PHYS_PINNED,	"pinned" },
				   { DMA_BUF_PHYS_REVOCABLE,	"revocable" },
				   { DMA_BUF_PHYS_DYNAMIC,	"dynamic" }),
		  __entry->ret)
);

DEFINE_EVENT(dma_buf_phys_attachment, dma_buf_phys_attach,
	TP_PROTO(struct dma_buf_phys_attachment *attach, int ret),
	TP_ARGS(attach, ret));

DEFINE_EVENT(dma_buf_phys_attachment, dma_buf_phys_detach,
	TP_PROTO(struct dma_buf_phys_attachment *attach, int ret),
	TP_ARGS(attach, ret));

DEFINE_EVENT(dma_buf_phys_attachment, dma_buf_phys_map,
	TP_PROTO(struct dma_buf_phys_attachment *attach, int ret),
	TP_ARGS(attach, ret));

DEFINE_EVENT(dma_buf_phys_attachment, dma_buf_phys_importer_restore,
	TP_PROTO(struct dma_buf_phys_attachment *attach, int ret),
	TP_ARGS(attach, ret));

DECLARE_EVENT_CLASS(dma_buf_phys_cause,
	TP_PROTO(struct dma_buf *dmabuf, u32 cause),
	TP_ARGS(dmabuf, cause),

	TP_STRUCT__entry(
		__string(exp_name, dmabuf->exp_name)
		__field(u64, ino)
		__field(u32, cause)
		__field(u32, causes)
	),

	TP_fast_assign(
		__assign_str(exp_name);
		__entry->ino = file_inode(dmabuf->file)->i_ino;
		__entry->cause = cause;
		__entry->causes = dmabuf->phys_revoked;
	),

	TP_printk("exp_name=%s ino=%llu cause=%s causes=%s",
		  __get_str(exp_name), __entry->ino,
		  show_dma_buf_revoke_causes(__entry->cause),
		  show_dma_buf_revoke_causes(__entry->causes))
);

DEFINE_EVENT(dma_buf_phys_cause, dma_buf_phys_revoke,
	TP_PROTO(struct dma_buf *dmabuf, u32 cause),
	TP_ARGS(dmabuf, cause));

DEFINE_EVENT(dma_buf_phys_cause, dma_buf_phys_restore,
	TP_PROTO(struct dma_buf *dmabuf, u32 cause),
	TP_ARGS(dmabuf, cause));

#endif /* _TRACE_DMA_BUF_PHYS_H */

#include <trace/define_trace.h>
