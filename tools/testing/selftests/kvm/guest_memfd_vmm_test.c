// SPDX-License-Identifier: GPL-2.0-only
/*
 * A VM whose VMM maps nothing of it.
 *
 * The guest's RAM is a guest_memfd, and the BARs of its devices are dma-bufs.
 * Both are given to KVM and to iommufd by file and offset. While the guest runs
 * there is no mapping of either in the VMM, which its /proc/self/maps shows. The
 * guest drives a real device: it has an igb copy within its RAM, from its RAM
 * into the BAR of another device, and back.
 *
 * Usage: guest_memfd_vmm_test IGB MEMORY - PCI addresses of an 82576, and of a
 * device with a BAR that keeps what is written, as ivshmem has.
 *
 * RAM is filled before: by what the library for tests makes of a guest, copied
 * into a mapping of the guest_memfd, which goes before the guest starts. The VMM
 * could map it again, as a default VM's memory is shared with the host.
 *
 * As there is no address of the RAM in userspace, KVM cannot emulate
 * instructions on x86, which it would have to read. The guest makes do with port
 * I/O, and BARs that are mapped.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>

#include <asm/barrier.h>
#include <linux/mii.h>
#include <linux/sizes.h>

#include "dmabuf_vfio.h"

#include "../vfio/lib/drivers/igb/e1000_regs.h"
#include "../vfio/lib/drivers/igb/e1000_defines.h"
#include "../vfio/lib/drivers/igb/e1000_82575.h"

#define IGB_GPA		(4ull * SZ_1G)
#define PEER_GPA	(5ull * SZ_1G)
#define PEER_SIZE	SZ_64K

#define REPORT_PORT	0x1008

/* What the guest reports, in this order */
enum stage {
	STAGE_STARTED = 0x5700,
	STAGE_LINK,
	STAGE_RAM_TO_RAM,
	STAGE_RAM_TO_PEER,
	STAGE_PEER_TO_RAM,
	STAGE_DONE,
};

#define COPY_SIZE	1024
#define NR_DESCS	64
/* The link takes half a second to come up, however fast a register is read. */
#define POLLS		(1 << 27)

struct igb_desc {
	u64 qword[2];
};

/* Pages of RAM that the device uses, laid out for any page size */
struct dma_area {
	struct igb_desc tx[NR_DESCS] __aligned(4096);
	struct igb_desc rx[NR_DESCS] __aligned(4096);
	u64 src[COPY_SIZE / 8] __aligned(4096);
	u64 dst[COPY_SIZE / 8] __aligned(4096);
};

static void report(u32 val)
{
#ifdef __x86_64__
	asm volatile("outl %0, %w1" : : "a"(val), "d"(REPORT_PORT) : "memory");
#else
	WRITE_ONCE(*ucall_exit_mmio_addr, (u64)val);
#endif
}

/* Anything that is no stage is a failure */
static void guest_require(bool cond, u32 line)
{
	if (!cond)
		for (;;)
			report(line);
}

static u32 igb_read(u64 bar, u32 reg)
{
	return READ_ONCE(*(volatile u32 *)(bar + reg));
}

static void igb_write(u64 bar, u32 reg, u32 val)
{
	/* Descriptors are in memory before the device is told */
	mb();
	WRITE_ONCE(*(volatile u32 *)(bar + reg), val);
}

static bool igb_poll(u64 bar, u32 reg, u32 mask, u32 want)
{
	u32 i;

	for (i = 0; i < POLLS; i++)
		if ((igb_read(bar, reg) & mask) == want)
			return true;
	return false;
}

static void igb_write_phy(u64 bar, u32 reg, u16 val)
{
	igb_write(bar, E1000_MDIC, val | reg << E1000_MDIC_REG_SHIFT |
		  1 << E1000_MDIC_PHY_SHIFT | E1000_MDIC_OP_WRITE);
	guest_require(igb_poll(bar, E1000_MDIC, E1000_MDIC_READY,
			       E1000_MDIC_READY), __LINE__);
}

