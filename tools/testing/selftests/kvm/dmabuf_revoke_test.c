// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of memslots that are backed by a dma-buf: the memory is taken away and
 * given back, between accesses of the guest.
 *
 * Devices are those of dmabuf_fixture.h.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/eventfd.h>

#include <linux/sizes.h>

#include "dmabuf_fixture.h"

/* Stores to a read-only slot are the VMM's business, loads are not. */
DMABUF_TEST(readonly)
{
	u64 mmio_exits;
	int i;

	if (!vm_check_cap(self->vm, KVM_CAP_READONLY_MEM))
		SKIP(return, "no KVM_CAP_READONLY_MEM");

	bar_write64(self, SZ_2M + 8, 0);
	add_slot(self->vm, SLOT_A, KVM_MEM_READONLY, GPA_A, SZ_2M, self->fd, SZ_2M);

	/* Store first (nothing is mapped), then after a load, then again. */
	for (i = 0; i < 3; i++) {
		guest_write_mmio(self->vcpu, GPA_A + 8, PATTERN + i);

		mmio_exits = guest_mmio_exits(self->vcpu);
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(SZ_2M / PAGE_SIZE));
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 8), 0);
		TEST_ASSERT_EQ(guest_mmio_exits(self->vcpu), mmio_exits);
	}

	decode(self, false);
	guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
	decode(self, true);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(SZ_2M / PAGE_SIZE));
}

/* Loads and stores, mapped before and not, across several revocations. */
DMABUF_TEST(revoke_restore)
{
	u64 mmio_exits;
	int i;

	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_4M, self->fd, 0);
	mmio_exits = guest_mmio_exits(self->vcpu);

	for (i = 0; i < 8; i++) {
		u64 mapped = GPA_A + 0x10, fresh = GPA_A + SZ_2M + i * PAGE_SIZE;

		bar_write64(self, SZ_2M + i * PAGE_SIZE + 0x18, 0);
		guest_write(self->vcpu, mapped, PATTERN + i);
		decode(self, false);
		guest_revoked(self->vcpu, GUEST_READ, mapped, 0);
		decode(self, true);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), PATTERN + i);

		decode(self, false);
		guest_revoked(self->vcpu, GUEST_WRITE, fresh + 0x18, PATTERN + i);
		decode(self, true);
		/* The store did not land; it lands when the guest goes on. */
		TEST_ASSERT_EQ(bar_read64(self, SZ_2M + i * PAGE_SIZE + 0x18), 0);
		guest_resume(self->vcpu);
		TEST_ASSERT_EQ(bar_read64(self, SZ_2M + i * PAGE_SIZE + 0x18), PATTERN + i);

		/* What is off stays off when it is switched off again. */
		decode(self, false);
		decode(self, false);
		guest_revoked(self->vcpu, GUEST_READ, fresh, 0);
		decode(self, true);
		decode(self, true);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG((SZ_2M / PAGE_SIZE) + i));
	}

	TEST_ASSERT_EQ(guest_mmio_exits(self->vcpu), mmio_exits);
}

