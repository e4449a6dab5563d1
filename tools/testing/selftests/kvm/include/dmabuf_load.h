/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vCPUs that are busy with a dma-buf memslot while something happens to it.
 *
 * Hammers store and load, and prove that nothing got through after the memory was
 * taken away.  Readers load, and prove that nothing but the memory was read.
 */
#ifndef SELFTEST_KVM_DMABUF_LOAD_H
#define SELFTEST_KVM_DMABUF_LOAD_H

#include <pthread.h>
#include <semaphore.h>

#include "dmabuf_guest.h"

#define NR_HAMMERS	4

/*
 * vCPUs that hammer the memory, and proof that none of them got through after a
 * revocation had returned.
 *
 * Each vCPU has a marker in the memory.  It stores n to the marker, loads it back,
 * fails if it got anything else (a device that does not decode gives all ones),
 * then stores n to its own memory as done.  When the revocation returns the
 * test takes a snapshot of done: a vCPU that had both of its accesses behind it
 * can still add one, never two.  When all vCPUs are held in their exit the
 * marker is done, or done + 1 if the exit came between store and load.
 */
static struct hammer_state {
	u64 done;
	u64 pad[7];
} hammer_state[NR_HAMMERS];
static bool hammer_stop;

static inline void guest_hammer(u64 gpa, u64 id)
{
	u64 *marker = (u64 *)gpa;
	u64 n, val;

	for (n = 1; !READ_ONCE(hammer_stop); n++) {
		WRITE_ONCE(*marker, n);
		val = READ_ONCE(*marker);
		GUEST_ASSERT_EQ(val, n);
		WRITE_ONCE(hammer_state[id].done, n);
	}
	GUEST_DONE();
}

struct hammer {
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	struct hammer_state *state;
	u64 gpa;
	u64 marker;		/* offset in the buffer */
	sem_t exited;
	sem_t go;
};

struct hammers {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[NR_HAMMERS];
	struct hammer h[NR_HAMMERS];
};

static inline void *hammer_thread(void *arg)
{
	struct hammer *h = arg;
	enum guest_exit exit;

	while ((exit = guest_run(h->vcpu)) != GUEST_FINISHED) {
		TEST_ASSERT(exit == GUEST_FAULT, "vCPU %u: exit was %s", h->vcpu->id,
			    exit_reason_str(h->vcpu->run->exit_reason));
		assert_revoked_exit(h->vcpu, h->gpa);
		sem_post(&h->exited);
		while (sem_wait(&h->go))
			;
	}

	return NULL;
}

static inline void hammers_create(struct hammers *hs, u64 gpa, u64 offset, int fd)
{
	u64 size = NR_HAMMERS * PAGE_SIZE;
	struct hammer_state *state;
	int i;

	hs->vm = __vm_create_with_vcpus(VM_SHAPE_DEFAULT, NR_HAMMERS, EXTRA_PAGES,
					guest_hammer, hs->vcpus);
	add_slot(hs->vm, SLOT_A, 0, gpa, size, fd, offset);
	state = addr_gva2hva(hs->vm, (gva_t)hammer_state);

	for (i = 0; i < NR_HAMMERS; i++) {
		struct hammer *h = &hs->h[i];

		h->vcpu = hs->vcpus[i];
		h->state = &state[i];
		h->gpa = gpa + i * PAGE_SIZE + 8;
		h->marker = offset + i * PAGE_SIZE + 8;
		sem_init(&h->exited, 0, 0);
		sem_init(&h->go, 0, 0);
		vcpu_args_set(h->vcpu, 2, h->gpa, (u64)i);
		kvm_pthread_create(&h->thread, NULL, hammer_thread, h);
	}
}

/* Wait until each vCPU has done some more. */
static inline void hammers_progress(struct hammers *hs)
{
	u64 target[NR_HAMMERS];
	int i;

	for (i = 0; i < NR_HAMMERS; i++)
		target[i] = READ_ONCE(hs->h[i].state->done) + 20;
	for (i = 0; i < NR_HAMMERS; i++)
		while (READ_ONCE(hs->h[i].state->done) < target[i])
			poll_pause();
}

static inline void hammers_snapshot(struct hammers *hs, u64 *done)
{
	int i;

	for (i = 0; i < NR_HAMMERS; i++)
		done[i] = READ_ONCE(hs->h[i].state->done);
}

/* All vCPUs are in their exit; @done is from when the revocation returned. */
static inline void hammers_wait_exits(struct hammers *hs, const u64 *done)
{
	u64 now;
	int i;

	for (i = 0; i < NR_HAMMERS; i++)
		while (sem_wait(&hs->h[i].exited))
			;
	for (i = 0; i < NR_HAMMERS; i++) {
		now = READ_ONCE(hs->h[i].state->done);
		TEST_ASSERT(now == done[i] || now == done[i] + 1,
			    "vCPU %d went on after the revocation: %lu, then %lu",
			    i, done[i], now);
	}
}

