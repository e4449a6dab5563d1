// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of what can happen while a dma-buf is revoked whose memory is in a memslot:
 * page faults on thousands of leaves, pre-faulting, nested guests, slots that are
 * deleted one leaf at a time, and an administrator who changes how large leaves
 * may be.
 *
 * The exporter is dma-buf-mock, there is no device.  vCPUs load and store all the
 * time.  A store through an entry that was left behind when the revocation returned
 * shows in the mock's pattern, a load as something that is not the page's tag.
 *
 * Waiting is always for a count, never for a time.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "kvm_test_harness.h"
#include "dmabuf_guest.h"
#include "dmabuf_mock.h"
#include "svm_util.h"
#include "test_util.h"
#include "vmx.h"

/* Nested virtualisation under emulation is slow. */
#define RACE_TEST(name)	TEST_F_TIMEOUT(dmabuf_race, name, 240)

/* The largest blocks that there are, and their number: 4,096 leaves of 4 KiB. */
#define BLOCK_ORDER	10
#define NR_BLOCKS	4
#define NR_PAGES	((u64)NR_BLOCKS << BLOCK_ORDER)
#define SIZE		(NR_PAGES * PAGE_SIZE)

/* Leaves are as large as can be at the one, of 4 KiB at the other. */
#define GPA_LARGE	(4ull * SZ_1G)
#define GPA_SMALL	(4ull * SZ_1G + PAGE_SIZE)

/* vCPUs, of which no more are made than there are CPUs, but two. */
#define MAX_WALKERS	4

/* Coprime to the number of pages. */
#define WALK_STRIDE	61

FIXTURE(dmabuf_race) {
	int dev;
	int fd;
};

FIXTURE_SETUP(dmabuf_race)
{
	struct dma_buf_mock_extent extents[NR_BLOCKS];
	u64 i;

	self->dev = open("/dev/dma-buf-mock", O_RDWR | O_CLOEXEC);
	if (self->dev < 0)
		SKIP(return, "no /dev/dma-buf-mock (CONFIG_DMABUF_MOCK)");

	mock_blocks(extents, NR_BLOCKS, BLOCK_ORDER, MOCK_RW);
	self->fd = mock_create(self->dev, extents, NR_BLOCKS);
	for (i = 0; i < NR_PAGES; i++)
		mock_poke64(self->dev, self->fd, i * PAGE_SIZE, TAG(i));
}

FIXTURE_TEARDOWN(dmabuf_race)
{
	if (self->dev >= 0) {
		close(self->fd);
		mock_assert_unchanged(self->dev);
		close(self->dev);
	}
}

/*
 * The guest goes through the slot, each vCPU from a place of its own.  Each page
 * is loaded from, which gives its tag or what MMIO gives, and stored to, into a
 * word that is this vCPU's.
 */
static u64 walk_gpa;
static bool walk_stop;
static struct {
	u64 pages;		/* done */
	u64 pad[7];
} walk_state[MAX_WALKERS];
static u64 nr_walkers;

static void guest_walk(u64 id)
{
	u64 page = id * NR_PAGES / nr_walkers, *p, val;

	while (!READ_ONCE(walk_stop)) {
		p = (u64 *)(walk_gpa + page * PAGE_SIZE);
		val = READ_ONCE(*p);
		if (val != TAG(page))
			GUEST_ASSERT_EQ(val, MMIO_SENTINEL);
		WRITE_ONCE(p[1 + id], val);
		WRITE_ONCE(walk_state[id].pages, walk_state[id].pages + 1);
		page = (page + WALK_STRIDE) % NR_PAGES;
	}
	GUEST_DONE();
}

struct walkers {
	struct kvm_vm *vm;
	/* The one behind the last does not run, it is for KVM_PRE_FAULT_MEMORY. */
	struct kvm_vcpu *vcpus[MAX_WALKERS + 1];
	pthread_t threads[MAX_WALKERS];
	int nr;
};

static void complete_mmio(struct kvm_run *run)
{
	u64 val = MMIO_SENTINEL;

	if (!run->mmio.is_write)
		memcpy(run->mmio.data, &val, sizeof(val));
}

static void *walker_thread(void *arg)
{
	struct kvm_vcpu *vcpu = arg;
	enum guest_exit exit;

	while ((exit = guest_run(vcpu)) != GUEST_FINISHED) {
		if (exit == GUEST_MMIO) {
			complete_mmio(vcpu->run);
			continue;
		}
		TEST_ASSERT(exit == GUEST_FAULT, "vCPU %u: exit was %s", vcpu->id,
			    exit_reason_str(vcpu->run->exit_reason));
		TEST_ASSERT_EQ(vcpu->run->memory_fault.flags,
			       KVM_MEMORY_EXIT_FLAG_REVOKED);
		poll_pause();
	}

	return NULL;
}

