// SPDX-License-Identifier: GPL-2.0-only
/*
 * A VM whose VMM maps nothing of it.
 *
 * The guest's RAM is a guest_memfd, and the BARs of its devices are dma-bufs.
 * Both are given to KVM and to iommufd by file and offset.  While the guest
 * runs, the VMM has no mapping of either, which its /proc/self/maps shows.
 * The guest drives a real device: it has an igb copy within its RAM, from its
 * RAM into the BAR of another device, and back.
 *
 * Usage: guest_memfd_vmm_test IGB MEMORY - PCI addresses of an 82576, and of a
 * device with a BAR that keeps what is written, as ivshmem has.
 *
 * RAM is filled before the guest starts: the test library makes the guest, and
 * the test copies it into a mapping of the guest_memfd and removes the
 * mapping.  The VMM could map the RAM again, as a default VM's memory is
 * shared with the host.
 *
 * A software-protected VM of x86 has private RAM, which cannot be mapped at
 * all.  It starts in a memslot with an address in userspace, as others do,
 * copies itself into its private RAM, and goes on there.  Then the VMM deletes
 * the memslot, and an access to its memory fails.
 *
 * The RAM has no address in userspace.  So KVM cannot emulate instructions on
 * x86, because it would have to read them.  The guest uses only port I/O, and
 * BARs that are mapped.
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

/* Private RAM, at the same guest virtual address */
#define SLOT_PRIVATE	20
#define PRIVATE_GPA	(8ull * SZ_1G)
/* Guest virtual addresses of all RAM that the guest starts in, and of a page */
#define BOOT_GVA	(6ull * SZ_1G)
#define BOOT_PAGE_GVA	(7ull * SZ_1G)

#define REPORT_PORT	0x1008

/* What the guest reports, in this order, software-protected ones from the first */
enum stage {
	STAGE_MOVED = 0x5700,
	STAGE_STARTED,
	STAGE_LINK,
	STAGE_RAM_TO_RAM,
	STAGE_RAM_TO_PEER,
	STAGE_PEER_TO_RAM,
	STAGE_DONE,
};

static const char * const stage_names[] = {
	"the guest has copied itself into private RAM, where it started is gone",
	"the guest runs",
	"its driver has an igb with a link",
	"the igb copied from RAM to RAM",
	"the igb copied from RAM to the BAR of the other device",
	"the igb copied from that BAR to RAM",
	"the guest has turned the igb off",
};

#define COPY_SIZE	1024
#define NR_DESCS	64
/* The link takes half a second to come up, however fast a register is read. */
#define POLLS		SZ_128M

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
	/* What was copied is read after that */
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

#ifdef __x86_64__
#define PTE_PRESENT	BIT_ULL(0)
#define PTE_LARGE	BIT_ULL(7)

static u64 *pte_of(u64 tables, u64 table, u64 gva, int level)
{
	return (u64 *)(tables + table) + ((gva >> (3 + level * 9)) & 0x1ff);
}

/* Page tables can be read at @tables, an offset from their physical address */
static u64 guest_gva2gpa(u64 tables, u64 gva, int levels)
{
	u64 table = get_cr3() & PHYSICAL_PAGE_MASK;

	for (; levels; levels--) {
		u64 pte = *pte_of(tables, table, gva, levels);

		guest_require(pte & PTE_PRESENT && !(pte & PTE_LARGE), __LINE__);
		table = pte & PHYSICAL_PAGE_MASK;
	}
	return table;
}

/* What the tables that were copied map of the first @size bytes goes, too */
static void guest_move_table(u64 table, u64 size, u64 gva, int level)
{
	int i;

	for (i = 0; i < 512; i++, gva += 1ull << (3 + level * 9)) {
		u64 *pte = (u64 *)(PRIVATE_GPA + table) + i;
		u64 pa = *pte & PHYSICAL_PAGE_MASK;

		if (!(*pte & PTE_PRESENT) || pa >= size)
			continue;
		if (level > 1)
			guest_move_table(pa, size, gva, level - 1);
		else if (gva == BOOT_PAGE_GVA)
			continue;
		*pte += PRIVATE_GPA;
	}
}

/*
 * On return nothing of the RAM that the guest started in is used any more. No
 * memory is written to between the copy of the stack and the change of tables.
 */