/* As libvfio's driver, without interrupts */
static void igb_setup(u64 bar, u64 tx, u64 rx)
{
	igb_write(bar, E1000_CTRL, igb_read(bar, E1000_CTRL) | E1000_CTRL_RST);
	guest_require(igb_poll(bar, E1000_CTRL, E1000_CTRL_RST, 0), __LINE__);
	igb_write(bar, E1000_IMC, ~0u);
	igb_write(bar, E1000_CTRL_EXT,
		  (igb_read(bar, E1000_CTRL_EXT) | E1000_CTRL_EXT_DRV_LOAD) &
		  ~E1000_CTRL_EXT_LINK_MODE_MASK);

	igb_write_phy(bar, MII_BMCR, BMCR_ANENABLE | BMCR_ANRESTART);
	igb_write_phy(bar, MII_BMCR,
		      BMCR_LOOPBACK | BMCR_SPEED1000 | BMCR_FULLDPLX);
	igb_write(bar, E1000_CTRL,
		  (igb_read(bar, E1000_CTRL) & ~E1000_CTRL_SPD_SEL) |
		  E1000_CTRL_FRCSPD | E1000_CTRL_FRCDPX | E1000_CTRL_SPD_1000 |
		  E1000_CTRL_FD | E1000_CTRL_SLU);
	guest_require(igb_poll(bar, E1000_STATUS, E1000_STATUS_LU,
			       E1000_STATUS_LU), __LINE__);

	igb_write(bar, E1000_TDBAL(0), tx);
	igb_write(bar, E1000_TDBAH(0), tx >> 32);
	igb_write(bar, E1000_TDLEN(0), NR_DESCS * sizeof(struct igb_desc));
	igb_write(bar, E1000_TDH(0), 0);
	igb_write(bar, E1000_TDT(0), 0);
	igb_write(bar, E1000_TXDCTL(0), E1000_TXDCTL_QUEUE_ENABLE);
	igb_write(bar, E1000_RDBAL(0), rx);
	igb_write(bar, E1000_RDBAH(0), rx >> 32);
	igb_write(bar, E1000_RDLEN(0), NR_DESCS * sizeof(struct igb_desc));
	igb_write(bar, E1000_RDH(0), 0);
	igb_write(bar, E1000_RDT(0), 0);
	igb_write(bar, E1000_SRRCTL(0), E1000_SRRCTL_DESCTYPE_ADV_ONEBUF);
	igb_write(bar, E1000_RXDCTL(0), E1000_RXDCTL_QUEUE_ENABLE);
	igb_write(bar, E1000_RCTL, E1000_RCTL_EN | E1000_RCTL_UPE |
		  E1000_RCTL_MPE | E1000_RCTL_BAM | E1000_RCTL_LBM_MAC |
		  E1000_RCTL_SECRC);
	igb_write(bar, E1000_TCTL, E1000_TCTL_EN | E1000_TCTL_PSP);
	guest_require(igb_poll(bar, E1000_TXDCTL(0), E1000_TXDCTL_QUEUE_ENABLE,
			       E1000_TXDCTL_QUEUE_ENABLE), __LINE__);
	guest_require(igb_poll(bar, E1000_RXDCTL(0), E1000_RXDCTL_QUEUE_ENABLE,
			       E1000_RXDCTL_QUEUE_ENABLE), __LINE__);
}

/* The device copies from one IOVA, which is a GPA, to another */
static void igb_copy(u64 bar, struct dma_area *area, u32 nr, u64 src, u64 dst)
{
	struct igb_desc *tx = &area->tx[nr], *rx = &area->rx[nr];
	u32 i;

	rx->qword[0] = dst;
	rx->qword[1] = 0;
	tx->qword[0] = src;
	tx->qword[1] = COPY_SIZE | E1000_ADVTXD_DTYP_DATA |
		       E1000_ADVTXD_DCMD_DEXT | E1000_ADVTXD_DCMD_IFCS |
		       E1000_ADVTXD_DCMD_EOP |
		       (u64)COPY_SIZE << (32 + E1000_ADVTXD_PAYLEN_SHIFT);
	igb_write(bar, E1000_RDT(0), nr + 1);
	igb_write(bar, E1000_TDT(0), nr + 1);

	/* The device writes back that it is done, to RAM */
	for (i = 0; i < POLLS && !(READ_ONCE(rx->qword[1]) & 1); i++)
		igb_read(bar, E1000_STATUS);
	guest_require(READ_ONCE(rx->qword[1]) & 1, __LINE__);
	rmb();
}

