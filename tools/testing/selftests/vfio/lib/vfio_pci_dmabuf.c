// SPDX-License-Identifier: GPL-2.0-only
/*
 * Helpers for tests that use device memory through dma-bufs.
 *
 * Nothing here maps a BAR: a test that opened its device with
 * vfio_pci_device_init_nomap() stays without a mapping.  The helpers keep no
 * state; fds and IOVA mappings belong to the caller.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/iommufd.h>
#include <linux/pci_regs.h>
#include <linux/types.h>
#include <linux/vfio.h>

#include <libvfio.h>

int vfio_pci_largest_bar(struct vfio_pci_device *device, u64 min_size)
{
	u64 largest = 0;
	int i, bar = -1;

	for (i = 0; i < PCI_STD_NUM_BARS; i++) {
		struct vfio_region_info *info = &device->bars[i].info;

		if (!(info->flags & VFIO_REGION_INFO_FLAG_MMAP))
			continue;
		if (info->size < min_size || info->size <= largest)
			continue;

		largest = info->size;
		bar = i;
	}

	return bar;
}

int __vfio_pci_dmabuf_export(struct vfio_pci_device *device, u32 bar,
			     const struct vfio_region_dma_range *ranges,
			     u32 nr_ranges, u32 open_flags)
{
	struct vfio_device_feature_dma_buf *args;
	struct vfio_device_feature *feature;
	size_t argsz;
	int ret;

	argsz = sizeof(*feature) + sizeof(*args) + nr_ranges * sizeof(*ranges);
	feature = calloc_assert(1, argsz);
	feature->argsz = argsz;
	feature->flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;

	args = (struct vfio_device_feature_dma_buf *)feature->data;
	args->region_index = bar;
	args->open_flags = open_flags;
	args->nr_ranges = nr_ranges;
	memcpy(args->dma_ranges, ranges, nr_ranges * sizeof(*ranges));

	ret = ioctl(device->fd, VFIO_DEVICE_FEATURE, feature);
	if (ret < 0)
		ret = -errno;
	free(feature);

	return ret;
}

int vfio_pci_dmabuf_export(struct vfio_pci_device *device, u32 bar,
			   const struct vfio_region_dma_range *ranges,
			   u32 nr_ranges, u32 open_flags)
{
	int fd;

	fd = __vfio_pci_dmabuf_export(device, bar, ranges, nr_ranges,
				      open_flags);
	VFIO_ASSERT_GE(fd, 0, "Failed to export BAR %u\n", bar);

	return fd;
}

int vfio_pci_dmabuf_export_bar(struct vfio_pci_device *device, u32 bar)
{
	struct vfio_region_dma_range range = {
		.length = device->bars[bar].info.size,
	};

	return vfio_pci_dmabuf_export(device, bar, &range, 1,
				      O_RDWR | O_CLOEXEC);
}

static int feature_ioctl(struct vfio_pci_device *device, u32 flags, void *args,
			 size_t size)
{
	struct vfio_device_feature *feature;
	int ret = 0;

	feature = calloc_assert(1, sizeof(*feature) + size);
	feature->argsz = sizeof(*feature) + size;
	feature->flags = flags;
	memcpy(feature->data, args, size);

	if (ioctl(device->fd, VFIO_DEVICE_FEATURE, feature))
		ret = -errno;
	else
		memcpy(args, feature->data, size);
	free(feature);

	return ret;
}

static int dmabuf_set_state(struct vfio_pci_device *device, int fd, u32 state)
{
	struct vfio_device_feature_dma_buf_state args = {
		.dmabuf_fd = fd,
		.state = state,
	};

	return feature_ioctl(device, VFIO_DEVICE_FEATURE_SET |
			     VFIO_DEVICE_FEATURE_DMA_BUF_STATE,
			     &args, sizeof(args));
}

int __vfio_pci_dmabuf_revoke(struct vfio_pci_device *device, int fd)
{
	return dmabuf_set_state(device, fd, VFIO_DMA_BUF_STATE_REVOKED);
}

int __vfio_pci_dmabuf_restore(struct vfio_pci_device *device, int fd)
{
	return dmabuf_set_state(device, fd, VFIO_DMA_BUF_STATE_OK);
}

int __vfio_pci_dmabuf_get_state(struct vfio_pci_device *device, int fd,
				struct vfio_device_feature_dma_buf_state *state)
{
	*state = (struct vfio_device_feature_dma_buf_state){ .dmabuf_fd = fd };

	return feature_ioctl(device, VFIO_DEVICE_FEATURE_GET |
			     VFIO_DEVICE_FEATURE_DMA_BUF_STATE,
			     state, sizeof(*state));
}

u32 vfio_pci_dmabuf_causes(struct vfio_pci_device *device, int fd)
{
	struct vfio_device_feature_dma_buf_state state;

	VFIO_ASSERT_EQ(__vfio_pci_dmabuf_get_state(device, fd, &state), 0);
	VFIO_ASSERT_EQ(state.dmabuf_fd, fd);
	VFIO_ASSERT_EQ(state.state, state.causes ? VFIO_DMA_BUF_STATE_REVOKED :
						   VFIO_DMA_BUF_STATE_OK);
	VFIO_ASSERT_EQ(state.flags,
		       state.causes & VFIO_DMA_BUF_CAUSE_CLOSED ?
		       VFIO_DMA_BUF_STATE_FLAG_PERMANENT : 0);
	VFIO_ASSERT_EQ(state.__reserved, 0);

	return state.causes;
}

int __vfio_pci_dmabuf_set_eventfd(struct vfio_pci_device *device, int fd,
				  int eventfd)
{
	struct vfio_device_feature_dma_buf_eventfd args = {
		.dmabuf_fd = fd,
		.eventfd = eventfd,
	};

	return feature_ioctl(device, VFIO_DEVICE_FEATURE_SET |
			     VFIO_DEVICE_FEATURE_DMA_BUF_EVENTFD,
			     &args, sizeof(args));
}

int __vfio_pci_dmabuf_unmappable(struct vfio_pci_device *device, int fd)
{
	struct vfio_device_feature_dma_buf_unmappable args = {
		.dmabuf_fd = fd,
	};

	return feature_ioctl(device, VFIO_DEVICE_FEATURE_SET |
			     VFIO_DEVICE_FEATURE_DMA_BUF_HOST_UNMAPPABLE,
			     &args, sizeof(args));
}

int __vfio_pci_dmabuf_set_private(struct vfio_pci_device *device, int fd,
				  bool private)
{
	struct vfio_device_feature_dma_buf_private args = {
		.dmabuf_fd = fd,
		.state = private ? VFIO_DMA_BUF_PRIVATE : VFIO_DMA_BUF_SHARED,
	};

	return feature_ioctl(device, VFIO_DEVICE_FEATURE_SET |
			     VFIO_DEVICE_FEATURE_DMA_BUF_PRIVATE,
			     &args, sizeof(args));
}

int __vfio_pci_dmabuf_is_private(struct vfio_pci_device *device, int fd)
{
	struct vfio_device_feature_dma_buf_private args = { .dmabuf_fd = fd };
	int ret;

	ret = feature_ioctl(device, VFIO_DEVICE_FEATURE_GET |
			    VFIO_DEVICE_FEATURE_DMA_BUF_PRIVATE,
			    &args, sizeof(args));

	return ret ? ret : args.state == VFIO_DMA_BUF_PRIVATE;
}

void vfio_pci_set_memory_decode(struct vfio_pci_device *device, bool enable)
{
	if (enable)
		vfio_pci_cmd_set(device, PCI_COMMAND_MEMORY);
	else
		vfio_pci_cmd_clear(device, PCI_COMMAND_MEMORY);
}

u8 vfio_pci_find_cap(struct vfio_pci_device *device, u8 id)
{
	/* 48 capabilities fill the space there is: more is a loop. */
	int left = 48;
	u8 pos;

	if (!(vfio_pci_config_readw(device, PCI_STATUS) & PCI_STATUS_CAP_LIST))
		return 0;

	pos = vfio_pci_config_readb(device, PCI_CAPABILITY_LIST) & ~3;
	while (pos && left--) {
		if (vfio_pci_config_readb(device, pos + PCI_CAP_LIST_ID) == id)
			return pos;
		pos = vfio_pci_config_readb(device, pos + PCI_CAP_LIST_NEXT) & ~3;
	}

	return 0;
}