static noinline void guest_move(u64 size)
{
	int levels = get_cr4() & X86_CR4_LA57 ? 5 : 4;
	u64 from, to, count, stack, cr3;

	from = BOOT_GVA;
	to = PRIVATE_GPA;
	count = size;
	asm volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(count) : :
		     "memory");
	guest_move_table(get_cr3() & PHYSICAL_PAGE_MASK, size, 0, levels);

	/* What is in use of the stack is no more than its first page */
	asm volatile("mov %%rsp, %0" : "=r"(stack));
	from = stack & ~(PAGE_SIZE - 1ull);
	to = PRIVATE_GPA + guest_gva2gpa(BOOT_GVA, from, levels);
	cr3 = get_cr3() + PRIVATE_GPA;
	count = PAGE_SIZE;
	asm volatile("rep movsb\n\t"
		     "mov %[cr3], %%cr3"
		     : "+S"(from), "+D"(to), "+c"(count)
		     : [cr3] "r"(cr3)
		     : "memory");

	/* Where it started can be read until the VMM takes it away */
	READ_ONCE(*(volatile u64 *)BOOT_PAGE_GVA);
	report(STAGE_MOVED);
}

/* Nobody can emulate an instruction that is in private RAM: an exception, or exit */
static void guest_touch_boot_page(void)
{
	report(kvm_asm_safe("testb $0, (%[gva])", [gva] "r"(BOOT_PAGE_GVA)));
}
#else
static void guest_move(u64 size)
{
}

static void guest_touch_boot_page(void)
{
}
#endif

/* @private_size: of RAM to move to, or 0 */
static void guest_main(u64 bar, u64 peer, struct dma_area *area, u64 gpa,
		       u64 private_size)
{
	u64 src, dst;

	if (private_size) {
		guest_move(private_size);
		gpa += PRIVATE_GPA;
	}
	src = gpa + offsetof(struct dma_area, src);
	dst = gpa + offsetof(struct dma_area, dst);

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
	if (private_size)
		guest_touch_boot_page();
}