/* With KVM_MEM_REVOKED_MMIO: MMIO while the memory is away, and only then. */
DMABUF_TEST(revoked_mmio)
{
	u64 mmio_exits;
	int i;

	if (!offers_revoked_mmio(self))
		SKIP(return, "no KVM_MEM_REVOKED_MMIO");

	/* Next to it a slot that did not ask for it. */
	add_slot(self->vm, SLOT_A, KVM_MEM_REVOKED_MMIO, GPA_A, SZ_2M, self->fd, 0);
	add_slot(self->vm, SLOT_B, 0, GPA_B, SZ_2M, self->fd, 0);

	for (i = 0; i < 3; i++) {
		u64 fresh = GPA_A + (10 + i) * PAGE_SIZE;

		bar_write64(self, 8, 0);
		mmio_exits = guest_mmio_exits(self->vcpu);
		guest_write(self->vcpu, GPA_A + 8, PATTERN + i);
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
		TEST_ASSERT_EQ(guest_mmio_exits(self->vcpu), mmio_exits);

		decode(self, false);
		guest_no_slot(self->vcpu, GPA_A);
		guest_no_slot(self->vcpu, fresh);
		guest_write_mmio(self->vcpu, GPA_A + 8, ~PATTERN);
		guest_no_slot(self->vcpu, GPA_A);
		guest_revoked(self->vcpu, GUEST_READ, GPA_B, 0);
		decode(self, true);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(0));

		/* The VMM was told of the store, and nobody else. */
		TEST_ASSERT_EQ(bar_read64(self, 8), PATTERN + i);
		mmio_exits = guest_mmio_exits(self->vcpu);
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 8), PATTERN + i);
		TEST_ASSERT_EQ(guest_read(self->vcpu, fresh), TAG(10 + i));
		TEST_ASSERT_EQ(guest_mmio_exits(self->vcpu), mmio_exits);
	}

	/* The memory comes back while the VMM is about to complete the access. */
	decode(self, false);
	TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_READ, GPA_A, 0, 0), GUEST_MMIO);
	decode(self, true);
	complete_mmio_read(self->vcpu, GPA_A);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), MMIO_SENTINEL);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));

	/* For good. */
	close_device(self);
	guest_no_slot(self->vcpu, GPA_A);
	guest_no_slot(self->vcpu, GPA_A);
}

/* What is MMIO without a slot does not get to userspace with it, either. */
DMABUF_TEST(revoked_mmio_ioeventfd)
{
	struct kvm_ioeventfd ioeventfd = {
		.addr = GPA_A + PAGE_SIZE,
		.len = sizeof(u64),
		.fd = eventfd(0, EFD_NONBLOCK),
	};
	eventfd_t count;

	if (!offers_revoked_mmio(self))
		SKIP(return, "no KVM_MEM_REVOKED_MMIO");

	TEST_ASSERT(ioeventfd.fd >= 0, "eventfd()");
	add_slot(self->vm, SLOT_A, KVM_MEM_REVOKED_MMIO, GPA_A, SZ_2M, self->fd, 0);
	vm_ioctl(self->vm, KVM_IOEVENTFD, &ioeventfd);

	/* The memory is nearer than KVM's devices, as long as it is there. */
	guest_write(self->vcpu, GPA_A + PAGE_SIZE, PATTERN);
	TEST_ASSERT_EQ(eventfd_read(ioeventfd.fd, &count), -1);
	TEST_ASSERT_EQ(errno, EAGAIN);
	decode(self, false);
	guest_write(self->vcpu, GPA_A + PAGE_SIZE, ~PATTERN);
	TEST_ASSERT_EQ(eventfd_read(ioeventfd.fd, &count), 0);
	TEST_ASSERT_EQ(count, 1);
	decode(self, true);
	TEST_ASSERT_EQ(bar_read64(self, PAGE_SIZE), PATTERN);
	close(ioeventfd.fd);
}

/* The rest of what can be done with a slot does not change. */
DMABUF_TEST(revoked_mmio_slot)
{
	const u32 flags = KVM_MEM_REVOKED_MMIO | KVM_MEM_READONLY;

	if (!offers_revoked_mmio(self))
		SKIP(return, "no KVM_MEM_REVOKED_MMIO");

	decode(self, false);
	add_slot(self->vm, SLOT_A, flags, GPA_A, SZ_2M, self->fd, 0);
	guest_no_slot(self->vcpu, GPA_A);
	guest_write_mmio(self->vcpu, GPA_A, PATTERN);
	if (kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		TEST_ASSERT_EQ(__vcpu_pre_fault(self->vcpu, GPA_A, SZ_2M), -EFAULT);
	decode(self, true);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
	guest_write_mmio(self->vcpu, GPA_A, PATTERN);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));

	/* Immutable like any of these. */
	TEST_ASSERT_EQ(__vm_set_dmabuf_region(self->vm, SLOT_A, KVM_MEM_READONLY,
					      GPA_A, SZ_2M, self->fd, 0), -EINVAL);
	decode(self, false);
	guest_no_slot(self->vcpu, GPA_A);
	vm_delete_region(self->vm, SLOT_A);
	guest_no_slot(self->vcpu, GPA_A);
	decode(self, true);
	guest_no_slot(self->vcpu, GPA_A);
}

