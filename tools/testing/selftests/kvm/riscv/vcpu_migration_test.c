// SPDX-License-Identifier: GPL-2.0-only
/*
 * Does a vCPU keep its CSRs when it is moved between CPUs in the kernel?
 *
 * The guest jumps to an address without memory, over and over, at another
 * address each time.  KVM gives it an access fault, by writing vsepc, vscause
 * and vstval on the CPU where it handles the exit.  Meanwhile the vCPU's
 * thread is moved as often as possible.  Some of the moves are between the
 * exit and these writes, and some between the writes and the next entry to the
 * guest.
 */
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define NO_MEMORY	(4ull << 30)
#define PAGE		4096
#define ROUNDS		300

static struct {
	u64 cause;
	u64 tval;
	u64 done;
	bool stop;
} guest;

static void guest_fault_handler(struct pt_regs *regs)
{
	guest.cause = regs->cause;
	guest.tval = regs->badaddr;
	regs->epc = regs->ra;
}

static void guest_code(void)
{
	u64 n, addr;

	for (n = 1; !READ_ONCE(guest.stop); n++) {
		addr = NO_MEMORY + n * 8 % PAGE;
		WRITE_ONCE(guest.cause, 0);
		asm volatile("jalr ra, (%0)" : : "r"(addr) : "ra", "memory");
		GUEST_ASSERT_EQ(READ_ONCE(guest.cause), EXC_INST_ACCESS);
		GUEST_ASSERT_EQ(READ_ONCE(guest.tval), addr);
		WRITE_ONCE(guest.done, n);
	}
	GUEST_DONE();
}

static void *vcpu_thread(void *arg)
{
	struct kvm_vcpu *vcpu = arg;
	struct ucall uc;

	vcpu_run(vcpu);
	switch (get_ucall(vcpu, &uc)) {
	case UCALL_DONE:
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Unknown ucall %lu", uc.cmd);
	}
	return NULL;
}

static void move(pthread_t thread, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	kvm_pthread_setaffinity(thread, &set);
}

int main(void)
{
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	struct kvm_vm *vm;
	u64 *done, seen;
	int i;

	TEST_REQUIRE(sysconf(_SC_NPROCESSORS_ONLN) > 1);

	ksft_print_header();
	ksft_set_plan(1);

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	vm_init_vector_tables(vm);
	vcpu_init_vector_tables(vcpu);
	vm_install_exception_handler(vm, EXC_INST_ACCESS, guest_fault_handler);
	virt_map(vm, NO_MEMORY, NO_MEMORY, 1);
	done = addr_gva2hva(vm, (gva_t)&guest.done);

	move(pthread_self(), 1);
	kvm_pthread_create(&thread, NULL, vcpu_thread, vcpu);
	for (i = 0; i < ROUNDS; i++) {
		/* Back at once, and to where it last left the guest. */
		move(thread, 0);
		seen = READ_ONCE(*done);
		while (READ_ONCE(*done) == seen)
			sched_yield();
		move(thread, 1);
		move(thread, 0);
	}
	WRITE_AND_SYNC_TO_GUEST(vm, guest.stop, true);
	kvm_pthread_join(thread, NULL);
	ksft_test_result_pass("%lu exceptions, %d moves\n", READ_ONCE(*done), 2 * ROUNDS);
	kvm_vm_free(vm);
	ksft_finished();
}
