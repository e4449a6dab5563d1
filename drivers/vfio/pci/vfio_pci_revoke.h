/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The causes for which the memory of a device cannot be accessed, the part of a
 * dma-buf that revocation needs, and the functions by which the rest of
 * vfio-pci-core revokes and restores.  The model, the locks and the invariants
 * are in vfio_pci_revoke.c.
 */
#ifndef VFIO_PCI_REVOKE_H
#define VFIO_PCI_REVOKE_H

#include <linux/bits.h>
#include <linux/dma-buf.h>
#include <linux/types.h>
#include <linux/vfio.h>
#include <linux/vfio_pci_core.h>
#include <linux/wait.h>

struct eventfd_ctx;
struct p2pdma_provider;
struct phys_vec;

/**
 * enum vfio_pci_cause - why memory cannot be accessed, a bit each
 * @VFIO_PCI_CAUSE_DECODE: the user has decode off, or has not turned it on
 * @VFIO_PCI_CAUSE_D3: the device is in D3
 * @VFIO_PCI_CAUSE_PM_ENTRY: the user lets the device sleep,
 *	VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY
 * @VFIO_PCI_CAUSE_RESET: a reset goes on
 * @VFIO_PCI_CAUSE_CLOSED: the device was closed; for ever
 * @VFIO_PCI_CAUSE_LOST: the hardware does not decode, whatever the user sees
 * @VFIO_PCI_CAUSE_ERROR: the PCI core has cut the device off
 * @VFIO_PCI_CAUSE_NOT_READY: the driver says that a reset is not over yet
 * @VFIO_PCI_CAUSE_D1_D2: it is in D1 or D2, and need not answer either, which does
 *	not keep the user from trying
 * @VFIO_PCI_CAUSE_USER: the user has taken this dma-buf back
 * @VFIO_PCI_CAUSE_CONVERT: this dma-buf's memory becomes private, or shared
 *
 * All but USER, CONVERT and CLOSED are about the device, and the same for its dma-bufs.
 */
enum vfio_pci_cause {
	VFIO_PCI_CAUSE_DECODE		= BIT(0),
	VFIO_PCI_CAUSE_D3		= BIT(1),
	VFIO_PCI_CAUSE_PM_ENTRY		= BIT(2),
	VFIO_PCI_CAUSE_RESET		= BIT(3),
	VFIO_PCI_CAUSE_CLOSED		= BIT(4),
	VFIO_PCI_CAUSE_LOST		= BIT(5),
	VFIO_PCI_CAUSE_ERROR		= BIT(6),
	VFIO_PCI_CAUSE_NOT_READY	= BIT(7),
	VFIO_PCI_CAUSE_D1_D2		= BIT(8),
	VFIO_PCI_CAUSE_USER		= BIT(9),
	VFIO_PCI_CAUSE_CONVERT		= BIT(10),
};

/*
 * What keeps the user from reading and writing: an access wakes a device that
 * sleeps, and one during a reset that VFIO does not do itself ends nowhere.
 */
#define VFIO_PCI_CAUSES_RDWR	(VFIO_PCI_CAUSE_DECODE | VFIO_PCI_CAUSE_D3)

/* What is SIGBUS: an access to mapped memory does not wake the device. */
#define VFIO_PCI_CAUSES_FAULT	(VFIO_PCI_CAUSES_RDWR | VFIO_PCI_CAUSE_PM_ENTRY)

u32 vfio_pci_causes(struct vfio_pci_core_device *vdev);

#if IS_ENABLED(CONFIG_VFIO_PCI_DMABUF)
/**
 * struct vfio_pci_dma_buf - ranges of a BAR, or of what a driver has in its place
 * @dmabuf: for importers; has no reference, its release frees this
 * @vdev: the owner, NULL once it is closed; cleared under dmabufs_lock and
 *	vfio_pci_dma_buf_owner_lock, either is enough to read it
 * @dmabufs_elm: in the owner's list, under dmabufs_lock
 * @size: of all ranges, in bytes
 * @phys_vec: the ranges, in the order of the buffer; neighbours that adjoin are one
 * @starts: offset in the buffer of each range
 * @by_addr: the same memory sorted by address, what overlaps or adjoins merged
 * @provider: of P2PDMA
 * @nr_ranges: entries of @phys_vec and @starts
 * @nr_by_addr: entries of @by_addr
 * @region_index: which BAR
 * @attrs: DMA_BUF_EXTENT_READ and so on, the same for all ranges
 * @host_unmappable: the user has asked for it, under dmabufs_lock
 * @no_cpu: nor may importers use the CPU; set under dma_resv, for ever
 * @private: the memory is a confidential guest's, see vfio_pci_private.c; written
 *	under dmabufs_lock and dma_resv
 * @layout_generation: counts changes of @private, under dma_resv
 * @own_causes: those that are not the device's, written under dmabufs_lock
 * @causes: for which it is revoked; written under dmabufs_lock and dma_resv
 * @undrained: it was revoked, and somebody may still do DMA; under dmabufs_lock
 * @revocations: how often it was revoked, under dmabufs_lock
 * @nr_mapped: mappings that scatterlist importers hold; written under dma_resv
 * @wait: for @nr_mapped or @causes to become 0
 * @event: signalled when the state changes, under dmabufs_lock
 */
struct vfio_pci_dma_buf {
	struct dma_buf *dmabuf;
	struct vfio_pci_core_device *vdev;
	struct list_head dmabufs_elm;
	size_t size;
	struct phys_vec *phys_vec;
	u64 *starts;
	struct phys_vec *by_addr;
	struct p2pdma_provider *provider;
	u32 nr_ranges;
	u32 nr_by_addr;
	u32 region_index;
	u32 attrs;
	bool host_unmappable;
	bool no_cpu;
	bool private;
	u64 layout_generation;
	u32 own_causes;
	u32 causes;
	bool undrained;
	u64 revocations;
	unsigned int nr_mapped;
	wait_queue_head_t wait;
	struct eventfd_ctx *event;
};

