// SPDX-License-Identifier: GPL-2.0-only
/*
 * What device memory costs by dma-buf, and what it costs by VMA.
 *
 * In one run, on one kernel and one device, each operation is measured for both
 * ways to give a BAR to a guest: a memslot of a dma-buf (KVM_MEM_DMABUF) and a
 * mapping of the dma-buf in an IOAS, or a memslot over a VMA of the BAR and a
 * type1 mapping of that VMA.
 *
 * A VMA is "cold" if the host has not accessed it except through the guest.
 * It is "warm" if the host has accessed all of it, so that its page tables are
 * complete.  A VMM that passes a device through does not access the memory
 * itself, so cold is the state to compare with.
 *
 * Figures are nanoseconds, the smallest of a few runs, and mean little on a
 * busy machine.  Run it where the clock counts instructions: under emulation
 * with one nanosecond per instruction (QEMU's -icount) the figures are
 * reproducible.
 *
 * Each figure is one line of its own, fields separated by tabs:
 *
 *	BENCH <operation> <parameters> <path> <value> <unit>
 *
 * The path is dmabuf, vma-cold, vma-warm, or the name of a figure to compare
 * with.  The path "common" is the cost of an operation that has nothing to do;
 * it is contained in the figures of both ways.
 *
 * Each figure comes from a VM of its own, which did the same for both ways.
 * The measured code is between two markers, nops that a plugin of the emulator
 * can look for, to record what was executed between them.
 *
 * On architectures other than x86 the guest has 4 KiB of each leaf mapped, accesses
 * map what KVM_PRE_FAULT_MEMORY maps on x86, and what that is needed for is left out.
 *
 * Most figures are of 64 GiB.  Of a BAR that is smaller all of it is used, 16 GiB at
 * least; what takes more leaves of 1 GiB than it has is left out, or done with fewer.
 *
 * Ordinary memory is measured as well, because it shares code with both ways.
 * On a kernel without memslots of dma-bufs, only ordinary memory and VMAs are
 * measured.
 *
 * Guest physical addresses that are not congruent to the BAR's make leaves
 * smaller.  This gives leaves of 2 MiB and 4 KiB for both ways from a BAR that
 * allows 1 GiB.  The VMA stays aligned, as VMMs align it.
 */
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <linux/iommufd.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "dmabuf_util.h"
#ifdef __x86_64__
#include "svm_util.h"
#endif
#include "test_util.h"

#define GIB(n)		((u64)(n) << 30)
#define MIB(n)		((u64)(n) << 20)

#define RUNS		5
#ifdef __x86_64__
#define GPA_BASE	GIB(1024)
#else
#define GPA_BASE	GIB(256)		/* VMs have 40 bits at least */
#endif
#define FIRST_SLOT	10
#define MAX_SLOTS	64

enum path { DMABUF, VMA_COLD, VMA_WARM };

static const char * const path_names[] = { "dmabuf", "vma-cold", "vma-warm" };

/* VMA_COLD where there are no memslots of dma-bufs, DMABUF for -d */
static enum path first_path = DMABUF;
static enum path last_path = VMA_WARM;

/* Elsewhere memory is mapped by the guest's accesses. */
static bool can_pre_fault;

/* Guest physical addresses of this skew give leaves of that size. */
struct leaf {
	const char *name;
	u64 size;
	u64 skew;
};

enum { LEAF_1G, LEAF_2M, LEAF_4K, NR_LEAVES };

static const struct leaf leaves[] = {
	{ "1 GiB", SZ_1G, 0 },
	{ "2 MiB", SZ_2M, SZ_2M },
	{ "4 KiB", SZ_4K, SZ_4K },
};

/* The device whose BAR all but the reset is measured on. */
struct device {
	struct vfio_pci_device *vfio;
	int bar;
	u64 size;
	void *window;		/* reserved addresses for the VMA */
	int fd;			/* the dma-buf of the whole BAR, or -1 */
};

/* What is measured, for -c */
static const char *only = "";

static const char *big_bdf = "0000:00:06.0";
static const char *reset_bdf = "0000:00:07.0";

static struct iommu *iommu;
static struct device big;
static struct kvm_vm *vm;
static struct kvm_vcpu *vcpu;
static u32 nr_slots;		/* those that are set now */

