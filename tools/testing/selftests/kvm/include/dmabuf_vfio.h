/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What tests of dma-buf memslots whose memory comes from vfio-pci share.
 *
 * The test never maps the BAR.  It looks at the BAR with read() and write() of
 * the device's file, so what the guest sees through stage-2 is compared with
 * what VFIO sees.  The first TAG_PAGES pages begin with a tag that contains the
 * page's number; a page at a wrong offset is thus recognised, and so is a read
 * of a device that does not decode (all ones) or of other memory.
 *
 * Waiting is always for an event or a count, never for time.
 */
#ifndef SELFTEST_KVM_DMABUF_VFIO_H
#define SELFTEST_KVM_DMABUF_VFIO_H

#include <unistd.h>

#include <libvfio.h>

#include "kvm_test_harness.h"
#include "dmabuf_guest.h"

static char **bdfs;
static int nr_bdfs;

/* False if the BAR does not keep what is written. */
static inline bool tag_bar(struct vfio_pci_device *dev, int bar)
{
	u64 i;

	for (i = 0; i < TAG_PAGES; i++)
		vfio_pci_bar_write64(dev, bar, i * PAGE_SIZE, TAG(i));

	return vfio_pci_bar_read64(dev, bar, 0) == TAG(0) &&
	       vfio_pci_bar_read64(dev, bar, (TAG_PAGES - 1) * PAGE_SIZE) ==
	       TAG(TAG_PAGES - 1);
}

/*
 * A device behind the first one that has a BAR of @size which starts at a multiple
 * of @align, with @bar set to it; or NULL.
 */
static inline struct vfio_pci_device *
open_other_bar(struct iommu *iommu, u64 size, u64 align, int *bar)
{
	struct vfio_pci_device *dev;
	int i;

	for (i = 1; i < nr_bdfs; i++) {
		dev = vfio_pci_device_init_nomap(bdfs[i], iommu);
		*bar = vfio_pci_largest_bar(dev, size);
		if (*bar >= 0 && !(pci_bar_phys(bdfs[i], *bar) & (align - 1))) {
			vfio_pci_set_memory_decode(dev, true);
			return dev;
		}
		vfio_pci_device_cleanup(dev);
	}
	return NULL;
}

/*
 * A VM that cannot have such slots: without the capability there is no slot,
 * whatever the fd is.  A kernel that does not know the flag says EINVAL.
 */
static inline int test_refused(struct kvm_vm *vm)
{
	int ret = __vm_set_dmabuf_region(vm, SLOT_A, 0, SZ_1G, PAGE_SIZE, -1, 0);

	__TEST_REQUIRE(ret != -EINVAL, "the kernel does not know KVM_MEM_DMABUF");
	ksft_print_header();
	ksft_set_plan(1);
	ksft_test_result(ret == -EOPNOTSUPP, "no capability, no slot\n");
	kvm_vm_free(vm);
	ksft_finished();
}

static inline int dmabuf_main(int argc, char *argv[])
{
	struct kvm_vm *vm;
	char path[128];
	int i, flags;

	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_bdfs);
	for (i = 0; i < nr_bdfs; i++) {
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", bdfs[i]);
		__TEST_REQUIRE(!access(path, F_OK), "%s is not bound to vfio-pci", bdfs[i]);
	}
	__TEST_REQUIRE(!access("/dev/iommu", R_OK | W_OK), "no /dev/iommu");

	guest_pages_as_host();
	vm = vm_create_barebones();
	flags = vm_check_cap(vm, KVM_CAP_DMABUF_MEM);
	if (!flags)
		return test_refused(vm);
	TEST_ASSERT(flags & KVM_MEM_DMABUF, "KVM_CAP_DMABUF_MEM is 0x%x", flags);
	kvm_vm_free(vm);

	return test_harness_run(argc, argv);
}

#endif /* SELFTEST_KVM_DMABUF_VFIO_H */
