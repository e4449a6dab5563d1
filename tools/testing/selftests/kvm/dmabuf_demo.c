// SPDX-License-Identifier: GPL-2.0-only
/*
 * A VMM that gives PCI devices to a guest without ever mapping a BAR.
 *
 * Not a test of one thing but the whole path in one transcript: VFIO exports
 * BARs as dma-bufs, KVM and an IOAS import slices of them by fd and offset, the
 * guest works on the BARs, another device does peer-to-peer DMA into one, and
 * each way to take the memory away takes it away from both.  Every line states
 * something that was measured; "ok" or "FAILED" is the verdict on it, and the
 * exit code says whether any failed.  Lines without a verdict are figures.
 *
 * Arguments name the devices, in this order; the defaults are those of the lab:
 *	a device whose largest BAR is memory (QEMU's ivshmem-plain)
 *	a device with registers (QEMU's edu)
 *	a device with a DMA engine that libvfio can drive (igb)
 *	a device that can be reset (nvme)
 *	a device with a BAR of gigabytes (pci-testdev)
 * A device that is not there is left out with a line that says so; the first
 * is required.
 *
 * libvfio drives the DMA engine by a mapping of that device's registers.  This
 * happens in a process of its own, forked off before anything else, so that
 * the VMM is a process without any mapping of device memory.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <linux/iommufd.h>
#include <linux/sizes.h>

#include <libvfio.h>

#include "dmabuf_util.h"
#include "test_util.h"

#define MIB(x)		((u64)(x) << 20)

/* The slice of the memory BAR that guest and DMA engine get. */
#define SLICE_OFFSET	MIB(8)
#define SLICE_SIZE	MIB(16)

/* Guest physical addresses; those of the IOAS are the same. */
#define RAM_GPA		(2ull * SZ_1G)
#define RAM_SIZE	SZ_2M
#define MEM_GPA		(4ull * SZ_1G)
#define REGS_GPA	(8ull * SZ_1G)
#define RESET_GPA	(9ull * SZ_1G)
#define BIG_GPA		(64ull * SZ_1G)

/* A second IOAS mapping of the slice, always without restore. */
#define PLAIN_IOVA	(6ull * SZ_1G)

enum { SLOT_RAM = 10, SLOT_MEM, SLOT_REGS, SLOT_RESET, SLOT_BIG };

#define EDU_ID		0x00
#define EDU_ID_VALUE	0x010000ed
#define EDU_INVERT	0x04
#define NVME_CAP	0x00

#define DMA_SIZE	SZ_4K
#define DMA_WORDS	(DMA_SIZE / sizeof(u64))

enum { DEV_MEM, DEV_REGS, DEV_DMA, DEV_RESET, DEV_BIG, NR_DEVS };

static const char *bdf[NR_DEVS] = {
	"0000:00:04.0", "0000:00:05.0", "0000:00:03.0", "0000:00:07.0", "0000:00:06.0",
};

static struct vfio_pci_device *dev[NR_DEVS];
static int bar[NR_DEVS];
static int fd[NR_DEVS];

static struct iommu *iommu;
static struct kvm_vcpu *vcpu;
static struct kvm_vm *vm;
static int dma_sock = -1;
static u32 restore_flag;
static int kmsg = -1;

static int nr_checks, nr_failed;

static void section(const char *title)
{
	printf("\n%s\n", title);
}

static void __printf(1, 2) figure(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	printf("           ");
	vprintf(fmt, ap);
	printf("\n");
	va_end(ap);
	fflush(stdout);
}

static void __printf(2, 3) check(bool ok, const char *fmt, ...)
{
	va_list ap;

	nr_checks++;
	if (!ok)
		nr_failed++;
	va_start(ap, fmt);
	printf("  %-8s ", ok ? "ok" : "FAILED");
	vprintf(fmt, ap);
	printf("\n");
	va_end(ap);
	fflush(stdout);
}

static bool bound_to_vfio(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", name);
	return !access(path, F_OK);
}

/* Lines of /proc/self/maps that are device memory. */
static int device_mappings(int *total)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	int nr = 0;

	TEST_ASSERT(f, "/proc/self/maps");
	*total = 0;
	while (fgets(line, sizeof(line), f)) {
		(*total)++;
		if (strstr(line, "/dev/vfio/") || strstr(line, "anon_inode:[vfio") ||
		    strstr(line, " /dmabuf:") || strstr(line, "/resource") ||
		    strstr(line, "/dev/mem"))
			nr++;
	}
	fclose(f);

	return nr;
}

