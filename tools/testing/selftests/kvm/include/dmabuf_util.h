/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the programs that put device memory into a guest by dma-buf share.
 *
 * The guest is a loop that does one access (or one run of accesses) per
 * KVM_RUN, told what to do by a command in its own memory.  The host therefore
 * knows which access caused an exit, and an access that could not be done is
 * done again by entering once more: guest_cmd() starts a command, guest_run()
 * goes on with it.
 *
 * Device memory is identity mapped in the guest's page tables: addresses in
 * commands are guest physical.
 */
#ifndef SELFTEST_KVM_DMABUF_UTIL_H
#define SELFTEST_KVM_DMABUF_UTIL_H

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <linux/kvm.h>
#include <linux/sizes.h>
#include <linux/types.h>

#include "kvm_util.h"
#include "processor.h"
#ifdef __riscv
#include "sbi.h"
#endif
#include "ucall_common.h"

/* x86 has one, elsewhere it is the host's to choose.  Not for use by guests. */
#ifndef PAGE_SIZE
#define PAGE_SIZE ((u64)getpagesize())
#endif

/*
 * Guests with pages as large as the host's: tests count in pages, and mean both.
 * For main(), before there is a VM.
 */
static inline void guest_pages_as_host(void)
{
#ifdef __aarch64__
	if (getpagesize() == SZ_16K)
		vm_mode_default = VM_MODE_P40V48_16K;
	else if (getpagesize() == SZ_64K)
		vm_mode_default = VM_MODE_P40V48_64K;
#endif
}

/*
 * Between two looks at what another thread has done.  sched_yield() is no good for
 * that: a task that yields is taken to have used up its slice, and one that does it a
 * thousand times does not run for seconds afterwards.
 */
static inline void poll_pause(void)
{
	usleep(100);
}

enum guest_op {
	GUEST_READ,		/* res = *gpa */
	GUEST_WRITE,		/* *gpa = val */
	GUEST_FILL,		/* gpa[i] = val + i, for i < nr */
	GUEST_CHECK,		/* res = first i < nr with gpa[i] != val + i, or nr */
	GUEST_READ_EMULATED,	/* as GUEST_READ, by KVM's instruction emulator */
	GUEST_READ32,		/* res = *(u32 *)gpa */
	GUEST_WRITE32,		/* *(u32 *)gpa = val */
	GUEST_TOUCH,		/* read gpa + i * val, for i < nr */
#ifdef __x86_64__
	GUEST_MOVE,		/* nr bytes from gpa to val, by a string instruction */
#endif
#ifdef __aarch64__
	GUEST_READ_UNALIGNED,	/* as GUEST_READ, gpa need not be a multiple of 8 */
	GUEST_READ_PAIR,	/* as GUEST_READ, by an instruction that loads two */
	GUEST_EXEC,		/* call gpa */
	GUEST_CLEAN,		/* clean and invalidate the cache line of gpa */
	GUEST_ATOMIC,		/* res = *gpa, *gpa = val, by an exclusive pair */
	GUEST_L2,		/* a guest of the guest runs guest_l2.code, x1 = gpa */
#endif
#ifdef __riscv
	GUEST_EXEC,		/* call gpa */
	GUEST_ATOMIC,		/* res = *gpa, *gpa = val, by an AMO */
	GUEST_SEND_IPI,		/* by SBI's legacy call, mask at gpa; res = was it to us */
#endif
};

struct guest_cmd {
	u64 op;
	u64 gpa;
	u64 val;
	u64 nr;
	u64 res;
};

/* Each VM has its own copy, as of any global. */
static struct guest_cmd guest_command;

#ifdef __aarch64__
/*
 * A guest of the guest, which runs at EL2.  It has its MMU off, so that its
 * addresses are those that stage-2 at @vttbr translates, and runs what is at @code,
 * which ends with "hvc #0".  Its exit comes back by guest_l2_exit().
 */
static struct {
	u64 vttbr;
	u64 vtcr;
	u64 code;
	u64 esr;		/* of the exit */
} guest_l2;

#define GUEST_L2_HCR_HOST	(HCR_EL2_RW | HCR_EL2_TGE | HCR_EL2_E2H)
#define GUEST_L2_HCR		(HCR_EL2_RW | HCR_EL2_E2H | HCR_EL2_VM)
#define GUEST_L2_PSTATE		0x3c5ul		/* EL1h, DAIF masked */
#define GUEST_L2_PSTATE_HOST	0x3c9ul		/* EL2h, DAIF masked */

