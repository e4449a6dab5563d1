/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Commands of /dev/dma-buf-mock, an exporter of dma-bufs for tests.
 *
 * This is no stable interface: header, module and tests come from one tree.
 *
 * An open file is an owner of memory, and stands for what a device is elsewhere.
 * It makes dma-bufs (DMA_BUF_MOCK_CREATE), and each of the other commands names
 * one of its buffers by fd; -EINVAL for what is not a buffer of this owner.
 * When the last reference to the file goes, its buffers are revoked for ever.
 *
 * Lengths and offsets are in bytes, but where a name ends in _pages, and refer
 * to the page size of the kernel.  Fields and flags without a meaning have to
 * be 0.
 */
#ifndef _DMA_BUF_MOCK_UAPI_H
#define _DMA_BUF_MOCK_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Types of mappings that a buffer can offer. */
enum {
	DMA_BUF_MOCK_SGT,	/* scatterlists, for devices */
	DMA_BUF_MOCK_IOMMU,	/* for an IOMMU domain */
	DMA_BUF_MOCK_KVM,	/* for KVM */
};

/* Models of memory, as enum dma_buf_model. */
enum {
	DMA_BUF_MOCK_PINNED,
	DMA_BUF_MOCK_MOVABLE,
	DMA_BUF_MOCK_REVOCABLE,
	DMA_BUF_MOCK_RESTORABLE,
};

/**
 * struct dma_buf_mock_offer - one thing that a buffer offers to importers
 * @type: DMA_BUF_MOCK_SGT and so on
 * @model: DMA_BUF_MOCK_PINNED and so on
 */
struct dma_buf_mock_offer {
	__u32 type;
	__u32 model;
};

#define DMA_BUF_MOCK_MAX_OFFERS		12

/* Attributes of extents, as DMA_BUF_EXTENT_*. */
#define DMA_BUF_MOCK_READ		0x1
#define DMA_BUF_MOCK_WRITE		0x2
#define DMA_BUF_MOCK_MMIO		0x4
#define DMA_BUF_MOCK_WC			0x8
#define DMA_BUF_MOCK_CACHED		0x10
#define DMA_BUF_MOCK_PRIVATE		0x20

/* The extent is in the block of the one before it, whose order it repeats. */
#define DMA_BUF_MOCK_SAME_BLOCK		0x1

/**
 * struct dma_buf_mock_extent - a part of a buffer that is contiguous
 * @flags: 0 or DMA_BUF_MOCK_SAME_BLOCK
 * @attrs: DMA_BUF_MOCK_READ and so on
 * @order: log2 of the size, in pages, of the block that the extent is in.  A
 *	block is contiguous and begins at a multiple of its size.
 * @first_page: where in the block the extent begins
 * @nr_pages: how long it is; it ends inside the block
 *
 * The memory is zeroed.  The extents of a block may overlap; pages that are in
 * several of them are in the buffer several times.
 */
struct dma_buf_mock_extent {
	__u32 flags;
	__u32 attrs;
	__u32 order;
	__u32 first_page;
	__u32 nr_pages;
};

#define DMA_BUF_MOCK_MAX_EXTENTS	0x40000

/**
 * struct dma_buf_mock_create - make a dma-buf
 * @flags: of the fd: O_RDONLY or O_RDWR, and O_CLOEXEC
 * @nr_extents: how many, 1 to DMA_BUF_MOCK_MAX_EXTENTS
 * @extents: pointer to &struct dma_buf_mock_extent, in the buffer's order
 * @offers: pointer to &struct dma_buf_mock_offer, the best one first
 * @nr_offers: how many, 1 to DMA_BUF_MOCK_MAX_OFFERS
 * @fd: returned
 *
 * The buffer is accessible.
 *
 * Errors: -EINVAL; -EOPNOTSUPP for a type that the kernel was built without;
 * -ENOMEM, also when it is more memory than the machine can spare; -EMFILE.
 */
struct dma_buf_mock_create {
	__u32 flags;
	__u32 nr_extents;
	__u64 extents;
	__u64 offers;
	__u32 nr_offers;
	__s32 fd;
};