static u32 reported(struct kvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

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

static u32 run_to_report(struct kvm_vcpu *vcpu)
{
	int r;

	/* vcpu_run() would look for a ucall, in memory that is not mapped. */
	do {
		r = __vcpu_run(vcpu);
	} while (r && errno == EINTR);
	TEST_ASSERT(!r, KVM_IOCTL_ERROR(KVM_RUN, r));
	return reported(vcpu);
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

static int nr_mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	int c, nr = 0;

	TEST_ASSERT(f, "Failed to open /proc/self/maps");
	while ((c = fgetc(f)) != EOF)
		nr += c == '\n';
	fclose(f);
	return nr;
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

/* A guest_memfd for private RAM. It has no way to be mapped */
static int private_ram(struct kvm_vm *vm, u64 *ram_size)
{
	struct userspace_mem_region *region = memslot2region(vm, 0);
	u64 size = region->region.memory_size;
	int fd = vm_create_guest_memfd(vm, size, 0);

	TEST_ASSERT_EQ(region->region.guest_phys_addr, 0);
	TEST_ASSERT(mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0) ==
		    MAP_FAILED, "private RAM can be mapped");
	vm_set_user_memory_region2(vm, SLOT_PRIVATE, KVM_MEM_GUEST_MEMFD,
				   PRIVATE_GPA, size, NULL, fd, 0);
	vm_mem_set_private(vm, PRIVATE_GPA, size);
	virt_map(vm, PRIVATE_GPA, PRIVATE_GPA, size / vm->page_size);
	virt_map(vm, BOOT_GVA, 0, size / vm->page_size);
	virt_map(vm, BOOT_PAGE_GVA, 0, 1);
	*ram_size = size;
	return fd;
}

/* The guest is in its private RAM, and the library cannot look into it any more */
static void drop_boot_ram(struct kvm_vm *vm)
{
	struct userspace_mem_region *region = memslot2region(vm, 0);

	vm_set_user_memory_region2(vm, 0, 0, 0, 0, NULL, -1, 0);
	kvm_munmap(region->mmap_start, region->mmap_size);
}

static void run_vm(u32 type, bool private)
{
	struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = type,
	};
	struct vfio_pci_device *igb, *peer;
	int igb_fd, peer_fd, ram_fd, bar;
	u64 igb_size, ram_size, ram_gpa;
	struct kvm_vcpu *vcpu;
	struct iommu *iommu;
	struct kvm_vm *vm;
	enum stage stage;
	const void *ram;
	gva_t area;

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

	vm = __vm_create_shape_with_one_vcpu(shape, &vcpu, EXTRA_PAGES,
					     guest_main);
	vm_set_dmabuf_region(vm, SLOT_A, 0, IGB_GPA, igb_size, igb_fd, 0);
	vm_set_dmabuf_region(vm, SLOT_B, 0, PEER_GPA, PEER_SIZE, peer_fd, 0);
	virt_map(vm, IGB_GPA, IGB_GPA, igb_size / vm->page_size);
	virt_map(vm, PEER_GPA, PEER_GPA, PEER_SIZE / vm->page_size);
	/* Contiguous, as all that is allocated at once */
	area = vm_alloc(vm, sizeof(struct dma_area), KVM_UTIL_MIN_VADDR);
	ram = memslot2region(vm, 0)->host_mem;

	if (private) {
		ram_gpa = PRIVATE_GPA;
		ram_fd = private_ram(vm, &ram_size);
		stage = STAGE_MOVED;
	} else {
		ram_gpa = 0;
		stage = STAGE_STARTED;
	}
	vcpu_args_set(vcpu, 5, IGB_GPA, PEER_GPA, area, addr_gva2gpa(vm, area),
		      private ? ram_size : 0);
	if (!private)
		ram_fd = move_ram(vm, &ram_size);

	ksft_print_msg("A VM whose VMM, process %d, maps nothing of it\n",
		       getpid());
	ksft_print_msg("in KVM and in the IOAS, by file and offset:\n");
	ksft_print_msg("%lu MiB of %s at 0x%lx, a guest_memfd\n",
		       ram_size / SZ_1M, private ? "private RAM" : "RAM", ram_gpa);
	ksft_print_msg("%lu KiB of BAR %d of %s at 0x%lx, a dma-buf\n",
		       PEER_SIZE / 1024ul, bar, bdfs[1], (u64)PEER_GPA);
	ksft_print_msg("in KVM: BAR 0 of %s, an igb, at 0x%lx, a dma-buf\n",
		       bdfs[0], (u64)IGB_GPA);

	/* The device has the guest's addresses */
	iommu_map_file(iommu, ram_fd, 0, ram_size, ram_gpa);
	iommu_map_file(iommu, peer_fd, 0, PEER_SIZE, PEER_GPA);
	/* And nobody needs the files */
	close(ram_fd);
	close(igb_fd);
	close(peer_fd);

	for (; stage <= STAGE_DONE; stage++) {
		u32 val = run_to_report(vcpu);

		TEST_ASSERT(val == stage, "the guest failed at line %u", val);
		if (stage == STAGE_MOVED)
			drop_boot_ram(vm);
		assert_nothing_mapped(ram, ram_size);
		ksft_test_result_pass("%s: %s; %d mappings, none of RAM or a BAR\n",
				      private ? "private RAM" : "shared RAM",
				      stage_names[stage - STAGE_MOVED],
				      nr_mappings());
	}

	if (private) {
		vcpu_run(vcpu);
		if (vcpu->run->exit_reason != KVM_EXIT_INTERNAL_ERROR) {
			u32 vector = reported(vcpu);

			TEST_ASSERT(vector, "RAM that is gone was read");
			pr_info("exception %u\n", vector);
		}
		ksft_test_result_pass("RAM that is gone cannot be read\n");
	}

	iommu_unmap_iova(iommu, ram_gpa, ram_size);
	iommu_unmap_iova(iommu, PEER_GPA, PEER_SIZE);
	vfio_pci_device_cleanup(peer);
	vfio_pci_device_cleanup(igb);
	iommu_cleanup(iommu);
	/* Not freed: the library would unmap what is not mapped any more */
	kvm_vm_release(vm);
}

static bool has_private_vms(void)
{
#ifdef __x86_64__
	return kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM);
#else
	return false;
#endif
}

int main(int argc, char *argv[])
{
	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_bdfs);
	__TEST_REQUIRE(nr_bdfs == 2, "takes two devices");
	__TEST_REQUIRE(!access("/dev/iommu", R_OK | W_OK), "no /dev/iommu");
	__TEST_REQUIRE(kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) &
		       GUEST_MEMFD_FLAG_MMAP, "no guest_memfd can be filled");

	ksft_print_header();
	ksft_set_plan(STAGE_DONE - STAGE_STARTED + 1 +
		      (has_private_vms() ? STAGE_DONE - STAGE_MOVED + 2 : 0));

	run_vm(VM_TYPE_DEFAULT, false);
#ifdef __x86_64__
	if (has_private_vms())
		run_vm(KVM_X86_SW_PROTECTED_VM, true);
#endif
	ksft_finished();
}