/* vfio_pci_dmabuf.c */
struct vfio_pci_dma_buf *
vfio_pci_dma_buf_find(struct vfio_pci_core_device *vdev,
		      struct dma_buf *dmabuf);
void vfio_pci_dma_buf_disown(struct vfio_pci_core_device *vdev,
			     struct vfio_pci_dma_buf *priv);

/* vfio_pci_private.c */
int vfio_pci_private_add(struct vfio_pci_core_device *vdev,
			 struct vfio_pci_dma_buf *priv);
int vfio_pci_feature_dma_buf_private(struct vfio_pci_core_device *vdev,
				     u32 flags, void __user *arg, size_t argsz);

/* vfio_pci_unmappable.c: for vfio_pci_private.c */
bool vfio_pci_dma_buf_overlaps(struct vfio_pci_dma_buf *priv, phys_addr_t start,
			       u64 len);
void vfio_pci_dma_buf_born_unmappable(struct vfio_pci_dma_buf *priv);

/* vfio_pci_revoke.c: for vfio_pci_private.c */
struct vfio_pci_dma_buf *
vfio_pci_dma_buf_get(struct vfio_pci_core_device *vdev, int fd);
void vfio_pci_dma_buf_set_cause(struct vfio_pci_dma_buf *priv, u32 cause,
				bool set);
int vfio_pci_dma_buf_drain(struct vfio_pci_dma_buf *priv);

/* vfio_pci_revoke.c: for the exporter */
int vfio_pci_revoke_add(struct vfio_pci_core_device *vdev,
			struct vfio_pci_dma_buf *priv);
int vfio_pci_dma_buf_wait_ready(struct vfio_pci_dma_buf *priv);
u32 vfio_pci_revoke_causes(struct vfio_pci_core_device *vdev);
int vfio_pci_feature_dma_buf_state(struct vfio_pci_core_device *vdev, u32 flags,
				   void __user *arg, size_t argsz);
int vfio_pci_feature_dma_buf_eventfd(struct vfio_pci_core_device *vdev,
				     u32 flags, void __user *arg, size_t argsz);

/* vfio_pci_revoke.c: hooks */
bool vfio_pci_driver_can_revoke(struct vfio_pci_core_device *vdev);
int vfio_pci_revoke_begin(struct vfio_pci_core_device *vdev, u32 cause);
void vfio_pci_revoke_end(struct vfio_pci_core_device *vdev);
void vfio_pci_revoke_init(struct vfio_pci_core_device *vdev);
void vfio_pci_revoke_fini(struct vfio_pci_core_device *vdev);
void vfio_pci_revoke_registered(struct vfio_pci_core_device *vdev);
void vfio_pci_revoke_unregistered(struct vfio_pci_core_device *vdev);
bool vfio_pci_revoke_error(struct vfio_pci_core_device *vdev,
			   pci_channel_state_t state);
void vfio_pci_revoke_unplugged(struct vfio_pci_core_device *vdev);
void vfio_pci_dma_buf_cleanup(struct vfio_pci_core_device *vdev);

/*
 * The reset of a device that was closed, of which the PCI core tells nobody.  VFs of
 * the device can be open still.  To be followed by vfio_pci_core_reset_done().
 */
static inline void vfio_pci_revoke_close_reset(struct vfio_pci_core_device *vdev)
{
	vfio_pci_core_reset_prepare(vdev->pdev);
}

#if IS_ENABLED(CONFIG_KUNIT)
bool vfio_pci_rebar_intact(struct pci_dev *pdev);
#endif
#else
static inline bool vfio_pci_driver_can_revoke(struct vfio_pci_core_device *vdev)
{
	return true;
}

static inline u32 vfio_pci_revoke_causes(struct vfio_pci_core_device *vdev)
{
	return 0;
}

static inline int
vfio_pci_feature_dma_buf_state(struct vfio_pci_core_device *vdev, u32 flags,
			       void __user *arg, size_t argsz)
{
	return -ENOTTY;
}

static inline int
vfio_pci_feature_dma_buf_eventfd(struct vfio_pci_core_device *vdev, u32 flags,
				 void __user *arg, size_t argsz)
{
	return -ENOTTY;
}

static inline int
vfio_pci_feature_dma_buf_private(struct vfio_pci_core_device *vdev, u32 flags,
				 void __user *arg, size_t argsz)
{
	return -ENOTTY;
}

static inline int vfio_pci_revoke_begin(struct vfio_pci_core_device *vdev,
					u32 cause)
{
	return 0;
}

static inline void vfio_pci_revoke_end(struct vfio_pci_core_device *vdev)
{
}

static inline void vfio_pci_revoke_init(struct vfio_pci_core_device *vdev)
{
}

static inline void vfio_pci_revoke_fini(struct vfio_pci_core_device *vdev)
{
}

static inline void
vfio_pci_revoke_registered(struct vfio_pci_core_device *vdev)
{
}

static inline void
vfio_pci_revoke_unregistered(struct vfio_pci_core_device *vdev)
{
}

static inline bool vfio_pci_revoke_error(struct vfio_pci_core_device *vdev,
					 pci_channel_state_t state)
{
	return false;
}

static inline void
vfio_pci_revoke_unplugged(struct vfio_pci_core_device *vdev)
{
}

static inline void vfio_pci_dma_buf_cleanup(struct vfio_pci_core_device *vdev)
{
}

static inline void vfio_pci_revoke_close_reset(struct vfio_pci_core_device *vdev)
{
}
#endif

#endif