/**
 * struct dma_buf_mock_revoke - take a buffer away, or give it back
 * @fd: the buffer
 * @nr_not_restored: returned by DMA_BUF_MOCK_RESTORE: how many importers could
 *	not map the buffer again
 *
 * DMA_BUF_MOCK_REVOKE tells the importers, then waits for the buffer's fences
 * and until no scatterlist is mapped.  From then on the memory is filled with a
 * pattern, and what is found different later is counted, see &struct
 * dma_buf_mock_check.  The contents are kept apart.  Revoking again waits for
 * the same and does nothing else.
 *
 * DMA_BUF_MOCK_RESTORE puts the contents back and tells the importers.  Of a
 * buffer that is accessible it lets those try again that could not map it.
 *
 * Errors: -EBUSY if an importer was promised that this does not happen; -EINTR
 * for DMA_BUF_MOCK_REVOKE if a fatal signal ended the wait, the buffer is
 * revoked then; what &struct dma_buf_mock_fail asked for.
 */
struct dma_buf_mock_revoke {
	__s32 fd;
	__u32 nr_not_restored;
};

/**
 * struct dma_buf_mock_move - put a buffer into other memory
 * @fd: the buffer
 * @nr_extents: how many it has from now on
 * @extents: pointer to &struct dma_buf_mock_extent; in sum as long as the buffer
 * @nr_not_restored: returned: how many importers could not map the buffer again
 * @__reserved: 0
 *
 * The contents move along; a buffer that is revoked stays so.  The memory where
 * the buffer was is filled with the pattern, like that of a revoked one, and is
 * not used for anything else.  Pages that are in the buffer several times are
 * expected to be so where it goes.
 *
 * Errors: as for DMA_BUF_MOCK_CREATE and _REVOKE, with nothing moved.
 */
struct dma_buf_mock_move {
	__s32 fd;
	__u32 nr_extents;
	__u64 extents;
	__u32 nr_not_restored;
	__u32 __reserved;
};

/* The attributes are again what they were before the last change. */
#define DMA_BUF_MOCK_ATTRS_BACK		0x1

/**
 * struct dma_buf_mock_attrs - change the attributes of some extents
 * @fd: the buffer
 * @first: number of the first extent
 * @nr_extents: how many to change, from @first on
 * @attrs: what they have from now on
 * @nr_not_restored: returned: how many importers could not map the buffer again
 * @flags: 0 or DMA_BUF_MOCK_ATTRS_BACK
 *
 * The generation of the layout becomes a new one.  With DMA_BUF_MOCK_ATTRS_BACK it
 * becomes the one before the last change: the caller says that the layout is that
 * one again.
 * Like a move to the same place: importers lose their mappings and map again.
 * DMA_BUF_MOCK_PRIVATE changes only when no scatterlist is mapped any more: who
 * has importers that are busy revokes the buffer first.
 *
 * Errors: as for DMA_BUF_MOCK_MOVE; -EBUSY also for a scatterlist, see above.
 */
struct dma_buf_mock_attrs {
	__s32 fd;
	__u32 first;
	__u32 nr_extents;
	__u32 attrs;
	__u32 nr_not_restored;
	__u32 flags;
};

/**
 * struct dma_buf_mock_data - contents of a buffer, read or written by its owner
 * @fd: the buffer
 * @len: a multiple of 8
 * @offset: a multiple of 8
 * @data: pointer to what was, or is to be, in the buffer
 *
 * Whether the buffer is accessible and what its attributes say makes no
 * difference.  Aligned words of 8 bytes are read and written at once.
 */
struct dma_buf_mock_data {
	__s32 fd;
	__u32 len;
	__u64 offset;
	__u64 data;
};

/* Steps that can fail. */
enum {
	DMA_BUF_MOCK_GET_EXTENT,	/* an importer looks an extent up */
	DMA_BUF_MOCK_GET_LAYOUT,	/* the same, of a buffer that may be revoked */
	DMA_BUF_MOCK_MAP_SGT,		/* a device maps a scatterlist */
	DMA_BUF_MOCK_FAIL_RESTORE,	/* DMA_BUF_MOCK_RESTORE, before anything else */
	DMA_BUF_MOCK_NR_STEPS,
};

