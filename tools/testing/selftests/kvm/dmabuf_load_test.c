// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of memslots that are backed by a dma-buf: the memory is taken away, slots
 * and VMs come and go, while vCPUs are busy with it.
 *
 * Devices are those of dmabuf_fixture.h.
 */
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <sys/prctl.h>
#include <sys/wait.h>

#include <linux/sizes.h>

#include "dmabuf_fixture.h"
#include "dmabuf_load.h"

static u64 read_marker(void *self, u64 offset)
{
	return bar_read64(self, offset);
}

DMABUF_TEST(revoke_under_load)
{
	struct hammers hs = {};
	u64 done[NR_HAMMERS];
	int round;

	hammers_create(&hs, GPA_A, 64 * PAGE_SIZE, self->fd);

	for (round = 0; round < 20; round++) {
		hammers_progress(&hs);

		decode(self, false);
		hammers_snapshot(&hs, done);
		hammers_wait_exits(&hs, done);

		decode(self, true);
		hammers_check_markers(&hs, read_marker, self);
		hammers_go(&hs);
	}
	hammers_progress(&hs);
	hammers_join(&hs);
}

/*
 * The device is closed with the vCPUs running.  This revocation is for ever,
 * and the test can look at the BAR all the same because it opens the device
 * again: a stage-2 entry that was left would now reach the device.
 */
DMABUF_TEST(close_under_load)
{
	struct hammers hs = {};
	u64 done[NR_HAMMERS];
	int i, try, fd;

	hammers_create(&hs, GPA_A, 64 * PAGE_SIZE, self->fd);
	hammers_progress(&hs);

	close_device(self);
	hammers_snapshot(&hs, done);
	hammers_wait_exits(&hs, done);

	/* The buffer's owner is gone. */
	TEST_ASSERT_EQ(__vm_set_dmabuf_region(hs.vm, SLOT_B, 0, GPA_B, PAGE_SIZE,
					      self->fd, 0), -ENODEV);
	TEST_ASSERT_EQ(dmabuf_count(self->fd), 2);

	open_device(self);
	for (try = 0; try < 3; try++) {
		hammers_snapshot(&hs, done);
		hammers_check_markers(&hs, read_marker, self);
		hammers_go(&hs);
		hammers_wait_exits(&hs, done);
		for (i = 0; i < NR_HAMMERS; i++)
			TEST_ASSERT_EQ(READ_ONCE(hs.h[i].state->done), done[i]);
		hammers_check_markers(&hs, read_marker, self);
		decode(self, false);
		decode(self, true);
	}

	/* The new owner's buffer at the same address, and on they go. */
	fd = vfio_pci_dmabuf_export_bar(self->dev, self->bar);
	vm_delete_region(hs.vm, SLOT_A);
	TEST_ASSERT_EQ(dmabuf_count(self->fd), 1);
	vm_set_dmabuf_region(hs.vm, SLOT_A, 0, GPA_A, NR_HAMMERS * PAGE_SIZE, fd,
			     64 * PAGE_SIZE);
	hammers_go(&hs);
	hammers_progress(&hs);
	hammers_join(&hs);
}

DMABUF_TEST(delete_under_load)
{
	struct readers rs = {};
	int i;

	readers_create(&rs, 0, GPA_A, SZ_4M, self->fd);
	for (i = 0; i < 25; i++) {
		readers_expect(&rs, false);
		vm_delete_region(rs.vm, SLOT_A);
		readers_expect(&rs, true);
		vm_set_dmabuf_region(rs.vm, SLOT_A, 0, GPA_A, SZ_4M, self->fd, 0);
	}
	readers_expect(&rs, false);
	readers_join(&rs);
	for (i = 0; i < NR_HAMMERS; i++)
		TEST_ASSERT_EQ(rs.r[i].nr_revoked, 0);
	kvm_vm_free(rs.vm);
	TEST_ASSERT_EQ(dmabuf_count(self->fd), 1);
}

static bool toggle_stop;
static u64 nr_toggles;

static void *toggle_thread(void *arg)
{
	FIXTURE_DATA(dmabuf) *self = arg;

	while (!READ_ONCE(toggle_stop)) {
		decode(self, false);
		decode(self, true);
		WRITE_ONCE(nr_toggles, nr_toggles + 1);
	}

	return NULL;
}

