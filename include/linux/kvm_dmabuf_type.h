/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * KVM's mapping type of dma-bufs
 *
 * An exporter that lets guests access its memory names &kvm_dmabuf_type in its
 * matches, and offers extents.  It needs nothing else of KVM.  To be used
 * under IS_ENABLED(CONFIG_KVM_DMABUF_TYPE).
 */
#ifndef __KVM_DMABUF_TYPE_H__
#define __KVM_DMABUF_TYPE_H__

struct dma_buf_mapping_type;

extern const struct dma_buf_mapping_type kvm_dmabuf_type;

#endif /* __KVM_DMABUF_TYPE_H__ */
