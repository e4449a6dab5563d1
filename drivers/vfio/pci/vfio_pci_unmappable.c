// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device memory that the host has no mapping of
 *
 * Model: the user gives up CPU access to memory of a device, for the user and
 * for the kernel.  This is either all memory BARs of a device, when the user
 * binds it (vfio_device.host_unmappable, constant while the device is open), or
 * the memory of one dma-buf (priv->host_unmappable).  The promise is that
 * VFIO, sysfs, procfs and /dev/mem give no CPU mapping of this memory.  It
 * takes a kernel that keeps user space away from claimed resources.
 *
 * Locks:
 *
 *	ioeventfds_lock > host_access_lock > memory_lock > dmabufs_lock
 *
 * priv->host_unmappable is protected by dmabufs_lock.  It is set with the
 * three outer locks held as well, host_access_lock and memory_lock for write.
 * So a path that found under one of these locks that memory may be mapped, read
 * or written has finished its access when the flag is set.  The flag is
 * cleared without the three outer locks.
 *
 * Invariant: vdev->dmabufs_unmappable is the number of buffers with
 * priv->host_unmappable.
 */
#include <linux/dma-resv.h>
#include <linux/io.h>
#include <linux/ioport.h>

#include "vfio_pci_priv.h"

/* Does having claimed a BAR keep user space from mapping it behind our back? */
static bool vfio_pci_claim_is_exclusive(struct vfio_pci_core_device *vdev,
					unsigned int bar)
{
	return IS_ENABLED(CONFIG_IO_STRICT_DEVMEM) &&
	       iomem_is_exclusive(pci_resource_start(vdev->pdev, bar));
}

/**
 * vfio_pci_core_check_unmappable - is the device as the user has asked for it?
 * @vdev: the device, being opened
 *
 * Can we keep the promise that the host does not map the device's memory?  What
 * goes around VFIO respects the claim of a BAR, if the kernel is strict about
 * it, and the claim has removed the mappings that were there.
 *
 * Context: BARs are claimed
 *
 * Return: 0 if it is or need not be; -EOPNOTSUPP if claims do not help; -EBUSY if
 * somebody else has claimed a BAR
 */
int vfio_pci_core_check_unmappable(struct vfio_pci_core_device *vdev)
{
	struct pci_dev *pdev = vdev->pdev;
	int i;

	if (!vdev->vdev.host_unmappable)
		return 0;

	/* These are never claimed. */
	if (pdev->non_mappable_bars)
		return -EOPNOTSUPP;

	for (i = 0; i < PCI_STD_NUM_BARS; i++) {
		if (!pci_resource_len(pdev, i) ||
		    !vfio_pci_bar_unmappable(vdev, i))
			continue;
		if (!(vdev->bars_claimed & BIT(i)))
			return -EBUSY;
		if (!vfio_pci_claim_is_exclusive(vdev, i))
			return -EOPNOTSUPP;
	}

	return 0;
}

/* Read the MSI-X pending bits through a mapping of their own. */
static ssize_t vfio_pci_pba_read(struct vfio_pci_core_device *vdev,
				 char __user *buf, size_t count, loff_t pos,
				 int bar)
{
	struct pci_dev *pdev = vdev->pdev;
	u32 reg, start, size;
	void __iomem *io;
	ssize_t done;

	/* As read from the device when it was opened. */
	reg = le32_to_cpu(*(__le32 *)&vdev->vconfig[pdev->msix_cap + PCI_MSIX_PBA]);
	start = reg & PCI_MSIX_PBA_OFFSET;
	/* A bit for each entry of the table, in units of eight bytes. */
	size = DIV_ROUND_UP(vdev->msix_size / PCI_MSIX_ENTRY_SIZE, 64) * 8;

	if ((reg & PCI_MSIX_PBA_BIR) != bar || pos < start ||
	    pos >= start + size || start + size > pci_resource_len(pdev, bar))
		return -EPERM;

	io = ioremap(pci_resource_start(pdev, bar) + start, size);
	if (!io)
		return -ENOMEM;

	pos -= start;
	count = min(count, (size_t)(size - pos));
	done = vfio_pci_core_do_io_rw(vdev, true, io, buf, pos, count, 0, 0,
				      false, VFIO_PCI_IO_WIDTH_8);
	iounmap(io);

	return done;
}

/**
 * vfio_pci_unmappable_bar_rw - access a BAR that the host must not map
 * @vdev: the device
 * @buf: the user's
 * @count: in bytes
 * @pos: in the BAR, @count bytes from there are inside
 * @bar: its index
 * @iswrite: or else read
 *
 * What is left is the MSI-X table, which is all ones to the user and is never
 * touched, and the PBA for reading.
 *
 * Context: process context
 *
 * Return: how much was read or written, or a negative errno
 */
