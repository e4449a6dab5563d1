// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of memslots that are backed by a dma-buf: what no device at hand does.
 *
 * The exporter is dma-buf-mock, there is no device.  Its memory moves, changes
 * its permissions, consists of thousands of extents of any alignment, and fails to
 * come back.  What it took away or moved away from has a pattern in it that
 * nobody may change, and each test ends with a look at that: an entry that was
 * left behind in stage-2 shows when a guest writes through it.  A guest that reads
 * through one sees the pattern instead of what it should.
 *
 * Waiting is always for an event or a count, never for time.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <linux/iommufd.h>
#include <linux/sizes.h>

#include "kvm_test_harness.h"
#include "dmabuf_guest.h"
#include "dmabuf_load.h"
#include "dmabuf_mock.h"
#include "memcg_charge.h"

/* Nested virtualisation under emulation is slow. */
#define MOCK_TEST(name)	TEST_F_TIMEOUT(dmabuf_mock, name, 240)

/* Multiples of 1 GiB, no memory of the guest's own is near. */
#define GPA_A		(4ull * SZ_1G)
#define GPA_B		(8ull * SZ_1G)

/* An order whose blocks are of 2 MiB: leaves of the second level, with pages of 4 KiB. */
#define ORDER_2M	((u32)__builtin_ctzl(SZ_2M / PAGE_SIZE))

#define MAX_EXTENTS	4096

FIXTURE(dmabuf_mock) {
	int dev;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	struct dma_buf_mock_extent extents[MAX_EXTENTS];
};

FIXTURE_SETUP(dmabuf_mock)
{
	self->dev = open("/dev/dma-buf-mock", O_RDWR | O_CLOEXEC);
	if (self->dev < 0)
		SKIP(return, "no /dev/dma-buf-mock (CONFIG_DMABUF_MOCK)");
	self->vm = create_vm(&self->vcpu);
}

FIXTURE_TEARDOWN(dmabuf_mock)
{
	if (self->vm)
		kvm_vm_free(self->vm);
	if (self->dev >= 0) {
		mock_assert_unchanged(self->dev);
		close(self->dev);
	}
}

/* A buffer of @nr blocks whose pages begin with tags. */
static int create_tagged(FIXTURE_DATA(dmabuf_mock) *self, u32 nr, u32 order)
{
	u64 i;
	int fd;

	mock_blocks(self->extents, nr, order, MOCK_RW);
	fd = mock_create(self->dev, self->extents, nr);
	for (i = 0; i < (u64)nr << order; i++)
		mock_poke64(self->dev, fd, i * PAGE_SIZE, TAG(i));
	return fd;
}

/* The slot has all of the buffer's pages; some of them are looked at. */
static void expect_tags(FIXTURE_DATA(dmabuf_mock) *self, u64 gpa, u64 nr_pages)
{
	u64 i, step = nr_pages / 8 - 1;

	for (i = 0; i < nr_pages; i += step)
		TEST_ASSERT_EQ(guest_read(self->vcpu, gpa + i * PAGE_SIZE), TAG(i));
}

/* Words of all of a buffer, from the host's side and the guest's. */
static void poke_words(FIXTURE_DATA(dmabuf_mock) *self, int fd, u64 first, u64 size)
{
	u64 *words = malloc(size), i;

	for (i = 0; i < size / 8; i++)
		words[i] = first + i;
	mock_data(self->dev, fd, DMA_BUF_MOCK_POKE, 0, words, size);
	free(words);
}

static void expect_words(FIXTURE_DATA(dmabuf_mock) *self, int fd, u64 first, u64 size)
{
	u64 *words = malloc(size), i;

	mock_data(self->dev, fd, DMA_BUF_MOCK_PEEK, 0, words, size);
	for (i = 0; i < size / 8; i++)
		TEST_ASSERT_EQ(words[i], first + i);
	free(words);
}

static void guest_expect_words(struct kvm_vcpu *vcpu, u64 gpa, u64 first, u64 size)
{
	TEST_ASSERT_EQ(guest_cmd(vcpu, GUEST_CHECK, gpa, first, size / 8), GUEST_DONE_CMD);
	TEST_ASSERT(guest_res(vcpu) == size / 8, "wrong at offset 0x%lx of 0x%lx",
		    guest_res(vcpu) * 8, size);
}

/* What a buffer offers decides whether there can be a slot, and what it suffers. */
MOCK_TEST(offers)
{
	const struct dma_buf_mock_offer sgt = { DMA_BUF_MOCK_SGT, DMA_BUF_MOCK_RESTORABLE };
	struct dma_buf_mock_offer offers[] = {
		{ DMA_BUF_MOCK_KVM, DMA_BUF_MOCK_PINNED },
		{ DMA_BUF_MOCK_KVM, DMA_BUF_MOCK_MOVABLE },
		{ DMA_BUF_MOCK_KVM, DMA_BUF_MOCK_REVOCABLE },
		{ DMA_BUF_MOCK_KVM, DMA_BUF_MOCK_RESTORABLE },
	};
	const int wanted[] = { 0, -EOPNOTSUPP, -EOPNOTSUPP, 0 };
	int i, fd;

	mock_blocks(self->extents, 1, 0, MOCK_RW);
	fd = __mock_create(self->dev, self->extents, 1, &sgt, 1);
	TEST_ASSERT_EQ(__vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, PAGE_SIZE, fd, 0),
		       -EOPNOTSUPP);
	TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_attachments, 0);
	TEST_ASSERT_EQ(dmabuf_count(fd), 1);

	/* KVM cannot map again at once, and does not wait for what may never be. */
	for (i = 0; i < ARRAY_SIZE(offers); i++) {
		fd = __mock_create(self->dev, self->extents, 1, &offers[i], 1);
		TEST_ASSERT_EQ(__vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A,
						      PAGE_SIZE, fd, 0), wanted[i]);
		TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_attachments, !wanted[i]);
		TEST_ASSERT_EQ(dmabuf_count(fd), wanted[i] ? 1 : 2);
		if (!wanted[i]) {
			/* Who promised not to take it away does not get it back. */
			TEST_ASSERT_EQ(__mock_revoke(self->dev, fd), i ? 0 : -EBUSY);
			vm_delete_region(self->vm, SLOT_A);
		}
		mock_revoke(self->dev, fd);
		close(fd);
	}

	/* The exporter's order decides. */
	fd = __mock_create(self->dev, self->extents, 1, offers, ARRAY_SIZE(offers));
	vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, PAGE_SIZE, fd, 0);
	TEST_ASSERT_EQ(__mock_revoke(self->dev, fd), -EBUSY);
}

/*
 * Memory goes away and comes back to where it was: KVM was told that it is there,
 * and asks nobody where.
 */