static u64 now(void)
{
	struct timespec ts;

	TEST_ASSERT(!clock_gettime(CLOCK_MONOTONIC, &ts), "clock_gettime()");
	return (u64)ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

#ifdef __x86_64__
/* Nobody else uses a nop with such an operand. */
static void mark_start(void)
{
	asm volatile("nopl 0x5bec0001(%%rax,%%rax,1)" : : : "memory");
}

static void mark_stop(void)
{
	asm volatile("nopl 0x5bec0000(%%rax,%%rax,1)" : : : "memory");
}
#else
static void mark_start(void) { }
static void mark_stop(void) { }
#endif

static u64 started;
static u64 windows;		/* that were started */

static void start(void)
{
	windows++;
	mark_start();
	started = now();
}

static u64 stop(void)
{
	u64 t = now() - started;

	mark_stop();
	return t;
}

/* Of this thread, without the time it slept: a reset has to wait. */
static u64 cpu_now(void)
{
	struct timespec ts;

	TEST_ASSERT(!clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts), "clock_gettime()");
	return (u64)ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

static void start_cpu(void)
{
	windows++;
	mark_start();
	started = cpu_now();
}

static u64 stop_cpu(void)
{
	u64 t = cpu_now() - started;

	mark_stop();
	return t;
}

static void report(const char *op, const char *params, const char *path,
		   u64 value, const char *unit)
{
	printf("BENCH\t%s\t%s\t%s\t%lu\t%s\n", op, params, path, value, unit);
	printf("# until window %lu\n", windows);
	fflush(stdout);
}

static void least(u64 *best, u64 value)
{
	if (!*best || value < *best)
		*best = value;
}

/*
 * The device
 */
static void device_open(struct device *dev, const char *bdf)
{
	dev->vfio = vfio_pci_device_init_nomap(bdf, iommu);
	vfio_pci_set_memory_decode(dev->vfio, true);
	dev->bar = vfio_pci_largest_bar(dev->vfio, 0);
	TEST_ASSERT(dev->bar >= 0, "%s has no memory BAR", bdf);
	dev->size = dev->vfio->bars[dev->bar].info.size;
	/* What the host's page tables look like must not be left to chance. */
	dev->window = mmap_reserve(dev->size, dev->size, 0);
	dev->fd = -1;
}

static void device_close(struct device *dev)
{
	if (dev->fd >= 0)
		close(dev->fd);
	munmap(dev->window, dev->size);
	vfio_pci_device_cleanup(dev->vfio);
}

/* A VMA over the BAR that nobody has touched. */
static void vma_new(struct device *dev)
{
	void *va = mmap(dev->window, dev->size, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_FIXED, dev->vfio->fd,
			dev->vfio->bars[dev->bar].info.offset);

	TEST_ASSERT(va == dev->window, "mmap() of the BAR");
	madvise(va, dev->size, MADV_HUGEPAGE);
}

static void vma_none(struct device *dev)
{
	void *va = mmap(dev->window, dev->size, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	TEST_ASSERT(va == dev->window, "mmap() of nothing");
}

static void vma_touch(struct device *dev, u64 size)
{
	u64 step = min_t(u64, dev->size, SZ_1G), offset;

	for (offset = 0; offset < size; offset += step)
		READ_ONCE(*(u32 *)(dev->window + offset));
}

/* What a path has before there is a slot. */
static void path_prepare(struct device *dev, enum path path, u64 size)
{
	if (path == DMABUF) {
		vma_none(dev);
		if (dev->fd < 0)
			dev->fd = vfio_pci_dmabuf_export_bar(dev->vfio, dev->bar);
		return;
	}

	if (dev->fd >= 0) {
		close(dev->fd);
		dev->fd = -1;
	}
	vma_new(dev);
	if (path == VMA_WARM)
		vma_touch(dev, size);
}

static void decode_write(struct device *dev, bool on, u16 cmd)
{
	if (on)
		cmd |= PCI_COMMAND_MEMORY;
	else
		cmd &= ~PCI_COMMAND_MEMORY;
	vfio_pci_config_writew(dev->vfio, PCI_COMMAND, cmd);
}

static u64 decode_time(struct device *dev, bool on)
{
	u16 cmd = vfio_pci_config_readw(dev->vfio, PCI_COMMAND);

	start();
	decode_write(dev, on, cmd);
	return stop();
}

/*
 * The VM
 */
#ifdef __x86_64__
static void l2_guest(struct svm_test_data *svm)
{
	vmmcall();
}

/* What a guest does to tell what an exit costs that KVM has nothing to do for. */
enum probe { NO_PROBE, PROBE_NOTHING, PROBE_EXIT };

static void guest(struct svm_test_data *svm, enum probe probe)
{
	u64 dr7;

	if (probe) {
		GUEST_SYNC(probe);
		/*
		 * The first access to a debug register in a KVM_RUN exits, and
		 * KVM gives the registers to the guest and enters it again.
		 * Anything else has to be emulated, too.
		 */
		if (probe == PROBE_EXIT)
			asm volatile("mov %%db7, %0" : "=r"(dr7) : : "memory");
		GUEST_SYNC(probe);
	}
	if (svm) {
		generic_svm_setup(svm, l2_guest);
		run_guest(svm->vmcb, svm->vmcb_gpa);
		GUEST_ASSERT(svm->vmcb->control.exit_code == SVM_EXIT_VMMCALL);
	}
	guest_command_loop();
}

static void vm_create_guest(bool nested, enum probe probe)
{
	gva_t svm = 0;
	u64 gva;

	vm = __vm_create_with_one_vcpu(&vcpu, 4096, guest);
	if (nested) {
		vm_enable_npt(vm);
		vcpu_alloc_svm(vm, &svm);
		tdp_identity_map_default_memslots(vm);
	}
	vcpu_args_set(vcpu, 2, svm, probe);

	for (gva = GPA_BASE; gva < GPA_BASE + big.size + SZ_1G; gva += SZ_1G)
		__virt_pg_map(vm, &vm->mmu, gva, gva, PG_LEVEL_1G);
}

/* The guest has all of the BAR mapped, where it is. */
static void guest_map(u64 gpa, u64 step, u64 nr)
{
}

static u64 guest_va(u64 gpa)
{
	return gpa;
}

static u64 guest_step(u64 step)
{
	return step;
}
#else
enum probe { NO_PROBE };

static void vm_create_guest(bool nested, enum probe probe)
{
	vm = __vm_create_with_one_vcpu(&vcpu, 4096, guest_command_loop);
}

/*
 * The guest has one page of each leaf mapped, side by side: its page tables are few,
 * and a fault on a leaf is not preceded by one on them.
 */
static u64 mapped_gpa, mapped_step;

static void guest_map(u64 gpa, u64 step, u64 nr)
{
	u64 i;

	mapped_gpa = gpa;
	mapped_step = step;
	for (i = 0; i < nr; i++)
		virt_pg_map(vm, GPA_BASE + i * PAGE_SIZE, gpa + i * step);
}

static u64 guest_va(u64 gpa)
{
	return GPA_BASE + (gpa - mapped_gpa) / mapped_step * PAGE_SIZE;
}

static u64 guest_step(u64 step)
{
	return (s64)step / (s64)mapped_step * (s64)PAGE_SIZE;
}
#endif

/* Let the guest do what touches no device memory. */
static void guest_nothing(void)
{
	TEST_ASSERT_EQ(guest_cmd(vcpu, GUEST_FILL, GPA_BASE, 0, 0), GUEST_DONE_CMD);
}

/* A VM that has run. */
static void vm_new(bool nested)
{
	vm_create_guest(nested, NO_PROBE);
	guest_nothing();
}

static void vm_free(void)
{
	kvm_vm_free(vm);
	nr_slots = 0;
}

static void slot_set(struct device *dev, enum path path, u32 nr, u64 gpa,
		     u64 size, u64 offset)
{
	if (path == DMABUF)
		vm_set_dmabuf_region(vm, FIRST_SLOT + nr, 0, gpa, size, dev->fd,
				     offset);
	else
		vm_set_user_memory_region(vm, FIRST_SLOT + nr, 0, gpa, size,
					  dev->window + offset);
}

static void slots_delete(void)
{
	while (nr_slots)
		vm_delete_region(vm, FIRST_SLOT + --nr_slots);
}

/* Slots that together are the first @size bytes of the BAR, one after another. */
static void slots_set(struct device *dev, enum path path, u64 gpa, u64 size,
		      u32 nr)
{
	slots_delete();
	path_prepare(dev, path, size);
	for (; nr_slots < nr; nr_slots++)
		slot_set(dev, path, nr_slots, gpa + nr_slots * (size / nr),
			 size / nr, nr_slots * (size / nr));
}

static u64 prefault_time(u64 gpa, u64 size)
{
	start();
	vcpu_pre_fault(vcpu, gpa, size);
	return stop();
}

/* One access, of which the entry and the exit are part. */
static u64 access_time(u64 gpa)
{
	u64 t;

	gpa = guest_va(gpa);
	start();
	TEST_ASSERT_EQ(guest_cmd(vcpu, GUEST_READ, gpa, 0, 0), GUEST_DONE_CMD);
	t = stop();
	return t;
}

/* @nr accesses at once, @step apart. */
static u64 walk_time(u64 gpa, u64 step, u64 nr)
{
	u64 t;

	gpa = guest_va(gpa);
	step = guest_step(step);
	start();
	TEST_ASSERT_EQ(guest_cmd(vcpu, GUEST_TOUCH, gpa, step, nr), GUEST_DONE_CMD);
	t = stop();
	return t;
}

/* Map leaves that are next to each other, without the guest where that can be. */
static void fill(u64 gpa, const struct leaf *leaf, u64 nr)
{
	if (can_pre_fault)
		vcpu_pre_fault(vcpu, gpa, nr * leaf->size);
	else
		walk_time(gpa, leaf->size, nr);
}

static u64 leaves_of(const struct leaf *leaf)
{
	struct vm_leaves n = vm_leaves(vm);

	return leaf->size == SZ_1G ? n.g1 : leaf->size == SZ_2M ? n.m2 : n.k4;
}

/*
 * The operations
 */

/* What is in all figures of a kind, and has nothing to do with what is mapped. */
static void bench_common(void)
{
	u64 off = 0, on = 0, check = 0;
	int i;

	path_prepare(&big, VMA_COLD, 0);
	vma_none(&big);
	for (i = 0; i < RUNS; i++) {
		least(&off, decode_time(&big, false));
		least(&on, decode_time(&big, true));
	}
	report("common", "decode off", "common", off, "ns");
	report("common", "decode on", "common", on, "ns");

	vm_new(false);
	for (i = 0; i < RUNS; i++) {
		start();
		__vm_ioctl(vm, KVM_CHECK_EXTENSION, (void *)KVM_CAP_DMABUF_MEM);
		least(&check, stop());
	}
	report("common", "ioctl of the VM", "common", check, "ns");
	vm_free();
}

#ifdef __x86_64__
static void bench_exit(void)
{
	u64 t[] = { [PROBE_EXIT] = 0 };
	enum probe probe;
	int i;

	for (probe = PROBE_NOTHING; probe <= PROBE_EXIT; probe++) {
		for (i = 0; i < RUNS; i++) {
			vm_create_guest(false, probe);
			guest_run(vcpu);
			start();
			guest_run(vcpu);
			least(&t[probe], stop());
			vm_free();
		}
	}
	report("common", "exit to KVM and entry", "common",
	       t[PROBE_EXIT] - t[PROBE_NOTHING], "ns");
}
#endif

static void bench_slot(u64 size)
{
	u64 create, delete;
	char params[64];
	enum path path;
	int i;

	snprintf(params, sizeof(params), "%lu GiB", size >> 30);
	for (path = first_path; path <= min_t(enum path, last_path, VMA_COLD); path++) {
		create = 0;
		delete = 0;
		vm_new(false);
		for (i = 0; i < RUNS; i++) {
			path_prepare(&big, path, size);

			start();
			slot_set(&big, path, 0, GPA_BASE, size, 0);
			least(&create, stop());

			start();
			vm_delete_region(vm, FIRST_SLOT);
			least(&delete, stop());
		}
		vm_free();
		report("slot creation", params, path_names[path], create, "ns");
		report("slot deletion", params, path_names[path], delete, "ns");
	}
}

static void bench_prefault(u64 size, u64 part, const struct leaf *leaf)
{
	u64 gpa = GPA_BASE + leaf->skew, best, before;
	enum path path;
	char params[64];
	int i;

	snprintf(params, sizeof(params), "%lu GiB by %s", part >> 30, leaf->name);
	for (path = first_path; path <= last_path; path++) {
		best = 0;
		for (i = 0; i < (part / leaf->size > 4096 ? 1 : RUNS); i++) {
			vm_new(false);
			slots_set(&big, path, gpa, size, 1);
			guest_nothing();
			before = leaves_of(leaf);
			least(&best, prefault_time(gpa, part));
			TEST_ASSERT_EQ(leaves_of(leaf) - before, part / leaf->size);
			vm_free();
		}
		report("pre-fault", params, path_names[path], best, "ns");
	}
}

/* Accesses to @nr leaves, from the first'th on and @step apart. */
static u64 touch_time(u64 gpa, const struct leaf *leaf, int first, int step, int nr)
{
	u64 t = 0;
	int i;

	for (i = 0; i < nr; i++)
		t += access_time(gpa + (first + i * step) * leaf->size);

	return t;
}

/*
 * An isolated fault is one on a leaf of which no neighbour was accessed, with
 * others in the same page table.
 */
static void bench_fault(u64 size, const struct leaf *leaf)
{
	u64 gpa = GPA_BASE + leaf->skew;
	bool many = size >= 64 * leaf->size;
	enum path path;
	int i;

	for (path = first_path; path <= last_path; path++) {
		u64 none = 0, one = 0, apart = 0, row = 0;

		for (i = 0; i < RUNS; i++) {
			vm_new(false);
			slots_set(&big, path, gpa, size, 1);
			guest_map(gpa, leaf->size, many ? 64 : 3);

			/* The first one faults on the guest's page tables, too. */
			access_time(gpa);
			least(&none, access_time(gpa));
			least(&one, access_time(gpa + 2 * leaf->size));
			if (!many) {
				vm_free();
				continue;
			}
			least(&apart, touch_time(gpa, leaf, 4, 2, 10));
			least(&row, touch_time(gpa, leaf, 24, 1, 40));
			vm_free();
		}
		report("guest fault", leaf->name, path_names[path],
		       one - none, "ns");
		if (many) {
			report("first touch of every other of 20 leaves", leaf->name,
			       path_names[path], apart - 10 * none, "ns");
			report("first touch of 40 leaves in a row", leaf->name,
			       path_names[path], row - 40 * none, "ns");
		}
		report("entry, access, exit to user space", leaf->name,
		       path_names[path], none, "ns");
	}
}

/* A guest that goes through its memory. */
static void bench_walk(u64 size, const struct leaf *leaf, u64 nr)
{
	u64 gpa = GPA_BASE + leaf->skew;
	char params[64];
	enum path path;
	int i;

	snprintf(params, sizeof(params), "%lu x %s", nr, leaf->name);
	for (path = first_path; path <= last_path; path++) {
		u64 all = 0, none = 0;

		for (i = 0; i < RUNS; i++) {
			vm_new(false);
			slots_set(&big, path, gpa, size, 1);
			guest_map(gpa, leaf->size, nr);
			least(&all, walk_time(gpa, leaf->size, nr));
			least(&none, walk_time(gpa, leaf->size, nr));
			vm_free();
		}
		report("first touch of all", params, path_names[path], all - none, "ns");
	}
}

static void bench_steady(u64 size)
{
	const u64 nr = 65536;
	enum path path;
	int i;

	for (path = first_path; path <= last_path; path++) {
		u64 best = 0, exits = 0, gva;

		vm_new(false);
		slots_set(&big, path, GPA_BASE, size, 1);
		guest_map(GPA_BASE, PAGE_SIZE, nr * sizeof(u64) / PAGE_SIZE);
		gva = guest_va(GPA_BASE);
		TEST_ASSERT_EQ(guest_cmd(vcpu, GUEST_FILL, gva, 0, nr), GUEST_DONE_CMD);
		for (i = 0; i < RUNS; i++) {
			u64 before = vcpu_get_stat(vcpu, exits);

			start();
			guest_cmd(vcpu, GUEST_FILL, gva, 0, nr);
			least(&best, stop());
			least(&exits, vcpu_get_stat(vcpu, exits) - before);
		}
		vm_free();
		report("65536 accesses, steady", "time", path_names[path], best, "ns");
		report("65536 accesses, steady", "exits", path_names[path], exits, "exits");
	}
}

/*
 * @nr_leaves, in equal parts at the start of each slot, or @apart from each
 * other.
 */
static void bench_revoke(const char *op, u64 size, const struct leaf *leaf,
			 u64 nr_leaves, u32 nr, u64 apart, bool nested)
{
	u64 gpa = GPA_BASE + leaf->skew, per_slot = nr_leaves / nr;
	u64 step = apart ? : per_slot == 1 ? size / nr : leaf->size;
	char params[64], restore[64];
	enum path path;
	int i;
	u32 j;

	snprintf(params, sizeof(params), "%lu x %s%s, %u slot%s", nr_leaves,
		 leaf->name, apart ? " apart" : "", nr, nr == 1 ? "" : "s");
	snprintf(restore, sizeof(restore), "%s, restore", op);
	for (path = first_path; path <= last_path; path++) {
		u64 off = 0, on = 0;

		vm_new(nested);
		slots_set(&big, path, gpa, size, nr);
		guest_map(gpa, step, nr_leaves);
		for (i = 0; i < RUNS; i++) {
			if (path == VMA_WARM)
				vma_touch(&big, size);
			for (j = 0; apart && j < nr_leaves; j++)
				fill(gpa + j * apart, leaf, 1);
			for (j = 0; !apart && per_slot && j < nr; j++)
				fill(gpa + j * (size / nr), leaf, per_slot);
			least(&off, decode_time(&big, false));
			least(&on, decode_time(&big, true));
		}
		vm_free();
		report(op, params, path_names[path], off, "ns");
		report(restore, params, path_names[path], on, "ns");
	}
}

/*
 * What a guest pays after its memory was away and is back: it has accessed @nr
 * leaves, from the first on or from the last, and accesses all of them again, or
 * only one that is none of the ends.
 */
static void bench_back(u64 size, const struct leaf *leaf, u64 nr, bool backwards)
{
	u64 gpa = GPA_BASE + leaf->skew;
	u64 from = backwards ? gpa + (nr - 1) * leaf->size : gpa;
	u64 step = backwards ? -leaf->size : leaf->size;
	enum path path;
	char params[64];
	int i;

	snprintf(params, sizeof(params), "%lu x %s%s", nr, leaf->name,
		 backwards ? " backwards" : "");
	for (path = first_path; path <= last_path; path++) {
		u64 all = 0, one = 0, none = 0;

		vm_new(false);
		slots_set(&big, path, gpa, size, 1);
		guest_map(gpa, leaf->size, nr);
		for (i = 0; i < 2 * RUNS; i++) {
			u64 t;

			walk_time(from, step, nr);
			decode_time(&big, false);
			t = decode_time(&big, true);
			if (i % 2) {
				least(&all, t + walk_time(from, step, nr));
			} else {
				t = access_time(gpa + nr / 2 * leaf->size);
				least(&one, t);
			}
			least(&none, access_time(gpa + nr / 2 * leaf->size));
		}
		vm_free();
		report("restore, first touch of all again", params,
		       path_names[path], all - none, "ns");
		report("restore, first touch of one again", params,
		       path_names[path], one - none, "ns");
	}
}

/*
 * A dma-buf for each of 64 slots, with one leaf or none, of 1 GiB if there is room:
 * each of them is revoked and restored for itself.
 */
static void bench_buffers(u64 size, bool filled)
{
	u64 part = size / MAX_SLOTS, off = 0, on = 0;
	const struct leaf *leaf = &leaves[part < SZ_1G ? LEAF_2M : LEAF_1G];
	int fds[MAX_SLOTS], i, j;
	char params[64];

	vm_new(false);
	path_prepare(&big, DMABUF, 0);
	for (i = 0; i < MAX_SLOTS; i++, nr_slots++) {
		struct vfio_region_dma_range range = {
			.offset = i * part,
			.length = part,
		};

		fds[i] = vfio_pci_dmabuf_export(big.vfio, big.bar, &range, 1, O_RDWR);
		vm_set_dmabuf_region(vm, FIRST_SLOT + i, 0, GPA_BASE + i * part,
				     part, fds[i], 0);
	}
	guest_map(GPA_BASE, part, MAX_SLOTS);
	for (i = 0; i < RUNS; i++) {
		for (j = 0; filled && j < MAX_SLOTS; j++)
			fill(GPA_BASE + j * part, leaf, 1);
		least(&off, decode_time(&big, false));
		least(&on, decode_time(&big, true));
	}
	vm_free();
	for (i = 0; i < MAX_SLOTS; i++)
		close(fds[i]);

	snprintf(params, sizeof(params), "%u x %s, 64 dma-bufs", filled ? MAX_SLOTS : 0,
		 leaf->name);
	report("revoke, many dma-bufs", params, path_names[DMABUF], off, "ns");
	report("revoke, many dma-bufs, restore", params, path_names[DMABUF], on, "ns");
}

/*
 * Memory as most guests have it, by 4 KiB and resident.
 */
#define ORDINARY_PAGES	4096ull
#define ORDINARY_SIZE	(ORDINARY_PAGES * SZ_4K)

static void *ordinary_new(void *at)
{
	void *va = mmap(at, ORDINARY_SIZE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);

	TEST_ASSERT(va != MAP_FAILED, "mmap()");
	madvise(va, ORDINARY_SIZE, MADV_NOHUGEPAGE);
	memset(va, 1, ORDINARY_SIZE);
	return va;
}

static void ordinary_report(const char *op, u64 nr, u64 t)
{
	char params[64];

	snprintf(params, sizeof(params), "%lu x 4 KiB", nr);
	report(op, params, "ordinary", t, "ns");
}

static void bench_ordinary_unmap(void *va, u64 nr)
{
	u64 t = 0;
	int i;

	for (i = 0; i < RUNS; i++) {
		if (nr)
			fill(GPA_BASE, &leaves[LEAF_4K], nr);
		start();
		TEST_ASSERT(!munmap(va, ORDINARY_SIZE), "munmap()");
		least(&t, stop());
		ordinary_new(va);
	}
	ordinary_report("ordinary memory, munmap", nr, t);
}

static void bench_ordinary_fault(void *va)
{
	u64 none = 0, one = 0, all = 0;
	int i;

	for (i = 0; i < RUNS; i++) {
		access_time(GPA_BASE);
		least(&none, access_time(GPA_BASE));
		least(&one, access_time(GPA_BASE + 2 * SZ_4K));
		least(&all, walk_time(GPA_BASE, SZ_4K, ORDINARY_PAGES));
		munmap(va, ORDINARY_SIZE);
		ordinary_new(va);
	}
	ordinary_report("ordinary memory, guest fault", 1, one - none);
	ordinary_report("ordinary memory, first touch", ORDINARY_PAGES, all - none);
}

static void bench_ordinary_log(void *va, u64 nr)
{
	unsigned long *bitmap = calloc(1, ORDINARY_PAGES / 8);
	u64 begin = 0, write = 0, get = 0, again = 0, end = 0;
	u64 words = nr * SZ_4K / sizeof(u64);
	u64 gva = guest_va(GPA_BASE);
	int i;

	for (i = 0; i < RUNS; i++) {
		fill(GPA_BASE, &leaves[LEAF_4K], ORDINARY_PAGES);
		start();
		vm_set_user_memory_region(vm, FIRST_SLOT, KVM_MEM_LOG_DIRTY_PAGES,
					  GPA_BASE, ORDINARY_SIZE, va);
		least(&begin, stop());
		kvm_vm_get_dirty_log(vm, FIRST_SLOT, bitmap);

		start();
		guest_cmd(vcpu, GUEST_FILL, gva, 1, words);
		least(&write, stop());
		start();
		kvm_vm_get_dirty_log(vm, FIRST_SLOT, bitmap);
		least(&get, stop());
		start();
		guest_cmd(vcpu, GUEST_FILL, gva, 1, words);
		least(&again, stop());

		start();
		vm_set_user_memory_region(vm, FIRST_SLOT, 0, GPA_BASE,
					  ORDINARY_SIZE, va);
		least(&end, stop());
	}
	ordinary_report("ordinary memory, dirty log, begin", ORDINARY_PAGES, begin);
	ordinary_report("ordinary memory, dirty log, write", nr, write);
	ordinary_report("ordinary memory, dirty log, get", nr, get);
	ordinary_report("ordinary memory, dirty log, write again", nr, again);
	ordinary_report("ordinary memory, dirty log, end", ORDINARY_PAGES, end);
	free(bitmap);
}

static void bench_ordinary_delete(void *va)
{
	u64 t = 0;
	int i;

	for (i = 0; i < RUNS; i++) {
		fill(GPA_BASE, &leaves[LEAF_4K], ORDINARY_PAGES);
		start();
		vm_delete_region(vm, FIRST_SLOT);
		least(&t, stop());
		vm_set_user_memory_region(vm, FIRST_SLOT, 0, GPA_BASE,
					  ORDINARY_SIZE, va);
		guest_nothing();
	}
	ordinary_report("ordinary memory, slot deletion", ORDINARY_PAGES, t);
}

static void bench_ordinary(void)
{
	void *va = ordinary_new(NULL);

	vm_new(false);
	vm_set_user_memory_region(vm, FIRST_SLOT, 0, GPA_BASE, ORDINARY_SIZE, va);
	guest_map(GPA_BASE, SZ_4K, ORDINARY_PAGES);
	bench_ordinary_fault(va);
	bench_ordinary_unmap(va, 0);
	bench_ordinary_unmap(va, 1);
	bench_ordinary_unmap(va, 64);
	bench_ordinary_unmap(va, ORDINARY_PAGES);
	bench_ordinary_log(va, 64);
	bench_ordinary_delete(va);
	vm_free();
	munmap(va, ORDINARY_SIZE);
}

/*
 * The IOMMU's mappings.  Those of a VMA are not revoked, so what compares is
 * what anybody pays who unmaps as much.
 */
#define IOAS_FLAGS	(IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE)

static void ioas_map(u64 iova, u64 size, u32 flags)
{
	TEST_ASSERT_EQ(__iommu_map_file(iommu, big.fd, 0, size, iova,
					IOAS_FLAGS | flags), 0);
}

static void bench_ioas(u64 size)
{
	u64 map = 0, unmap = 0;
	char params[64];
	int i;

	snprintf(params, sizeof(params), "%lu GiB", size >> 30);
	path_prepare(&big, DMABUF, size);
	for (i = 0; i < RUNS; i++) {
		start();
		ioas_map(GPA_BASE, size, 0);
		least(&map, stop());
		start();
		iommu_unmap_iova(iommu, GPA_BASE, size);
		least(&unmap, stop());
	}
	report("IOMMU map", params, path_names[DMABUF], map, "ns");
	report("IOMMU unmap", params, path_names[DMABUF], unmap, "ns");
}

static void bench_revoke_iommu(const struct leaf *leaf, u64 nr, bool kvm)
{
	const char *op = kvm ? "revoke, KVM and IOMMU" : "revoke, IOMMU";
	u64 iova = GPA_BASE + leaf->skew, size = nr * leaf->size;
	u64 off = 0, on = 0, unmap = 0;
	char params[64], restore[64];
	int i;

	snprintf(params, sizeof(params), "%lu x %s", nr, leaf->name);
	snprintf(restore, sizeof(restore), "%s, restore", op);
	path_prepare(&big, DMABUF, size);
	if (kvm) {
		vm_new(false);
		slots_set(&big, DMABUF, iova, big.size, 1);
		guest_map(iova, leaf->size, nr);
	}

	for (i = 0; i < RUNS; i++) {
		ioas_map(iova, size, IOMMU_IOAS_MAP_RESTORE);
		if (kvm)
			fill(iova, leaf, nr);
		least(&off, decode_time(&big, false));
		least(&on, decode_time(&big, true));

		start();
		iommu_unmap_iova(iommu, iova, size);
		least(&unmap, stop());
	}
	if (kvm)
		vm_free();
	report(op, params, path_names[DMABUF], off, "ns");
	if (!kvm)
		report(op, params, "unmap", unmap, "ns");
	report(restore, params, path_names[DMABUF], on, "ns");
}

/*
 * A device reset with the device's BAR in the guest, in 64 parts, of which
 * nothing, one page or all is mapped.
 */
static void reset_slots_set(struct device *dev, enum path path, u64 part, int *fds)
{
	int i;

	if (path == VMA_COLD)
		vma_new(dev);
	for (i = 0; path == DMABUF && i < MAX_SLOTS; i++) {
		struct vfio_region_dma_range range = {
			.offset = i * part,
			.length = part,
		};

		fds[i] = vfio_pci_dmabuf_export(dev->vfio, dev->bar, &range, 1, O_RDWR);
	}
	for (i = 0; i < MAX_SLOTS; i++, nr_slots++) {
		u64 gpa = GPA_BASE + GIB(i);

		if (path == DMABUF)
			vm_set_dmabuf_region(vm, FIRST_SLOT + i, 0, gpa, part, fds[i], 0);
		else
			vm_set_user_memory_region(vm, FIRST_SLOT + i, 0, gpa, part,
						  dev->window + i * part);
	}
}

static void bench_reset_path(struct device *dev, enum path path, u64 part, u64 mapped)
{
	int fds[MAX_SLOTS], i, j;
	char params[64];
	u64 best = 0;

	vm_new(false);
	reset_slots_set(dev, path, part, fds);
	for (i = 0; i < RUNS; i++) {
		for (j = 0; mapped && j < MAX_SLOTS; j++)
			vcpu_pre_fault(vcpu, GPA_BASE + GIB(j), mapped);
		start_cpu();
		vfio_pci_device_reset(dev->vfio);
		least(&best, stop_cpu());
		vfio_pci_set_memory_decode(dev->vfio, true);
	}
	snprintf(params, sizeof(params), "%lu x 4 KiB, 64 slots",
		 MAX_SLOTS * mapped / SZ_4K);
	report("device reset", params, path_names[path], best, "ns");

	vm_free();
	vma_none(dev);
	for (i = 0; path == DMABUF && i < MAX_SLOTS; i++)
		close(fds[i]);
}

static void bench_reset(void)
{
	struct device dev;
	enum path path;
	u64 part, t;
	int i;

	device_open(&dev, reset_bdf);
	part = dev.size / MAX_SLOTS;

	for (t = 0, i = 0; i < RUNS; i++) {
		start_cpu();
		vfio_pci_device_reset(dev.vfio);
		least(&t, stop_cpu());
	}
	report("common", "device reset", "common", t, "ns");
	vfio_pci_set_memory_decode(dev.vfio, true);

	for (path = first_path; path <= min_t(enum path, last_path, VMA_COLD); path++) {
		bench_reset_path(&dev, path, part, 0);
		bench_reset_path(&dev, path, part, SZ_4K);
		bench_reset_path(&dev, path, part, part);
	}
	device_close(&dev);
}

/*
 * Memory, in KiB
 */
struct memory {
	u64 host_tables;
	u64 guest_tables;
	u64 other;
};

static u64 read_kib(const char *path, const char *name)
{
	char line[128], format[64];
	u64 kib, sum = 0;
	FILE *f;

	snprintf(format, sizeof(format), "%s: %%lu", name);
	f = fopen(path, "r");
	TEST_ASSERT(f, "%s", path);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, format, &kib) == 1)
			sum += kib;
	fclose(f);

	return sum;
}

