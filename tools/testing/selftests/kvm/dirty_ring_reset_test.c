// SPDX-License-Identifier: GPL-2.0
/*
 * KVM_RESET_DIRTY_RINGS and memslots that do not log dirty pages
 *
 * The entries of a dirty ring are in memory that userspace can write, and can
 * outlive the logging that they come from. The test resets entries, real and
 * forged ones, of a memslot without KVM_MEM_LOG_DIRTY_PAGES and looks at what
 * it costs the guest: nothing is write-protected, so that writing the pages
 * again takes no faults, and no huge page is split.
 *
 * Faults are counted as exits, of which there are a few for other reasons.
 * Whether they tell anything here is found out with a memslot that does log:
 * where the CPU logs by itself (PML), no write faults.
 */
#include <linux/sizes.h>

#include <asm/barrier.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GPA	SZ_1G
#define TEST_GVA	0xc0000000UL
#define TEST_NPAGES	256
#define RING_SIZE	SZ_64K

/* Far more than the exits that a pass over the pages takes without faults. */
#define MANY_EXITS	(TEST_NPAGES / 2)

/* Position in the ring of the next entry that userspace collects. */
static u32 fetch_index;

static void guest_code(u64 page_size, u64 npages)
{
	u64 i, pass;

	for (pass = 1;; pass++) {
		for (i = 0; i < npages; i++)
			WRITE_ONCE(*(u64 *)(TEST_GVA + i * page_size), pass);
		GUEST_SYNC(pass);
	}
}

static u64 run_pass(struct kvm_vcpu *vcpu)
{
	u64 before = vcpu_get_stat(vcpu, exits);

	vcpu_run(vcpu);
	TEST_ASSERT(get_ucall(vcpu, NULL) == UCALL_SYNC,
		    "Guest did not finish its pass, exit reason %s",
		    exit_reason_str(vcpu->run->exit_reason));
	return vcpu_get_stat(vcpu, exits) - before;
}

static struct kvm_vm *create_vm(enum vm_mem_backing_src_type src,
				struct kvm_vcpu **vcpu)
{
	struct kvm_vm *vm = vm_create(1);
	u64 npages = max_t(u64, TEST_NPAGES, SZ_2M / vm->page_size);

	/* Huge pages are split by a reset only if all start out as dirty. */
	if (kvm_check_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) &
	    KVM_DIRTY_LOG_INITIALLY_SET)
		vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
			      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
			      KVM_DIRTY_LOG_INITIALLY_SET);
	vm_enable_dirty_ring(vm, RING_SIZE);

	*vcpu = vm_vcpu_add(vm, 0, guest_code);
	kvm_arch_vm_finalize_vcpus(vm);
	vm_userspace_mem_region_add(vm, src, TEST_GPA, TEST_SLOT, npages, 0);
	virt_map(vm, TEST_GVA, TEST_GPA, npages);
	vcpu_args_set(*vcpu, 2, (u64)vm->page_size, (u64)TEST_NPAGES);
	fetch_index = 0;
	return vm;
}

/* KVM writes the flags last, see the description of the ring in api.rst. */
static bool entry_is_dirty(struct kvm_dirty_gfn *entry)
{
	/* Pairs with the barrier in kvm_dirty_ring_push(). */
	return smp_load_acquire(&entry->flags) == KVM_DIRTY_GFN_F_DIRTY;
}

static void collect_entry(struct kvm_dirty_gfn *entry)
{
	/* Pairs with kvm_dirty_gfn_harvested(): slot and offset are read before. */
	smp_store_release(&entry->flags, KVM_DIRTY_GFN_F_RESET);
	fetch_index++;
}

static struct kvm_dirty_gfn *next_entry(struct kvm_vcpu *vcpu)
{
	struct kvm_dirty_gfn *ring = vcpu_map_dirty_ring(vcpu);

	return &ring[fetch_index % (RING_SIZE / sizeof(*ring))];
}

/* Collect all there are, reset them, and say how many are of the test slot. */
static u32 reset_real_entries(struct kvm_vcpu *vcpu)
{
	struct kvm_dirty_gfn *entry;
	u32 all = 0, test = 0, n;

	for (entry = next_entry(vcpu); entry_is_dirty(entry);
	     entry = next_entry(vcpu)) {
		test += entry->slot == TEST_SLOT;
		collect_entry(entry);
		all++;
	}
	n = kvm_vm_reset_dirty_ring(vcpu->vm);
	TEST_ASSERT(n == all, "%u of %u entries reset", n, all);
	return test;
}

static void reset_forged_entries(struct kvm_vcpu *vcpu)
{
	struct kvm_dirty_gfn *entry;
	u32 i, n;

	for (i = 0; i < TEST_NPAGES; i++) {
		entry = next_entry(vcpu);
		entry->slot = TEST_SLOT;
		entry->offset = i;
		collect_entry(entry);
	}
	n = kvm_vm_reset_dirty_ring(vcpu->vm);
	TEST_ASSERT(n == TEST_NPAGES, "%u of %u entries reset", n, TEST_NPAGES);
}

static void test_write_protection(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(VM_MEM_SRC_ANONYMOUS, &vcpu);
	u64 exits;
	u32 n;

	/* While the slot logs, a reset makes the next writes fault. */
	vm_mem_region_set_flags(vm, TEST_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
	run_pass(vcpu);
	n = reset_real_entries(vcpu);
	TEST_ASSERT(n == TEST_NPAGES, "%u of %u pages logged", n, TEST_NPAGES);
	exits = run_pass(vcpu);
	if (exits < MANY_EXITS) {
		print_skip("no faults to count (%lu exits), the CPU logs by itself",
			   exits);
		kvm_vm_free(vm);
		return;
	}

	/* Without logging nothing faults once it is mapped... */
	vm_mem_region_set_flags(vm, TEST_SLOT, 0);
	run_pass(vcpu);
	exits = run_pass(vcpu);
	TEST_ASSERT(exits < MANY_EXITS, "%lu exits with everything mapped",
		    exits);

	/* ...and entries that are left over do not change that... */
	n = reset_real_entries(vcpu);
	TEST_ASSERT(n == TEST_NPAGES, "%u of %u pages logged", n, TEST_NPAGES);
	exits = run_pass(vcpu);
	TEST_ASSERT(exits < MANY_EXITS,
		    "%lu exits after a reset of old entries", exits);

	/* ...nor do those that KVM has not written. */
	reset_forged_entries(vcpu);
	exits = run_pass(vcpu);
	TEST_ASSERT(exits < MANY_EXITS,
		    "%lu exits after a reset of forged entries", exits);

	kvm_vm_free(vm);
}

#ifdef __x86_64__
static void test_split(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(VM_MEM_SRC_ANONYMOUS_THP, &vcpu);
	u64 before, after;

	run_pass(vcpu);
	before = vm_get_stat(vm, pages_2m);
	if (before) {
		reset_forged_entries(vcpu);
		after = vm_get_stat(vm, pages_2m);
		TEST_ASSERT(after == before,
			    "%lu of %lu huge pages left after a reset of forged entries",
			    after, before);
	} else {
		print_skip("no huge page mapped");
	}

	kvm_vm_free(vm);
}
#endif

int main(void)
{
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_DIRTY_LOG_RING) ||
		     kvm_has_cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL));

	test_write_protection();
#ifdef __x86_64__
	test_split();
#endif
	return 0;
}