int __vfio_pci_set_power_state(struct vfio_pci_device *device, u8 state)
{
	u8 pos = vfio_pci_find_cap(device, PCI_CAP_ID_PM);
	u16 ctrl;

	if (!pos)
		return -ENOENT;

	ctrl = vfio_pci_config_readw(device, pos + PCI_PM_CTRL);
	ctrl &= ~PCI_PM_CTRL_STATE_MASK;
	vfio_pci_config_writew(device, pos + PCI_PM_CTRL, ctrl | state);

	return 0;
}

bool vfio_pci_no_soft_reset(struct vfio_pci_device *device)
{
	u8 pos = vfio_pci_find_cap(device, PCI_CAP_ID_PM);

	return !pos || vfio_pci_config_readw(device, pos + PCI_PM_CTRL) &
		       PCI_PM_CTRL_NO_SOFT_RESET;
}

int __vfio_pci_config_flr(struct vfio_pci_device *device)
{
	u8 pos = vfio_pci_find_cap(device, PCI_CAP_ID_EXP);
	u16 ctrl;

	if (!pos || !(vfio_pci_config_readl(device, pos + PCI_EXP_DEVCAP) &
		      PCI_EXP_DEVCAP_FLR))
		return -ENOENT;

	ctrl = vfio_pci_config_readw(device, pos + PCI_EXP_DEVCTL);
	vfio_pci_config_writew(device, pos + PCI_EXP_DEVCTL,
			       ctrl | PCI_EXP_DEVCTL_BCR_FLR);

	return 0;
}

