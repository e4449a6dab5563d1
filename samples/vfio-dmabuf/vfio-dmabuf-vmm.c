// SPDX-License-Identifier: GPL-2.0-only
/*
 * The smallest VMM that assigns a PCI device without mapping it
 *
 * The memory of the device is a dma-buf that VFIO exports. The guest reaches it
 * through a memslot made of the dma-buf, other devices through an IOMMU mapping
 * made of the dma-buf, and this program only where it must: when the guest
 * accesses memory that was taken away.
 *
 *	vfio-dmabuf-vmm /dev/vfio/devices/vfioN BAR
 *
 * The guest reads the first register of the BAR, time and again; what it read is
 * printed. Meanwhile the device's memory is turned off and on, and the device
 * is reset if it can be.
 *
 * To be copied: everything a VMM has to do is a function here, in the order in
 * which it is to be called. Documentation/driver-api/vfio.rst walks through it.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/iommufd.h>
#include <linux/kvm.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#define RAM_SIZE	0x1000
#define BAR_GPA		0x10000000	/* where the guest sees the BAR */
#define RESULT_PORT	0x10

enum { RAM_SLOT, BAR_SLOT };

/* 32-bit code: loop { eax = *ebx; out RESULT_PORT, eax } */
static const __u8 guest_code[] = { 0x8b, 0x03, 0xe7, RESULT_PORT, 0xeb, 0xfa };

struct vmm {
	int device;		/* VFIO's character device */
	int iommufd;
	__u32 ioas;
	int dmabuf;		/* of the BAR */
	__u64 bar_size;
	__u64 bar_offset;	/* of the region in @device, for pread and pwrite */
	__u64 config_offset;
	int can_reset;

	int vm;
	int vcpu;
	struct kvm_run *run;
};

static int xioctl(int fd, unsigned long cmd, void *arg, const char *what)
{
	int ret = ioctl(fd, cmd, arg);

	if (ret < 0)
		err(1, "%s", what);
	return ret;
}

/* The device belongs to an iommufd, and does DMA to an address space of it. */
static void open_device(struct vmm *v, const char *path)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };
	struct vfio_device_info info = { .argsz = sizeof(info) };

	v->device = open(path, O_RDWR);
	if (v->device < 0)
		err(1, "%s", path);
	v->iommufd = open("/dev/iommu", O_RDWR);
	if (v->iommufd < 0)
		err(1, "/dev/iommu");

	bind.iommufd = v->iommufd;
	xioctl(v->device, VFIO_DEVICE_BIND_IOMMUFD, &bind, "bind");
	xioctl(v->iommufd, IOMMU_IOAS_ALLOC, &alloc, "alloc IOAS");
	v->ioas = alloc.out_ioas_id;
	attach.pt_id = v->ioas;
	xioctl(v->device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach, "attach");

	xioctl(v->device, VFIO_DEVICE_GET_INFO, &info, "device info");
	v->can_reset = info.flags & VFIO_DEVICE_FLAGS_RESET;
}

static __u64 region_offset(struct vmm *v, unsigned int index, __u64 *size)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	xioctl(v->device, VFIO_DEVICE_GET_REGION_INFO, &info, "region info");
	if (size)
		*size = info.size;
	return info.offset;
}

/*
 * One dma-buf for all of the BAR. A real VMM leaves out the pages of the MSI-X
 * table, which it emulates, by two ranges. The dma-buf is what is left, without
 * a hole.
 */
static void export_bar(struct vmm *v, unsigned int bar)
{
	struct {
		struct vfio_device_feature feature;
		struct vfio_device_feature_dma_buf dmabuf;
		struct vfio_region_dma_range range;
	} get = {
		.feature.argsz = sizeof(get),
		.feature.flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF,
		.dmabuf.region_index = bar,
		.dmabuf.open_flags = O_RDWR | O_CLOEXEC,
		.dmabuf.nr_ranges = 1,
	};

	v->config_offset = region_offset(v, VFIO_PCI_CONFIG_REGION_INDEX, NULL);
	v->bar_offset = region_offset(v, bar, &v->bar_size);
	get.range.length = v->bar_size;
	v->dmabuf = xioctl(v->device, VFIO_DEVICE_FEATURE, &get, "export BAR");
}

/*
 * Other devices in this IOAS reach the BAR where the guest's CPU sees it. With
 * IOMMU_IOAS_MAP_RESTORE that needs no care from here on: the mapping is empty
 * while the memory is taken away, and not when it is not.
 */
static void map_for_devices(struct vmm *v)
{
	struct iommu_ioas_map_file map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
			 IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_RESTORE,
		.ioas_id = v->ioas,
		.fd = v->dmabuf,
		.start = 0,
		.length = v->bar_size,
		.iova = BAR_GPA,
	};

	xioctl(v->iommufd, IOMMU_IOAS_MAP_FILE, &map, "map BAR in the IOAS");
}

/*
 * The memslot of the BAR. It can be made whether the memory is there or not, and
 * stays. With KVM_MEM_REVOKED_MMIO an access of the guest is MMIO while the memory
 * is taken away. Without the flag it would be an exit of its own, which needs an
 * idea of when to enter the guest again.
 */
static void make_bar_slot(struct vmm *v)
{
	struct kvm_userspace_memory_region2 slot = {
		.slot = BAR_SLOT,
		.flags = KVM_MEM_DMABUF | KVM_MEM_REVOKED_MMIO,
		.guest_phys_addr = BAR_GPA,
		.memory_size = v->bar_size,
		.dmabuf_fd = v->dmabuf,
		.dmabuf_offset = 0,
	};

	xioctl(v->vm, KVM_SET_USER_MEMORY_REGION2, &slot, "memslot of the BAR");
}