MOCK_TEST(restore_in_place)
{
	const u64 size = 4 * SZ_2M;
	struct dma_buf_mock_status before, after;
	int fd, i;

	fd = create_tagged(self, 4, ORDER_2M);
	add_slot(self->vm, SLOT_A, 0, GPA_A, size, fd, 0);
	expect_tags(self, GPA_A, size / PAGE_SIZE);

	before = mock_status(self->dev, fd);
	for (i = 0; i < 4; i++) {
		mock_revoke(self->dev, fd);
		guest_revoked(self->vcpu, GUEST_WRITE, GPA_A + 8, PATTERN + i);
		mock_assert_unchanged(self->dev);
		mock_restore(self->dev, fd);
		guest_resume(self->vcpu);
		TEST_ASSERT_EQ(mock_peek64(self->dev, fd, 8), PATTERN + i);
		expect_tags(self, GPA_A, size / PAGE_SIZE);
	}
	after = mock_status(self->dev, fd);
	TEST_ASSERT_EQ(after.generation, before.generation);
	TEST_ASSERT_EQ(after.nr_get_layout, before.nr_get_layout);
	TEST_ASSERT_EQ(after.nr_get_extent, before.nr_get_extent);
}

/* To other memory that has as many extents: what KVM knows is rewritten. */
MOCK_TEST(move)
{
	const u64 size = 4 * SZ_2M;
	int fd, i;

	fd = create_tagged(self, 4, ORDER_2M);
	add_slot(self->vm, SLOT_A, 0, GPA_A, size, fd, 0);

	for (i = 0; i < 4; i++) {
		expect_tags(self, GPA_A, size / PAGE_SIZE);
		guest_write(self->vcpu, GPA_A + i * SZ_2M + 8, PATTERN + i);
		mock_move(self->dev, fd, self->extents, 4);

		/* Contents of where it is now, not of where it was. */
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + i * SZ_2M + 8), PATTERN + i);
		mock_poke64(self->dev, fd, i * SZ_2M + 16, ~PATTERN);
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + i * SZ_2M + 16), ~PATTERN);
		guest_write(self->vcpu, GPA_A + i * SZ_2M + 24, PATTERN);
		TEST_ASSERT_EQ(mock_peek64(self->dev, fd, i * SZ_2M + 24), PATTERN);
		mock_assert_unchanged(self->dev);
	}
}

/* The same with another number of extents each time. */
MOCK_TEST(move_resized)
{
	const struct {
		u32 nr;
		u32 order;
	} to[] = {
		{ 2u << ORDER_2M, 0 },
		{ 1, ORDER_2M + 1 },
		{ 2, ORDER_2M },
		{ 1u << ORDER_2M, 1 },
		{ 4, ORDER_2M - 1 },
	};
	const u64 size = SZ_4M;
	u64 first = PATTERN;
	int fd, i;

	fd = create_tagged(self, 1, ORDER_2M + 1);
	add_slot(self->vm, SLOT_A, 0, GPA_A, size, fd, 0);
	poke_words(self, fd, first, size);

	for (i = 0; i < ARRAY_SIZE(to); i++) {
		guest_expect_words(self->vcpu, GPA_A, first, size);
		mock_blocks(self->extents, to[i].nr, to[i].order, MOCK_RW);
		mock_move(self->dev, fd, self->extents, to[i].nr);
		TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_extents, to[i].nr);
		guest_expect_words(self->vcpu, GPA_A, first, size);

		first += SZ_1G;
		TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_FILL, GPA_A, first, size / 8),
			       GUEST_DONE_CMD);
		expect_words(self, fd, first, size);
		mock_assert_unchanged(self->dev);
	}
}

/* Moved while it is away: where it comes back is where it is then. */
MOCK_TEST(move_revoked)
{
	const u64 size = 2 * SZ_2M;
	int fd, i;

	fd = create_tagged(self, 2, ORDER_2M);
	add_slot(self->vm, SLOT_A, 0, GPA_A, size, fd, 0);

	for (i = 0; i < 3; i++) {
		expect_tags(self, GPA_A, size / PAGE_SIZE);
		mock_revoke(self->dev, fd);
		mock_blocks(self->extents, 2 << i, ORDER_2M - i, MOCK_RW);
		mock_move(self->dev, fd, self->extents, 2 << i);
		guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
		mock_poke64(self->dev, fd, 0, TAG(0) + i);
		mock_restore(self->dev, fd);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(0) + i);
		mock_poke64(self->dev, fd, 0, TAG(0));
	}
}

/* Nobody has told KVM yet whether the memory is there: it asks. */
MOCK_TEST(create_fails)
{
	int fd;

	fd = create_tagged(self, 1, ORDER_2M);
	mock_fail(self->dev, fd, DMA_BUF_MOCK_GET_EXTENT, 1, EINTR);
	TEST_ASSERT_EQ(__vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, SZ_2M,
					      fd, 0), -EINTR);
	TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_attachments, 0);

	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
	expect_tags(self, GPA_A, SZ_2M / PAGE_SIZE);
}

/* The slot is revoked, as it could not be restored, until a restore succeeds. */
static void expect_not_restored(FIXTURE_DATA(dmabuf_mock) *self, int fd)
{
	TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_not_restored, 1);
	guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);

	/* Not by being taken away again does it come back. */
	mock_revoke(self->dev, fd);
	TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_not_restored, 1);
	TEST_ASSERT_EQ(guest_run(self->vcpu), GUEST_FAULT);
	assert_revoked_exit(self->vcpu, GPA_A);

	mock_fail(self->dev, fd, DMA_BUF_MOCK_GET_LAYOUT, 1, ENODEV);
	TEST_ASSERT_EQ(__mock_restore(self->dev, fd), 1);
	TEST_ASSERT_EQ(guest_run(self->vcpu), GUEST_FAULT);
	assert_revoked_exit(self->vcpu, GPA_A);

	/* This one does not go through a revocation. */
	TEST_ASSERT_EQ(__mock_restore(self->dev, fd), 0);
	TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_not_restored, 0);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(0));
}

/*
 * A move that KVM cannot follow leaves the slot revoked, all of it, and the next
 * restore tries again.  Whatever KVM asks about the new place fails once.
 */
MOCK_TEST(restore_fails)
{
	const u32 nr = 3;
	int fd, ret;
	u32 nth;

	fd = create_tagged(self, nr, ORDER_2M);
	add_slot(self->vm, SLOT_A, 0, GPA_A, nr * SZ_2M, fd, 0);

	for (nth = 1; ; nth++) {
		expect_tags(self, GPA_A, nr * SZ_2M / PAGE_SIZE);
		mock_fail(self->dev, fd, DMA_BUF_MOCK_GET_LAYOUT, nth, ENODEV);
		ret = __mock_move(self->dev, fd, self->extents, nr);
		if (!ret)
			break;
		TEST_ASSERT_EQ(ret, 1);
		expect_not_restored(self, fd);
	}
	mock_fail(self->dev, fd, DMA_BUF_MOCK_GET_LAYOUT, 0, 0);
	expect_tags(self, GPA_A, nr * SZ_2M / PAGE_SIZE);
	TEST_ASSERT(nth > 1, "nothing could fail");
}

/* The exporter itself fails. */
MOCK_TEST(restore_fails_exporter)
{
	int fd = create_tagged(self, 1, ORDER_2M);

	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
	mock_revoke(self->dev, fd);
	mock_fail(self->dev, fd, DMA_BUF_MOCK_FAIL_RESTORE, 1, EIO);
	TEST_ASSERT_EQ(__mock_restore(self->dev, fd), -EIO);
	guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
	mock_restore(self->dev, fd);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(0));
}