/*
 * The DMA engine's process.
 */
struct dma_request {
	u64 src;
	u64 dst;
	u64 size;
};

static void dma_process(int sock)
{
	struct vfio_pci_device *d;
	struct dma_region *region;
	struct dma_request req;
	int ret, total;

	prctl(PR_SET_PDEATHSIG, SIGKILL);

	d = vfio_pci_device_init(bdf[DEV_DMA], iommu);
	if (!d->driver.ops)
		exit(1);

	region = &d->driver.region;
	region->size = SZ_2M;
	region->iova = SZ_1G;
	region->vaddr = mmap(NULL, region->size, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	VFIO_ASSERT_NE(region->vaddr, MAP_FAILED);
	iommu_map(iommu, region);
	vfio_pci_driver_init(d);

	ret = device_mappings(&total);
	if (write(sock, &ret, sizeof(ret)) != sizeof(ret))
		exit(1);

	while (read(sock, &req, sizeof(req)) == sizeof(req)) {
		ret = vfio_pci_driver_memcpy(d, req.src, req.dst, req.size);
		if (write(sock, &ret, sizeof(ret)) != sizeof(ret))
			exit(1);
	}
	exit(0);
}

static void start_dma_process(void)
{
	int socks[2], maps;

	if (!bound_to_vfio(bdf[DEV_DMA])) {
		figure("%s is not bound to vfio-pci: no peer-to-peer DMA below", bdf[DEV_DMA]);
		return;
	}

	TEST_ASSERT(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks), "socketpair()");
	fflush(NULL);
	switch (fork()) {
	case -1:
		TEST_FAIL("fork()");
	case 0:
		close(socks[0]);
		dma_process(socks[1]);
	}
	close(socks[1]);
	dma_sock = socks[0];
	if (read(dma_sock, &maps, sizeof(maps)) != sizeof(maps)) {
		close(dma_sock);
		dma_sock = -1;
		check(false, "%s: libvfio's driver did not start", bdf[DEV_DMA]);
		return;
	}
	figure("%s (DMA engine) is driven by another process, with %d mappings of its BARs",
	       bdf[DEV_DMA], maps);
}

static int dma_copy(u64 src, u64 dst, u64 size)
{
	struct dma_request req = { .src = src, .dst = dst, .size = size };
	int ret;

	TEST_ASSERT(write(dma_sock, &req, sizeof(req)) == sizeof(req), "DMA request");
	TEST_ASSERT(read(dma_sock, &ret, sizeof(ret)) == sizeof(ret), "DMA answer");
	return ret;
}

/*
 * The kernel's log, for lines of the IOMMU.
 */
static void kmsg_skip(void)
{
	if (kmsg < 0)
		kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	lseek(kmsg, 0, SEEK_END);
}

static void kmsg_show_dmar(void)
{
	char line[1024], *text;
	ssize_t len;

	while ((len = read(kmsg, line, sizeof(line) - 1)) > 0) {
		line[len] = 0;
		text = strchr(line, ';');
		if (!text || !strstr(text, "DMAR") || !strstr(text, "fault addr"))
			continue;
		text[strcspn(text, "\n")] = 0;
		figure("kernel log: %s", text + 1);
		return;
	}
	figure("no DMAR line in the kernel log (it is rate-limited)");
}

/*
 * The guest.
 */
static bool guest_fill(u64 gpa, u64 val, u64 words)
{
	return guest_cmd(vcpu, GUEST_FILL, gpa, val, words) == GUEST_DONE_CMD;
}

/* Let an access go on that exited, and say whether it completed. */
static bool guest_resume(u64 *val)
{
	bool ok = guest_run(vcpu) == GUEST_DONE_CMD;

	*val = guest_res(vcpu);
	return ok;
}

/* How many words of the pattern the guest finds. */
static u64 guest_match(u64 gpa, u64 val, u64 words)
{
	if (guest_cmd(vcpu, GUEST_CHECK, gpa, val, words) != GUEST_DONE_CMD)
		return 0;
	return guest_res(vcpu);
}