/* CPUs add what they counted to meminfo once in a second, unless they idle. */
static struct memory memory_now(void)
{
	u64 end = now() + 3 * NSEC_PER_SEC;

	while (now() < end)
		usleep(5000);

	return (struct memory) {
		.host_tables = read_kib("/proc/self/status", "VmPTE"),
		.guest_tables = read_kib("/proc/meminfo", "SecPageTables"),
		.other = read_kib("/proc/meminfo", "Slab") +
			 read_kib("/proc/meminfo", "VmallocUsed"),
	};
}

static void report_kib(const char *op, const char *params, enum path path,
		       u64 before, u64 after)
{
	report(op, params, path_names[path], after > before ? after - before : 0, "KiB");
}

static void bench_memory(u64 size, const struct leaf *leaf)
{
	struct memory before, slot, full;
	char params[64];
	enum path path;

	snprintf(params, sizeof(params), "%lu GiB by %s", size >> 30, leaf->name);
	for (path = first_path; path <= last_path; path++) {
		/* What the device and a VM need once is no slot's. */
		vm_new(false);
		slots_set(&big, path, GPA_BASE + leaf->skew, size, 1);
		vm_free();

		vm_new(false);
		path_prepare(&big, path, 0);
		vma_none(&big);
		before = memory_now();
		slots_set(&big, path, GPA_BASE + leaf->skew, size, 1);
		slot = memory_now();
		vcpu_pre_fault(vcpu, GPA_BASE + leaf->skew, size);
		full = memory_now();
		vm_free();

		report_kib("memory, slot metadata", params, path, before.other, slot.other);
		report_kib("memory, host page tables", params, path,
			   before.host_tables, full.host_tables);
		report_kib("memory, stage-2 page tables", params, path,
			   slot.guest_tables, full.guest_tables);
	}
}

