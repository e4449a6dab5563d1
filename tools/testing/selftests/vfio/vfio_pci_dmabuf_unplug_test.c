// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of device memory as dma-bufs: the device is pulled out while it is in use.
 * See vfio_pci_dmabuf_util.h.
 *
 * EXPORTER is behind a hotplug port of QEMU that has no power controller:
 *
 *	-device pcie-root-port,id=port,slot=1,power_controller_present=off
 *	-device ivshmem-plain,bus=port,...
 *
 * When all that QEMU looks at says that such a slot is off, it takes the device
 * out.  Linux, which has not asked for that, finds the slot empty and takes it for
 * a surprise removal.  The device does not come back: it is gone after this test.
 */
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include <sys/eventfd.h>

#include <linux/pci_regs.h>

#include "vfio_pci_dmabuf_fixture.h"

#define LONG_MS		30000

/* Where the port's PCI Express capability is, 0 if it has none. */
static u8 find_express_cap(const char *port)
{
	u32 header;
	u8 pos;

	for (pos = pci_sysfs_config_read(port, PCI_CAPABILITY_LIST, 1); pos;
	     pos = header >> 8) {
		header = pci_sysfs_config_read(port, pos, 2);
		if ((header & 0xff) == PCI_CAP_ID_EXP)
			return pos;
	}
	return 0;
}

/* Take the device out of the slot.  Returns why it cannot be, or NULL. */
static const char *pull(void)
{
	char path[PATH_MAX], link[PATH_MAX];
	const char *port;
	u32 slot;
	u8 pos;

	if (access("/sys/bus/pci_express/drivers/pciehp", F_OK))
		return "no driver for hotplug ports (CONFIG_HOTPLUG_PCI_PCIE)";

	snprintf_assert(link, sizeof(link), "/sys/bus/pci/devices/%s", exporter_bdf);
	VFIO_ASSERT_NOT_NULL(realpath(link, path));
	port = basename(dirname(path));
	snprintf_assert(link, sizeof(link), "/sys/bus/pci/devices/%s", port);
	if (access(link, F_OK))
		return "the device is not behind a port";

	pos = find_express_cap(port);
	slot = pos ? pci_sysfs_config_read(port, pos + PCI_EXP_SLTCAP, sizeof(slot)) : 0;
	if (!(slot & PCI_EXP_SLTCAP_HPC) || (slot & PCI_EXP_SLTCAP_PCP))
		return "the port is not one with hotplug and without a power controller";

	slot = pci_sysfs_config_read(port, pos + PCI_EXP_SLTCTL, sizeof(u16));
	pci_sysfs_config_write(port, pos + PCI_EXP_SLTCTL, slot | PCI_EXP_SLTCTL_PCC |
			       PCI_EXP_SLTCTL_PWR_IND_OFF, sizeof(u16));
	return NULL;
}

/*
 * The user is asked for the device.  Before he gives it back importers have let go
 * of memory that is not there any more, for good.
 */
TEST_F_TIMEOUT(vfio_pci_dmabuf_test, unplugged, 120)
{
	int fd = vfio_pci_dmabuf_export_bar(self->device, self->bar);
	struct pollfd request = { .events = POLLIN };
	struct pollfd change = { .events = POLLIN };
	char path[PATH_MAX];
	const char *why;
	long start;

	if (iommufd_dmabuf_mappings() < 0)
		SKIP(return, "No debugfs to see mappings of dma-bufs in");

	request.fd = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(request.fd, 0);
	vfio_pci_set_irq_eventfd(self->device, VFIO_PCI_REQ_IRQ_INDEX, request.fd);
	change.fd = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(change.fd, 0);
	ASSERT_EQ(0, __vfio_pci_dmabuf_set_eventfd(self->device, fd, change.fd));
	ASSERT_EQ(0, __iommu_map_file(self->iommu, fd, 0, self->page,
				      self->iova + self->page, MAP_RW_RESTORE));
	iommu_map_file(self->iommu, fd, 0, self->page, self->iova + 2 * self->page);
	ASSERT_EQ(2, iommufd_dmabuf_mappings());

	why = pull();
	if (why)
		SKIP(goto out, "%s", why);
	ASSERT_EQ(1, poll(&request, 1, LONG_MS));
	/* By a task of its own. */
	EXPECT_EQ(1, poll(&change, 1, LONG_MS));
	EXPECT_EQ(0, iommufd_dmabuf_mappings());
	EXPECT_REVOKED(self, fd);
	EXPECT_TRUE(vfio_pci_dmabuf_causes(self->device, fd) & VFIO_DMA_BUF_CAUSE_DECODE);

	/* Nothing that the user does brings it back. */
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
	ASSERT_EQ(0, __vfio_pci_dmabuf_restore(self->device, fd));
	EXPECT_REVOKED(self, fd);
	EXPECT_EQ(0, iommufd_dmabuf_mappings());

	vfio_pci_device_cleanup(self->device);
	self->device = NULL;
	snprintf_assert(path, sizeof(path), "/sys/bus/pci/devices/%s", exporter_bdf);
	for (start = now_ms(); !access(path, F_OK); )
		ASSERT_GT(LONG_MS, now_ms() - start);
	EXPECT_REVOKED(self, fd);
	EXPECT_EQ(0, iommufd_dmabuf_mappings());
out:
	iommu_unmap_iova(self->iommu, self->iova + self->page, self->page);
	iommu_unmap_iova(self->iommu, self->iova + 2 * self->page, self->page);
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(change.fd));
	ASSERT_EQ(0, close(request.fd));
}

int main(int argc, char *argv[])
{
	return dmabuf_main(argc, argv);
}