ssize_t vfio_pci_unmappable_bar_rw(struct vfio_pci_core_device *vdev,
				   char __user *buf, size_t count, loff_t pos,
				   int bar, bool iswrite)
{
	size_t x_start = vdev->msix_offset;
	size_t x_end = vdev->msix_offset + vdev->msix_size;

	if (bar == vdev->msix_bar && pos >= x_start && pos < x_end)
		return vfio_pci_core_do_io_rw(vdev, true, NULL, buf, pos,
					      min(count, (size_t)(x_end - pos)),
					      x_start, x_end, iswrite,
					      VFIO_PCI_IO_WIDTH_8);
	if (!iswrite && vdev->pdev->msix_cap)
		return vfio_pci_pba_read(vdev, buf, count, pos, bar);

	return -EPERM;
}

#if IS_ENABLED(CONFIG_VFIO_PCI_DMABUF)
/* The first entry of priv->by_addr that ends behind @addr, or how many there are. */
static u32 vfio_pci_dma_buf_bisect(struct vfio_pci_dma_buf *priv, phys_addr_t addr)
{
	u32 low = 0, high = priv->nr_by_addr;

	while (low < high) {
		u32 mid = low + (high - low) / 2;

		if (priv->by_addr[mid].paddr + priv->by_addr[mid].len <= addr)
			low = mid + 1;
		else
			high = mid;
	}

	return low;
}

/**
 * vfio_pci_host_access_begin - the user is about to read or write a BAR
 * @vdev: the device
 * @bar: its index, or that of the ROM
 * @pos: in the BAR
 * @count: in bytes
 * @x_start: where what is not accessed, but answered with ones, begins
 * @x_end: and ends
 *
 * To be followed by vfio_pci_host_access_end() if it succeeds: once the host must
 * not access memory, nobody is in the middle of it.
 *
 * Context: process context; takes host_access_lock for reading.
 *
 * Return: 0, -EPERM if any of it belongs to a dma-buf that the host must not map,
 * or -EINTR if a fatal signal came
 */
int vfio_pci_host_access_begin(struct vfio_pci_core_device *vdev, int bar,
			       loff_t pos, size_t count, size_t x_start,
			       size_t x_end)
{
	int ret;

	ret = down_read_killable(&vdev->host_access_lock);
	if (ret)
		return ret;
	if (pos >= x_start && pos + count <= x_end)
		return 0;
	if (!vfio_pci_bar_range_unmappable(vdev, bar, pos, count))
		return 0;
	up_read(&vdev->host_access_lock);

	return -EPERM;
}

/**
 * vfio_pci_host_access_end - the user has read or written a BAR
 * @vdev: the device
 */
void vfio_pci_host_access_end(struct vfio_pci_core_device *vdev)
{
	up_read(&vdev->host_access_lock);
}

/* Does a dma-buf have any of these bytes? */
bool vfio_pci_dma_buf_overlaps(struct vfio_pci_dma_buf *priv, phys_addr_t start,
			       u64 len)
{
	u32 i = vfio_pci_dma_buf_bisect(priv, start);

	return i < priv->nr_by_addr && priv->by_addr[i].paddr < start + len;
}

/*
 * All of a new dma-buf is memory that the host must not map already, so that
 * nobody has found otherwise under any of the locks above, and has no importers.
 */
void vfio_pci_dma_buf_born_unmappable(struct vfio_pci_dma_buf *priv)
{
	struct vfio_pci_core_device *vdev = priv->vdev;

	lockdep_assert_held(&vdev->dmabufs_lock);

	WRITE_ONCE(priv->no_cpu, true);
	if (vdev->vdev.host_unmappable)
		return;

	priv->host_unmappable = true;
	WRITE_ONCE(vdev->dmabufs_unmappable, vdev->dmabufs_unmappable + 1);
}

/**
 * vfio_pci_dma_buf_unmappable - must the host not map this memory?
 * @vdev: the device
 * @start: physical address in one of its BARs
 * @len: in bytes
 *
 * Context: process context; takes dmabufs_lock.
 *
 * Return: true if any of it belongs to a buffer that the user made unmappable.
 */
bool vfio_pci_dma_buf_unmappable(struct vfio_pci_core_device *vdev,
				 phys_addr_t start, u64 len)
{
	struct vfio_pci_dma_buf *priv;

	guard(mutex)(&vdev->dmabufs_lock);

	list_for_each_entry(priv, &vdev->dmabufs, dmabufs_elm)
		if (priv->host_unmappable &&
		    vfio_pci_dma_buf_overlaps(priv, start, len))
			return true;

	return false;
}

static bool vfio_pci_dma_buf_has_ioeventfd(struct vfio_pci_dma_buf *priv)
{
	struct vfio_pci_core_device *vdev = priv->vdev;
	struct vfio_pci_ioeventfd *ioeventfd;

	lockdep_assert_held(&vdev->ioeventfds_lock);

	list_for_each_entry(ioeventfd, &vdev->ioeventfds_list, next) {
		phys_addr_t bar = pci_resource_start(vdev->pdev, ioeventfd->bar);

		if (ioeventfd->test_mem &&
		    vfio_pci_dma_buf_overlaps(priv, bar + ioeventfd->pos,
					      ioeventfd->count))
			return true;
	}

	return false;
}

/*
 * An importer may have asked before whether it can use the CPU.  One that maps may
 * hold dma_resv until the device is ready, for which somebody needs dmabufs_lock.
 */