static void create_vm(struct vmm *v)
{
	struct kvm_userspace_memory_region ram = {
		.slot = RAM_SLOT,
		.memory_size = RAM_SIZE,
	};
	int size, kvm;
	void *mem;

	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		err(1, "/dev/kvm");
	v->vm = xioctl(kvm, KVM_CREATE_VM, NULL, "create VM");
	size = ioctl(v->vm, KVM_CHECK_EXTENSION, KVM_CAP_DMABUF_MEM);
	if (size <= 0 || !(size & KVM_MEM_REVOKED_MMIO))
		errx(1, "KVM cannot make memslots of dma-bufs, or not MMIO of revoked ones");

	mem = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		err(1, "RAM");
	memcpy(mem, guest_code, sizeof(guest_code));
	ram.userspace_addr = (uintptr_t)mem;
	xioctl(v->vm, KVM_SET_USER_MEMORY_REGION, &ram, "memslot of RAM");

	v->vcpu = xioctl(v->vm, KVM_CREATE_VCPU, NULL, "create vCPU");
	size = xioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL, "vCPU's size");
	v->run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, v->vcpu, 0);
	if (v->run == MAP_FAILED)
		err(1, "kvm_run");
	close(kvm);
}

static void flat(struct kvm_segment *s)
{
	s->base = 0;
	s->limit = 0xffffffff;
	s->g = 1;
	s->db = 1;
}

/* Protected mode without paging, ready to run the code at 0. */
static void reset_vcpu(struct vmm *v)
{
	struct kvm_regs regs = { .rflags = 2, .rbx = BAR_GPA };
	struct kvm_sregs sregs;

	xioctl(v->vcpu, KVM_GET_SREGS, &sregs, "get sregs");
	flat(&sregs.cs);
	flat(&sregs.ds);
	flat(&sregs.es);
	flat(&sregs.ss);
	sregs.cs.selector = 8;
	sregs.cs.type = 11;
	sregs.cr0 |= 1;
	xioctl(v->vcpu, KVM_SET_SREGS, &sregs, "set sregs");
	xioctl(v->vcpu, KVM_SET_REGS, &regs, "set regs");
}

/*
 * An access while the memory is away. VFIO waits for a reset to end,
 * and refuses while memory decode is off or the device sleeps. Then do as the
 * hardware does: reads give all ones, writes are dropped.
 */
static void emulate(struct vmm *v)
{
	__u64 offset = v->run->mmio.phys_addr - BAR_GPA;
	__u32 len = v->run->mmio.len;

	printf("  revoked: MMIO at %#llx\n", (unsigned long long)v->run->mmio.phys_addr);
	if (v->run->mmio.is_write) {
		if (pwrite(v->device, v->run->mmio.data, len, v->bar_offset + offset) < 0)
			return;
	} else if (pread(v->device, v->run->mmio.data, len, v->bar_offset + offset) < 0) {
		memset(v->run->mmio.data, 0xff, len);
	}
}

/* Run the guest to its next result. */
static __u32 run_guest(struct vmm *v)
{
	for (;;) {
		if (ioctl(v->vcpu, KVM_RUN, NULL) < 0) {
			if (errno == EINTR)
				continue;
			err(1, "KVM_RUN");
		}

		switch (v->run->exit_reason) {
		case KVM_EXIT_MMIO:
			emulate(v);
			break;
		case KVM_EXIT_IO:
			return *(__u32 *)((char *)v->run + v->run->io.data_offset);
		default:
			errx(1, "exit reason %u", v->run->exit_reason);
		}
	}
}

/* What a guest does through the emulated config space. */
static void set_memory_decode(struct vmm *v, int on)
{
	__u16 cmd;

	if (pread(v->device, &cmd, 2, v->config_offset + PCI_COMMAND) != 2)
		err(1, "read PCI_COMMAND");
	cmd = on ? cmd | PCI_COMMAND_MEMORY : cmd & ~PCI_COMMAND_MEMORY;
	if (pwrite(v->device, &cmd, 2, v->config_offset + PCI_COMMAND) != 2)
		err(1, "write PCI_COMMAND");
}

static __u32 report(struct vmm *v, const char *when)
{
	__u32 val = run_guest(v);

	printf("%s: the guest reads %#010x\n", when, val);
	return val;
}

int main(int argc, char **argv)
{
	struct vmm v = {};
	__u32 val, off;

	if (argc != 3)
		errx(2, "usage: %s /dev/vfio/devices/vfioN BAR", argv[0]);

	open_device(&v, argv[1]);
	export_bar(&v, atoi(argv[2]));
	map_for_devices(&v);
	create_vm(&v);
	reset_vcpu(&v);
	set_memory_decode(&v, 1);
	make_bar_slot(&v);

	val = report(&v, "Memory decode on");
	set_memory_decode(&v, 0);
	off = report(&v, "Memory decode off");
	set_memory_decode(&v, 1);
	if (off != 0xffffffff || report(&v, "Memory decode on again") != val)
		errx(1, "that is not as it should be");
	if (v.can_reset) {
		xioctl(v.device, VFIO_DEVICE_RESET, NULL, "reset");
		set_memory_decode(&v, 1);
		report(&v, "After a reset");
	}
	return 0;
}