#ifdef __x86_64__
/* @nr extents of one block of 2 MiB, in another order for each @step, all odd. */
static void shuffled_extents(FIXTURE_DATA(dmabuf_mock) *self, u32 nr, u32 step)
{
	u32 i, nr_pages = SZ_2M / PAGE_SIZE / nr;

	for (i = 0; i < nr; i++)
		self->extents[i] = (struct dma_buf_mock_extent) {
			.flags = i ? DMA_BUF_MOCK_SAME_BLOCK : 0,
			.attrs = MOCK_RW,
			.order = ORDER_2M,
			.first_page = (nr - 1 - i) * step % nr * nr_pages,
			.nr_pages = nr_pages,
		};
}

static void expect_all_tags(FIXTURE_DATA(dmabuf_mock) *self, u32 nr_pages)
{
	u32 i;

	for (i = 0; i < nr_pages; i++)
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + i * PAGE_SIZE), TAG(i));
}

/*
 * A guest comes back to memory of which it had all.  Along with the page that it
 * touches it gets what is contiguous with that: neither less, whatever else is in
 * the same page table and has come back or not, nor more.
 */
MOCK_TEST(refill)
{
	const u32 nr = 64, nr_pages = SZ_2M / PAGE_SIZE, step = nr_pages / nr;
	u32 i, round, page;
	u64 mapped, faults;
	int fd;

	if (!get_kvm_param_bool("tdp_mmu") ||
	    (host_cpu_is_intel && !get_kvm_intel_param_bool("eptad")))
		SKIP(return, "nothing is mapped ahead");

	shuffled_extents(self, nr, 1);
	fd = mock_create(self->dev, self->extents, nr);
	for (i = 0; i < nr_pages; i++)
		mock_poke64(self->dev, fd, i * PAGE_SIZE, TAG(i));
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
	expect_all_tags(self, nr_pages);

	for (round = 0; round < 4; round++) {
		if (round & 1) {
			shuffled_extents(self, nr, 2 * round + 1);
			mock_move(self->dev, fd, self->extents, nr);
		} else {
			mock_revoke(self->dev, fd);
			mock_restore(self->dev, fd);
		}
		for (i = 0; i < nr; i++) {
			page = (i * 37 + 5) % nr * step + (i + round) % step;
			mapped = vm_get_stat(self->vm, pages_4k);
			TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + page * PAGE_SIZE),
				       TAG(page));
			mapped = vm_get_stat(self->vm, pages_4k) - mapped;
			TEST_ASSERT(mapped == step,
				    "page %u: %lu instead of %u were mapped",
				    page, mapped, step);
		}
		faults = vcpu_get_stat(self->vcpu, pf_taken);
		expect_all_tags(self, nr_pages);
		TEST_ASSERT_EQ(vcpu_get_stat(self->vcpu, pf_taken), faults);
	}
}
#endif

/* One VM of two cannot be restored, which is nothing to the other one. */
MOCK_TEST(restore_fails_one)
{
	struct kvm_vcpu *vcpus[2] = { self->vcpu };
	struct kvm_vm *vm2 = create_vm(&vcpus[1]);
	enum guest_exit exits[2];
	int fd, i;

	fd = create_tagged(self, 1, ORDER_2M);
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
	add_slot(vm2, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);

	/* Each looks its extent up to count it, and once more. */
	mock_fail(self->dev, fd, DMA_BUF_MOCK_GET_LAYOUT, 3, ENODEV);
	TEST_ASSERT_EQ(__mock_move(self->dev, fd, self->extents, 1), 1);
	for (i = 0; i < 2; i++)
		exits[i] = guest_cmd(vcpus[i], GUEST_READ, GPA_A, 0, 0);
	TEST_ASSERT((exits[0] == GUEST_FAULT) != (exits[1] == GUEST_FAULT),
		    "exits are %d and %d, wanted one fault", exits[0], exits[1]);

	mock_restore(self->dev, fd);
	for (i = 0; i < 2; i++) {
		if (exits[i] == GUEST_FAULT)
			guest_resume(vcpus[i]);
		TEST_ASSERT_EQ(guest_res(vcpus[i]), TAG(0));
	}
	kvm_vm_free(vm2);
}

/*
 * The slots that a VM has of a buffer come back together.  If the memory is where it
 * was nothing is looked up, however many they are.  If it is elsewhere, and one of
 * them cannot follow, none is back.
 */
MOCK_TEST(restore_slots)
{
	const u32 nr = 8;
	struct dma_buf_mock_status before, after;
	u32 i, nth;
	u64 gpa;
	int fd;

	fd = create_tagged(self, nr, ORDER_2M);
	for (i = 0; i < nr; i++)
		add_slot(self->vm, SLOT_A + i, 0, GPA_A + i * SZ_2M, SZ_2M, fd,
			 i * SZ_2M);
	TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_attachments, 1);

	for (i = 0; i < nr; i++) {
		expect_tags(self, GPA_A, nr * SZ_2M / PAGE_SIZE);
		before = mock_status(self->dev, fd);
		mock_revoke(self->dev, fd);
		guest_revoked(self->vcpu, GUEST_READ, GPA_A + i * SZ_2M, 0);
		mock_restore(self->dev, fd);
		after = mock_status(self->dev, fd);
		guest_resume(self->vcpu);
		TEST_ASSERT_EQ(after.nr_get_layout, before.nr_get_layout);
		TEST_ASSERT_EQ(after.nr_get_extent, before.nr_get_extent);
	}

	for (nth = 1; ; nth++) {
		expect_tags(self, GPA_A, nr * SZ_2M / PAGE_SIZE);
		mock_fail(self->dev, fd, DMA_BUF_MOCK_GET_LAYOUT, nth, ENODEV);
		if (!__mock_move(self->dev, fd, self->extents, nr))
			break;
		gpa = GPA_A + nth % nr * SZ_2M;
		guest_revoked(self->vcpu, GUEST_READ, gpa, 0);
		TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_not_restored, 1);
		if (nth & 1) {
			mock_restore(self->dev, fd);
		} else {
			/* What a new slot finds is there for the others, too. */
			vm_delete_region(self->vm, SLOT_A + nr - 1);
			vm_set_dmabuf_region(self->vm, SLOT_A + nr - 1, 0,
					     GPA_A + (nr - 1) * SZ_2M, SZ_2M, fd,
					     (nr - 1) * SZ_2M);
		}
		guest_resume(self->vcpu);
	}
	TEST_ASSERT(nth > nr, "%u of %u slots asked", nth - 1, nr);

	/* The last one lets go of it. */
	for (i = 0; i < nr; i++) {
		TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_attachments, 1);
		vm_delete_region(self->vm, SLOT_A + i);
	}
	TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_attachments, 0);
	TEST_ASSERT_EQ(dmabuf_count(fd), 1);
}

/*
 * A slot joins one that could not be restored.  If KVM cannot tell where its own memory
 * is, it is not made.  If what fails is whether the memory is there, or where the other
 * one's is, it is made, and both are revoked until a restore succeeds.
 */