static void guest_fill(u64 *mem, u64 val)
{
	u32 i;

	for (i = 0; i < COPY_SIZE / 8; i++)
		WRITE_ONCE(mem[i], val + i);
}

static bool guest_check(const u64 *mem, u64 val)
{
	u32 i;

	for (i = 0; i < COPY_SIZE / 8; i++)
		if (READ_ONCE(mem[i]) != val + i)
			return false;
	return true;
}

static void guest_main(u64 bar, u64 peer, struct dma_area *area, u64 gpa)
{
	u64 src = gpa + offsetof(struct dma_area, src);
	u64 dst = gpa + offsetof(struct dma_area, dst);

	report(STAGE_STARTED);
	igb_setup(bar, gpa + offsetof(struct dma_area, tx),
		  gpa + offsetof(struct dma_area, rx));
	report(STAGE_LINK);

	guest_fill(area->src, 0x1100);
	guest_fill(area->dst, 0);
	igb_copy(bar, area, 0, src, dst);
	guest_require(guest_check(area->dst, 0x1100), __LINE__);
	report(STAGE_RAM_TO_RAM);

	/* Peer to peer */
	guest_fill(area->src, 0x2200);
	guest_fill((u64 *)peer, 0);
	igb_copy(bar, area, 1, src, peer);
	guest_require(guest_check((u64 *)peer, 0x2200), __LINE__);
	report(STAGE_RAM_TO_PEER);

	guest_fill((u64 *)peer, 0x3300);
	igb_copy(bar, area, 2, peer, dst);
	guest_require(guest_check(area->dst, 0x3300), __LINE__);
	report(STAGE_PEER_TO_RAM);

	/* Nothing is left that could write to RAM */
	igb_write(bar, E1000_RCTL, 0);
	igb_write(bar, E1000_TCTL, 0);
	report(STAGE_DONE);
}

static u32 run_to_report(struct kvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	vcpu_run(vcpu);
#ifdef __x86_64__
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(run->io.port, REPORT_PORT);
	return *(u32 *)((char *)run + run->io.data_offset);
#else
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MMIO);
	TEST_ASSERT_EQ(run->mmio.phys_addr, vcpu->vm->ucall_mmio_addr);
	return *(u64 *)run->mmio.data;
#endif
}

/* Are there mappings of files with such a name? Tells which */
static bool maps_have(const char *name)
{
	bool found = false;
	char line[512];
	FILE *f;

	f = fopen("/proc/self/maps", "r");
	TEST_ASSERT(f, "Failed to open /proc/self/maps");
	while (fgets(line, sizeof(line), f)) {
		if (strstr(line, name)) {
			pr_info("%s", line);
			found = true;
		}
	}
	fclose(f);
	return found;
}

static void assert_nothing_mapped(const void *ram, size_t ram_size)
{
	unsigned char vec;

	TEST_ASSERT(!maps_have("gmem"), "RAM is mapped");
	TEST_ASSERT(!maps_have("vfio"), "a BAR is mapped");
	TEST_ASSERT(!maps_have("dmabuf"), "a dma-buf is mapped");
	TEST_ASSERT(mincore((void *)ram, ram_size, &vec) && errno == ENOMEM,
		    "what RAM was filled from is mapped");
}

/*
 * Move all of slot 0 into a guest_memfd that nobody maps. What the library has
 * mapped is unmapped, so from here on it cannot look into the guest.
 */