/*
 * Many VMs that have a buffer, each a slot of it with one leaf mapped or, where
 * there are no vCPUs that could map something, none.
 */
static void bench_vms(u32 nr, bool vcpus)
{
	struct kvm_vm **vms = calloc(nr, sizeof(*vms));
	struct kvm_vcpu **of = calloc(nr, sizeof(*of));
	u64 off = 0, on = 0;
	char params[64];
	u32 i, j;

	path_prepare(&big, DMABUF, 0);
	for (j = 0; j < nr; j++) {
		if (vcpus)
			vms[j] = __vm_create_with_one_vcpu(&of[j], 0, guest_command_loop);
		else
			vms[j] = vm_create_barebones();
		vm_set_dmabuf_region(vms[j], FIRST_SLOT, 0, GPA_BASE, SZ_1G, big.fd, 0);
	}

	for (i = 0; i < RUNS; i++) {
		for (j = 0; vcpus && j < nr; j++)
			vcpu_pre_fault(of[j], GPA_BASE, SZ_1G);
		least(&off, decode_time(&big, false));
		least(&on, decode_time(&big, true));
	}

	for (j = 0; j < nr; j++)
		kvm_vm_free(vms[j]);
	free(vms);
	free(of);

	snprintf(params, sizeof(params), "%u VM%s, %s each", nr, nr == 1 ? "" : "s",
		 vcpus ? "a leaf" : "no leaf");
	report("revoke, many VMs", params, path_names[DMABUF], off, "ns");
	report("revoke, many VMs, restore", params, path_names[DMABUF], on, "ns");
}