static u32 join_fails(FIXTURE_DATA(dmabuf_mock) *self, int fd, u32 step, u32 *nr_made)
{
	const u64 gpa = GPA_A + SZ_2M;
	u32 nth, not_restored = 1;
	int ret;

	for (nth = 1; not_restored; nth++) {
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
		mock_fail(self->dev, fd, DMA_BUF_MOCK_GET_LAYOUT, 1, ENODEV);
		TEST_ASSERT_EQ(__mock_move(self->dev, fd, self->extents, 2), 1);

		mock_fail(self->dev, fd, step, nth, ENODEV);
		ret = __vm_set_dmabuf_region(self->vm, SLOT_A + 1, 0, gpa, SZ_2M, fd, SZ_2M);
		mock_fail(self->dev, fd, step, 0, 0);
		TEST_ASSERT(!ret || ret == -ENODEV, "failure %u: %d", nth, ret);
		not_restored = mock_status(self->dev, fd).nr_not_restored;
		*nr_made += !ret && not_restored;

		if (!not_restored) {
			TEST_ASSERT_EQ(ret, 0);
		} else {
			guest_revoked(self->vcpu, GUEST_READ, ret ? GPA_A : gpa, 0);
			mock_restore(self->dev, fd);
			TEST_ASSERT_EQ(guest_resume(self->vcpu),
				       TAG(ret ? 0 : SZ_2M / PAGE_SIZE));
		}
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
		if (ret)
			continue;
		TEST_ASSERT_EQ(guest_read(self->vcpu, gpa), TAG(SZ_2M / PAGE_SIZE));
		vm_delete_region(self->vm, SLOT_A + 1);
	}
	return nth - 2;
}

MOCK_TEST(join_fails)
{
	u32 nr, nr_made = 0;
	int fd;

	fd = create_tagged(self, 2, ORDER_2M);
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
	virt_map(self->vm, GPA_A + SZ_2M, GPA_A + SZ_2M, SZ_2M / PAGE_SIZE);

	nr = join_fails(self, fd, DMA_BUF_MOCK_GET_EXTENT, &nr_made);
	TEST_ASSERT(nr && nr_made == nr, "made in %u of %u failures", nr_made, nr);

	nr_made = 0;
	nr = join_fails(self, fd, DMA_BUF_MOCK_GET_LAYOUT, &nr_made);
	TEST_ASSERT(nr_made && nr_made < nr, "made in %u of %u failures", nr_made, nr);
}

/*
 * Slots of one buffer, made in any order, right behind each other or not, with one of
 * another buffer between them.  All or not all of a slot is mapped.  What the revocation
 * zaps is what is mapped of this buffer, and the other one's is not touched.
 */
MOCK_TEST(revoke_slots)
{
	const u32 order[] = { 4, 1, 7, 0, 2, 6, 3 }, nr = 8, other = 5, page = 77;
	const u64 size = 64 * PAGE_SIZE, last = size - PAGE_SIZE;
	u64 __maybe_unused mapped, faults;
	int fd, fd2, i, j;

	fd = create_tagged(self, nr, 6);
	fd2 = create_tagged(self, 1, 6);
	for (i = 0; i < ARRAY_SIZE(order); i++)
		add_slot(self->vm, SLOT_A + i, 0, GPA_A + order[i] * size, size, fd,
			 order[i] * size);
	add_slot(self->vm, SLOT_A + i, 0, GPA_A + other * size, size, fd2, 0);

	for (i = 0; i < 4; i++) {
		/* The other one's last, so that this one's are not one run of faults. */
		for (j = 0; j < nr; j++) {
			if (j != other && j != i)
				guest_write(self->vcpu, GPA_A + j * size + 8, PATTERN + j);
			/* Every other time, so that slots are mapped to where the next one is. */
			if (j != other && (j == 7 || i % 2))
				guest_write(self->vcpu, GPA_A + j * size + last + 8, PATTERN);
		}
		guest_write(self->vcpu, GPA_A + other * size + last + 8, page);
		guest_write(self->vcpu, GPA_A + other * size + 8, page);
		mock_revoke(self->dev, fd);
#ifdef __x86_64__
		mapped = vm_get_stat(self->vm, pages_4k);
		faults = vcpu_get_stat(self->vcpu, pf_taken);
#endif
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + other * size + 8), page);
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + other * size + last + 8), page);
#ifdef __x86_64__
		TEST_ASSERT_EQ(vm_get_stat(self->vm, pages_4k), mapped);
		TEST_ASSERT_EQ(vcpu_get_stat(self->vcpu, pf_taken), faults);
#endif
		guest_revoked(self->vcpu, GUEST_WRITE, GPA_A + order[i] * size + 8, ~PATTERN);
		mock_assert_unchanged(self->dev);
		mock_restore(self->dev, fd);
		guest_resume(self->vcpu);
		for (j = 0; j < nr; j++)
			if (j != other)
				guest_write(self->vcpu, GPA_A + j * size + 16, PATTERN);

		/* What stays mapped is written where the memory was. */
		mock_blocks(self->extents, nr, 6, MOCK_RW);
		mock_move(self->dev, fd, self->extents, nr);
		for (j = 0; j < nr; j++)
			if (j != other)
				guest_write(self->vcpu, GPA_A + j * size + 24, PATTERN);
		mock_assert_unchanged(self->dev);
	}
}

/* Slots of memory that is not all for writing, or not all for reading. */
MOCK_TEST(permissions_bind)
{
	const u64 size = 3 * PAGE_SIZE;
	int fd, i;

	for (i = 0; i < 3; i++) {
		mock_blocks(self->extents, 3, 0, MOCK_RW);
		self->extents[i].attrs = MOCK_RO;
		fd = mock_create(self->dev, self->extents, 3);
		TEST_ASSERT_EQ(__vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, size,
						      fd, 0), -EPERM);
		TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_attachments, 0);
		/* The slice without it, and all of it read-only. */
		if (i != 1)
			vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, 2 * PAGE_SIZE,
					     fd, i ? 0 : PAGE_SIZE);
		vm_set_dmabuf_region(self->vm, SLOT_B, KVM_MEM_READONLY, GPA_B, size, fd, 0);
		if (i != 1)
			vm_delete_region(self->vm, SLOT_A);
		vm_delete_region(self->vm, SLOT_B);

		mock_attrs(self->dev, fd, i, 1, MOCK_RW & ~DMA_BUF_MOCK_READ);
		TEST_ASSERT_EQ(__vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, size,
						      fd, 0), -EPERM);
		TEST_ASSERT_EQ(__vm_set_dmabuf_region(self->vm, SLOT_A, KVM_MEM_READONLY,
						      GPA_A, size, fd, 0), -EPERM);
		TEST_ASSERT_EQ(dmabuf_count(fd), 1);
		close(fd);
	}
}

/* An access that the memory does not permit, and that is not for want of it. */
static void guest_denied(struct kvm_vcpu *vcpu, enum guest_op op, u64 gpa)
{
	TEST_ASSERT_EQ(guest_cmd(vcpu, op, gpa, 0, 0), GUEST_FAULT);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT(!(vcpu->run->memory_fault.flags & KVM_MEMORY_EXIT_FLAG_REVOKED),
		    "the memory is there");
	TEST_ASSERT_EQ(vcpu->run->memory_fault.gpa, gpa & ~(PAGE_SIZE - 1ul));
}

