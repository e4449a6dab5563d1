// SPDX-License-Identifier: GPL-2.0
/*
 * What a G-stage fault on riscv comes to: every kind of access on every kind of
 * memory, with the functions of arch/riscv/kvm/vcpu_exit.c and dmabuf.c as they
 * are. gstage.sh cuts them out into faults-functions.h.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64, gpa_t, gfn_t, kvm_pfn_t;
typedef struct { u64 pgprot; } pgprot_t;
typedef struct { u64 pte; } pte_t;

#define BIT_ULL(n)			(1ull << (n))
#define PAGE_SHIFT			12
#define PAGE_SIZE			4096ul
#define ALIGN_DOWN(x, a)		((x) & ~((typeof(x))(a) - 1))
#define min_t(type, a, b)		((type)(a) < (type)(b) ? (type)(a) : (type)(b))
#define PBMT_IO				(2ull << 61)
#define __pgprot(v)			((pgprot_t){ v })
#define PAGE_READ			__pgprot(3)
#define PAGE_WRITE			__pgprot(7)
#define PAGE_READ_EXEC			__pgprot(11)
#define PAGE_WRITE_EXEC			__pgprot(15)
#define pgprot_noncached(p)		__pgprot((p).pgprot | PBMT_IO)
#define pfn_pte(pfn, p)			((pte_t){ (u64)(pfn) << 10 | (p).pgprot })
#define pte_mkdirty(p)			(p)
#define smp_rmb()			do { } while (0)
#define write_lock(l)			do { } while (0)
#define write_unlock(l)			do { } while (0)
#define kvm_riscv_gstage_index_bits	9
#define EXC_INST_ACCESS			1
#define EXC_LOAD_ACCESS			5
#define EXC_STORE_ACCESS		7
#define EXC_INST_GUEST_PAGE_FAULT	20
#define EXC_LOAD_GUEST_PAGE_FAULT	21
#define EXC_STORE_GUEST_PAGE_FAULT	23
/* Of the privileged specification, with 64-bit guests. */
#define INSN_PSEUDO_VS_WALK		0x3000UL
#define INSN_PSEUDO_WRITE		0x20UL
#define KVM_EXIT_MEMORY_FAULT		39
#define KVM_MEM_REVOKED_MMIO		(1u << 4)
#define KVM_MEMSLOT_INVALID		(1u << 16)
#define KVM_MEMORY_EXIT_FLAG_REVOKED	(1ull << 4)
#define KVM_MEMORY_EXIT_FLAG_BACKING	(1ull << 5)
#define KVM_RISCV_DMABUF_MMIO		2
#define KVM_RISCV_DMABUF_ACCESS_FAULT	3

struct kvm_mmu_memory_cache { int unused; };
struct kvm {
	unsigned long mmu_invalidate_seq;
	struct { unsigned long pgd_levels; } arch;
};
struct kvm_run {
	u32 exit_reason;
	struct { u64 flags, gpa, size; } memory_fault;
};
struct kvm_vcpu {
	struct kvm *kvm;
	struct kvm_run *run;
	struct { struct kvm_mmu_memory_cache mmu_page_cache; } arch;
};
struct kvm_cpu_trap {
	unsigned long sepc, scause, stval, htval, htinst;
};
struct kvm_gstage { int unused; };
struct kvm_gstage_mapping {
	gpa_t addr;
	pte_t pte;
	u32 level;
};
#include "kvm-dmabuf-page.h"
struct kvm_memory_slot {
	const char *what;
	u32 flags;
	bool dmabuf, writable, revoked, raced;
	struct kvm_dmabuf_page page;
	char expected[8];
};

/* What became of it. */
#define MAP_READ	'r'	/* the VMA's way */
#define MAP_WRITE	'w'
#define MAP_DMABUF	'd'
#define MMIO		'm'
#define ACCESS_FAULT	'a'	/* for the guest */
#define EXIT_REVOKED	'R'
#define EXIT_BACKING	'B'
#define EXIT_OTHER	'E'
#define RETRY		'.'

static const struct kvm_memory_slot *slot;
static char outcome;
static unsigned long redirected;
static struct kvm_gstage_mapping mapped;
static gfn_t reach_start, reach_end;

