/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Helpers for tests that use device memory through dma-bufs.  See
 * vfio_pci_dmabuf.c of libvfio.
 */
#ifndef SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_VFIO_PCI_DMABUF_H
#define SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_VFIO_PCI_DMABUF_H

#include <sys/types.h>

#include <linux/types.h>
#include <linux/vfio.h>

#include <libvfio/iommu.h>
#include <libvfio/vfio_pci_device.h>

/*
 * Device memory as dma-bufs: exporting BARs, mapping the dma-bufs into an IOAS,
 * and taking the memory away.  As elsewhere in this library a function asserts
 * that it succeeds; its "__" variant returns a negative errno instead.
 */

/*
 * The largest memory BAR of at least min_size, or -1.  What VFIO lets be mapped
 * is memory, and at least a page.
 */
int vfio_pci_largest_bar(struct vfio_pci_device *device, u64 min_size);

/*
 * Export ranges of a BAR.  Offsets are relative to the BAR, open_flags are those
 * of open(2).  Returns the dma-buf's fd.
 */
int __vfio_pci_dmabuf_export(struct vfio_pci_device *device, u32 bar,
			     const struct vfio_region_dma_range *ranges,
			     u32 nr_ranges, u32 open_flags);
int vfio_pci_dmabuf_export(struct vfio_pci_device *device, u32 bar,
			   const struct vfio_region_dma_range *ranges,
			   u32 nr_ranges, u32 open_flags);

/* Export a whole BAR, readable and writable. */
int vfio_pci_dmabuf_export_bar(struct vfio_pci_device *device, u32 bar);

/*
 * VFIO_DEVICE_FEATURE_DMA_BUF_STATE: revoke a dma-buf of this device or end that,
 * and ask for its state; 0 or a negative errno.
 */
int __vfio_pci_dmabuf_revoke(struct vfio_pci_device *device, int fd);
int __vfio_pci_dmabuf_restore(struct vfio_pci_device *device, int fd);
int __vfio_pci_dmabuf_get_state(struct vfio_pci_device *device, int fd,
				struct vfio_device_feature_dma_buf_state *state);

/*
 * For what causes a dma-buf of this device is revoked, VFIO_DMA_BUF_CAUSE_*; 0 if
 * it is not.  Asserts that its state agrees.
 */
u32 vfio_pci_dmabuf_causes(struct vfio_pci_device *device, int fd);

/* Have an eventfd (or -1) signalled when the state changes; 0 or -errno. */
int __vfio_pci_dmabuf_set_eventfd(struct vfio_pci_device *device, int fd,
				  int eventfd);

/* Keep the host out of the memory of a dma-buf; 0 or a negative errno. */
int __vfio_pci_dmabuf_unmappable(struct vfio_pci_device *device, int fd);

/*
 * VFIO_DEVICE_FEATURE_DMA_BUF_PRIVATE: make the memory of a dma-buf private to a
 * confidential guest, or shared; 0 or a negative errno.  And ask which it is; 1,
 * 0 or a negative errno.
 */
int __vfio_pci_dmabuf_set_private(struct vfio_pci_device *device, int fd,
				  bool private);
int __vfio_pci_dmabuf_is_private(struct vfio_pci_device *device, int fd);

/*
 * Set or clear PCI_COMMAND's memory decode.  Clearing it revokes the device's
 * dma-bufs before it returns.
 */
void vfio_pci_set_memory_decode(struct vfio_pci_device *device, bool enable);

/* Where a capability is in config space, or 0. */
u8 vfio_pci_find_cap(struct vfio_pci_device *device, u8 id);

/*
 * Put the device into D3hot or D0 by its PM capability, if it has one.  The
 * "__" variant returns -ENOENT if it has none.
 */
int __vfio_pci_set_power_state(struct vfio_pci_device *device, u8 state);

/*
 * Does the device keep its registers from D3hot to D0?  Also yes if it does not
 * have these states.
 */