/* Permissions change under a slot that exists. */
MOCK_TEST(permissions_change)
{
	const u64 gpa = GPA_A + SZ_2M;
	int fd, i;

	fd = create_tagged(self, 3, ORDER_2M);
	add_slot(self->vm, SLOT_A, 0, GPA_A, 3 * SZ_2M, fd, 0);

	for (i = 0; i < 3; i++) {
		guest_write(self->vcpu, gpa + 8, PATTERN + i);
		mock_attrs(self->dev, fd, 1, 1, MOCK_RO);

		/* A store first, when nothing is mapped, and after a load. */
		guest_write_mmio(self->vcpu, gpa + 8, ~PATTERN);
		TEST_ASSERT_EQ(guest_read(self->vcpu, gpa + 8), PATTERN + i);
		guest_write_mmio(self->vcpu, gpa + 8, ~PATTERN);
		TEST_ASSERT_EQ(mock_peek64(self->dev, fd, SZ_2M + 8), PATTERN + i);
		/* The neighbours are as they were. */
		guest_write(self->vcpu, gpa - 8, PATTERN);
		guest_write(self->vcpu, gpa + SZ_2M + 8, PATTERN);

		mock_attrs(self->dev, fd, 1, 1, 0);
		guest_denied(self->vcpu, GUEST_READ, gpa + 8);
		mock_attrs(self->dev, fd, 1, 1, MOCK_RW);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), PATTERN + i);
	}
}

/*
 * A slot that is made while the memory is away, and different: when that is as it
 * was again, all other slots are right, and this one is not.
 */
MOCK_TEST(join_revoked)
{
	int fd;

	mock_blocks(self->extents, 1, ORDER_2M, MOCK_RO);
	fd = mock_create(self->dev, self->extents, 1);
	mock_poke64(self->dev, fd, 8, PATTERN);
	add_slot(self->vm, SLOT_A, KVM_MEM_READONLY, GPA_A, SZ_2M, fd, 0);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + 8), PATTERN);

	mock_revoke(self->dev, fd);
	mock_attrs(self->dev, fd, 0, 1, MOCK_RW);
	add_slot(self->vm, SLOT_B, 0, GPA_B, SZ_2M, fd, 0);
	__mock_attrs(self->dev, fd, 0, 1, MOCK_RO, DMA_BUF_MOCK_ATTRS_BACK);
	mock_restore(self->dev, fd);

	guest_write_mmio(self->vcpu, GPA_B + 8, ~PATTERN);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_B + 8), PATTERN);
	guest_write_mmio(self->vcpu, GPA_A + 8, ~PATTERN);
	TEST_ASSERT_EQ(mock_peek64(self->dev, fd, 8), PATTERN);
}

/*
 * Memory that is not a device's, cached and not: it works, and permissions are
 * what the attributes say.  What memory type stage-2 has cannot be seen here.
 */
MOCK_TEST(attributes)
{
	const u32 attrs[] = {
		DMA_BUF_MOCK_CACHED,
		DMA_BUF_MOCK_CACHED | DMA_BUF_MOCK_MMIO,
		DMA_BUF_MOCK_WC,
		DMA_BUF_MOCK_WC | DMA_BUF_MOCK_MMIO,
		DMA_BUF_MOCK_MMIO,
		0,
	};
	int fd, i, ret;

	fd = create_tagged(self, 1, ORDER_2M);
	virt_map(self->vm, GPA_A, GPA_A, SZ_2M / PAGE_SIZE);

	for (i = 0; i < ARRAY_SIZE(attrs); i++) {
		mock_attrs(self->dev, fd, 0, 1,
			   attrs[i] | DMA_BUF_MOCK_READ | DMA_BUF_MOCK_WRITE);
		ret = __vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
		if (ret == -EOPNOTSUPP && attrs[i] & DMA_BUF_MOCK_CACHED) {
			ksft_print_msg("the host cannot map it cached\n");
			continue;
		}
		TEST_ASSERT_EQ(ret, 0);
		expect_tags(self, GPA_A, SZ_2M / PAGE_SIZE);
		guest_write(self->vcpu, GPA_A + 8, PATTERN + i);
		TEST_ASSERT_EQ(mock_peek64(self->dev, fd, 8), PATTERN + i);
		mock_revoke(self->dev, fd);
		guest_revoked(self->vcpu, GUEST_READ, GPA_A + 8, 0);
		mock_restore(self->dev, fd);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), PATTERN + i);
		vm_delete_region(self->vm, SLOT_A);
	}
}

/*
 * How many leaves a slot of @nr of self->extents takes, at @skew pages from an
 * address that is a multiple of 1 GiB.
 */
static void check_leaves(FIXTURE_DATA(dmabuf_mock) *self, const char *what, u32 nr,
			 u64 skew, u64 k4, u64 m2)
{
	u64 gpa = GPA_A + skew * PAGE_SIZE, size = 0;
	struct vm_leaves before, full, after;
	int fd, i;

	for (i = 0; i < nr; i++)
		size += self->extents[i].nr_pages * PAGE_SIZE;
	fd = mock_create(self->dev, self->extents, nr);
	vm_set_dmabuf_region(self->vm, SLOT_A, 0, gpa, size, fd, 0);
	before = vm_leaves(self->vm);
	vcpu_map_range(self->vcpu, gpa, size, PAGE_SIZE);
	full = vm_leaves(self->vm);
	TEST_ASSERT(full.k4 - before.k4 == k4 && full.m2 - before.m2 == m2,
		    "%s: wanted %lu of 4 KiB, %lu of 2 MiB; got %lu, %lu", what, k4, m2,
		    full.k4 - before.k4, full.m2 - before.m2);

	mock_revoke(self->dev, fd);
	after = vm_leaves(self->vm);
	TEST_ASSERT(after.k4 == before.k4 && after.m2 == before.m2,
		    "%s: revoked with %lu of 4 KiB, %lu of 2 MiB left", what,
		    after.k4 - before.k4, after.m2 - before.m2);
	vm_delete_region(self->vm, SLOT_A);
	close(fd);
}

/* Part of a block of 4 MiB. */
static struct dma_buf_mock_extent part(u32 flags, u32 first_page, u32 nr_pages, u32 attrs)
{
	return (struct dma_buf_mock_extent) {
		.flags = flags,
		.attrs = attrs,
		.order = ORDER_2M + 1,
		.first_page = first_page,
		.nr_pages = nr_pages,
	};
}