static void walkers_start(struct walkers *w, u64 gpa)
{
	int i;

	WRITE_AND_SYNC_TO_GUEST(w->vm, walk_gpa, gpa);
	WRITE_AND_SYNC_TO_GUEST(w->vm, nr_walkers, w->nr);
	for (i = 0; i < w->nr; i++)
		kvm_pthread_create(&w->threads[i], NULL, walker_thread, w->vcpus[i]);
}

static void walkers_create(FIXTURE_DATA(dmabuf_race) *self, struct walkers *w, u64 gpa)
{
	int i;

	w->nr = max(2L, min(sysconf(_SC_NPROCESSORS_ONLN), (long)MAX_WALKERS));
	w->vm = __vm_create_with_vcpus(VM_SHAPE_DEFAULT, w->nr + 1, EXTRA_PAGES,
				       guest_walk, w->vcpus);
	add_slot(w->vm, SLOT_A, 0, gpa, SIZE, self->fd, 0);
	for (i = 0; i < w->nr; i++)
		vcpu_args_set(w->vcpus[i], 1, (u64)i);
}

/*
 * Map the guest's own memory, so that whatever the number of leaves changes by is
 * leaves of the dma-buf.
 */
static void map_ram(struct kvm_vm *vm, struct kvm_vcpu *vcpu)
{
	struct userspace_mem_region *ram = memslot2region(vm, 0);

	vcpu_pre_fault(vcpu, ram->region.guest_phys_addr, ram->region.memory_size);
}

static u64 walker_pages(struct walkers *w, int i)
{
	return READ_ONCE(*(u64 *)addr_gva2hva(w->vm, (gva_t)&walk_state[i].pages));
}

/* Wait until each vCPU has done @nr more pages. */
static void walkers_progress(struct walkers *w, u64 nr)
{
	u64 target[MAX_WALKERS];
	int i;

	for (i = 0; i < w->nr; i++)
		target[i] = walker_pages(w, i) + nr;
	for (i = 0; i < w->nr; i++)
		while (walker_pages(w, i) < target[i])
			poll_pause();
}

static void walkers_join(struct walkers *w)
{
	int i;

	WRITE_AND_SYNC_TO_GUEST(w->vm, walk_stop, true);
	for (i = 0; i < w->nr; i++)
		kvm_pthread_join(w->threads[i], NULL);
	kvm_vm_free(w->vm);
}

/*
 * All leaves are mapped, and all vCPUs fault while they are zapped.  Whoever holds
 * up the others yields to them, and none of what is mapped meanwhile stays.
 */
RACE_TEST(contended)
{
	struct walkers w = {};
	u64 none;
	int i;

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "no KVM_CAP_PRE_FAULT_MEMORY");

	walkers_create(self, &w, GPA_SMALL);
	map_ram(w.vm, w.vcpus[w.nr]);
	walkers_start(&w, GPA_SMALL);
	walkers_progress(&w, 16);
	mock_revoke(self->dev, self->fd);
	none = vm_leaves(w.vm).k4;
	mock_restore(self->dev, self->fd);

	for (i = 0; i < 10; i++) {
		vcpu_pre_fault(w.vcpus[w.nr], GPA_SMALL, SIZE);
		TEST_ASSERT_EQ(vm_leaves(w.vm).k4, none + NR_PAGES);
		walkers_progress(&w, 2);
		mock_revoke(self->dev, self->fd);
		TEST_ASSERT_EQ(vm_leaves(w.vm).k4, none);
		mock_assert_unchanged(self->dev);
		mock_restore(self->dev, self->fd);
	}
	walkers_progress(&w, 16);
	walkers_join(&w);
}

/* Revocations that come while thousands of leaves are being pre-faulted. */
struct pre_faulter {
	struct kvm_vcpu *vcpu;
	u64 nr_done;
	u64 nr_refused;
	bool stop;
};

static void *pre_fault_thread(void *arg)
{
	struct pre_faulter *p = arg;
	int ret;

	while (!READ_ONCE(p->stop)) {
		ret = __vcpu_pre_fault(p->vcpu, GPA_SMALL, SIZE);
		TEST_ASSERT(!ret || ret == -EFAULT, "KVM_PRE_FAULT_MEMORY: %s",
			    strerror(-ret));
		if (ret)
			WRITE_ONCE(p->nr_refused, p->nr_refused + 1);
		else
			WRITE_ONCE(p->nr_done, p->nr_done + 1);
	}

	return NULL;
}