int __vfio_pci_bar_access(struct vfio_pci_device *device, u32 bar, u64 offset,
			  void *buf, size_t size, bool write)
{
	off_t pos = device->bars[bar].info.offset + offset;
	ssize_t ret;

	while (size) {
		if (write)
			ret = pwrite(device->fd, buf, size, pos);
		else
			ret = pread(device->fd, buf, size, pos);
		if (ret < 0)
			return -errno;
		if (!ret)
			return -EIO;

		buf += ret;
		pos += ret;
		size -= ret;
	}

	return 0;
}

void vfio_pci_bar_read(struct vfio_pci_device *device, u32 bar, u64 offset,
		       void *buf, size_t size)
{
	VFIO_ASSERT_EQ(__vfio_pci_bar_access(device, bar, offset, buf, size,
					     false), 0);
}

void vfio_pci_bar_write(struct vfio_pci_device *device, u32 bar, u64 offset,
			const void *buf, size_t size)
{
	VFIO_ASSERT_EQ(__vfio_pci_bar_access(device, bar, offset, (void *)buf,
					     size, true), 0);
}

u64 vfio_pci_bar_read64(struct vfio_pci_device *device, u32 bar, u64 offset)
{
	u64 val;

	vfio_pci_bar_read(device, bar, offset, &val, sizeof(val));
	return val;
}

void vfio_pci_bar_write64(struct vfio_pci_device *device, u32 bar, u64 offset,
			  u64 val)
{
	vfio_pci_bar_write(device, bar, offset, &val, sizeof(val));
}

int __vfio_pci_feature_fault(struct vfio_pci_device *device, u32 flags,
			     size_t size)
{
	size_t page = getpagesize(), argsz;
	struct vfio_device_feature *feature;
	void *mem;
	int ret;

	mem = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	VFIO_ASSERT_NE(mem, MAP_FAILED);
	VFIO_ASSERT_EQ(mprotect(mem + page, page, PROT_NONE), 0);

	argsz = sizeof(*feature) + size;
	feature = mem + page - argsz + 1;
	feature->argsz = argsz;
	feature->flags = flags;
	ret = ioctl(device->fd, VFIO_DEVICE_FEATURE, feature) ? -errno : 0;

	VFIO_ASSERT_EQ(munmap(mem, 2 * page), 0);
	return ret;
}

int __vfio_pci_hot_reset(struct vfio_pci_device *device)
{
	struct vfio_pci_hot_reset reset = { .argsz = sizeof(reset) };

	if (ioctl(device->fd, VFIO_DEVICE_PCI_HOT_RESET, &reset))
		return -errno;

	return 0;
}

void vfio_pci_set_irq_eventfd(struct vfio_pci_device *device, u32 index, int fd)
{
	u8 buf[sizeof(struct vfio_irq_set) + sizeof(fd)] = {};
	struct vfio_irq_set *irq = (void *)buf;

	irq->argsz = sizeof(buf);
	irq->flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
	irq->index = index;
	irq->count = 1;
	memcpy(irq->data, &fd, sizeof(fd));

	ioctl_assert(device->fd, VFIO_DEVICE_SET_IRQS, irq);
}

int pci_sysfs_write(const char *bdf, const char *attr, const char *val)
{
	char path[PATH_MAX];
	int fd, ret = 0;

	snprintf_assert(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", bdf,
			attr);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		return -errno;
	if (write(fd, val, strlen(val)) < 0)
		ret = -errno;
	VFIO_ASSERT_EQ(close(fd), 0);

	return ret;
}