static bool guest_read32(u64 gpa, u64 *val)
{
	bool ok = guest_cmd(vcpu, GUEST_READ32, gpa, 0, 0) == GUEST_DONE_CMD;

	*val = guest_res(vcpu);
	return ok;
}

static void describe_fault(const char *what, u64 gpa)
{
	struct kvm_run *run = vcpu->run;

	if (run->exit_reason != KVM_EXIT_MEMORY_FAULT) {
		check(false, "%s: guest's access ends with exit %s", what,
		      exit_reason_str(run->exit_reason));
		return;
	}

	check((run->memory_fault.flags & KVM_MEMORY_EXIT_FLAG_REVOKED) &&
	      run->memory_fault.gpa == gpa,
	      "%s: guest's access exits with %s, gpa 0x%llx, size 0x%llx, flags 0x%llx%s",
	      what, exit_reason_str(run->exit_reason), run->memory_fault.gpa,
	      run->memory_fault.size, run->memory_fault.flags,
	      run->memory_fault.flags & KVM_MEMORY_EXIT_FLAG_REVOKED ? " (revoked)" : "");
}

/* Pages of the stage-2 tables that a pre-fault of a range adds. */
static struct vm_leaves leaves_of(u64 gpa, u64 size)
{
	struct vm_leaves before = vm_leaves(vm), after;

	vcpu_pre_fault(vcpu, gpa, size);
	after = vm_leaves(vm);
	return (struct vm_leaves) {
		.k4 = after.k4 - before.k4,
		.m2 = after.m2 - before.m2,
		.g1 = after.g1 - before.g1,
	};
}

/*
 * The IOMMU's leaves in a range of IOVAs, by debugfs.  Each line is a leaf, and
 * the number of its table entries says at which level.
 */
static bool iommu_leaves(u64 iova, u64 size, struct vm_leaves *leaves)
{
	u64 pfn, e[5];
	char path[160], line[256];
	FILE *f;

	snprintf(path, sizeof(path),
		 "/sys/kernel/debug/iommu/intel/%s/domain_translation_struct", bdf[DEV_MEM]);
	f = fopen(path, "r");
	if (!f)
		return false;

	memset(leaves, 0, sizeof(*leaves));
	while (fgets(line, sizeof(line), f)) {
		int n = sscanf(line, "0x%lx | 0x%lx 0x%lx 0x%lx 0x%lx 0x%lx", &pfn,
			       &e[0], &e[1], &e[2], &e[3], &e[4]);

		if (n < 4 || pfn < iova >> 12 || pfn >= (iova + size) >> 12)
			continue;
		if (n == 4)
			leaves->g1++;
		else if (n == 5)
			leaves->m2++;
		else
			leaves->k4++;
	}
	fclose(f);

	return true;
}

/* Everything here is aligned, and so there are leaves of one size, or none. */
static void __check_iommu_leaves(const char *what, u64 iova, u64 size, u64 m2, u64 g1)
{
	struct vm_leaves l;

	if (!iommu_leaves(iova, size, &l)) {
		figure("IOMMU leaves not shown: no CONFIG_INTEL_IOMMU_DEBUGFS");
		return;
	}
	check(l.m2 == m2 && l.g1 == g1 && !l.k4,
	      "IOMMU, %s: %lu leaves of 4 KiB, %lu of 2 MiB, %lu of 1 GiB", what,
	      l.k4, l.m2, l.g1);
}

static void check_iommu_leaves(const char *what, u64 iova, u64 m2)
{
	__check_iommu_leaves(what, iova, SLICE_SIZE, m2, 0);
}

static int open_device(int which)
{
	if (!bound_to_vfio(bdf[which]))
		return -ENODEV;

	dev[which] = vfio_pci_device_init_nomap(bdf[which], iommu);
	/* Registers are in BAR 0. */
	bar[which] = 0;
	if (which == DEV_MEM || which == DEV_BIG)
		bar[which] = vfio_pci_largest_bar(dev[which], 0);
	TEST_ASSERT(bar[which] >= 0, "%s has no memory BAR", bdf[which]);
	vfio_pci_set_memory_decode(dev[which], true);
	fd[which] = vfio_pci_dmabuf_export_bar(dev[which], bar[which]);
	return 0;
}