/**
 * struct dma_buf_mock_fail - have a step fail, once
 * @fd: the buffer
 * @step: DMA_BUF_MOCK_GET_EXTENT and so on
 * @nth: the how manieth from now on, 1 for the next; 0 for none
 * @error: which errno, positive.  Importers are owed what exporters may say, see
 *	&struct dma_buf_extent_ops: anything else is a bug of the exporter, which
 *	the core warns of.
 */
struct dma_buf_mock_fail {
	__s32 fd;
	__u32 step;
	__u32 nth;
	__u32 error;
};

/**
 * struct dma_buf_mock_fence - access to a buffer that is not over
 * @fd: the buffer
 * @nr_signaled: returned by DMA_BUF_MOCK_SIGNAL: how many fences that was
 *
 * DMA_BUF_MOCK_FENCE adds a fence to the buffer, of usage DMA_RESV_USAGE_BOOKKEEP,
 * DMA_BUF_MOCK_SIGNAL signals all that were added until then; closing the owner's
 * file does, too.
 */
struct dma_buf_mock_fence {
	__s32 fd;
	__u32 nr_signaled;
};

enum {
	DMA_BUF_MOCK_HOLD_LOCK,
	DMA_BUF_MOCK_HOLD_QUERY,
	DMA_BUF_MOCK_HOLD_RELEASE,
};

/**
 * struct dma_buf_mock_hold - an exporter that is busy
 * @fd: the buffer, of any exporter
 * @action: DMA_BUF_MOCK_HOLD_LOCK and so on
 *
 * DMA_BUF_MOCK_HOLD_LOCK takes the buffer's dma_resv and returns when somebody else
 * says DMA_BUF_MOCK_HOLD_RELEASE, or a signal comes.  DMA_BUF_MOCK_HOLD_QUERY
 * succeeds while it is held.
 *
 * Errors: -EINTR; -EBUSY if this owner holds another one; -ENOENT to query or
 * release what is not held; -EINVAL.
 */
struct dma_buf_mock_hold {
	__s32 fd;
	__u32 action;
};

/* A fence says that the device is busy with the memory until told otherwise. */
#define DMA_BUF_MOCK_BUSY		0x1
/* The device is a PCI device of the machine, which has no driver meanwhile. */
#define DMA_BUF_MOCK_PCI		0x2

/**
 * struct dma_buf_mock_import - a device that maps a buffer by a scatterlist
 * @fd: the buffer, of any exporter, for DMA_BUF_MOCK_IMPORT alone
 * @flags: 0 or DMA_BUF_MOCK_BUSY and so on, for DMA_BUF_MOCK_IMPORT alone
 * @models: what the importer declares, a mask of 1 << DMA_BUF_MOCK_PINNED and so
 *	on, for DMA_BUF_MOCK_IMPORT alone
 * @id: which importer of this owner; returned by DMA_BUF_MOCK_IMPORT
 * @mapped: returned: whether it has the buffer mapped
 * @pci_device: with DMA_BUF_MOCK_PCI: segment << 16 | bus << 8 | device << 3 |
 *	function, or 0
 *
 * DMA_BUF_MOCK_IMPORT attaches a device that is part of the mock, and maps the
 * buffer.  When it has to let go of the memory it does so at once or, if it is
 * busy, when DMA_BUF_MOCK_IDLE says that it is not any more.  It does not map
 * again.  DMA_BUF_MOCK_UNIMPORT ends it.
 *
 * Memory of a PCI device is given to PCI devices alone.  One that is named with
 * DMA_BUF_MOCK_PCI does nothing, DMA included, it only has the addresses.  -ENXIO
 * if there is none, -EBUSY if it has a driver; it is to get none while it imports.
 *
 * Errors: -EOPNOTSUPP if the buffer's offers and the models have nothing in
 * common; -ENODEV if the buffer is revoked; -EACCES if a part of it is private;
 * -ENOENT for no such importer.
 */