static int pci_sysfs_config_open(const char *bdf, int flags)
{
	char path[PATH_MAX];
	int fd;

	snprintf_assert(path, sizeof(path), "/sys/bus/pci/devices/%s/config", bdf);
	fd = open(path, flags);
	VFIO_ASSERT_GE(fd, 0);

	return fd;
}

u32 pci_sysfs_config_read(const char *bdf, off_t pos, size_t size)
{
	int fd = pci_sysfs_config_open(bdf, O_RDONLY);
	u32 val = 0;

	/* Config space is little-endian, as are all who run this. */
	VFIO_ASSERT_EQ(pread(fd, &val, size, pos), size);
	VFIO_ASSERT_EQ(close(fd), 0);

	return val;
}

void pci_sysfs_config_write(const char *bdf, off_t pos, u32 val, size_t size)
{
	int fd = pci_sysfs_config_open(bdf, O_WRONLY);

	VFIO_ASSERT_EQ(pwrite(fd, &val, size, pos), size);
	VFIO_ASSERT_EQ(close(fd), 0);
}

u16 pci_sysfs_command(const char *bdf)
{
	return pci_sysfs_config_read(bdf, PCI_COMMAND, sizeof(u16));
}

int pci_inject_error(const char *bdf, u32 uncor_status)
{
	/* What drivers/pci/pcie/aer_inject.c reads. */
	struct {
		u8 bus;
		u8 dev;
		u8 fn;
		u32 uncor_status;
		u32 cor_status;
		u32 header_log[4];
		u32 domain;
	} error = { .uncor_status = uncor_status };
	unsigned int domain, bus, dev, fn;
	int fd, ret;

	ret = sscanf(bdf, "%x:%x:%x.%x", &domain, &bus, &dev, &fn);
	VFIO_ASSERT_EQ(ret, 4);
	error.domain = domain;
	error.bus = bus;
	error.dev = dev;
	error.fn = fn;

	fd = open("/dev/aer_inject", O_WRONLY);
	if (fd < 0)
		return -errno;
	ret = write(fd, &error, sizeof(error)) < 0 ? -errno : 0;
	VFIO_ASSERT_EQ(close(fd), 0);

	return ret;
}

void wait_for_sleep(pid_t tid)
{
	char path[64], line[512], state;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", tid);
	do {
		f = fopen(path, "r");
		VFIO_ASSERT_NOT_NULL(f);
		VFIO_ASSERT_NOT_NULL(fgets(line, sizeof(line), f));
		fclose(f);
		/* ") STATE", behind a name that can have anything in it */
		state = strrchr(line, ')')[2];
	} while (state != 'D');
}

int iommufd_dmabuf_mappings(void)
{
	char line[256];
	int nr = 0;
	FILE *f;

	f = fopen("/sys/kernel/debug/dma_buf/bufinfo", "r");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		nr += strstr(line, " iommu-domain ") && strstr(line, " mapped");
	fclose(f);

	return nr;
}

int __iommu_map_file(struct iommu *iommu, int fd, u64 offset, u64 length,
		     iova_t iova, u32 flags)
{
	struct iommu_ioas_map_file args = {
		.size = sizeof(args),
		.flags = flags | IOMMU_IOAS_MAP_FIXED_IOVA,
		.ioas_id = iommu->ioas_id,
		.fd = fd,
		.start = offset,
		.length = length,
		.iova = iova,
	};

	VFIO_ASSERT_GT(iommu->iommufd, 0, "Not in mode " MODE_IOMMUFD "\n");

	if (ioctl(iommu->iommufd, IOMMU_IOAS_MAP_FILE, &args))
		return -errno;

	return 0;
}

void iommu_map_file(struct iommu *iommu, int fd, u64 offset, u64 length,
		    iova_t iova)
{
	VFIO_ASSERT_EQ(__iommu_map_file(iommu, fd, offset, length, iova,
					IOMMU_IOAS_MAP_READABLE |
					IOMMU_IOAS_MAP_WRITEABLE), 0);
}

int __iommu_unmap_iova(struct iommu *iommu, iova_t iova, u64 length)
{
	struct iommu_ioas_unmap args = {
		.size = sizeof(args),
		.ioas_id = iommu->ioas_id,
		.iova = iova,
		.length = length,
	};

	if (ioctl(iommu->iommufd, IOMMU_IOAS_UNMAP, &args))
		return -errno;

	return 0;
}

void iommu_unmap_iova(struct iommu *iommu, iova_t iova, u64 length)
{
	VFIO_ASSERT_EQ(__iommu_unmap_iova(iommu, iova, length), 0);
}