MOCK_TEST(leaf_sizes)
{
	struct dma_buf_mock_extent *e = self->extents;

	if (!vm_has_leaves(self->vm))
		SKIP(return, "nothing tells the size of leaves");
	if (vm_leaf_size(1) != SZ_2M)
		SKIP(return, "no leaves of 2 MiB");

	virt_map(self->vm, GPA_A, GPA_A, SZ_8M / PAGE_SIZE);

	e[0] = part(0, 0, 1024, MOCK_RW);
	check_leaves(self, "congruent", 1, 0, 0, 2);
	check_leaves(self, "gpa off by a page", 1, 1, 1024, 0);
	check_leaves(self, "gpa off by half", 1, 256, 1024, 0);
	e[0] = part(0, 1, 1023, MOCK_RW);
	check_leaves(self, "both off by a page", 1, 1, 511, 1);
	check_leaves(self, "memory off by a page", 1, 0, 1023, 0);
	e[0] = part(0, 0, 511, MOCK_RW);
	check_leaves(self, "shorter than a large page", 1, 0, 511, 0);

	/* The second one is where a leaf could be, if the first one is. */
	e[0] = part(0, 256, 256, MOCK_RW);
	e[1] = part(0, 512, 512, MOCK_RW);
	check_leaves(self, "two, congruent", 2, 256, 256, 1);
	check_leaves(self, "two, off", 2, 0, 768, 0);

	/* Neighbours in memory are one, if they are of one kind. */
	e[0] = part(0, 0, 256, MOCK_RW);
	e[1] = part(DMA_BUF_MOCK_SAME_BLOCK, 256, 768, MOCK_RW);
	check_leaves(self, "neighbours", 2, 0, 0, 2);
	e[1].attrs |= DMA_BUF_MOCK_WC;
	check_leaves(self, "neighbours of two kinds", 2, 0, 512, 1);
	e[1] = part(DMA_BUF_MOCK_SAME_BLOCK, 257, 767, MOCK_RW);
	check_leaves(self, "a page between them", 2, 0, 1023, 0);
}

/* Thousands of extents, hundreds if pages are large, in one slot and in slices. */
MOCK_TEST(many_extents)
{
	const u32 nr = SZ_16M / PAGE_SIZE, first = nr / 5, len = nr / 4 - 23;
	const u64 size = nr * PAGE_SIZE;
	int fd;

	mock_blocks(self->extents, nr, 0, MOCK_RW);
	fd = mock_create(self->dev, self->extents, nr);
	poke_words(self, fd, PATTERN, size);
	add_slot(self->vm, SLOT_A, 0, GPA_A, size, fd, 0);
	guest_expect_words(self->vcpu, GPA_A, PATTERN, size);

	TEST_ASSERT_EQ(guest_cmd(self->vcpu, GUEST_FILL, GPA_A, ~PATTERN, size / 8),
		       GUEST_DONE_CMD);
	expect_words(self, fd, ~PATTERN, size);

	mock_revoke(self->dev, fd);
	guest_revoked(self->vcpu, GUEST_READ, GPA_A + size - 8, 0);
	mock_restore(self->dev, fd);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), ~PATTERN + size / 8 - 1);

	mock_move(self->dev, fd, self->extents, nr);
	guest_expect_words(self->vcpu, GPA_A, ~PATTERN, size);

	vm_delete_region(self->vm, SLOT_A);
	vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, len * PAGE_SIZE, fd,
			     first * PAGE_SIZE);
	guest_expect_words(self->vcpu, GPA_A, ~PATTERN + first * PAGE_SIZE / 8,
			   len * PAGE_SIZE);
	guest_no_slot(self->vcpu, GPA_A + len * PAGE_SIZE);
}

static u64 mock_lookups(int dev, int fd)
{
	struct dma_buf_mock_status status = mock_status(dev, fd);

	return status.nr_get_extent + status.nr_get_layout;
}

/* As many extents as there can be, all of them the same page. */
MOCK_TEST(most_extents)
{
	const u32 nr = DMA_BUF_MOCK_MAX_EXTENTS;
	const u64 size = nr * PAGE_SIZE;
	struct dma_buf_mock_extent *extents = calloc(nr, sizeof(*extents));
	const u64 pages[] = { 0, 1, nr / 2 + 1, nr - 2, nr - 1 };
	u64 lookups;
	int fd, i;

	mock_blocks(extents, nr, 0, MOCK_RW);
	for (i = 1; i < nr; i++)
		extents[i].flags = DMA_BUF_MOCK_SAME_BLOCK;
	fd = mock_create(self->dev, extents, nr);
	free(extents);

	/* A slice of it costs what the slice costs. */
	vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, 2 * PAGE_SIZE, fd,
			     size - 2 * PAGE_SIZE);
	lookups = mock_lookups(self->dev, fd);
	TEST_ASSERT(lookups <= 16, "%lu lookups for two pages", lookups);
	vm_delete_region(self->vm, SLOT_A);

	vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, size, fd, 0);
	for (i = 0; i < ARRAY_SIZE(pages); i++)
		virt_map(self->vm, GPA_A + pages[i] * PAGE_SIZE,
			 GPA_A + pages[i] * PAGE_SIZE, 1);
	for (i = 0; i < ARRAY_SIZE(pages); i++)
		guest_write(self->vcpu, GPA_A + pages[i] * PAGE_SIZE + i * 8, TAG(i));
	for (i = 0; i < ARRAY_SIZE(pages); i++)
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A + i * 8), TAG(i));

	lookups = mock_lookups(self->dev, fd);
	mock_revoke(self->dev, fd);
	guest_revoked(self->vcpu, GUEST_READ, GPA_A + (nr - 1) * PAGE_SIZE, 0);
	mock_restore(self->dev, fd);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(0));
	TEST_ASSERT(mock_lookups(self->dev, fd) <= lookups + 1,
		    "%lu lookups for memory that is where it was",
		    mock_lookups(self->dev, fd) - lookups);
}

/*
 * A restore holds locks of the exporter, for which others wait. Mappings without
 * a domain have nothing to restore, so it looks at each of them once, whatever
 * their slices consist of.
 */
MOCK_TEST(iommufd_restore)
{
	const u32 nr = 4096, nr_mappings = 16;
	const struct dma_buf_mock_offer iommu = { DMA_BUF_MOCK_IOMMU,
						  DMA_BUF_MOCK_RESTORABLE };
	struct dma_buf_mock_extent *extents = calloc(nr, sizeof(*extents));
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	struct iommu_ioas_map_file map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE |
			 IOMMU_IOAS_MAP_RESTORE,
		.length = nr * PAGE_SIZE,
	};
	int iommufd = open("/dev/iommu", O_RDWR);
	u64 lookups;
	u32 i;

	if (iommufd < 0)
		SKIP(return, "no /dev/iommu: %s", strerror(errno));

	mock_blocks(extents, nr, 0, MOCK_RW);
	for (i = 1; i < nr; i++)
		extents[i].flags = DMA_BUF_MOCK_SAME_BLOCK;
	map.fd = __mock_create(self->dev, extents, nr, &iommu, 1);
	TEST_ASSERT(map.fd >= 0, "DMA_BUF_MOCK_CREATE: %s", strerror(-map.fd));
	free(extents);

	TEST_ASSERT(!ioctl(iommufd, IOMMU_IOAS_ALLOC, &alloc),
		    "IOMMU_IOAS_ALLOC: %s", strerror(errno));
	map.ioas_id = alloc.out_ioas_id;
	for (i = 0; i < nr_mappings; i++)
		TEST_ASSERT(!ioctl(iommufd, IOMMU_IOAS_MAP_FILE, &map),
			    "IOMMU_IOAS_MAP_FILE: %s", strerror(errno));

	mock_revoke(self->dev, map.fd);
	lookups = mock_lookups(self->dev, map.fd);
	mock_restore(self->dev, map.fd);
	lookups = mock_lookups(self->dev, map.fd) - lookups;
	TEST_ASSERT(lookups <= 2 * nr_mappings, "%lu lookups for %u mappings",
		    lookups, nr_mappings);

	kvm_close(iommufd);
}