/* One VM with as many slots of a buffer as it can have any use for. */
#define MANY_SLOTS	4096

static void bench_many_slots(u64 size)
{
	char params[64];
	enum path path;
	int i;

	snprintf(params, sizeof(params), "%u slots of %lu MiB", MANY_SLOTS,
		 size / MANY_SLOTS / MIB(1));
	for (path = first_path; path <= min_t(enum path, last_path, VMA_COLD); path++) {
		struct memory before, after;
		u64 off = 0, on = 0;

		vm_new(false);
		path_prepare(&big, path, 0);
		before = memory_now();
		slots_set(&big, path, GPA_BASE, size, MANY_SLOTS);
		after = memory_now();
		for (i = 0; i < RUNS; i++) {
			least(&off, decode_time(&big, false));
			least(&on, decode_time(&big, true));
		}
		vm_free();

		report_kib("memory, slots", params, path, before.other, after.other);
		report("revoke, many slots", params, path_names[path], off, "ns");
		report("revoke, many slots, restore", params, path_names[path], on, "ns");
	}
}

#ifdef __x86_64__
/*
 * What VMs that have another device notice of a reset: 64 of them write to its BAR
 * all the time.  A page fault, a flush of TLBs, or that they wait for something,
 * which is a context switch that they ask for, would be theirs.
 */