/* Everything at once: faults, revocations, slots that come and go. */
DMABUF_TEST(churn)
{
	struct readers rs = {};
	pthread_t toggler;
	u64 toggles = 0;
	int i;

	readers_create(&rs, 0, GPA_A, SZ_4M, self->fd);
	kvm_pthread_create(&toggler, NULL, toggle_thread, self);
	for (i = 0; i < 50; i++) {
		vm_delete_region(rs.vm, SLOT_A);
		while (READ_ONCE(nr_toggles) < toggles + 1)
			poll_pause();
		toggles = READ_ONCE(nr_toggles);
		vm_set_dmabuf_region(rs.vm, SLOT_A, 0, GPA_A, SZ_4M, self->fd, 0);
		while (READ_ONCE(nr_toggles) < toggles + 2)
			poll_pause();
		toggles = READ_ONCE(nr_toggles);
	}
	WRITE_ONCE(toggle_stop, true);
	kvm_pthread_join(toggler, NULL);

	/* The memory is there, the slot is there. */
	readers_expect(&rs, false);
	readers_join(&rs);
	for (i = 0; i < NR_HAMMERS; i++)
		ksft_print_msg("vCPU %d: %lu reads, %lu MMIO, %lu revoked\n", i,
			       rs.r[i].state->done, rs.r[i].nr_mmio, rs.r[i].nr_revoked);
	kvm_vm_free(rs.vm);
	TEST_ASSERT_EQ(dmabuf_count(self->fd), 1);
}

/* Revocations in the middle of faults: an access is MMIO or it gets the memory. */
DMABUF_TEST(revoked_mmio_under_load)
{
	struct readers rs = {};
	int i;

	if (!offers_revoked_mmio(self))
		SKIP(return, "no KVM_MEM_REVOKED_MMIO");

	readers_create(&rs, KVM_MEM_REVOKED_MMIO, GPA_A, SZ_4M, self->fd);
	for (i = 0; i < 25; i++) {
		readers_expect(&rs, false);
		decode(self, false);
		readers_expect(&rs, true);
		decode(self, true);
	}
	for (i = 0; i < 200; i++) {
		decode(self, false);
		decode(self, true);
	}

	readers_expect(&rs, false);
	readers_join(&rs);
	kvm_vm_free(rs.vm);
	TEST_ASSERT_EQ(dmabuf_count(self->fd), 1);
}

/* A VM goes away, orderly and not, with the device open and in use. */
DMABUF_TEST(vm_destroyed)
{
	u64 marker = 80 * PAGE_SIZE + 8;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i, status;
	pid_t pid;

	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
	decode(self, false);
	decode(self, true);
	kvm_vm_free(self->vm);
	self->vm = NULL;
	TEST_ASSERT_EQ(dmabuf_count(self->fd), 1);
	decode(self, false);
	decode(self, true);

	for (i = 0; i < 3; i++) {
		bar_write64(self, marker, 0);

		pid = fork();
		TEST_ASSERT(pid >= 0, "fork()");
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			vm = __vm_create_with_one_vcpu(&vcpu, EXTRA_PAGES, guest_hammer);
			add_slot(vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, marker - 8);
			vcpu_args_set(vcpu, 2, GPA_A + 8, 0ul);
			/* The parent toggles decode while this runs. */
			while (guest_run(vcpu) == GUEST_FAULT)
				assert_revoked_exit(vcpu, GPA_A);
			_exit(1);
		}

		/* The guest runs; let it, then take the VM away from under it. */
		while (bar_read64(self, marker) < 100)
			TEST_ASSERT(!waitpid(pid, &status, WNOHANG),
				    "the VM's process ended, status 0x%x", status);
		if (i == 1)
			decode(self, false);
		kill(pid, SIGKILL);
		if (i == 2) {
			decode(self, false);
			decode(self, true);
		}
		TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
		TEST_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
			    "the VM's process ended, status 0x%x", status);
		decode(self, false);
		decode(self, true);
	}

	/* The buffer is as good as before. */
	self->vm = create_vm(&self->vcpu);
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, self->fd, 0);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
}

int main(int argc, char *argv[])
{
	return dmabuf_main(argc, argv);
}