bool vfio_pci_no_soft_reset(struct vfio_pci_device *device);

/*
 * A function level reset by the PCI Express capability.  The "__" variant returns
 * -ENOENT if the device has none.
 */
int __vfio_pci_config_flr(struct vfio_pci_device *device);

/*
 * Access a BAR by read and write on the device's fd, so that no mapping of it
 * is needed.
 */
int __vfio_pci_bar_access(struct vfio_pci_device *device, u32 bar, u64 offset,
			  void *buf, size_t size, bool write);
void vfio_pci_bar_read(struct vfio_pci_device *device, u32 bar, u64 offset,
		       void *buf, size_t size);
void vfio_pci_bar_write(struct vfio_pci_device *device, u32 bar, u64 offset,
			const void *buf, size_t size);
u64 vfio_pci_bar_read64(struct vfio_pci_device *device, u32 bar, u64 offset);
void vfio_pci_bar_write64(struct vfio_pci_device *device, u32 bar, u64 offset,
			  u64 val);

/*
 * VFIO_DEVICE_FEATURE with all of a structure of this size, behind the header,
 * but its last byte, which cannot be accessed; 0 or a negative errno.
 */
int __vfio_pci_feature_fault(struct vfio_pci_device *device, u32 flags,
			     size_t size);

/*
 * VFIO_DEVICE_PCI_HOT_RESET of a device opened by its character device, and of
 * all that are reset with it; 0 or a negative errno.
 */
int __vfio_pci_hot_reset(struct vfio_pci_device *device);

/* Have an eventfd signalled by an interrupt index that has one interrupt. */
void vfio_pci_set_irq_eventfd(struct vfio_pci_device *device, u32 index, int fd);

/* Write to an attribute of a PCI device in sysfs; 0 or a negative errno. */
int pci_sysfs_write(const char *bdf, const char *attr, const char *val);

/*
 * PCI_COMMAND as the hardware has it, which is not what VFIO shows of it.  Waits
 * while a reset goes on.
 */
u16 pci_sysfs_command(const char *bdf);

/* Any other register, in the same way, or write to it behind VFIO's back. */
u32 pci_sysfs_config_read(const char *bdf, off_t pos, size_t size);
void pci_sysfs_config_write(const char *bdf, off_t pos, u32 val, size_t size);

/*
 * Have AER find these errors, PCI_ERR_UNC_*, in a device; 0 or a negative errno.
 * That is -ENOENT in a kernel without CONFIG_PCIEAER_INJECT, and
 * -EPROTONOSUPPORT if the device has no AER.  The error is handled later.
 */
int pci_inject_error(const char *bdf, u32 uncor_status);

/* Wait until a task sleeps so that ordinary signals do not wake it. */
void wait_for_sleep(pid_t tid);

/*
 * How many mappings iommufd holds of dma-bufs, of this process or not: those that
 * are in a domain.  -1 if the kernel does not tell, which takes debugfs.
 */
int iommufd_dmabuf_mappings(void);

/*
 * IOMMU_IOAS_MAP_FILE of a slice of a dma-buf (or of any other file the ioctl
 * takes) at a fixed IOVA; flags are IOMMU_IOAS_MAP_READABLE and so on, to which
 * FIXED_IOVA is added.  Only for an iommu of mode MODE_IOMMUFD.  Undone by
 * iommu_unmap_iova(); iommu_unmap_all() covers it as well.
 */
int __iommu_map_file(struct iommu *iommu, int fd, u64 offset, u64 length,
		     iova_t iova, u32 flags);
void iommu_map_file(struct iommu *iommu, int fd, u64 offset, u64 length,
		    iova_t iova);
int __iommu_unmap_iova(struct iommu *iommu, iova_t iova, u64 length);
void iommu_unmap_iova(struct iommu *iommu, iova_t iova, u64 length);

#endif /* SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_VFIO_PCI_DMABUF_H */
