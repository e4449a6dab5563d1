// SPDX-License-Identifier: GPL-2.0-only
/*
 * Page tables in a dma-buf memslot.
 *
 * A dma-buf has no hva, so KVM cannot read page tables that a guest puts there,
 * and a dma-buf slot does not have the metadata that shadowing page tables
 * needs.  An L1 that gives L2 a nested page table root in a BAR therefore sees
 * L2 fail to translate anything, as with a root that is nowhere: a nested page
 * fault, for L1 to deal with.  The host is not to be harmed, and the VM is to go
 * on: L2 runs afterwards with a root in memory, and the BAR still works.
 *
 * The device is one with a memory BAR of 2 MiB or more.
 */
#include <linux/sizes.h>

#include <libvfio.h>

#include "dmabuf_util.h"
#include "svm_util.h"
#include "test_util.h"

#define BAR_SLOT	10
#define BAR_GPA		(4ull * SZ_1G)
#define BAR_SIZE	SZ_2M

static void l2_guest(struct svm_test_data *svm)
{
	vmmcall();
}

/* Run L2 with the root at @ncr3 and return how it ended. */
static u64 run_l2(struct svm_test_data *svm, u64 ncr3)
{
	generic_svm_setup(svm, l2_guest);
	svm->vmcb->control.nested_cr3 = ncr3;
	run_guest(svm->vmcb, svm->vmcb_gpa);

	return svm->vmcb->control.exit_code;
}

static void l1_guest(struct svm_test_data *svm)
{
	u64 good = svm->ncr3_gpa;
	int i;

	for (i = 0; i < 2; i++) {
		/* The first page of the slot, and one inside a 2 MiB page. */
		GUEST_ASSERT_EQ(run_l2(svm, BAR_GPA), SVM_EXIT_NPF);
		GUEST_ASSERT_EQ(run_l2(svm, BAR_GPA + 5 * PAGE_SIZE), SVM_EXIT_NPF);
		GUEST_ASSERT_EQ(run_l2(svm, good), SVM_EXIT_VMMCALL);
		GUEST_SYNC(i);
	}
	guest_command_loop();
}

static void assert_bar_works(struct kvm_vcpu *vcpu, u64 val)
{
	TEST_ASSERT_EQ(guest_cmd(vcpu, GUEST_WRITE, BAR_GPA, val, 0), GUEST_DONE_CMD);
	TEST_ASSERT_EQ(guest_cmd(vcpu, GUEST_READ, BAR_GPA, 0, 0), GUEST_DONE_CMD);
}

int main(int argc, char *argv[])
{
	const char *bdf = vfio_selftests_get_bdf(&argc, argv);
	struct vfio_pci_device *dev;
	struct kvm_vcpu *vcpu;
	struct iommu *iommu;
	struct kvm_vm *vm;
	gva_t svm;
	int bar, fd;

	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM) && kvm_cpu_has_npt());
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_DMABUF_MEM));

	iommu = iommu_init(MODE_IOMMUFD);
	dev = vfio_pci_device_init_nomap(bdf, iommu);
	vfio_pci_set_memory_decode(dev, true);
	bar = vfio_pci_largest_bar(dev, BAR_SIZE);
	__TEST_REQUIRE(bar >= 0, "%s has no large memory BAR", bdf);
	fd = vfio_pci_dmabuf_export_bar(dev, bar);

	vm = __vm_create_with_one_vcpu(&vcpu, 1024, l1_guest);
	vm_enable_npt(vm);
	vcpu_alloc_svm(vm, &svm);
	tdp_identity_map_default_memslots(vm);
	vcpu_args_set(vcpu, 1, svm);

	vm_set_dmabuf_region(vm, BAR_SLOT, 0, BAR_GPA, BAR_SIZE, fd, 0);
	virt_map(vm, BAR_GPA, BAR_GPA, BAR_SIZE / PAGE_SIZE);

	/* Once with a slot from before there were shadow pages... */
	TEST_ASSERT_EQ(guest_run(vcpu), GUEST_DONE_CMD);

	/* ... and with one from after. */
	vm_delete_region(vm, BAR_SLOT);
	vm_set_dmabuf_region(vm, BAR_SLOT, 0, BAR_GPA, BAR_SIZE, fd, 0);
	TEST_ASSERT_EQ(guest_run(vcpu), GUEST_DONE_CMD);
	assert_bar_works(vcpu, 0x1234);

	/* Mapped, then taken away and given back. */
	vfio_pci_set_memory_decode(dev, false);
	TEST_ASSERT_EQ(guest_cmd(vcpu, GUEST_READ, BAR_GPA, 0, 0), GUEST_FAULT);
	vfio_pci_set_memory_decode(dev, true);
	TEST_ASSERT_EQ(guest_run(vcpu), GUEST_DONE_CMD);

	kvm_vm_free(vm);
	close(fd);
	vfio_pci_device_cleanup(dev);
	iommu_cleanup(iommu);

	return 0;
}