struct other {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	u64 waits;
};

#define NR_OTHERS	64
#define OTHERS_TURNS	16
#define OTHERS_WORDS	65536

static struct other others[NR_OTHERS];

static void *other_run(void *arg)
{
	struct rusage before, after;
	struct other *other = arg;
	int i;

	getrusage(RUSAGE_THREAD, &before);
	for (i = 0; i < OTHERS_TURNS; i++)
		guest_cmd(other->vcpu, GUEST_FILL, GPA_BASE, 0, OTHERS_WORDS);
	getrusage(RUSAGE_THREAD, &after);
	other->waits = after.ru_nvcsw - before.ru_nvcsw;
	return NULL;
}

struct noticed {
	u64 faults;
	u64 flushes;
	u64 waits;
};

static struct noticed others_sum(void)
{
	struct noticed sum = {};
	int i;

	for (i = 0; i < NR_OTHERS; i++) {
		sum.faults += vcpu_get_stat(others[i].vcpu, pf_taken);
		sum.flushes += vm_get_stat(others[i].vm, remote_tlb_flush);
		sum.waits += others[i].waits;
	}
	return sum;
}

static void others_round(struct device *dev, const char *params)
{
	struct noticed before = others_sum(), after;
	int i;

	for (i = 0; i < NR_OTHERS; i++)
		pthread_create(&others[i].thread, NULL, other_run, &others[i]);
	if (dev)
		vfio_pci_device_reset(dev->vfio);
	for (i = 0; i < NR_OTHERS; i++)
		pthread_join(others[i].thread, NULL);

	after = others_sum();
	report("64 other VMs, page faults", params, "noticed",
	       after.faults - before.faults, "faults");
	report("64 other VMs, flushes of TLBs", params, "noticed",
	       after.flushes - before.flushes, "flushes");
	report("64 other VMs, waits", params, "noticed", after.waits, "waits");
}