struct dma_buf_mock_import {
	__s32 fd;
	__u32 flags;
	__u32 models;
	__u32 id;
	__u32 mapped;
	__u32 pci_device;
};

/* The buffer can be mapped. */
#define DMA_BUF_MOCK_ACCESSIBLE		0x1
/* Nobody has access any more, its memory is filled with the pattern. */
#define DMA_BUF_MOCK_DRAINED		0x2

/**
 * struct dma_buf_mock_status - what there is to know about a buffer
 * @fd: the buffer
 * @flags: returned: DMA_BUF_MOCK_ACCESSIBLE and so on
 * @nr_attachments: returned: importers
 * @nr_not_restored: returned: importers that could not map it when they were
 *	last told to
 * @nr_sgt: returned: scatterlists that are mapped
 * @nr_extents: returned: extents that the buffer has now
 * @nr_get_extent: returned: how often an importer looked an extent up
 * @nr_get_layout: returned: the same while the buffer may be revoked
 * @generation: returned: of the layout
 */
struct dma_buf_mock_status {
	__s32 fd;
	__u32 flags;
	__u32 nr_attachments;
	__u32 nr_not_restored;
	__u32 nr_sgt;
	__u32 nr_extents;
	__u64 nr_get_extent;
	__u64 nr_get_layout;
	__u64 generation;
};

/**
 * struct dma_buf_mock_check - was anything written behind the owner's back?
 * @nr_buffers: returned: buffers of this owner that somebody has a reference to
 * @__reserved: 0
 * @nr_changed: returned: pages that changed after they were revoked, moved away
 *	from or released, since the owner opened the file.  A page counts once for
 *	each command that found it changed, this one or one that restored it.
 * @nr_quarantined: returned: pages of all owners that are kept for this alone
 */
struct dma_buf_mock_check {
	__u32 nr_buffers;
	__u32 __reserved;
	__u64 nr_changed;
	__u64 nr_quarantined;
};

#define DMA_BUF_MOCK_CREATE	_IOWR('m', 0x00, struct dma_buf_mock_create)
#define DMA_BUF_MOCK_REVOKE	_IOWR('m', 0x01, struct dma_buf_mock_revoke)
#define DMA_BUF_MOCK_RESTORE	_IOWR('m', 0x02, struct dma_buf_mock_revoke)
#define DMA_BUF_MOCK_MOVE	_IOWR('m', 0x03, struct dma_buf_mock_move)
#define DMA_BUF_MOCK_ATTRS	_IOWR('m', 0x04, struct dma_buf_mock_attrs)
#define DMA_BUF_MOCK_PEEK	_IOW('m', 0x05, struct dma_buf_mock_data)
#define DMA_BUF_MOCK_POKE	_IOW('m', 0x06, struct dma_buf_mock_data)
#define DMA_BUF_MOCK_FAIL	_IOW('m', 0x07, struct dma_buf_mock_fail)
#define DMA_BUF_MOCK_FENCE	_IOWR('m', 0x08, struct dma_buf_mock_fence)
#define DMA_BUF_MOCK_SIGNAL	_IOWR('m', 0x09, struct dma_buf_mock_fence)
#define DMA_BUF_MOCK_STATUS	_IOWR('m', 0x0a, struct dma_buf_mock_status)
#define DMA_BUF_MOCK_CHECK	_IOWR('m', 0x0b, struct dma_buf_mock_check)
#define DMA_BUF_MOCK_IMPORT	_IOWR('m', 0x0c, struct dma_buf_mock_import)
#define DMA_BUF_MOCK_IDLE	_IOWR('m', 0x0d, struct dma_buf_mock_import)
#define DMA_BUF_MOCK_UNIMPORT	_IOWR('m', 0x0e, struct dma_buf_mock_import)
#define DMA_BUF_MOCK_HOLD	_IOW('m', 0x0f, struct dma_buf_mock_hold)

#endif /* _DMA_BUF_MOCK_UAPI_H */