RACE_TEST(pre_fault)
{
	struct pre_faulter p = {};
	pthread_t thread;
	struct kvm_vm *vm;
	u64 nr, none;
	int i;

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "no KVM_CAP_PRE_FAULT_MEMORY");

	vm = __vm_create_with_one_vcpu(&p.vcpu, EXTRA_PAGES, guest_walk);
	map_ram(vm, p.vcpu);
	vm_set_dmabuf_region(vm, SLOT_A, 0, GPA_SMALL, SIZE, self->fd, 0);
	vcpu_pre_fault(p.vcpu, GPA_SMALL, SIZE);
	TEST_ASSERT(vm_leaves(vm).k4 >= NR_PAGES, "%lu leaves", vm_leaves(vm).k4);
	mock_revoke(self->dev, self->fd);
	none = vm_leaves(vm).k4;
	mock_restore(self->dev, self->fd);

	kvm_pthread_create(&thread, NULL, pre_fault_thread, &p);
	for (i = 0; i < 32; i++) {
		/* Somewhere in the middle, mostly; now and then all was mapped. */
		nr = READ_ONCE(p.nr_done);
		if (i % 4)
			while (vm_leaves(vm).k4 < none + i * NR_PAGES / 40)
				poll_pause();
		else
			while (READ_ONCE(p.nr_done) == nr)
				poll_pause();

		mock_revoke(self->dev, self->fd);
		TEST_ASSERT_EQ(vm_leaves(vm).k4, none);
		nr = READ_ONCE(p.nr_refused);
		while (READ_ONCE(p.nr_refused) < nr + 2)
			poll_pause();
		TEST_ASSERT_EQ(vm_leaves(vm).k4, none);
		mock_restore(self->dev, self->fd);
	}
	WRITE_ONCE(p.stop, true);
	kvm_pthread_join(thread, NULL);
	kvm_vm_free(vm);
}

/*
 * What does the revoking where the test's own thread does something else.  Between
 * two revocations the guest gets on, or, with few CPUs, it never would.
 */
struct revoker {
	struct walkers *w;
	int dev;
	int fd;
	pthread_t thread;
	u64 nr;
	bool stop;
};

static void *revoker_thread(void *arg)
{
	struct revoker *r = arg;

	while (!READ_ONCE(r->stop)) {
		mock_revoke(r->dev, r->fd);
		mock_assert_unchanged(r->dev);
		mock_restore(r->dev, r->fd);
		walkers_progress(r->w, 1 + r->nr % 8);
		WRITE_ONCE(r->nr, r->nr + 1);
	}

	return NULL;
}

static void revoker_start(FIXTURE_DATA(dmabuf_race) *self, struct revoker *r,
			  struct walkers *w)
{
	r->w = w;
	r->dev = self->dev;
	r->fd = self->fd;
	kvm_pthread_create(&r->thread, NULL, revoker_thread, r);
}

static void revoker_progress(struct revoker *r, u64 nr)
{
	u64 target = READ_ONCE(r->nr) + nr;

	while (READ_ONCE(r->nr) < target)
		poll_pause();
}

static void revoker_join(struct revoker *r)
{
	WRITE_ONCE(r->stop, true);
	kvm_pthread_join(r->thread, NULL);
}

/* Slots whose leaves are zapped one after the other, and not with their roots. */
RACE_TEST(delete_leaf_by_leaf)
{
	struct revoker r = {};
	struct walkers w = {};
	u64 none;
	int i;

	if (!(kvm_check_cap(KVM_CAP_DISABLE_QUIRKS2) & KVM_X86_QUIRK_SLOT_ZAP_ALL))
		SKIP(return, "no KVM_X86_QUIRK_SLOT_ZAP_ALL");

	walkers_create(self, &w, GPA_SMALL);
	vm_enable_cap(w.vm, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_SLOT_ZAP_ALL);
	map_ram(w.vm, w.vcpus[w.nr]);
	walkers_start(&w, GPA_SMALL);
	walkers_progress(&w, 16);
	vm_delete_region(w.vm, SLOT_A);
	none = vm_leaves(w.vm).k4;
	vm_set_dmabuf_region(w.vm, SLOT_A, 0, GPA_SMALL, SIZE, self->fd, 0);

	revoker_start(self, &r, &w);
	for (i = 0; i < 15; i++) {
		walkers_progress(&w, 8 + i * 4);
		vm_delete_region(w.vm, SLOT_A);
		TEST_ASSERT_EQ(vm_leaves(w.vm).k4, none);
		revoker_progress(&r, 1);
		vm_set_dmabuf_region(w.vm, SLOT_A, 0, GPA_SMALL, SIZE, self->fd, 0);
	}
	revoker_join(&r);
	walkers_progress(&w, 16);
	walkers_join(&w);
}

