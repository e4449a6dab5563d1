// SPDX-License-Identifier: GPL-2.0-only
/*
 * A VFIO driver for any PCI device, whose memory is not ready for a while after
 * a reset
 *
 * Model: this driver is for tests of vfio_pci_device_ops.dmabufs_ready, because
 * devices that need this operation are rare.  It is vfio-pci, except that the
 * device says that it is not ready until ready_ms after the last reset.
 * Opening the device counts as a reset.  Bind it with driver_override.
 *
 * Locks: reset_done writes what the device remembers; the PCI core calls it
 * once at a time.  dmabufs_ready writes it as well, with dmabufs_lock held.
 * The two do not race: from reset_prepare to reset_done the device is in reset,
 * which is a cause, and dmabufs_ready is called if there is none.
 */
#include <linux/iommufd.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/vfio.h>
#include <linux/vfio_pci_core.h>
#include <linux/workqueue.h>

/* How long after slow_remove() the core asks once more, if it still does. */
#define SLOW_REMOVE_POLL_MS	500

static int ready_ms = 10;
module_param(ready_ms, int, 0644);
MODULE_PARM_DESC(ready_ms, "How long memory is not ready after a reset, -1 for ever");

struct slow_device {
	struct vfio_pci_core_device core;
	unsigned long reset_at;
	bool reset_done;
};

static struct slow_device *slow_device(struct vfio_pci_core_device *core)
{
	return container_of(core, struct slow_device, core);
}

static bool slow_dmabufs_ready(struct vfio_pci_core_device *core)
{
	struct slow_device *slow = slow_device(core);
	int ms = READ_ONCE(ready_ms);

	lockdep_assert_held(&core->dmabufs_lock);

	if (!READ_ONCE(slow->reset_done))
		return true;
	if (ms < 0 || time_before(jiffies, READ_ONCE(slow->reset_at) +
					   msecs_to_jiffies(ms)))
		return false;

	WRITE_ONCE(slow->reset_done, false);
	return true;
}

static const struct vfio_pci_device_ops slow_pci_device_ops = {
	.get_dmabuf_phys = vfio_pci_core_get_dmabuf_phys,
	.dmabufs_ready = slow_dmabufs_ready,
	.dmabufs_ready_ms = 5000,
};

static int slow_open_device(struct vfio_device *vdev)
{
	struct vfio_pci_core_device *core =
		container_of(vdev, struct vfio_pci_core_device, vdev);
	int ret;

	ret = vfio_pci_core_enable(core);
	if (ret)
		return ret;

	vfio_pci_core_finish_enable(core);
	return 0;
}

static const struct vfio_device_ops slow_vfio_device_ops = {
	.name = "vfio-pci-slow",
	.init = vfio_pci_core_init_dev,
	.release = vfio_pci_core_release_dev,
	.open_device = slow_open_device,
	.close_device = vfio_pci_core_close_device,
	.ioctl = vfio_pci_core_ioctl,
	.get_region_info_caps = vfio_pci_ioctl_get_region_info,
	.device_feature = vfio_pci_core_ioctl_feature,
	.read = vfio_pci_core_read,
	.write = vfio_pci_core_write,
	.mmap = vfio_pci_core_mmap,
	.request = vfio_pci_core_request,
	.match = vfio_pci_core_match,
	.match_token_uuid = vfio_pci_core_match_token_uuid,
	.bind_iommufd = vfio_iommufd_physical_bind,
	.unbind_iommufd = vfio_iommufd_physical_unbind,
	.attach_ioas = vfio_iommufd_physical_attach_ioas,
	.detach_ioas = vfio_iommufd_physical_detach_ioas,
};

static int slow_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct slow_device *slow;
	int ret;

	slow = vfio_alloc_device(slow_device, core.vdev, &pdev->dev,
				 &slow_vfio_device_ops);
	if (IS_ERR(slow))
		return PTR_ERR(slow);

	dev_set_drvdata(&pdev->dev, &slow->core);
	slow->core.pci_ops = &slow_pci_device_ops;
	ret = vfio_pci_core_register_device(&slow->core);
	if (ret)
		vfio_put_device(&slow->core.vdev);
	return ret;
}

static void slow_remove(struct pci_dev *pdev)
{
	struct vfio_pci_core_device *core = dev_get_drvdata(&pdev->dev);

	/*
	 * A device that was closed a moment ago can still be about to be asked
	 * whether it is ready.  Unbinding takes longer than that moment: make it
	 * certain, so that a core which does not cancel this uses freed memory.
	 */
	if (READ_ONCE(ready_ms) < 0)
		mod_delayed_work(system_percpu_wq, &core->revocation.ready_work,
				 msecs_to_jiffies(SLOW_REMOVE_POLL_MS));

	vfio_pci_core_unregister_device(core);
	vfio_put_device(&core->vdev);
}

static void slow_reset_done(struct pci_dev *pdev)
{
	struct slow_device *slow = slow_device(dev_get_drvdata(&pdev->dev));

	WRITE_ONCE(slow->reset_at, jiffies);
	WRITE_ONCE(slow->reset_done, true);
	vfio_pci_core_reset_done(pdev);
}

static const struct pci_error_handlers slow_err_handlers = {
	.reset_prepare = vfio_pci_core_reset_prepare,
	.reset_done = slow_reset_done,
	.error_detected = vfio_pci_core_aer_err_detected,
	.slot_reset = vfio_pci_core_aer_slot_reset,
	.resume = vfio_pci_core_aer_resume,
};

static const struct pci_device_id slow_table[] = {
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(PCI_ANY_ID, PCI_ANY_ID) },
	{}
};
MODULE_DEVICE_TABLE(pci, slow_table);

static struct pci_driver slow_driver = {
	.name = "vfio-pci-slow",
	.id_table = slow_table,
	.probe = slow_probe,
	.remove = slow_remove,
	.err_handler = &slow_err_handlers,
	.driver_managed_dma = true,
};
module_pci_driver(slow_driver);

MODULE_INFO(test, "Y");
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Test driver for PCI devices whose memory is not ready after a reset");