/* A page of registers. */
static void add_page(u32 slot, int which, u64 gpa)
{
	vm_set_dmabuf_region(vm, slot, 0, gpa, PAGE_SIZE, fd[which], 0);
	virt_map(vm, gpa, gpa, 1);
}

static void export_bars(void)
{
	static const char * const what[NR_DEVS] = {
		"memory", "registers", "", "to be reset", "large BAR",
	};
	int i;

	section("Export: a BAR is a file");
	for (i = 0; i < NR_DEVS; i++) {
		off_t size;

		if (i == DEV_DMA)
			continue;
		if (open_device(i)) {
			figure("%s (%s) is not bound to vfio-pci: left out", bdf[i], what[i]);
			continue;
		}
		size = lseek(fd[i], 0, SEEK_END);
		check(size == dev[i]->bars[bar[i]].info.size,
		      "%s BAR %d (%s) at 0x%lx: dma-buf fd %d of %ld KiB", bdf[i],
		      bar[i], what[i], pci_bar_phys(bdf[i], bar[i]), fd[i], size >> 10);
	}
}

/* The IOAS's mappings of the slice: with restore where there is that, and without. */
static void map_ioas(void)
{
	const u32 rw = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE;
	int ret;

	restore_flag = IOMMU_IOAS_MAP_RESTORE;
	ret = __iommu_map_file(iommu, fd[DEV_MEM], SLICE_OFFSET, SLICE_SIZE, MEM_GPA,
			       rw | restore_flag);
	if (ret == -EOPNOTSUPP) {
		restore_flag = 0;
		ret = __iommu_map_file(iommu, fd[DEV_MEM], SLICE_OFFSET, SLICE_SIZE,
				       MEM_GPA, rw);
	}
	check(!ret, "IOAS: %lu MiB at IOVA 0x%llx from fd %d, offset %lu MiB%s",
	      SLICE_SIZE >> 20, MEM_GPA, fd[DEV_MEM], SLICE_OFFSET >> 20,
	      restore_flag ? ", to be restored" : "");

	ret = __iommu_map_file(iommu, fd[DEV_MEM], SLICE_OFFSET, SLICE_SIZE, PLAIN_IOVA, rw);
	check(!ret, "IOAS: the same at IOVA 0x%llx, not to be restored", PLAIN_IOVA);
}

static void import_slices(void)
{
	struct dma_region ram = { .iova = RAM_GPA, .size = RAM_SIZE };
	int nr, total, ret;

	section("Import: KVM and the IOAS take slices of it by fd and offset");

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, RAM_GPA, SLOT_RAM,
				    RAM_SIZE / PAGE_SIZE, 0);
	virt_map(vm, RAM_GPA, RAM_GPA, RAM_SIZE / PAGE_SIZE);
	ram.vaddr = addr_gpa2hva(vm, RAM_GPA);
	iommu_map(iommu, &ram);

	ret = __vm_set_dmabuf_region(vm, SLOT_MEM, 0, MEM_GPA, SLICE_SIZE, fd[DEV_MEM],
				     SLICE_OFFSET);
	check(!ret, "KVM: slot %d, %lu MiB at gpa 0x%llx from fd %d, offset %lu MiB", SLOT_MEM,
	      SLICE_SIZE >> 20, MEM_GPA, fd[DEV_MEM], SLICE_OFFSET >> 20);
	virt_map(vm, MEM_GPA, MEM_GPA, SLICE_SIZE / PAGE_SIZE);
	if (dev[DEV_REGS])
		add_page(SLOT_REGS, DEV_REGS, REGS_GPA);
	if (dev[DEV_RESET])
		add_page(SLOT_RESET, DEV_RESET, RESET_GPA);
	if (dev[DEV_BIG])
		vm_set_dmabuf_region(vm, SLOT_BIG, 0, BIG_GPA,
				     dev[DEV_BIG]->bars[bar[DEV_BIG]].info.size,
				     fd[DEV_BIG], 0);
	map_ioas();

	nr = device_mappings(&total);
	check(nr == 0, "/proc/%d/maps: %d mappings, %d of them of a device or a dma-buf",
	      getpid(), total, nr);
}

