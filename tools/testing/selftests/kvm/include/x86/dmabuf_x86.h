/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the x86 tests of dma-buf memslots share: a guest that has the
 * instructions that need KVM's emulator, and a VMM that completes the exits.
 *
 * To be included instead of dmabuf_fixture.h, which describes the devices.
 */
#ifndef SELFTEST_KVM_X86_DMABUF_X86_H
#define SELFTEST_KVM_X86_DMABUF_X86_H

#include <linux/sizes.h>

static void guest_x86_loop(void);

#define DMABUF_GUEST	guest_x86_loop
#include "dmabuf_fixture.h"

#define SLOT_RAM	12
/* No memory there, ever. */
#define GPA_HOLE	(self->gpa_base + 2ul * SZ_1G)
/* What a nested guest calls GPA_A. */
#define GPA_ALIAS	(self->gpa_base + 3ul * SZ_1G)

/* Where the BAR is in the guest, for vmm_mmio() */
static u64 mmio_gpa;
static u64 mmio_offset;

/*
 * The guest: as guest_command_loop() of dmabuf_util.h, with the instructions
 * that need the emulator.
 */
enum x86_op {
	OP_READ,		/* res = *src */
	OP_WRITE,		/* *dst = val, at any alignment */
	OP_CALL,		/* src() */
	OP_MOVSB,		/* nr bytes from src to dst */
	OP_WRMSR,		/* res = vector of WRMSR of val to MSR number nr */
	OP_DIV_READ,		/* divide by 0, then res = *src */
	OP_PXOR,		/* res = *src, by an instruction that KVM does not emulate */
	/* by the emulator: */
	OP_EM_READ,		/* res = *src */
	OP_EM_WRITE,		/* *dst = val */
	OP_EM_MOVSB,		/* as OP_MOVSB */
	OP_EM_CMPXCHG,		/* if (*dst == nr) *dst = val; res = whether */
	OP_EM_MOVDQU,		/* 16 bytes from src to dst by an SSE register */
};

struct x86_cmd {
	u64 op;
	u64 src;
	u64 dst;
	u64 val;
	u64 nr;
	u64 res;
};

static struct x86_cmd x86_command;

static inline u64 guest_cmpxchg(u64 dst, u64 old, u64 new)
{
	u8 equal;

	asm volatile(KVM_FEP "lock cmpxchgq %3, (%2)\n\t"
		     "setz %1"
		     : "+a"(old), "=&r"(equal) : "r"(dst), "r"(new) : "memory", "cc");
	return equal;
}

static void guest_x86_loop(void)
{
	struct x86_cmd *cmd = &x86_command;

	for (;;) {
		u64 op = READ_ONCE(cmd->op), val = READ_ONCE(cmd->val);
		u64 src = READ_ONCE(cmd->src), dst = READ_ONCE(cmd->dst);
		u64 nr = READ_ONCE(cmd->nr), res = 0;

		switch (op) {
		case OP_READ:
			asm volatile("movq (%1), %0" : "=r"(res) : "r"(src) : "memory");
			break;
		case OP_WRITE:
			asm volatile("movq %0, (%1)" :: "r"(val), "r"(dst) : "memory");
			break;
		case OP_CALL:
			asm volatile("call *%0" :: "r"(src) : "memory");
			break;
		case OP_WRMSR:
			res = wrmsr_safe(nr, val);
			break;
		case OP_DIV_READ:
			GUEST_ASSERT_EQ(kvm_asm_safe("divl %%ecx", "c"(0)),
					KVM_MAGIC_DE_VECTOR);
			asm volatile("movq (%1), %0" : "=r"(res) : "r"(src) : "memory");
			break;
		case OP_PXOR:
			asm volatile("pxor %%xmm0, %%xmm0\n\t"
				     "pxor (%1), %%xmm0\n\t"
				     "movq %%xmm0, %0"
				     : "=r"(res) : "r"(src) : "memory", "xmm0");
			break;
		case OP_EM_READ:
			asm volatile(KVM_FEP "movq (%1), %0" : "=r"(res) : "r"(src) : "memory");
			break;
		case OP_EM_WRITE:
			asm volatile(KVM_FEP "movq %0, (%1)" :: "r"(val), "r"(dst) : "memory");
			break;
		case OP_MOVSB:
			asm volatile("cld; rep movsb"
				     : "+S"(src), "+D"(dst), "+c"(nr) :: "memory");
			break;
		case OP_EM_MOVSB:
			asm volatile("cld; " KVM_FEP "rep movsb"
				     : "+S"(src), "+D"(dst), "+c"(nr) :: "memory");
			break;
		case OP_EM_CMPXCHG:
			res = guest_cmpxchg(dst, nr, val);
			break;
		case OP_EM_MOVDQU:
			asm volatile(KVM_FEP "movdqu (%0), %%xmm0\n\t"
				     KVM_FEP "movdqu %%xmm0, (%1)"
				     :: "r"(src), "r"(dst) : "memory", "xmm0");
			break;
		default:
			GUEST_FAIL("Unknown command %lu", op);
		}
		WRITE_ONCE(cmd->res, res);
		GUEST_SYNC(op);
	}
}