/* A slot can be made, and deleted, while the memory is away. */
DMABUF_TEST(revoked_slot)
{
	int fd;

	decode(self, false);
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
	decode(self, true);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(0));

	decode(self, false);
	guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
	vm_delete_region(self->vm, SLOT_A);
	TEST_ASSERT_EQ(guest_run(self->vcpu), GUEST_MMIO);
	complete_mmio_read(self->vcpu, GPA_A);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), MMIO_SENTINEL);

	/* Exported while the device does not decode. */
	fd = vfio_pci_dmabuf_export_bar(self->dev, self->bar);
	vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, SZ_2M, fd, PAGE_SIZE);
	close(fd);
	guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
	decode(self, true);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(1));
}

/* Lines of debugfs dma_buf/bufinfo that begin like that, or -1. */
static int bufinfo_lines(const char *prefix)
{
	FILE *f = fopen("/sys/kernel/debug/dma_buf/bufinfo", "r");
	char line[256];
	int nr = 0;

	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		nr += !strncmp(line, prefix, strlen(prefix));
	fclose(f);

	return nr;
}

/*
 * What an administrator sees: who imported, which is a VM and not each of its slots,
 * and how often it was taken away.
 */
DMABUF_TEST(bookkeeping)
{
	const char *all = "\t(no device) kvm restorable";
	const char *mapped = "\t(no device) kvm restorable mapped";
	u64 count = vm_get_stat(self->vm, dmabuf_revocations);
	u64 __maybe_unused flushes;
	bool debugfs = bufinfo_lines(all) >= 0;
	int i;

	TEST_ASSERT_EQ(count, 0);
	if (!debugfs)
		ksft_print_msg("no debugfs, bufinfo not tested\n");

	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	add_slot(self->vm, SLOT_B, 0, GPA_B, SZ_2M, self->fd, 0);
	for (i = 1; i < 4; i++) {
		/*
		 * The second slot was used, but on x86 nothing is left of that: to
		 * delete any slot zaps all.  The first one's flush is due anyway.
		 */
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_B), TAG(0));
		vm_set_dmabuf_region(self->vm, SLOT_B + 1, 0, 2 * GPA_B, SZ_2M, self->fd, 0);
		vm_delete_region(self->vm, SLOT_B + 1);
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
		TEST_ASSERT(!debugfs || bufinfo_lines(mapped) == 1, "bufinfo has %d mappings",
			    bufinfo_lines(mapped));
		/*
		 * Emulators of nested paging may flush their TLBs for reasons of
		 * their own, and the tests under load then miss nothing.  Only x86
		 * counts each flush, arm64 and riscv have instructions for ranges.
		 */
		flushes = vm_get_stat(self->vm, remote_tlb_flush_requests);
		decode(self, false);
#ifdef __x86_64__
		TEST_ASSERT(vm_get_stat(self->vm, remote_tlb_flush_requests) > flushes,
			    "revoked without a flush of TLBs");
#endif
		decode(self, false);
		TEST_ASSERT_EQ(vm_get_stat(self->vm, dmabuf_revocations), 2 * i);
		TEST_ASSERT(!debugfs || (!bufinfo_lines(mapped) && bufinfo_lines(all) == 1),
			    "revoked: bufinfo has %d mappings, %d importers",
			    bufinfo_lines(mapped), bufinfo_lines(all));
		decode(self, true);
	}
	vm_delete_region(self->vm, SLOT_A);
	TEST_ASSERT(!debugfs || bufinfo_lines(all) == 1, "bufinfo has %d importers",
		    bufinfo_lines(all));
	vm_delete_region(self->vm, SLOT_B);
	TEST_ASSERT(!debugfs || !bufinfo_lines(all), "bufinfo has %d importers",
		    bufinfo_lines(all));
}