static void *revoke_thread(void *arg)
{
	int *fds = arg;

	mock_revoke(fds[0], fds[1]);
	return NULL;
}

/*
 * The exporter waits for devices, KVM is not one: the guest is out when they are
 * told, and whoever is late holds up the exporter alone.
 */
MOCK_TEST(fence)
{
	pthread_t revoker;
	int fds[2], fd;

	fd = create_tagged(self, 1, ORDER_2M);
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));

	mock_fence(self->dev, fd);
	fds[0] = self->dev;
	fds[1] = fd;
	kvm_pthread_create(&revoker, NULL, revoke_thread, fds);
	while (mock_status(self->dev, fd).flags & DMA_BUF_MOCK_ACCESSIBLE)
		poll_pause();
	guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
	TEST_ASSERT(!(mock_status(self->dev, fd).flags & DMA_BUF_MOCK_DRAINED),
		    "the fence was not waited for");

	/* A slot can be deleted and made meanwhile. */
	vm_set_dmabuf_region(self->vm, SLOT_B, 0, GPA_B, SZ_2M, fd, 0);
	vm_delete_region(self->vm, SLOT_B);

	TEST_ASSERT_EQ(mock_signal(self->dev, fd), 1);
	kvm_pthread_join(revoker, NULL);
	TEST_ASSERT(mock_status(self->dev, fd).flags & DMA_BUF_MOCK_DRAINED, "not drained");
	mock_restore(self->dev, fd);
	TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(0));
}

static void *hold_thread(void *arg)
{
	int *fds = arg;

	TEST_ASSERT_EQ(__mock_hold(fds[0], fds[1], DMA_BUF_MOCK_HOLD_LOCK), 0);
	return NULL;
}

static void ignore_signal(int sig)
{
}

struct set_slot {
	struct kvm_vm *vm;
	int fd;
	int ret;
};

static void *set_slot_thread(void *arg)
{
	struct set_slot *s = arg;

	s->ret = __vm_set_dmabuf_region(s->vm, SLOT_A, 0, GPA_A, SZ_2M, s->fd, 0);
	return NULL;
}

/* A signal ends the wait for an exporter that is busy, and nothing has changed. */
MOCK_TEST(set_slot_signal)
{
	struct sigaction sa = { .sa_handler = ignore_signal };
	struct set_slot s = { .vm = self->vm };
	pthread_t holder, setter;
	int fds[2];

	s.fd = create_tagged(self, 1, ORDER_2M);
	fds[0] = self->dev;
	fds[1] = s.fd;
	kvm_pthread_create(&holder, NULL, hold_thread, fds);
	while (__mock_hold(self->dev, s.fd, DMA_BUF_MOCK_HOLD_QUERY))
		poll_pause();

	TEST_ASSERT_EQ(sigaction(SIGUSR1, &sa, NULL), 0);
	kvm_pthread_create(&setter, NULL, set_slot_thread, &s);
	/* It may not be there yet when the signal comes, so send more. */
	while (pthread_tryjoin_np(setter, NULL)) {
		pthread_kill(setter, SIGUSR1);
		poll_pause();
	}
	TEST_ASSERT_EQ(s.ret, -EINTR);
	TEST_ASSERT_EQ(__mock_hold(self->dev, s.fd, DMA_BUF_MOCK_HOLD_QUERY), 0);

	TEST_ASSERT_EQ(__mock_hold(self->dev, s.fd, DMA_BUF_MOCK_HOLD_RELEASE), 0);
	kvm_pthread_join(holder, NULL);
	TEST_ASSERT_EQ(mock_status(self->dev, s.fd).nr_attachments, 0);
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, s.fd, 0);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
}

/* The same with a device that has the buffer mapped and is busy with it. */
MOCK_TEST(scatterlist)
{
	const struct dma_buf_mock_offer offers[] = {
		{ DMA_BUF_MOCK_KVM, DMA_BUF_MOCK_RESTORABLE },
		{ DMA_BUF_MOCK_SGT, DMA_BUF_MOCK_REVOCABLE },
	};
	const u32 revocable = 1 << DMA_BUF_MOCK_REVOCABLE;
	pthread_t revoker;
	int fds[2], fd, id, i;

	mock_blocks(self->extents, 1, ORDER_2M, MOCK_RW);
	fd = __mock_create(self->dev, self->extents, 1, offers, 2);
	TEST_ASSERT(fd >= 0, "DMA_BUF_MOCK_CREATE: %s", strerror(-fd));
	mock_poke64(self->dev, fd, 0, TAG(0));
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
	fds[0] = self->dev;
	fds[1] = fd;

	/* Who does not say that it lives with that has nothing in common. */
	TEST_ASSERT_EQ(__mock_import(self->dev, fd, 0, 0), -EOPNOTSUPP);
	TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_attachments, 1);

	for (i = 0; i < 3; i++) {
		id = __mock_import(self->dev, fd, revocable, i ? DMA_BUF_MOCK_BUSY : 0);
		TEST_ASSERT(id >= 0, "DMA_BUF_MOCK_IMPORT: %s", strerror(-id));
		TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_sgt, 1);
		TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));

		kvm_pthread_create(&revoker, NULL, revoke_thread, fds);
		while (mock_status(self->dev, fd).flags & DMA_BUF_MOCK_ACCESSIBLE)
			poll_pause();
		guest_revoked(self->vcpu, GUEST_READ, GPA_A, 0);
		if (i) {
			TEST_ASSERT(!(mock_status(self->dev, fd).flags &
				      DMA_BUF_MOCK_DRAINED), "the device was not waited for");
			TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_sgt, 1);
			mock_idle(self->dev, id);
		}
		kvm_pthread_join(revoker, NULL);
		TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_sgt, 0);
		TEST_ASSERT_EQ(__mock_import(self->dev, fd, revocable, 0), -ENODEV);

		mock_restore(self->dev, fd);
		TEST_ASSERT_EQ(guest_resume(self->vcpu), TAG(0));
		mock_unimport(self->dev, id);
		TEST_ASSERT_EQ(mock_status(self->dev, fd).nr_attachments, 1);
	}
}