static int vfio_pci_dma_buf_set_no_cpu(struct vfio_pci_dma_buf *priv)
{
	struct dma_buf *dmabuf = priv->dmabuf;
	int ret;

	lockdep_assert_not_held(&priv->vdev->dmabufs_lock);

	ret = dma_resv_lock_interruptible(dmabuf->resv, NULL);
	if (ret)
		return ret;
	if (!list_empty(&dmabuf->attachments))
		ret = -EBUSY;
	else
		WRITE_ONCE(priv->no_cpu, true);
	dma_resv_unlock(dmabuf->resv);

	return ret;
}

static void vfio_pci_dma_buf_zap(struct vfio_pci_dma_buf *priv)
{
	struct vfio_pci_core_device *vdev = priv->vdev;
	phys_addr_t bar = pci_resource_start(vdev->pdev, priv->region_index);
	u32 i;

	for (i = 0; i < priv->nr_by_addr; i++)
		unmap_mapping_range(vdev->vdev.inode->i_mapping,
				    VFIO_PCI_INDEX_TO_OFFSET(priv->region_index) +
				    priv->by_addr[i].paddr - bar,
				    priv->by_addr[i].len, true);
}

static int vfio_pci_dma_buf_set_unmappable(struct vfio_pci_core_device *vdev,
					   struct vfio_pci_dma_buf *priv)
{
	int ret;

	lockdep_assert_held(&vdev->ioeventfds_lock);
	lockdep_assert_held_write(&vdev->host_access_lock);
	lockdep_assert_held_write(&vdev->memory_lock);

	/* While the device is open both are changed by nobody but the caller. */
	scoped_guard(mutex, &vdev->dmabufs_lock) {
		if (!priv->vdev)
			return -ENODEV;
		if (priv->host_unmappable)
			return 0;
	}

	if (!vfio_pci_claim_is_exclusive(vdev, priv->region_index))
		return -EOPNOTSUPP;
	if (vfio_pci_dma_buf_has_ioeventfd(priv))
		return -EBUSY;
	ret = vfio_pci_dma_buf_set_no_cpu(priv);
	if (ret)
		return ret;

	scoped_guard(mutex, &vdev->dmabufs_lock) {
		priv->host_unmappable = true;
		WRITE_ONCE(vdev->dmabufs_unmappable,
			   vdev->dmabufs_unmappable + 1);
	}
	vfio_pci_dma_buf_zap(priv);

	return 0;
}

/* The user waits here for tasks that are using the memory; the wait is killable. */
static int vfio_pci_dma_buf_lock_unmappable(struct vfio_pci_core_device *vdev,
					    struct vfio_pci_dma_buf *priv)
{
	int ret;

	ret = mutex_lock_killable(&vdev->ioeventfds_lock);
	if (ret)
		return ret;
	ret = down_write_killable(&vdev->host_access_lock);
	if (ret)
		goto out_ioeventfds;
	ret = down_write_killable(&vdev->memory_lock);
	if (ret)
		goto out_host_access;

	ret = vfio_pci_dma_buf_set_unmappable(vdev, priv);

	up_write(&vdev->memory_lock);
out_host_access:
	up_write(&vdev->host_access_lock);
out_ioeventfds:
	mutex_unlock(&vdev->ioeventfds_lock);

	return ret;
}

/**
 * vfio_pci_core_feature_dma_buf_unmappable - keep the host out of a dma-buf
 * @vdev: the device
 * @flags: of VFIO_DEVICE_FEATURE
 * @arg: names the dma-buf
 * @argsz: size of @arg
 *
 * Context: process context; takes ioeventfds_lock, host_access_lock, memory_lock,
 * dmabufs_lock and dma_resv.
 *
 * Return: 0, or an errno as described with
 * VFIO_DEVICE_FEATURE_DMA_BUF_HOST_UNMAPPABLE.
 */
int vfio_pci_core_feature_dma_buf_unmappable(struct vfio_pci_core_device *vdev,
					     u32 flags, void __user *arg,
					     size_t argsz)
{
	struct vfio_device_feature_dma_buf_unmappable user;
	struct vfio_pci_dma_buf *priv;
	struct dma_buf *dmabuf;
	int ret;

	/* A container keeps what it mapped, and nothing tells it not to. */
	if (!vdev->pci_ops || !vdev->pci_ops->get_dmabuf_phys ||
	    !vdev->vdev.ops->host_unmappable ||
	    !vfio_device_cdev_opened(&vdev->vdev))
		return -EOPNOTSUPP;

	ret = vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_SET,
				 sizeof(user));
	if (ret != 1)
		return ret;

	if (copy_from_user(&user, arg, sizeof(user)))
		return -EFAULT;
	if (user.flags)
		return -EINVAL;

	dmabuf = dma_buf_get(user.dmabuf_fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);

	priv = vfio_pci_dma_buf_find(vdev, dmabuf);
	if (IS_ERR(priv))
		ret = PTR_ERR(priv);
	else
		ret = vfio_pci_dma_buf_lock_unmappable(vdev, priv);
	dma_buf_put(dmabuf);

	return ret;
}
#endif