static void bench_others(void)
{
	int fds[MAX_SLOTS], i;
	struct device dev;

	device_open(&dev, reset_bdf);
	vm_new(false);
	reset_slots_set(&dev, DMABUF, dev.size / MAX_SLOTS, fds);
	for (i = 0; i < MAX_SLOTS; i++)
		vcpu_pre_fault(vcpu, GPA_BASE + GIB(i), dev.size / MAX_SLOTS);

	path_prepare(&big, DMABUF, 0);
	for (i = 0; i < NR_OTHERS; i++) {
		struct other *other = &others[i];

		other->vm = __vm_create_with_one_vcpu(&other->vcpu, 0, guest_command_loop);
		vm_set_dmabuf_region(other->vm, FIRST_SLOT, 0, GPA_BASE, SZ_1G, big.fd, 0);
		__virt_pg_map(other->vm, &other->vm->mmu, GPA_BASE, GPA_BASE, PG_LEVEL_1G);
		guest_cmd(other->vcpu, GUEST_FILL, GPA_BASE, 0, OTHERS_WORDS);
	}

	others_round(NULL, "nothing happens");
	others_round(&dev, "a device is reset");

	for (i = 0; i < NR_OTHERS; i++)
		kvm_vm_free(others[i].vm);
	vm_free();
	for (i = 0; i < MAX_SLOTS; i++)
		close(fds[i]);
	device_close(&dev);
}

#else
static void bench_others(void)
{
}
#endif

static void bench_many(u64 size)
{
	struct rlimit files = { 65536, 65536 };

	TEST_ASSERT(!setrlimit(RLIMIT_NOFILE, &files), "setrlimit()");
	bench_many_slots(size);
	if (first_path != DMABUF)
		return;
	bench_buffers(size, false);
	bench_buffers(size, true);
	if (can_pre_fault) {
		bench_vms(1, true);
		bench_vms(64, true);
	}
	bench_vms(1024, false);
	if (can_pre_fault && strcmp(reset_bdf, "none"))
		bench_others();
}

/* The groups of figures, for -c. */
static bool wanted(const char *group)
{
	return !*only || !strcmp(only, group);
}

static void bench_revoke_kvm(u64 size)
{
	const struct { int leaf; u64 nr; u32 slots; u64 apart; } cases[] = {
		{ LEAF_1G, 0, 1 }, { LEAF_1G, 1, 1 }, { LEAF_1G, 64, 1 },
		{ LEAF_1G, 64, 8 }, { LEAF_1G, 64, 64 },
		{ LEAF_2M, 1, 1 }, { LEAF_2M, 64, 1 }, { LEAF_2M, 4096, 1 },
		{ LEAF_4K, 1, 1 }, { LEAF_4K, 64, 1 }, { LEAF_4K, 4096, 1 },
		{ LEAF_4K, 64, 64 }, { LEAF_4K, 64, 1, SZ_1G - SZ_4K },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct leaf *leaf = &leaves[cases[i].leaf];
		u64 most = size / max_t(u64, cases[i].apart, leaf->size);

		bench_revoke("revoke, KVM", size, leaf, min_t(u64, cases[i].nr, most),
			     min_t(u64, cases[i].slots, most), cases[i].apart, false);
	}
}