/* The exporter's end, and the importer's. */
MOCK_TEST(lifetime)
{
	u64 changed = mock_changed_pages();
	int fd;

	fd = create_tagged(self, 1, ORDER_2M);
	add_slot(self->vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
	close(fd);
	TEST_ASSERT_EQ(mock_check(self->dev).nr_buffers, 1);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
	vm_delete_region(self->vm, SLOT_A);
	TEST_ASSERT_EQ(mock_check(self->dev).nr_buffers, 0);
	guest_no_slot(self->vcpu, GPA_A);

	fd = create_tagged(self, 1, ORDER_2M);
	vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
	TEST_ASSERT_EQ(guest_read(self->vcpu, GPA_A), TAG(0));
	close(self->dev);
	self->dev = -1;
	guest_revoked(self->vcpu, GUEST_WRITE, GPA_A, PATTERN);
	TEST_ASSERT_EQ(__vm_set_dmabuf_region(self->vm, SLOT_B, 0, GPA_B, SZ_2M, fd, 0),
		       -ENODEV);
	TEST_ASSERT_EQ(dmabuf_count(fd), 2);
	kvm_vm_free(self->vm);
	self->vm = NULL;
	TEST_ASSERT_EQ(dmabuf_count(fd), 1);
	TEST_ASSERT_EQ(mock_changed_pages(), changed);
}

/* Each extent takes two words or more: where it begins, and where it is. */
#define MEMCG_EXTENTS	0x10000
#define MEMCG_BYTES	(MEMCG_EXTENTS * 2 * sizeof(u64))

/* @nr extents, all of them the same block. */
static struct dma_buf_mock_extent *same_extents(u32 nr, u32 order)
{
	struct dma_buf_mock_extent *extents = calloc(nr, sizeof(*extents));
	u32 i;

	mock_blocks(extents, nr, order, MOCK_RW);
	for (i = 1; i < nr; i++)
		extents[i].flags = DMA_BUF_MOCK_SAME_BLOCK;
	return extents;
}

struct memcg_move {
	int dev;
	int fd;
	struct dma_buf_mock_extent *extents;
};

static int memcg_move(const char *cgroup, void *arg)
{
	struct memcg_move *move = arg;

	return !!__mock_move(move->dev, move->fd, move->extents, MEMCG_EXTENTS);
}

/*
 * Memory moves, and KVM has more to store about it than before.  Who made the slot
 * pays for that, not who moves the memory.
 */
MOCK_TEST(memcg)
{
	const u64 size = MEMCG_EXTENTS * PAGE_SIZE;
	struct memcg_move move = { .dev = self->dev };
	struct memcgs memcgs = {};
	const char *reason;

	reason = memcgs_create(&memcgs);
	if (reason)
		SKIP(return, "%s", reason);

	move.extents = same_extents(size / SZ_2M, ORDER_2M);
	move.fd = mock_create(self->dev, move.extents, size / SZ_2M);
	free(move.extents);
	move.extents = same_extents(MEMCG_EXTENTS, 0);

	TEST_ASSERT_EQ(cg_enter_current(memcgs.maker), 0);
	vm_set_dmabuf_region(self->vm, SLOT_A, 0, GPA_A, size, move.fd, 0);
	TEST_ASSERT(memcg_is_charged(memcgs.maker, "kernel ", MEMCG_BYTES, false),
		    "%s has more than a slot", memcgs.maker);

	TEST_ASSERT_EQ(cg_run(memcgs.other, memcg_move, &move), 0);
	TEST_ASSERT(memcg_is_charged(memcgs.maker, "kernel ", MEMCG_BYTES, true),
		    "who made the slot does not pay");
	TEST_ASSERT(memcg_is_charged(memcgs.other, "kernel ", MEMCG_BYTES, false),
		    "who moved the memory pays");

	vm_delete_region(self->vm, SLOT_A);
	close(move.fd);
	free(move.extents);
	TEST_ASSERT_EQ(memcgs_destroy(&memcgs), 0);
}

struct marker_memory {
	int dev;
	int fd;
};

static u64 read_marker(void *arg, u64 offset)
{
	struct marker_memory *memory = arg;

	return mock_peek64(memory->dev, memory->fd, offset);
}

/* vCPUs that write all the time, and memory that they may not write to. */
MOCK_TEST(revoke_under_load)
{
	struct marker_memory memory = { .dev = self->dev };
	struct hammers hs = {};
	u64 done[NR_HAMMERS];
	int round;

	memory.fd = create_tagged(self, 1, ORDER_2M);
	hammers_create(&hs, GPA_A, 16 * PAGE_SIZE, memory.fd);
	for (round = 0; round < 20; round++) {
		hammers_progress(&hs);
		mock_revoke(self->dev, memory.fd);
		hammers_snapshot(&hs, done);
		hammers_wait_exits(&hs, done);
		mock_assert_unchanged(self->dev);
		if (round & 1)
			mock_move(self->dev, memory.fd, self->extents, 1);
		mock_restore(self->dev, memory.fd);
		hammers_check_markers(&hs, read_marker, &memory);
		hammers_go(&hs);
	}
	hammers_progress(&hs);
	hammers_join(&hs);
}

/* A vCPU that enters again whenever the memory was away, until it is stopped. */
static void *mover_thread(void *arg)
{
	struct kvm_vcpu *vcpu = arg;

	while (guest_run(vcpu) != GUEST_FINISHED)
		;
	return NULL;
}

/* Nobody waits for them: where the memory was nothing is written any more. */
MOCK_TEST(move_under_load)
{
	struct kvm_vcpu *vcpus[NR_HAMMERS];
	struct hammer_state *state;
	pthread_t threads[NR_HAMMERS];
	u64 gpa, done, marker;
	struct kvm_vm *vm;
	int fd, i, round;

	fd = create_tagged(self, 1, ORDER_2M);
	vm = __vm_create_with_vcpus(VM_SHAPE_DEFAULT, NR_HAMMERS, EXTRA_PAGES,
				    guest_hammer, vcpus);
	add_slot(vm, SLOT_A, 0, GPA_A, SZ_2M, fd, 0);
	state = addr_gva2hva(vm, (gva_t)hammer_state);
	for (i = 0; i < NR_HAMMERS; i++) {
		gpa = GPA_A + i * PAGE_SIZE + 8;
		vcpu_args_set(vcpus[i], 2, gpa, (u64)i);
		kvm_pthread_create(&threads[i], NULL, mover_thread, vcpus[i]);
	}

	for (round = 0; round < 50; round++) {
		for (i = 0; i < NR_HAMMERS; i++) {
			done = READ_ONCE(state[i].done);
			while (READ_ONCE(state[i].done) < done + 20)
				poll_pause();
		}
		mock_blocks(self->extents, 1 << round % 4, ORDER_2M - round % 4, MOCK_RW);
		mock_move(self->dev, fd, self->extents, 1 << round % 4);
		mock_assert_unchanged(self->dev);
	}

	WRITE_AND_SYNC_TO_GUEST(vm, hammer_stop, true);
	for (i = 0; i < NR_HAMMERS; i++)
		kvm_pthread_join(threads[i], NULL);
	for (i = 0; i < NR_HAMMERS; i++) {
		marker = mock_peek64(self->dev, fd, i * PAGE_SIZE + 8);
		TEST_ASSERT_EQ(marker, READ_ONCE(state[i].done));
	}
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	struct kvm_vm *vm;

	guest_pages_as_host();
	vm = vm_create_barebones();
	__TEST_REQUIRE(vm_check_cap(vm, KVM_CAP_DMABUF_MEM), "no KVM_CAP_DMABUF_MEM");
	kvm_vm_free(vm);

	return test_harness_run(argc, argv);
}
