// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device memory that is private to a confidential guest
 *
 * Model: the user says for each dma-buf whether its memory is private or shared
 * (priv->private).  An attribute of the extents tells importers.  KVM maps
 * private memory only for private gfns, and nobody else maps it.  A change
 * goes through these steps:
 *
 *	checks
 *	cause CONVERT set, importers revoked and waited for
 *	priv->private changed
 *	cause CONVERT cleared, importers restored
 *
 * After the checks only the wait for scatterlist importers can fail, if a fatal
 * signal ends it; the buffer then stays as it was.  This file does not tell
 * the hardware that a device's memory belongs to a guest.
 *
 * Locks: priv->private is written under both dmabufs_lock and dma_resv, and can
 * be read under either.  dmabufs_lock is dropped while importers are waited
 * for.  Meanwhile CONVERT in priv->own_causes reserves the memory for the task
 * that has set it: all others get -EBUSY, for this buffer and for buffers that
 * overlap with it.
 *
 * Invariants, under dmabufs_lock, for dma-bufs that have a file:
 *
 *  - If two of them overlap, both are private, or none is.
 *  - The user has no mapping of memory that is private or is becoming private,
 *    and no other access to it: priv->no_cpu is set, there is no VGA region, and
 *    neither the MSI-X table nor the pending bits are in its pages.  This lasts
 *    as long as the buffer.  The kernel does not use the mapping of the BAR that
 *    it has if the host was kept out of the buffer alone.
 *  - Only the user's request changes priv->private.  A reset does not.
 */
#include <linux/cleanup.h>
#include <linux/dma-resv.h>
#include <linux/minmax.h>
#include <linux/pci.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/sort.h>

#include "vfio_pci_priv.h"

/* With many ranges a user waits, but not long for each of the other buffers. */
static bool vfio_pci_dma_bufs_overlap(struct vfio_pci_dma_buf *a,
				      struct vfio_pci_dma_buf *b)
{
	u32 i;

	if (a->region_index != b->region_index)
		return false;
	if (a->nr_by_addr > b->nr_by_addr)
		swap(a, b);

	for (i = 0; i < a->nr_by_addr; i++) {
		if (vfio_pci_dma_buf_overlaps(b, a->by_addr[i].paddr,
					      a->by_addr[i].len))
			return true;
		cond_resched();
	}

	return false;
}

/* Without a file a buffer has no importers, its release comes next. */
static bool vfio_pci_dma_buf_has_file(struct vfio_pci_dma_buf *priv)
{
	struct file *file = get_file_active(&priv->dmabuf->file);

	if (file)
		fput(file);

	return file;
}

/* Is there another buffer that keeps this one from being @private? */
static int vfio_pci_private_conflict(struct vfio_pci_core_device *vdev,
				     struct vfio_pci_dma_buf *priv, bool private)
{
	struct vfio_pci_dma_buf *other;

	lockdep_assert_held(&vdev->dmabufs_lock);

	list_for_each_entry(other, &vdev->dmabufs, dmabufs_elm) {
		if (other == priv ||
		    (other->private == private &&
		     !(other->own_causes & VFIO_PCI_CAUSE_CONVERT)))
			continue;
		if (vfio_pci_dma_bufs_overlap(priv, other) &&
		    vfio_pci_dma_buf_has_file(other))
			return -EBUSY;
		if (fatal_signal_pending(current))
			return -EINTR;
	}

	return 0;
}

/* Whether a page of the buffer has @len bytes at @offset of @bar in it. */
static bool vfio_pci_dma_buf_has_bar_range(struct vfio_pci_dma_buf *priv,
					   unsigned int bar, u64 offset, u64 len)
{
	u64 start = round_down(offset, PAGE_SIZE);

	return priv->region_index == bar && len &&
	       vfio_pci_dma_buf_overlaps(priv, start +
					 pci_resource_start(priv->vdev->pdev, bar),
					 round_up(offset + len, PAGE_SIZE) - start);
}

/*
 * The PCI core has the MSI-X table mapped and writes it, and the pending bits can
 * be read of a device whose memory otherwise cannot.  What vconfig says of them
 * was read from the device when it was opened.
 */