static void show_leaves(void)
{
	struct vm_leaves l;

	section("Leaf sizes");
	l = leaves_of(MEM_GPA, SLICE_SIZE);
	check(l.m2 == SLICE_SIZE / SZ_2M,
	      "stage-2, %lu MiB slice: %lu leaves of 4 KiB, %lu of 2 MiB, %lu of 1 GiB",
	      SLICE_SIZE >> 20, l.k4, l.m2, l.g1);
	if (dev[DEV_BIG]) {
		u64 size = dev[DEV_BIG]->bars[bar[DEV_BIG]].info.size;

		l = leaves_of(BIG_GPA, size);
		check(l.g1 == size / SZ_1G,
		      "stage-2, %lu GiB BAR: %lu leaves of 4 KiB, %lu of 2 MiB, %lu of 1 GiB",
		      size >> 30, l.k4, l.m2, l.g1);
		vm_delete_region(vm, SLOT_BIG);
	}
	check_iommu_leaves("the slice", MEM_GPA, SLICE_SIZE / SZ_2M);
	if (dev[DEV_BIG]) {
		u64 size = dev[DEV_BIG]->bars[bar[DEV_BIG]].info.size;

		iommu_map_file(iommu, fd[DEV_BIG], 0, size, BIG_GPA);
		__check_iommu_leaves("the large BAR", BIG_GPA, size, 0, size / SZ_1G);
		iommu_unmap_iova(iommu, BIG_GPA, size);
	}
}

static void guest_works(void)
{
	const u64 words = SZ_1M / sizeof(u64), pattern = 0xa110000000000000ul;
	u64 exits, mmio, runs_exits, val, buf[512];
	bool ok;
	int i;

	section("The guest works on the BARs");

	mmio = vcpu_get_stat(vcpu, mmio_exits);
	exits = vcpu_get_stat(vcpu, exits);

	ok = guest_fill(MEM_GPA, pattern, words);
	check(ok && guest_match(MEM_GPA, pattern, words) == words,
	      "guest wrote 1 MiB of pattern into the BAR and read it back");

	vfio_pci_bar_read(dev[DEV_MEM], bar[DEV_MEM], SLICE_OFFSET + MIB(1) - sizeof(buf),
			  buf, sizeof(buf));
	for (i = 0; i < 512 && buf[i] == pattern + words - 512 + i; i++)
		;
	check(i == 512, "VFIO finds it at BAR offset 0x%lx (%d of 512 words match)",
	      SLICE_OFFSET + MIB(1) - sizeof(buf), i);

	if (dev[DEV_REGS]) {
		ok = guest_read32(REGS_GPA + EDU_ID, &val);
		check(ok && val == EDU_ID_VALUE, "guest read edu's id register: 0x%08lx", val);
		ok = guest_cmd(vcpu, GUEST_WRITE32, REGS_GPA + EDU_INVERT, 0x12345678, 0) ==
		     GUEST_DONE_CMD && guest_read32(REGS_GPA + EDU_INVERT, &val);
		check(ok && val == (u32)~0x12345678,
		      "guest wrote 0x12345678 to edu's inverter and read 0x%08lx", val);
	}

	runs_exits = vcpu_get_stat(vcpu, exits) - exits;
	mmio = vcpu_get_stat(vcpu, mmio_exits) - mmio;
	check(mmio == 0, "KVM's count for all of this: %lu MMIO exits (of %lu exits in total)",
	      mmio, runs_exits);
}

static void dma_works(const char *what, u64 pattern, u64 iova)
{
	int ret;

	guest_fill(RAM_GPA, pattern, DMA_WORDS);
	ret = dma_copy(RAM_GPA, iova, DMA_SIZE);
	check(!ret && guest_match(MEM_GPA, pattern, DMA_WORDS) == DMA_WORDS,
	      "%s: %s copied %d bytes of guest memory into the BAR, and the guest reads them there",
	      what, bdf[DEV_DMA], DMA_SIZE);
}

/* A copy that must not land; what the BAR holds afterwards is the caller's to check. */
static void dma_into_nothing(u64 iova)
{
	int ret;

	kmsg_skip();
	ret = dma_copy(RAM_GPA, iova, DMA_SIZE);
	figure("%s was told to copy to IOVA 0x%lx: %s", bdf[DEV_DMA], iova,
	       ret ? "it reports failure and was reset" : "it reports nothing");
	kmsg_show_dmar();
}