static int move_ram(struct kvm_vm *vm, u64 *ram_size)
{
	struct userspace_mem_region *region = memslot2region(vm, 0);
	u64 size = region->region.memory_size;
	void *mem;
	int fd;

	TEST_ASSERT_EQ(region->region.guest_phys_addr, 0);
	fd = vm_create_guest_memfd(vm, size, GUEST_MEMFD_FLAG_MMAP |
					     GUEST_MEMFD_FLAG_INIT_SHARED);
	mem = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	TEST_ASSERT(maps_have("gmem"), "mappings of RAM would not be seen");
	memcpy(mem, region->host_mem, size);
	kvm_munmap(mem, size);
	kvm_munmap(region->mmap_start, region->mmap_size);

	vm_set_user_memory_region2(vm, 0, 0, 0, 0, NULL, -1, 0);
	vm_set_user_memory_region2(vm, 0, KVM_MEM_GUEST_MEMFD, 0, size, NULL,
				   fd, 0);
	*ram_size = size;
	return fd;
}

int main(int argc, char *argv[])
{
	struct vfio_pci_device *igb, *peer;
	int igb_fd, peer_fd, ram_fd, bar;
	u64 igb_size, ram_size;
	struct kvm_vcpu *vcpu;
	struct iommu *iommu;
	struct kvm_vm *vm;
	enum stage stage;
	const void *ram;
	gva_t area;

	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_bdfs);
	__TEST_REQUIRE(nr_bdfs == 2, "takes two devices");
	__TEST_REQUIRE(!access("/dev/iommu", R_OK | W_OK), "no /dev/iommu");
	__TEST_REQUIRE(kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) &
		       GUEST_MEMFD_FLAG_MMAP, "no guest_memfd can be filled");

	ksft_print_header();
	ksft_set_plan(STAGE_DONE - STAGE_STARTED + 1);

	iommu = iommu_init(MODE_IOMMUFD);
	igb = vfio_pci_device_init_nomap(bdfs[0], iommu);
	peer = vfio_pci_device_init_nomap(bdfs[1], iommu);
	vfio_pci_cmd_set(igb, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	vfio_pci_cmd_set(peer, PCI_COMMAND_MEMORY);
	igb_fd = vfio_pci_dmabuf_export_bar(igb, 0);
	igb_size = igb->bars[0].info.size;
	bar = vfio_pci_largest_bar(peer, PEER_SIZE);
	TEST_ASSERT(bar >= 0, "%s has no memory", bdfs[1]);
	peer_fd = vfio_pci_dmabuf_export_bar(peer, bar);

	vm = __vm_create_with_one_vcpu(&vcpu, EXTRA_PAGES, guest_main);
	vm_set_dmabuf_region(vm, SLOT_A, 0, IGB_GPA, igb_size, igb_fd, 0);
	vm_set_dmabuf_region(vm, SLOT_B, 0, PEER_GPA, PEER_SIZE, peer_fd, 0);
	virt_map(vm, IGB_GPA, IGB_GPA, igb_size / vm->page_size);
	virt_map(vm, PEER_GPA, PEER_GPA, PEER_SIZE / vm->page_size);
	/* Contiguous, as all that is allocated at once */
	area = vm_alloc(vm, sizeof(struct dma_area), KVM_UTIL_MIN_VADDR);
	vcpu_args_set(vcpu, 4, IGB_GPA, PEER_GPA, area, addr_gva2gpa(vm, area));

	ram = memslot2region(vm, 0)->host_mem;
	ram_fd = move_ram(vm, &ram_size);

	/* The device has the guest's addresses */
	iommu_map_file(iommu, ram_fd, 0, ram_size, 0);
	iommu_map_file(iommu, peer_fd, 0, PEER_SIZE, PEER_GPA);
	/* And nobody needs the files */
	close(ram_fd);
	close(igb_fd);
	close(peer_fd);

	for (stage = STAGE_STARTED; stage <= STAGE_DONE; stage++) {
		u32 val = run_to_report(vcpu);

		TEST_ASSERT(val == stage, "the guest failed at line %u", val);
		assert_nothing_mapped(ram, ram_size);
		ksft_test_result_pass("stage %u\n", stage - STAGE_STARTED);
	}

	iommu_unmap_iova(iommu, 0, ram_size);
	iommu_unmap_iova(iommu, PEER_GPA, PEER_SIZE);
	vfio_pci_device_cleanup(peer);
	vfio_pci_device_cleanup(igb);
	iommu_cleanup(iommu);
	ksft_finished();
}