/* The device is closed and the VM does not notice until it looks. */
DMABUF_TEST(device_closed)
{
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));

	close_device(self);
	guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
	TEST_ASSERT_EQ(__vm_set_dmabuf_region(self->vm, SLOT_B, 0, GPA_B, SZ_2M,
					      self->fd, 0), -ENODEV);
	TEST_ASSERT_EQ(dmabuf_count(self->fd), 2);

	/* Another open of the device does not bring this buffer back. */
	open_device(self);
	assert_revoked_exit(self->vcpu, GPA_A);
	TEST_ASSERT_EQ(guest_run(self->vcpu), GUEST_FAULT);
	assert_revoked_exit(self->vcpu, GPA_A);

	vm_delete_region(self->vm, SLOT_A);
	TEST_ASSERT_EQ(guest_run(self->vcpu), GUEST_MMIO);
	complete_mmio_read(self->vcpu, GPA_A);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), MMIO_SENTINEL);
	TEST_ASSERT_EQ(dmabuf_count(self->fd), 1);
}

/* The first further device that can be reset alone and has registers in BAR 0. */
static struct vfio_pci_device *open_resettable(FIXTURE_DATA(dmabuf) *self)
{
	struct vfio_pci_device *dev;
	int i;

	for (i = 1; i < nr_bdfs; i++) {
		dev = vfio_pci_device_init_nomap(bdfs[i], self->iommu);
		if ((dev->info.flags & VFIO_DEVICE_FLAGS_RESET) &&
		    (dev->bars[0].info.flags & VFIO_REGION_INFO_FLAG_MMAP))
			return dev;
		vfio_pci_device_cleanup(dev);
	}

	return NULL;
}

/* Leaves of a page, or 0 where nothing tells. */
static u64 page_leaves(struct kvm_vm *vm)
{
	return vm_has_leaves(vm) ? vm_leaves(vm).k4 : 0;
}

/* Ways to lose the memory other than decode: reset and low power. */
DMABUF_TEST(reset_and_power)
{
	struct vfio_pci_device *dev;
	u64 before, mapped, revocations, val;
	int fd, i;

	dev = open_resettable(self);
	if (!dev)
		SKIP(return, "no second device that can be reset");

	vfio_pci_set_memory_decode(dev, true);
	fd = vfio_pci_dmabuf_export_bar(dev, 0);
	add_slot(self->vm, SLOT_A, 0, GPA_A, PAGE_SIZE, fd, 0);

	/* All of the guest's own memory that the access below takes. */
	TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_READ32, GPA_A, 0, 0), GUEST_DONE_CMD);
	vfio_pci_set_memory_decode(dev, false);
	vfio_pci_set_memory_decode(dev, true);

	for (i = 0; i < 3; i++) {
		before = page_leaves(self->vm);
		TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_READ32, GPA_A, 0, 0),
			       GUEST_DONE_CMD);
		val = guest_res(self->vcpu);
		mapped = page_leaves(self->vm);
		TEST_ASSERT_EQ(mapped, before + vm_has_leaves(self->vm));

		/* The entry goes before the reset, the memory is back after. */
		revocations = vm_get_stat(self->vm, dmabuf_revocations);
		vfio_pci_device_reset(dev);
		TEST_ASSERT(vm_get_stat(self->vm, dmabuf_revocations) > revocations,
			    "reset without a revocation");
		TEST_ASSERT_EQ(page_leaves(self->vm), before);
		TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_READ32, GPA_A, 0, 0),
			       GUEST_DONE_CMD);
		TEST_ASSERT_EQ(guest_res(self->vcpu), val);

		/* Leave nothing mapped for the next round. */
		vfio_pci_set_memory_decode(dev, false);
		vfio_pci_set_memory_decode(dev, true);
	}

	if (__vfio_pci_set_power_state(dev, 3)) {
		ksft_print_msg("no PM capability, low power not tested\n");
	} else {
		guest_revoked(self->vcpu, GUEST_READ32, GPA_A, 0);
		/* One reason to be away ends, the other does not. */
		vfio_pci_set_memory_decode(dev, false);
		vfio_pci_set_memory_decode(dev, true);
		TEST_ASSERT_EQ(guest_run(self->vcpu), GUEST_FAULT);
		assert_revoked_exit(self->vcpu, GPA_A);
		__vfio_pci_set_power_state(dev, 0);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), val);
	}
	vfio_pci_device_cleanup(dev);
}

int main(int argc, char *argv[])
{
	return dmabuf_main(argc, argv);
}