static bool vfio_pci_dma_buf_has_msix(struct vfio_pci_dma_buf *priv)
{
	struct vfio_pci_core_device *vdev = priv->vdev;
	u8 cap = vdev->pdev->msix_cap;
	u32 pba;

	if (!cap)
		return false;

	pba = le32_to_cpu(*(__le32 *)&vdev->vconfig[cap + PCI_MSIX_PBA]);

	return vfio_pci_dma_buf_has_bar_range(priv, vdev->msix_bar,
					      vdev->msix_offset,
					      vdev->msix_size) ||
	       vfio_pci_dma_buf_has_bar_range(priv, pba & PCI_MSIX_PBA_BIR,
					      pba & PCI_MSIX_PBA_OFFSET,
					      DIV_ROUND_UP(vdev->msix_size /
							   PCI_MSIX_ENTRY_SIZE,
							   64) * 8);
}

/* 1 if there is something to do, 0 if not, or why it cannot be done */
static int vfio_pci_private_check(struct vfio_pci_core_device *vdev,
				  struct vfio_pci_dma_buf *priv, bool private)
{
	int ret;

	lockdep_assert_held(&vdev->memory_lock);
	lockdep_assert_held(&vdev->dmabufs_lock);

	if (!priv->vdev)
		return -ENODEV;
	if (priv->own_causes & VFIO_PCI_CAUSE_CONVERT)
		return -EBUSY;
	if (priv->private == private)
		return 0;
	/* The VGA region is a window to memory that a BAR has as well. */
	if (!priv->no_cpu || vdev->has_vga || vfio_pci_dma_buf_has_msix(priv))
		return -EPERM;

	ret = vfio_pci_private_conflict(vdev, priv, private);

	return ret ? ret : 1;
}

/* Nobody has anything mapped. */
static void vfio_pci_private_flip(struct vfio_pci_dma_buf *priv, bool private)
{
	lockdep_assert_held(&priv->vdev->dmabufs_lock);

	dma_resv_lock(priv->dmabuf->resv, NULL);
	WRITE_ONCE(priv->private, private);
	priv->layout_generation++;
	dma_resv_unlock(priv->dmabuf->resv);
}

static int vfio_pci_private_set(struct vfio_pci_core_device *vdev,
				struct vfio_pci_dma_buf *priv, bool private)
{
	int ret;

	/* A task that sets priv->no_cpu holds it until the host has no mapping. */
	ret = down_read_killable(&vdev->memory_lock);
	if (ret)
		return ret;
	ret = mutex_lock_killable(&vdev->dmabufs_lock);
	if (!ret) {
		ret = vfio_pci_private_check(vdev, priv, private);
		if (ret > 0)
			vfio_pci_dma_buf_set_cause(priv, VFIO_PCI_CAUSE_CONVERT,
						   true);
		mutex_unlock(&vdev->dmabufs_lock);
	}
	up_read(&vdev->memory_lock);
	if (ret <= 0)
		return ret;

	/* DMA of other devices is over, then, whatever else the buffer waits for. */
	ret = vfio_pci_dma_buf_drain(priv);

	guard(mutex)(&vdev->dmabufs_lock);
	if (!ret)
		vfio_pci_private_flip(priv, private);
	vfio_pci_dma_buf_set_cause(priv, VFIO_PCI_CAUSE_CONVERT, false);

	return ret;
}

/* A range of a new buffer, and how far private memory goes that begins before. */
struct vfio_pci_private_range {
	phys_addr_t start;
	phys_addr_t end;
	phys_addr_t reach;
};

static int vfio_pci_private_range_cmp(const void *a, const void *b)
{
	const struct vfio_pci_private_range *x = a, *y = b;

	return cmp_int(x->start, y->start);
}

/* All that begins at @vec or behind, up to its end, is inside of it. */
static void vfio_pci_private_reach(struct vfio_pci_private_range *ranges, u32 nr,
				   const struct phys_vec *vec)
{
	u32 low = 0, high = nr;

	while (low < high) {
		u32 mid = low + (high - low) / 2;

		if (ranges[mid].start < vec->paddr)
			low = mid + 1;
		else
			high = mid;
	}
	if (low < nr)
		ranges[low].reach = max(ranges[low].reach, vec->paddr + vec->len);
}

/*
 * Is each range of @priv inside of a range of another buffer that is private?  The
 * ranges of the other buffers are walked once only, as there may be many.
 */
static int vfio_pci_private_inside(struct vfio_pci_core_device *vdev,
				   struct vfio_pci_dma_buf *priv)
{
	struct vfio_pci_private_range *ranges __free(kvfree) = NULL;
	struct vfio_pci_dma_buf *other;
	phys_addr_t reach = 0;
	u32 i;

	lockdep_assert_held(&vdev->dmabufs_lock);