static const struct kvm_memory_slot *gfn_to_memslot(struct kvm *kvm, gfn_t gfn) { return slot; }
static bool kvm_slot_is_dmabuf(const struct kvm_memory_slot *s) { return s && s->dmabuf; }
static unsigned long gfn_to_hva_memslot_prot(const struct kvm_memory_slot *s, gfn_t gfn,
					     bool *writable)
{
	*writable = s && s->writable;
	return s && !s->dmabuf ? PAGE_SIZE : 0;
}
static bool kvm_is_error_hva(unsigned long hva) { return !hva; }

static int kvm_riscv_mmu_map(struct kvm_vcpu *vcpu, const struct kvm_memory_slot *s, gpa_t gpa,
			     unsigned long hva, bool write, struct kvm_gstage_mapping *map)
{
	outcome = write ? MAP_WRITE : MAP_READ;
	return 0;
}

static int kvm_riscv_vcpu_mmio_load(struct kvm_vcpu *vcpu, struct kvm_run *run, gpa_t gpa,
				    unsigned long htinst)
{
	outcome = MMIO;
	redirected = EXC_LOAD_GUEST_PAGE_FAULT;
	return 0;
}

static int kvm_riscv_vcpu_mmio_store(struct kvm_vcpu *vcpu, struct kvm_run *run, gpa_t gpa,
				     unsigned long htinst)
{
	outcome = MMIO;
	redirected = EXC_STORE_GUEST_PAGE_FAULT;
	return 0;
}

static void kvm_riscv_vcpu_trap_redirect(struct kvm_vcpu *vcpu, struct kvm_cpu_trap *trap)
{
	outcome = ACCESS_FAULT;
	redirected = trap->scause;
}

static void kvm_prepare_memory_fault_exit(struct kvm_vcpu *vcpu, gpa_t gpa, gpa_t size,
					  bool w, bool x, bool private)
{
	vcpu->run->exit_reason = KVM_EXIT_MEMORY_FAULT;
	vcpu->run->memory_fault.flags = 0;
	vcpu->run->memory_fault.gpa = gpa;
	vcpu->run->memory_fault.size = size;
}

static int kvm_dmabuf_get_pfn(struct kvm *kvm, const struct kvm_memory_slot *s, gfn_t gfn,
			      struct kvm_dmabuf_page *page)
{
	if (s->raced)
		kvm->mmu_invalidate_seq++;
	if (s->revoked)
		return -EFAULT;
	*page = s->page;
	return 0;
}

static void trace_kvm_dmabuf_fault(gfn_t gfn, u32 level, bool write, int ret) { }
static int kvm_mmu_topup_memory_cache(struct kvm_mmu_memory_cache *c, int n) { return 0; }
static void kvm_riscv_gstage_init(struct kvm_gstage *g, struct kvm *kvm) { }
static bool mmu_invalidate_retry(struct kvm *kvm, unsigned long seq)
{
	return kvm->mmu_invalidate_seq != seq;
}
static bool kvm_dmabuf_will_map(const struct kvm_memory_slot *s, gfn_t start, gfn_t end)
{
	reach_start = start;
	reach_end = end;
	return false;
}
static int kvm_riscv_gstage_set_pte(struct kvm_gstage *g, struct kvm_mmu_memory_cache *c,
				    const struct kvm_gstage_mapping *map)
{
	outcome = MAP_DMABUF;
	mapped = *map;
	return 0;
}

#include "faults-functions.h"

static const struct {
	const char *what;
	unsigned long scause, htinst, access_fault;
} access[] = {
	{ "load",		EXC_LOAD_GUEST_PAGE_FAULT, 0x3003, EXC_LOAD_ACCESS },
	{ "store",		EXC_STORE_GUEST_PAGE_FAULT, 0x3023, EXC_STORE_ACCESS },
	{ "fetch",		EXC_INST_GUEST_PAGE_FAULT, 0, EXC_INST_ACCESS },
	{ "walk for a load",	EXC_LOAD_GUEST_PAGE_FAULT, 0x3000, EXC_LOAD_ACCESS },
	{ "walk for a store",	EXC_STORE_GUEST_PAGE_FAULT, 0x3000, EXC_STORE_ACCESS },
	{ "walk for a fetch",	EXC_INST_GUEST_PAGE_FAULT, 0x3000, EXC_INST_ACCESS },
	{ "A/D for a store",	EXC_STORE_GUEST_PAGE_FAULT, 0x3020, EXC_STORE_ACCESS },
};

#define PFN	0x12345ull
#define UNCACHED	.pfn = PFN, .max_order = 9, .wc = true, .readable = true