static void bench_kvm_all(u64 size)
{
	int i;

	for (i = 0; i < NR_LEAVES && wanted("fault"); i++)
		bench_fault(size, &leaves[i]);
	for (i = 0; i < NR_LEAVES && wanted("walk"); i++)
		bench_walk(size, &leaves[i], min_t(u64, size / leaves[i].size, 4096));
	if (wanted("revoke"))
		bench_revoke_kvm(size);
	for (i = LEAF_2M; i < NR_LEAVES && wanted("back"); i++) {
		bench_back(size, &leaves[i], 64, false);
		bench_back(size, &leaves[i], 64, true);
	}
	if (wanted("revoke-iommu") && first_path == DMABUF)
		bench_revoke_iommu(&leaves[LEAF_1G], size / SZ_1G, true);
	if (wanted("steady"))
		bench_steady(size);
	if (wanted("prefault") && can_pre_fault) {
		bench_prefault(size, size, &leaves[LEAF_1G]);
		bench_prefault(size, size, &leaves[LEAF_2M]);
		bench_prefault(size, GIB(1), &leaves[LEAF_4K]);
	}
	if (wanted("slot"))
		bench_slot(size);
	if (wanted("memory") && can_pre_fault) {
		bench_memory(size, &leaves[LEAF_1G]);
		bench_memory(size, &leaves[LEAF_2M]);
	}
}

/* What shows how it grows with the size. */
static void bench_kvm_large(u64 size)
{
	bool all = wanted("large");

	if (all || wanted("slot"))
		bench_slot(size);
	if ((all || wanted("prefault")) && can_pre_fault)
		bench_prefault(size, size, &leaves[LEAF_1G]);
	if (all || wanted("revoke"))
		bench_revoke("revoke, KVM", size, &leaves[LEAF_1G], size / SZ_1G,
			     1, 0, false);
	if ((all || wanted("memory")) && can_pre_fault)
		bench_memory(size, &leaves[LEAF_1G]);
	if (all && size > GIB(512) && first_path == DMABUF) {
		bench_ioas(size);
		bench_revoke_iommu(&leaves[LEAF_1G], size / SZ_1G, false);
	}
}

#ifdef __x86_64__
static void bench_nested(u64 size)
{
	const char *op = "revoke, KVM, after a nested guest";

	bench_revoke(op, size, &leaves[LEAF_1G], 1, 1, 0, true);
	bench_revoke(op, size, &leaves[LEAF_1G], 64, 1, 0, true);
	bench_revoke(op, size, &leaves[LEAF_2M], 4096, 1, 0, true);
}
#endif

static void bench_iommu(u64 size)
{
	bench_ioas(size);
	if (big.size >= GIB(512))
		bench_ioas(GIB(512));
	bench_revoke_iommu(&leaves[LEAF_1G], 1, false);
	bench_revoke_iommu(&leaves[LEAF_1G], size / SZ_1G, false);
	if (big.size >= GIB(512))
		bench_revoke_iommu(&leaves[LEAF_1G], 512, false);
	bench_revoke_iommu(&leaves[LEAF_2M], 64, false);
	bench_revoke_iommu(&leaves[LEAF_2M], 4096, false);
	bench_revoke_iommu(&leaves[LEAF_4K], 4096, false);
}

#ifndef __riscv
/* The VMA in a container, which is where such mappings are still possible. */
static void bench_type1(u64 size)
{
	struct dma_region region = {
		.iova = GPA_BASE,
		.size = size,
	};
	char params[64];
	enum path path;

	iommu = iommu_init(MODE_VFIO_TYPE1V2_IOMMU);
	device_open(&big, big_bdf);
	region.vaddr = big.window;
	snprintf(params, sizeof(params), "%lu GiB", size >> 30);
	for (path = VMA_COLD; path <= VMA_WARM; path++) {
		path_prepare(&big, path, size);
		start();
		iommu_map(iommu, &region);
		report("IOMMU map", params, path_names[path], stop(), "ns");
		start();
		iommu_unmap(iommu, &region);
		report("IOMMU unmap", params, path_names[path], stop(), "ns");
	}
	device_close(&big);
	iommu_cleanup(iommu);
}
#else
/* It has no type1. */
static void bench_type1(u64 size)
{
}
#endif

static void help(const char *name)
{
	printf("usage: %s [-b BDF] [-r BDF] [-c GROUP] [-d]\n"
	       " -b: a device with a BAR of 16 GiB or more (default %s)\n"
	       " -r: one that can be reset (default %s), \"none\": leave it out\n"
	       " -c: measure only common, fault, walk, revoke, back, revoke-iommu, steady,\n"
	       "     prefault, slot, memory, large, ordinary, iommu, nested, reset, many or\n"
	       "     type1\n"
	       " -d: dma-bufs only\n",
	       name, big_bdf, reset_bdf);
	exit(KSFT_SKIP);
}

int main(int argc, char *argv[])
{
	const u64 large[] = { GIB(512), GIB(1024), GIB(4096) };
	int opt, i;
	u64 size;

	while ((opt = getopt(argc, argv, "b:r:c:dh")) != -1) {
		switch (opt) {
		case 'b':
			big_bdf = optarg;
			break;
		case 'r':
			reset_bdf = optarg;
			break;
		case 'c':
			only = optarg;
			break;
		case 'd':
			last_path = DMABUF;
			break;
		default:
			help(argv[0]);
		}
	}

	if (!kvm_has_cap(KVM_CAP_DMABUF_MEM))
		first_path = VMA_COLD;
	can_pre_fault = kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY);
#ifdef __x86_64__
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
#endif

	iommu = iommu_init(MODE_IOMMUFD);
	device_open(&big, big_bdf);
	TEST_REQUIRE(big.size >= GIB(16));
	size = min_t(u64, big.size, GIB(64));

	if (wanted("common"))
		bench_common();
	bench_kvm_all(size);
	for (i = 0; i < ARRAY_SIZE(large); i++)
		if (big.size >= large[i])
			bench_kvm_large(large[i]);
#ifdef __x86_64__
	if (wanted("common"))
		bench_exit();
	if (wanted("nested"))
		bench_nested(size);
#endif
	if (wanted("ordinary"))
		bench_ordinary();
	if (wanted("iommu") && first_path == DMABUF)
		bench_iommu(size);
	if (wanted("reset") && can_pre_fault && strcmp(reset_bdf, "none"))
		bench_reset();
	if (wanted("many"))
		bench_many(size);
	device_close(&big);
	iommu_cleanup(iommu);

	if (wanted("type1") && last_path != DMABUF)
		bench_type1(size);
	return 0;
}