	ranges = kvmalloc_array(priv->nr_ranges, sizeof(*ranges),
				GFP_KERNEL_ACCOUNT);
	if (!ranges)
		return -ENOMEM;
	for (i = 0; i < priv->nr_ranges; i++) {
		ranges[i].start = priv->phys_vec[i].paddr;
		ranges[i].end = ranges[i].start + priv->phys_vec[i].len;
		ranges[i].reach = 0;
	}
	sort_nonatomic(ranges, priv->nr_ranges, sizeof(*ranges),
		       vfio_pci_private_range_cmp, NULL);

	list_for_each_entry(other, &vdev->dmabufs, dmabufs_elm) {
		if (!other->private ||
		    (other->own_causes & VFIO_PCI_CAUSE_CONVERT) ||
		    other->region_index != priv->region_index ||
		    !vfio_pci_dma_buf_has_file(other))
			continue;
		for (i = 0; i < other->nr_by_addr; i++) {
			vfio_pci_private_reach(ranges, priv->nr_ranges,
					       &other->by_addr[i]);
			cond_resched();
		}
		if (fatal_signal_pending(current))
			return -EINTR;
	}

	for (i = 0; i < priv->nr_ranges; i++) {
		reach = max(reach, ranges[i].reach);
		if (reach < ranges[i].end)
			return -EBUSY;
	}

	return 0;
}

/**
 * vfio_pci_private_add - is the memory of a new dma-buf private?
 * @vdev: its owner
 * @priv: the buffer, nobody else knows it
 *
 * It is, and the host cannot map it, if other dma-bufs that are private have all
 * of it.  Each of its ranges has to be inside of one of them: a union of several is
 * not looked for.
 *
 * Context: dmabufs_lock held, @priv is not in the list.
 *
 * Return: 0; -EBUSY if only a part of it is private, or a part is just becoming
 * private or shared; -ENOMEM; -EINTR if a fatal signal came
 */
int vfio_pci_private_add(struct vfio_pci_core_device *vdev,
			 struct vfio_pci_dma_buf *priv)
{
	int ret;

	ret = vfio_pci_private_conflict(vdev, priv, false);
	if (ret != -EBUSY)
		return ret;

	/* It has private memory: then there must be nothing else. */
	ret = vfio_pci_private_inside(vdev, priv);
	if (ret)
		return ret;

	priv->private = true;
	vfio_pci_dma_buf_born_unmappable(priv);

	return 0;
}

/**
 * vfio_pci_feature_dma_buf_private - private or shared memory, for the user
 * @vdev: the device
 * @flags: of VFIO_DEVICE_FEATURE
 * @arg: a struct vfio_device_feature_dma_buf_private
 * @argsz: size of @arg
 *
 * Context: process context; takes memory_lock, dmabufs_lock and dma_resv, and
 * waits for importers that do device DMA.
 *
 * Return: 0, or an errno as described with VFIO_DEVICE_FEATURE_DMA_BUF_PRIVATE.
 */
int vfio_pci_feature_dma_buf_private(struct vfio_pci_core_device *vdev,
				     u32 flags, void __user *arg, size_t argsz)
{
	struct vfio_device_feature_dma_buf_private args;
	bool set = flags & VFIO_DEVICE_FEATURE_SET;
	struct vfio_pci_dma_buf *priv;
	int ret;

	/* Without one of these there is always a mapping of the host. */
	if (!vdev->pci_ops || !vdev->pci_ops->get_dmabuf_phys ||
	    !vdev->vdev.ops->host_unmappable)
		return -EOPNOTSUPP;

	ret = vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_SET |
				 VFIO_DEVICE_FEATURE_GET, sizeof(args));
	if (ret != 1)
		return ret;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	if (args.state != VFIO_DMA_BUF_SHARED &&
	    !(set && args.state == VFIO_DMA_BUF_PRIVATE))
		return -EINVAL;

	priv = vfio_pci_dma_buf_get(vdev, args.dmabuf_fd);
	if (IS_ERR(priv))
		return PTR_ERR(priv);

	ret = 0;
	if (set) {
		ret = vfio_pci_private_set(vdev, priv,
					   args.state == VFIO_DMA_BUF_PRIVATE);
	} else {
		/* Not under dma_resv: a map that waits for the device may hold it. */
		args.state = READ_ONCE(priv->vdev) && READ_ONCE(priv->private) ?
			     VFIO_DMA_BUF_PRIVATE : VFIO_DMA_BUF_SHARED;
		if (copy_to_user(arg, &args, sizeof(args)))
			ret = -EFAULT;
	}
	dma_buf_put(priv->dmabuf);

	return ret;
}