/* @read64 tells what the memory has at an offset. */
static inline void hammers_check_markers(struct hammers *hs,
					 u64 (*read64)(void *memory, u64 offset),
					 void *memory)
{
	u64 done, marker;
	int i;

	for (i = 0; i < NR_HAMMERS; i++) {
		done = READ_ONCE(hs->h[i].state->done);
		marker = read64(memory, hs->h[i].marker);
		TEST_ASSERT(marker == done || marker == done + 1,
			    "vCPU %d: did %lu, the memory has %lu", i, done, marker);
	}
}

static inline void hammers_go(struct hammers *hs)
{
	int i;

	for (i = 0; i < NR_HAMMERS; i++)
		sem_post(&hs->h[i].go);
}

static inline void hammers_join(struct hammers *hs)
{
	int i;

	WRITE_AND_SYNC_TO_GUEST(hs->vm, hammer_stop, true);
	for (i = 0; i < NR_HAMMERS; i++)
		kvm_pthread_join(hs->h[i].thread, NULL);
	kvm_vm_free(hs->vm);
}

/*
 * vCPUs that read while slots come and go and the memory too.  A read gives the
 * page's tag or what the test gave for MMIO, whatever happens around it.
 */
static struct reader_state {
	u64 done;
	u64 last;
	u64 pad[6];
} reader_state[NR_HAMMERS];
static bool reader_stop;

static inline void guest_reader(u64 gpa, u64 id, u64 tag)
{
	struct reader_state *state = &reader_state[id];
	u64 n, val;

	for (n = 1; !READ_ONCE(reader_stop); n++) {
		val = READ_ONCE(*(u64 *)gpa);
		if (val != tag)
			GUEST_ASSERT_EQ(val, MMIO_SENTINEL);
		WRITE_ONCE(state->last, val);
		WRITE_ONCE(state->done, n);
	}
	GUEST_DONE();
}

struct reader {
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	struct reader_state *state;
	u64 gpa;
	u32 flags;		/* of the slot */
	u64 nr_mmio;
	u64 nr_revoked;
};

struct readers {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[NR_HAMMERS];
	struct reader r[NR_HAMMERS];
};

static inline void *reader_thread(void *arg)
{
	struct reader *r = arg;
	enum guest_exit exit;

	while ((exit = guest_run(r->vcpu)) != GUEST_FINISHED) {
		if (exit == GUEST_MMIO) {
			complete_mmio_read(r->vcpu, r->gpa);
			r->nr_mmio++;
		} else {
			TEST_ASSERT(exit == GUEST_FAULT, "unexpected exit %d", exit);
			assert_revoked_exit(r->vcpu, r->gpa);
			TEST_ASSERT(!(r->flags & KVM_MEM_REVOKED_MMIO),
				    "revoked exit, where MMIO was asked for");
			r->nr_revoked++;
			poll_pause();
		}
	}

	return NULL;
}

static inline void readers_create(struct readers *rs, u32 flags, u64 gpa, u64 size,
				  int fd)
{
	struct reader_state *state;
	int i;

	rs->vm = __vm_create_with_vcpus(VM_SHAPE_DEFAULT, NR_HAMMERS, EXTRA_PAGES,
					guest_reader, rs->vcpus);
	add_slot(rs->vm, SLOT_A, flags, gpa, size, fd, 0);
	state = addr_gva2hva(rs->vm, (gva_t)reader_state);

	for (i = 0; i < NR_HAMMERS; i++) {
		struct reader *r = &rs->r[i];
		u64 page = i * (size / PAGE_SIZE / NR_HAMMERS);

		r->vcpu = rs->vcpus[i];
		r->state = &state[i];
		r->gpa = gpa + page * PAGE_SIZE;
		r->flags = flags;
		vcpu_args_set(r->vcpu, 3, r->gpa, (u64)i, TAG(page));
		kvm_pthread_create(&r->thread, NULL, reader_thread, r);
	}
}

/*
 * Wait until each vCPU has done a read that began after now, and check what
 * that read gave: the first one to be counted may have begun before.
 */
static inline void readers_expect(struct readers *rs, bool mmio)
{
	u64 target[NR_HAMMERS], last;
	int i;

	for (i = 0; i < NR_HAMMERS; i++)
		target[i] = READ_ONCE(rs->r[i].state->done) + 2;
	for (i = 0; i < NR_HAMMERS; i++) {
		while (READ_ONCE(rs->r[i].state->done) < target[i])
			poll_pause();
		last = READ_ONCE(rs->r[i].state->last);
		TEST_ASSERT((last == MMIO_SENTINEL) == mmio,
			    "vCPU %d: wanted %s, read 0x%lx", i,
			    mmio ? "MMIO" : "the tag", last);
	}
}

static inline void readers_join(struct readers *rs)
{
	int i;

	WRITE_AND_SYNC_TO_GUEST(rs->vm, reader_stop, true);
	for (i = 0; i < NR_HAMMERS; i++)
		kvm_pthread_join(rs->r[i].thread, NULL);
}

static inline u64 nr_revoked(struct readers *rs)
{
	u64 nr = 0;
	int i;

	for (i = 0; i < NR_HAMMERS; i++)
		nr += READ_ONCE(rs->r[i].nr_revoked);

	return nr;
}

#endif /* SELFTEST_KVM_DMABUF_LOAD_H */