static void peer_to_peer(void)
{
	section("Another device works on the BAR");
	if (dma_sock < 0) {
		figure("left out: no DMA engine");
		return;
	}
	dma_works("peer to peer", 0xb220000000000000ul, MEM_GPA);
	dma_works("peer to peer, second mapping", 0xb330000000000000ul, PLAIN_IOVA);
}

static void decode_off_and_on(void)
{
	const u64 old = 0xc440000000000000ul, new = 0xc550000000000000ul;
	struct vm_leaves before, after;
	u64 match, val;
	bool ok;

	section("Revocation: memory decode cleared, then set");

	guest_fill(MEM_GPA, old, DMA_WORDS);
	guest_fill(RAM_GPA, new, DMA_WORDS);
	leaves_of(MEM_GPA, SLICE_SIZE);
	before = vm_leaves(vm);

	vfio_pci_set_memory_decode(dev[DEV_MEM], false);
	after = vm_leaves(vm);
	check(before.m2 - after.m2 == SLICE_SIZE / SZ_2M,
	      "decode off: when the write to PCI_COMMAND returns, %lu leaves of 2 MiB are gone from stage-2",
	      before.m2 - after.m2);
	check_iommu_leaves("decode off", MEM_GPA, 0);

	guest_cmd(vcpu, GUEST_READ, MEM_GPA, 0, 0);
	describe_fault("decode off", MEM_GPA);
	guest_run(vcpu);
	describe_fault("entered again", MEM_GPA);
	if (dma_sock >= 0)
		dma_into_nothing(MEM_GPA);

	vfio_pci_set_memory_decode(dev[DEV_MEM], true);
	ok = guest_resume(&val);
	check(ok && val == old, "decode on: the guest's access completes and reads 0x%lx", val);
	match = guest_match(MEM_GPA, old, DMA_WORDS);
	check(match == DMA_WORDS, "the BAR is untouched: %lu of %lu words are the old ones",
	      match, DMA_WORDS);

	if (restore_flag)
		check_iommu_leaves("decode on, restored", MEM_GPA, SLICE_SIZE / SZ_2M);
	check_iommu_leaves("decode on, not to be restored", PLAIN_IOVA, 0);
	if (dma_sock < 0)
		return;

	/* The BAR decodes: if DMA does not land now it is for the IOMMU's entries. */
	dma_into_nothing(PLAIN_IOVA);
	match = guest_match(MEM_GPA, old, DMA_WORDS);
	check(match == DMA_WORDS,
	      "the mapping without restore stays revoked: %lu of %lu words are the old ones",
	      match, DMA_WORDS);

	if (!restore_flag) {
		figure("this kernel has no IOMMU_IOAS_MAP_RESTORE: the VMM maps the slice again");
		iommu_unmap_iova(iommu, MEM_GPA, SLICE_SIZE);
		iommu_map_file(iommu, fd[DEV_MEM], SLICE_OFFSET, SLICE_SIZE, MEM_GPA);
	}
	dma_works(restore_flag ? "restored by the kernel" : "mapped again", new, MEM_GPA);
}

static void function_reset(void)
{
	struct vm_leaves before, after;
	u64 first, again;
	bool ok;
	int ret;

	section("Revocation: function level reset");
	if (!dev[DEV_RESET] || !(dev[DEV_RESET]->info.flags & VFIO_DEVICE_FLAGS_RESET)) {
		figure("left out: no device that can be reset alone");
		return;
	}

	ok = guest_read32(RESET_GPA + NVME_CAP, &first);
	check(ok, "guest read register 0 of %s: 0x%08lx", bdf[DEV_RESET], first);
	before = vm_leaves(vm);
	ret = __vfio_pci_device_reset(dev[DEV_RESET]);
	after = vm_leaves(vm);
	check(!ret && before.k4 - after.k4 == 1,
	      "VFIO_DEVICE_RESET took %lu leaf of 4 KiB out of stage-2", before.k4 - after.k4);
	ok = guest_read32(RESET_GPA + NVME_CAP, &again);
	check(ok && again == first, "after it the guest reads again: 0x%08lx", again);

	if (__vfio_pci_set_power_state(dev[DEV_RESET], 3))
		return;
	guest_cmd(vcpu, GUEST_READ32, RESET_GPA + NVME_CAP, 0, 0);
	describe_fault("D3hot", RESET_GPA);
	__vfio_pci_set_power_state(dev[DEV_RESET], 0);
	ok = guest_resume(&again);
	check(ok && again == first, "D0: the guest's access completes and reads 0x%08lx", again);
}