static const struct kvm_memory_slot slots[] = {
	{ .what = "nothing", .expected = "mmaaaaa" },
	{ .what = "memory", .writable = true, .expected = "rwrrrrw" },
	{ .what = "read-only memory", .expected = "rmrrrra" },
	{ .what = "BAR", .dmabuf = true, .page = { UNCACHED, .writable = true },
	  .expected = "ddadddd" },
	{ .what = "private memory", .dmabuf = true,
	  .page = { UNCACHED, .writable = true, .private = true }, .expected = "BBBBBBB" },
	{ .what = "read-only BAR", .dmabuf = true, .page = { UNCACHED },
	  .expected = "dmaddda" },
	{ .what = "cached dma-buf", .dmabuf = true,
	  .page = { UNCACHED, .cached = true, .writable = true }, .expected = "ddddddd" },
	{ .what = "not readable", .dmabuf = true,
	  .page = { UNCACHED, .readable = false, .writable = true }, .expected = "EEEEEEE" },
	{ .what = "revoked", .dmabuf = true, .revoked = true, .expected = "RRRRRRR" },
	{ .what = "revoked is MMIO", .dmabuf = true, .revoked = true,
	  .flags = KVM_MEM_REVOKED_MMIO, .expected = "mmaaaaa" },
	{ .what = "not revoked is no MMIO", .dmabuf = true, .flags = KVM_MEM_REVOKED_MMIO,
	  .page = { UNCACHED, .writable = true }, .expected = "ddadddd" },
	{ .what = "being deleted", .dmabuf = true, .flags = KVM_MEMSLOT_INVALID,
	  .page = { UNCACHED, .writable = true }, .expected = "mmaaaaa" },
	{ .what = "revoked meanwhile", .dmabuf = true, .raced = true,
	  .page = { UNCACHED, .writable = true }, .expected = "..a...." },
};

static bool good(const struct kvm_memory_slot *s, unsigned int a, int ret,
		 const struct kvm_run *run)
{
	if (outcome != s->expected[a])
		return false;

	switch (outcome) {
	case MMIO:
		return redirected == access[a].scause && ret == 0;
	case ACCESS_FAULT:
		return redirected == access[a].access_fault && ret == 1;
	case EXIT_REVOKED:
	case EXIT_BACKING:
	case EXIT_OTHER:
		return ret == -EFAULT && run->memory_fault.gpa == PFN << 12 &&
		       run->memory_fault.size == PAGE_SIZE;
	case MAP_DMABUF:
		/* A leaf of 2 MiB, its first page, and a revocation will find all of it. */
		return ret == 1 && reach_start == (PFN & ~511ull) &&
		       reach_end == reach_start + 512 && mapped.level == 1 && mapped.addr == (PFN & ~511ull) << 12 &&
		       mapped.pte.pte >> 10 << 10 == ((PFN & ~511ull) << 10 |
						      (s->page.cached ? 0 : PBMT_IO));
	default:
		return ret == 1;
	}
}

static char exit_of(u64 flags)
{
	switch (flags) {
	case KVM_MEMORY_EXIT_FLAG_REVOKED:
		return EXIT_REVOKED;
	case KVM_MEMORY_EXIT_FLAG_BACKING:
		return EXIT_BACKING;
	default:
		return EXIT_OTHER;
	}
}

int main(void)
{
	int bad = 0;

	for (unsigned int i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
		for (unsigned int a = 0; a < sizeof(access) / sizeof(access[0]); a++) {
			struct kvm kvm = { .arch.pgd_levels = 4 };
			struct kvm_run run = { 0 };
			struct kvm_vcpu vcpu = { .kvm = &kvm, .run = &run };
			struct kvm_cpu_trap trap = {
				.scause = access[a].scause, .htinst = access[a].htinst,
				.htval = (PFN << 12 | 8) >> 2,
			};
			int ret;

			slot = slots[i].expected[0] == MMIO && !slots[i].dmabuf ? NULL : &slots[i];
			outcome = RETRY;
			redirected = 0;
			reach_end = 0;
			ret = gstage_page_fault(&vcpu, &run, &trap);
			if (run.exit_reason == KVM_EXIT_MEMORY_FAULT)
				outcome = exit_of(run.memory_fault.flags);
			if (good(&slots[i], a, ret, &run))
				continue;
			printf("%s, %s: wanted %c, got %c (%lu), returned %d\n", slots[i].what,
			       access[a].what, slots[i].expected[a], outcome, redirected, ret);
			bad++;
		}
	}
	return !!bad;
}