static inline u64 guest_l2_run(u64 ipa)
{
	register u64 x0 asm("x0") = 0;
	register u64 x1 asm("x1") = ipa;
	register u64 x2 asm("x2") = 0;

	write_sysreg(guest_l2.vtcr, vtcr_el2);
	write_sysreg(guest_l2.vttbr, vttbr_el2);
	/* RES1 alone: MMU and caches off. */
	write_sysreg_s(0x30d00800ul, SYS_SCTLR_EL12);
	asm volatile("adr	x2, 1f\n"
		     "msr	elr_el2, %[code]\n"
		     "msr	spsr_el2, %[pstate]\n"
		     "msr	hcr_el2, %[hcr]\n"
		     "isb\n"
		     "eret\n"
		     "1:\n"
		     : "+r"(x0), "+r"(x1), "+r"(x2)
		     : [code] "r"(guest_l2.code), [pstate] "r"(GUEST_L2_PSTATE),
		       [hcr] "r"((u64)GUEST_L2_HCR)
		     : "memory");
	return x0;
}

/* Continue after the eret above. */
static inline void guest_l2_exit(struct ex_regs *regs)
{
	guest_l2.esr = read_sysreg(esr_el2);
	write_sysreg((u64)GUEST_L2_HCR_HOST, hcr_el2);
	isb();
	regs->pc = regs->regs[2];
	regs->pstate = GUEST_L2_PSTATE_HOST;
}
#endif

#ifdef __riscv
#define SBI_LEGACY_SEND_IPI	4
#define GUEST_SIP_SSIP		(1ul << 1)

/* SBI's legacy call: the mask of harts is in memory, where KVM reads it by HLV. */
static inline bool guest_send_ipi(u64 mask_addr)
{
	csr_clear(CSR_SIP, GUEST_SIP_SSIP);
	sbi_ecall(SBI_LEGACY_SEND_IPI, 0, mask_addr, 0, 0, 0, 0, 0);
	return csr_read(CSR_SIP) & GUEST_SIP_SSIP;
}
#endif

static void __maybe_unused guest_command_loop(void)
{
	struct guest_cmd *cmd = &guest_command;

	for (;;) {
		u64 op = READ_ONCE(cmd->op), val = READ_ONCE(cmd->val);
		u64 i, nr = READ_ONCE(cmd->nr), res = 0;
		u64 *p = (u64 *)READ_ONCE(cmd->gpa);

#ifdef __riscv
		/* The host changes page tables, and instructions. */
		asm volatile("sfence.vma; fence.i" ::: "memory");
#endif
		switch (op) {
		case GUEST_READ:
			res = READ_ONCE(*p);
			break;
		case GUEST_WRITE:
			WRITE_ONCE(*p, val);
			break;
		case GUEST_FILL:
			for (i = 0; i < nr; i++)
				WRITE_ONCE(p[i], val + i);
			break;
		case GUEST_CHECK:
			for (i = 0; i < nr && READ_ONCE(p[i]) == val + i; i++)
				;
			res = i;
			break;
#ifdef __x86_64__
		case GUEST_READ_EMULATED:
			asm volatile(KVM_FEP "movq (%1), %0" : "=r"(res) : "r"(p) : "memory");
			break;
		case GUEST_MOVE:
			asm volatile("cld; rep movsb" : "+S"(p), "+D"(val), "+c"(nr)
				     : : "memory");
			break;
#endif
		case GUEST_READ32:
			res = READ_ONCE(*(u32 *)p);
			break;
		case GUEST_WRITE32:
			WRITE_ONCE(*(u32 *)p, val);
			break;
		case GUEST_TOUCH:
			for (i = 0; i < nr; i++)
				READ_ONCE(*(u64 *)((char *)p + i * val));
			break;
#ifdef __aarch64__
		case GUEST_READ_UNALIGNED:
			asm volatile("ldr %0, [%1]" : "=r"(res) : "r"(p) : "memory");
			break;
		case GUEST_READ_PAIR:
			asm volatile("ldp %0, %1, [%2]" : "=&r"(res), "=&r"(i) : "r"(p)
				     : "memory");
			break;
		case GUEST_EXEC:
			/* Whoever handles the abort returns to x30. */
			asm volatile("blr %0" : : "r"(p) : "x30", "memory");
			break;
		case GUEST_CLEAN:
			asm volatile("dc civac, %0; dsb sy" : : "r"(p) : "memory");
			break;
		case GUEST_L2:
			res = guest_l2_run((u64)p);
			break;
		case GUEST_ATOMIC:
			asm volatile("1: ldxr %0, [%1]; stxr %w2, %3, [%1]; cbnz %w2, 1b"
				     : "=&r"(res), "+r"(p), "=&r"(i) : "r"(val) : "memory");
			break;
#endif
#ifdef __riscv
		case GUEST_EXEC:
			/* Whoever handles the exception returns to ra. */
			asm volatile("jalr ra, (%0)" : : "r"(p) : "ra", "memory");
			break;
		case GUEST_ATOMIC:
			asm volatile("amoswap.d %0, %2, (%1)"
				     : "=&r"(res) : "r"(p), "r"(val) : "memory");
			break;
		case GUEST_SEND_IPI:
			res = guest_send_ipi((u64)p);
			break;
#endif
		default:
			GUEST_FAIL("Unknown command %lu", op);
		}
		WRITE_ONCE(cmd->res, res);
		GUEST_SYNC(op);
	}
}