static void close_and_open(void)
{
	const u64 old = 0xd660000000000000ul, new = 0xd770000000000000ul;
	int old_fd = fd[DEV_MEM];
	u64 match = 0, i, val, buf[DMA_WORDS];
	bool ok;

	section("Revocation: device closed with the VM running");

	guest_fill(MEM_GPA, old, DMA_WORDS);
	guest_fill(RAM_GPA, new, DMA_WORDS);

	vfio_pci_device_cleanup(dev[DEV_MEM]);
	guest_cmd(vcpu, GUEST_READ, MEM_GPA, 0, 0);
	describe_fault("closed", MEM_GPA);

	TEST_ASSERT(!open_device(DEV_MEM), "device is gone");
	guest_run(vcpu);
	describe_fault("opened again, old buffer", MEM_GPA);
	if (dma_sock >= 0)
		dma_into_nothing(MEM_GPA);
	vfio_pci_bar_read(dev[DEV_MEM], bar[DEV_MEM], SLICE_OFFSET, buf, sizeof(buf));
	for (i = 0; i < DMA_WORDS; i++)
		match += buf[i] == old + i;
	check(match == DMA_WORDS, "the BAR is untouched: %lu of %lu words are the old ones",
	      match, DMA_WORDS);
	check(__vm_set_dmabuf_region(vm, SLOT_BIG, 0, BIG_GPA, SLICE_SIZE, old_fd, 0) == -ENODEV,
	      "a new slot of the old buffer is refused with ENODEV");

	/* The VMM starts over with the new buffer. */
	vm_delete_region(vm, SLOT_MEM);
	vm_set_dmabuf_region(vm, SLOT_MEM, 0, MEM_GPA, SLICE_SIZE, fd[DEV_MEM], SLICE_OFFSET);
	close(old_fd);
	ok = guest_resume(&val);
	check(ok && val == old,
	      "new buffer in the slot: the guest's access completes and reads 0x%lx", val);
	if (dma_sock >= 0) {
		iommu_unmap_iova(iommu, MEM_GPA, SLICE_SIZE);
		iommu_map_file(iommu, fd[DEV_MEM], SLICE_OFFSET, SLICE_SIZE, MEM_GPA);
		dma_works("new buffer in the IOAS", new, MEM_GPA);
	}
}

int main(int argc, char *argv[])
{
	int i, nr, total, flags;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (i = 1; i < argc && i <= NR_DEVS; i++)
		bdf[i - 1] = argv[i];

	__TEST_REQUIRE(bound_to_vfio(bdf[DEV_MEM]), "%s is not bound to vfio-pci", bdf[DEV_MEM]);
	__TEST_REQUIRE(!access("/dev/iommu", R_OK | W_OK), "no /dev/iommu");

	section("Who takes part");
	iommu = iommu_init(MODE_IOMMUFD);
	start_dma_process();

	vm = __vm_create_with_one_vcpu(&vcpu, 4 * SLICE_SIZE / PAGE_SIZE, guest_command_loop);
	flags = vm_check_cap(vm, KVM_CAP_DMABUF_MEM);
	__TEST_REQUIRE(flags & KVM_MEM_DMABUF, "no KVM_CAP_DMABUF_MEM");
	figure("VMM is process %d; KVM_CAP_DMABUF_MEM says 0x%x", getpid(), flags);

	export_bars();
	import_slices();
	show_leaves();
	guest_works();
	peer_to_peer();
	decode_off_and_on();
	function_reset();
	close_and_open();

	section("At the end");
	nr = device_mappings(&total);
	check(nr == 0, "/proc/%d/maps: %d mappings, %d of them of a device or a dma-buf",
	      getpid(), total, nr);

	printf("\n%d checks, %d failed\n", nr_checks, nr_failed);
	return nr_failed ? KSFT_FAIL : KSFT_PASS;
}