static inline enum guest_exit x86_cmd(struct kvm_vcpu *vcpu, struct x86_cmd cmd)
{
	struct x86_cmd *hva = addr_gva2hva(vcpu->vm, (gva_t)&x86_command);

	*hva = cmd;
	return guest_run(vcpu);
}

static inline u64 x86_res(struct kvm_vcpu *vcpu)
{
	struct x86_cmd *hva = addr_gva2hva(vcpu->vm, (gva_t)&x86_command);

	return hva->res;
}

/* A command that must not exit. */
static inline u64 x86_do(struct kvm_vcpu *vcpu, struct x86_cmd cmd)
{
	enum guest_exit exit = x86_cmd(vcpu, cmd);

	TEST_ASSERT(exit == GUEST_DONE_CMD, "op %lu: wanted no exit, got %s", cmd.op,
		    exit_reason_str(vcpu->run->exit_reason));
	return x86_res(vcpu);
}

static inline u64 x86_read(struct kvm_vcpu *vcpu, u64 gpa)
{
	return x86_do(vcpu, (struct x86_cmd){ .op = OP_READ, .src = gpa });
}

/* Returns the vector of the exception that the guest got, or 0. */
static inline u64 x86_wrmsr(struct kvm_vcpu *vcpu, u32 msr, u64 val)
{
	return x86_do(vcpu, (struct x86_cmd){ .op = OP_WRMSR, .nr = msr, .val = val });
}

/* A slot over a slice, where vmm_mmio() finds it, and the guest's mapping. */
static inline void add_bar(FIXTURE_DATA(dmabuf) *self, struct kvm_vm *vm, u32 slot,
			   u32 flags, u64 gpa, u64 size, u64 offset)
{
	vm_set_dmabuf_region(vm, slot, flags, gpa, size, self->fd, offset);
	virt_map(vm, gpa, gpa, size / PAGE_SIZE);
	mmio_gpa = gpa;
	mmio_offset = offset;
}

/*
 * What a VMM does with an access that exits: the access, by the device's file.
 * Returns the number of exits until the guest's command was complete.
 */
static inline int vmm_mmio(FIXTURE_DATA(dmabuf) *self, struct kvm_vcpu *vcpu,
			   struct x86_cmd cmd)
{
	enum guest_exit exit = x86_cmd(vcpu, cmd);
	struct kvm_run *run = vcpu->run;
	int n;

	for (n = 0; exit == GUEST_MMIO; n++) {
		TEST_ASSERT(run->mmio.phys_addr >= mmio_gpa &&
			    run->mmio.phys_addr < mmio_gpa + SZ_2M,
			    "MMIO at 0x%llx is not in the slot", run->mmio.phys_addr);
		TEST_ASSERT_EQ(__vfio_pci_bar_access(self->dev, self->bar,
						     run->mmio.phys_addr - mmio_gpa +
						     mmio_offset, run->mmio.data,
						     run->mmio.len, run->mmio.is_write), 0);
		exit = guest_run(vcpu);
	}
	TEST_ASSERT(exit == GUEST_DONE_CMD, "op %lu, after %d MMIO exits: got %s", cmd.op,
		    n, exit_reason_str(run->exit_reason));

	return n;
}

#endif /* SELFTEST_KVM_X86_DMABUF_X86_H */