#define NX_HUGE_PAGES	"/sys/module/kvm/parameters/nx_huge_pages"

static bool set_nx_huge_pages(const char *val)
{
	int fd = open(NX_HUGE_PAGES, O_WRONLY);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, val, strlen(val)) == strlen(val);
	close(fd);
	return ok;
}

/* Each change zaps all that all VMs have mapped. */
RACE_TEST(nx_huge_pages)
{
	struct revoker r = {};
	struct walkers w = {};
	int i;

	if (!set_nx_huge_pages("off"))
		SKIP(return, "cannot write " NX_HUGE_PAGES);

	walkers_create(self, &w, GPA_LARGE);
	walkers_start(&w, GPA_LARGE);
	walkers_progress(&w, 16);

	revoker_start(self, &r, &w);
	for (i = 0; i < 20; i++) {
		TEST_ASSERT(set_nx_huge_pages(i & 1 ? "off" : "force"), "nx_huge_pages");
		walkers_progress(&w, 1 + i);
		revoker_progress(&r, 1);
	}
	revoker_join(&r);
	walkers_progress(&w, 16);
	walkers_join(&w);
	TEST_ASSERT(set_nx_huge_pages("auto"), "nx_huge_pages");
}

/* Nested guests.  L2's identifier is 0, its exits by ports are not L1's. */
static void l2_walk(void)
{
	guest_walk(0);
}

static void l1_walk(void *data)
{
	struct svm_test_data *svm = data;

	if (this_cpu_has(X86_FEATURE_VMX)) {
		GUEST_ASSERT(prepare_for_vmx_operation(data));
		GUEST_ASSERT(load_vmcs(data));
		prepare_vmcs(data, l2_walk);
		GUEST_ASSERT(!vmlaunch());
	} else {
		generic_svm_setup(svm, l2_walk);
		run_guest(svm->vmcb, svm->vmcb_gpa);
	}
	GUEST_FAIL("L2 exited to L1");
}

static void test_nested(FIXTURE_DATA(dmabuf_race) *self, bool tdp, u64 gpa, int level)
{
	struct walkers w = { .nr = 2 };
	gva_t nested;
	int i;

	ksft_print_msg("%s nested page tables, %s leaves\n", tdp ? "with" : "without",
		       level == PG_LEVEL_4K ? "small" : "large");
	w.vm = __vm_create(VM_SHAPE_DEFAULT, 2, EXTRA_PAGES);
	if (tdp)
		vm_enable_tdp(w.vm);
	w.vcpus[0] = vm_vcpu_add(w.vm, 0, l1_walk);
	w.vcpus[1] = vm_vcpu_add(w.vm, 1, guest_walk);
	if (kvm_cpu_has(X86_FEATURE_VMX))
		vcpu_alloc_vmx(w.vm, &nested);
	else
		vcpu_alloc_svm(w.vm, &nested);
	vcpu_args_set(w.vcpus[0], 1, nested);
	vcpu_args_set(w.vcpus[1], 1, 1ul);
	virt_map(w.vm, gpa, gpa, NR_PAGES);
	if (tdp) {
		tdp_identity_map_default_memslots(w.vm);
		__tdp_map(w.vm, gpa, gpa, SIZE, level);
	}
	vm_set_dmabuf_region(w.vm, SLOT_A, 0, gpa, SIZE, self->fd, 0);

	walkers_start(&w, gpa);
	for (i = 0; i < 20; i++) {
		walkers_progress(&w, 4 + i * 8);
		mock_revoke(self->dev, self->fd);
		mock_assert_unchanged(self->dev);
		mock_restore(self->dev, self->fd);
	}
	walkers_progress(&w, 16);
	walkers_join(&w);
}

RACE_TEST(nested)
{
	if (!kvm_cpu_has(X86_FEATURE_VMX) && !kvm_cpu_has(X86_FEATURE_SVM))
		SKIP(return, "no nested virtualization");

	test_nested(self, false, GPA_SMALL, PG_LEVEL_4K);
	if (!kvm_cpu_has_tdp())
		return;
	test_nested(self, true, GPA_SMALL, PG_LEVEL_4K);
	test_nested(self, true, GPA_LARGE, PG_LEVEL_2M);
}

int main(int argc, char *argv[])
{
	struct kvm_vm *vm = vm_create_barebones();

	__TEST_REQUIRE(vm_check_cap(vm, KVM_CAP_DMABUF_MEM), "no KVM_CAP_DMABUF_MEM");
	kvm_vm_free(vm);

	return test_harness_run(argc, argv);
}