/* Why guest_run() came back. */
enum guest_exit {
	GUEST_DONE_CMD,		/* the command is complete */
	GUEST_FAULT,		/* KVM_EXIT_MEMORY_FAULT */
	GUEST_MMIO,		/* KVM_EXIT_MMIO */
	GUEST_FINISHED,		/* the guest's function called GUEST_DONE() */
};

static inline enum guest_exit guest_run(struct kvm_vcpu *vcpu)
{
	struct ucall uc;
	int ret;

	do {
		ret = __vcpu_run(vcpu);
	} while (ret && errno == EINTR);

	if (ret) {
		TEST_ASSERT(errno == EFAULT,
			    "KVM_RUN failed, errno %d (%s)", errno, strerror(errno));
		TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MEMORY_FAULT);
		return GUEST_FAULT;
	}

	/* Where a ucall is MMIO, too, get_ucall() knows its address. */
	switch (get_ucall(vcpu, &uc)) {
	case UCALL_NONE:
		TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MMIO);
		return GUEST_MMIO;
	case UCALL_SYNC:
		return GUEST_DONE_CMD;
	case UCALL_DONE:
		return GUEST_FINISHED;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Unknown ucall %lu", uc.cmd);
	}
}

/* guest_run() came back because the memory at @gpa is revoked. */
static inline void assert_revoked_exit(struct kvm_vcpu *vcpu, u64 gpa)
{
	struct kvm_run *run = vcpu->run;

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(run->memory_fault.flags, KVM_MEMORY_EXIT_FLAG_REVOKED);
	TEST_ASSERT_EQ(run->memory_fault.gpa, gpa & ~(PAGE_SIZE - 1ul));
	TEST_ASSERT_EQ(run->memory_fault.size, PAGE_SIZE);
}

static inline struct guest_cmd *guest_cmd_hva(struct kvm_vm *vm)
{
	return addr_gva2hva(vm, (gva_t)&guest_command);
}

/* Start a command; the guest must have completed the one before. */
static inline enum guest_exit guest_cmd(struct kvm_vcpu *vcpu, enum guest_op op,
					u64 gpa, u64 val, u64 nr)
{
	*guest_cmd_hva(vcpu->vm) = (struct guest_cmd) {
		.op = op,
		.gpa = gpa,
		.val = val,
		.nr = nr,
	};

	return guest_run(vcpu);
}

static inline u64 guest_res(struct kvm_vcpu *vcpu)
{
	return guest_cmd_hva(vcpu->vm)->res;
}

/* Set a slot from a slice of a dma-buf, or return the negative errno. */
static inline int __vm_set_dmabuf_region(struct kvm_vm *vm, u32 slot, u32 flags,
					 u64 gpa, u64 size, int fd, u64 offset)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = slot,
		.flags = flags | KVM_MEM_DMABUF,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.dmabuf_fd = fd,
		.dmabuf_offset = offset,
	};

	return __vm_ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region) ? -errno : 0;
}

static inline void vm_set_dmabuf_region(struct kvm_vm *vm, u32 slot, u32 flags,
					u64 gpa, u64 size, int fd, u64 offset)
{
	int ret = __vm_set_dmabuf_region(vm, slot, flags, gpa, size, fd, offset);

	TEST_ASSERT(!ret, "dma-buf slot %u: gpa 0x%lx size 0x%lx offset 0x%lx: %s",
		    slot, gpa, size, offset, strerror(-ret));
}

static inline void vm_delete_region(struct kvm_vm *vm, u32 slot)
{
	struct kvm_userspace_memory_region2 region = { .slot = slot };

	vm_ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region);
}

/*
 * MMIO exits that guest_run() does not see.  Where a ucall is an MMIO exit the
 * others are seen by it, and those that KVM handled itself are left to count.
 */
static inline u64 guest_mmio_exits(struct kvm_vcpu *vcpu)
{
#if defined(__x86_64__)
	return vcpu_get_stat(vcpu, mmio_exits);
#elif defined(__riscv)
	return vcpu_get_stat(vcpu, mmio_exit_kernel) + vcpu_get_stat(vcpu, mmio_exit_user);
#else
	return vcpu_get_stat(vcpu, mmio_exit_kernel);
#endif
}

/*
 * Leaves in the stage-2 tables of a VM, for differences only, by level.  The
 * names are those of pages of 4 KiB: see vm_leaf_size().
 */
struct vm_leaves {
	u64 k4;
	u64 m2;
	u64 g1;
};

/*
 * What a leaf so many levels above those of a page maps: 4 KiB, 2 MiB, 1 GiB; or
 * 64 KiB and 512 MiB where pages are of 64 KiB.
 */
static inline u64 vm_leaf_size(int level)
{
	u64 size = PAGE_SIZE;

	while (level--)
		size *= PAGE_SIZE / sizeof(u64);
	return size;
}

#ifdef __x86_64__
static inline bool vm_has_leaves(struct kvm_vm *vm)
{
	return true;
}

static inline struct vm_leaves vm_leaves(struct kvm_vm *vm)
{
	return (struct vm_leaves) {
		.k4 = vm_get_stat(vm, pages_4k),
		.m2 = vm_get_stat(vm, pages_2m),
		.g1 = vm_get_stat(vm, pages_1g),
	};
}
#else
/* There is no stat: CONFIG_PTDUMP_STAGE2_DEBUGFS has it on arm64, nothing on riscv. */
static inline FILE *vm_open_ptdump(struct kvm_vm *vm)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%d/stage2_page_tables",
		 getpid(), vm->fd);
	return fopen(path, "r");
}

static inline bool vm_has_leaves(struct kvm_vm *vm)
{
	FILE *f = vm_open_ptdump(vm);

	if (f)
		fclose(f);
	return f;
}

/* What is below 4 GiB is the guest's own memory, and not counted. */
static inline struct vm_leaves vm_leaves(struct kvm_vm *vm)
{
	struct vm_leaves leaves = {};
	FILE *f = vm_open_ptdump(vm);
	int level, attrs;
	u64 start, end;
	char line[256];

	TEST_ASSERT(f, "no stage2_page_tables in debugfs");
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "0x%lx-0x%lx %*u%*c %d%n", &start, &end, &level,
			   &attrs) != 3)
			continue;
		if (start < 4ull * SZ_1G || !strchr(line + attrs, 'R'))
			continue;
		if (level == 3)
			leaves.k4 += (end - start) / vm_leaf_size(0);
		else if (level == 2)
			leaves.m2 += (end - start) / vm_leaf_size(1);
		else
			leaves.g1 += (end - start) / vm_leaf_size(2);
	}
	fclose(f);

	return leaves;
}
#endif

/*
 * Fill the stage-2 tables of a range.  Unlike an access by the guest this
 * touches no other memory, so that a difference of vm_leaves() is exact.
 */
static inline int __vcpu_pre_fault(struct kvm_vcpu *vcpu, u64 gpa, u64 size)
{
	struct kvm_pre_fault_memory range = { .gpa = gpa, .size = size };
	int ret;

	do {
		ret = __vcpu_ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range);
	} while ((ret && errno == EINTR) || (!ret && range.size));

	return ret ? -errno : 0;
}

static inline void vcpu_pre_fault(struct kvm_vcpu *vcpu, u64 gpa, u64 size)
{
	int ret = __vcpu_pre_fault(vcpu, gpa, size);

	TEST_ASSERT(!ret, "KVM_PRE_FAULT_MEMORY of 0x%lx: %s", gpa, strerror(-ret));
}

/*
 * The same, by an access every @stride bytes where nothing else is there.  The
 * guest must have the range mapped.
 */
static inline void vcpu_map_range(struct kvm_vcpu *vcpu, u64 gpa, u64 size, u64 stride)
{
	if (kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		vcpu_pre_fault(vcpu, gpa, size);
	else
		TEST_ASSERT_EQ(guest_cmd(vcpu, GUEST_TOUCH, gpa, stride, size / stride),
			       GUEST_DONE_CMD);
}

/* Where the host has a BAR, 0 if the device is not there. */
static inline u64 pci_bar_phys(const char *bdf, int bar)
{
	char path[128], line[128];
	u64 start = 0;
	FILE *f;
	int i;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource", bdf);
	f = fopen(path, "r");
	if (!f)
		return 0;
	for (i = 0; i <= bar; i++)
		if (!fgets(line, sizeof(line), f))
			break;
	if (i > bar)
		start = strtoull(line, NULL, 16);
	fclose(f);

	return start;
}

#endif /* SELFTEST_KVM_DMABUF_UTIL_H */
