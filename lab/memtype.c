// SPDX-License-Identifier: GPL-2.0
/*
 * Which EPT memory type a range of a dma-buf gets, by its attributes.
 *
 * The lab's CPU has NPT, where the guest's PAT alone decides, and kvm_intel
 * does not load on it, so neither a selftest nor a KUnit module could call what
 * decides for EPT.  The functions themselves need no machine: memtype.sh cuts
 * them out of the kernel's sources into memtype-functions.h, and they are
 * compiled here against as little of KVM as they touch.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef uint8_t u8;
typedef uint64_t u64, gfn_t, kvm_pfn_t;

/* As in the kernel's headers. */
#define MTRR_TYPE_UNCACHABLE	0
#define MTRR_TYPE_WRBACK	6
#define VMX_EPT_MT_EPTE_SHIFT	3
#define VMX_EPT_IPAT_BIT	(1ull << 6)
#define KVM_X86_QUIRK_IGNORE_GUEST_PAT	(1 << 9)

struct kvm {
	bool noncoherent_dma;
	int quirks;
};

struct kvm_vcpu {
	struct kvm *kvm;
};

#include "kvm-dmabuf-page.h"

struct kvm_pfn_memtype {
	bool known;
	bool mmio;
	bool cached;
};

struct kvm_memory_slot {
	bool revoked;
	struct kvm_dmabuf_page page;
};

static int nr_warnings;
#define KVM_MMU_WARN_ON(x)	(nr_warnings += !!(x))

static bool kvm_arch_has_noncoherent_dma(struct kvm *kvm)
{
	return kvm->noncoherent_dma;
}

static bool kvm_check_has_quirk(struct kvm *kvm, int quirk)
{
	return kvm->quirks & quirk;
}

static bool kvm_slot_is_dmabuf(const struct kvm_memory_slot *slot)
{
	return true;
}

static bool kvm_memtype_is_known(struct kvm_pfn_memtype memtype)
{
	return memtype.known;
}

static bool kvm_memtype_is_cached(struct kvm_pfn_memtype memtype)
{
	return memtype.cached;
}

/* What the pfn of other memory looks like. */
static bool kvm_is_mmio_pfn(kvm_pfn_t pfn, int *is_host_mmio)
{
	nr_warnings++;
	return false;
}

static int kvm_dmabuf_get_pfn(struct kvm *kvm, const struct kvm_memory_slot *slot,
			      gfn_t gfn, struct kvm_dmabuf_page *page)
{
	if (slot->revoked)
		return -14;
	*page = slot->page;
	return 0;
}

#include "memtype-functions.h"

#define UC	0
#define WB	(MTRR_TYPE_WRBACK << VMX_EPT_MT_EPTE_SHIFT)
#define WB_IPAT	(WB | VMX_EPT_IPAT_BIT)

static const struct {
	const char *what;
	bool mmio, cached, wc, revoked;
	/* when the guest's PAT is ignored for memory, and when it is not */
	u8 ignored, honoured;
	bool is_mmio;
} cases[] = {
	/* UC without IPAT: the guest's PAT can weaken it to WC, as for a VMA. */
	{ "MMIO, WC allowed",	true,  false, true,  false, UC, UC, true },
	{ "MMIO",		true,  false, false, false, UC, UC, true },
	/* Memory type and being MMIO are two questions. */
	{ "MMIO, cached",	true,  true,  false, false, WB_IPAT, WB, true },
	{ "memory, cached",	false, true,  false, false, WB_IPAT, WB, false },
	{ "memory, uncached",	false, false, false, false, UC, UC, false },
	{ "revoked",		false, true,  false, true,  UC, UC, true },
};

int main(void)
{
	static const struct kvm kvms[] = {
		{ false, KVM_X86_QUIRK_IGNORE_GUEST_PAT },	/* PAT ignored */
		{ true, KVM_X86_QUIRK_IGNORE_GUEST_PAT },
		{ false, 0 },
	};
	int bad = 0;

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		for (unsigned int k = 0; k < 3; k++) {
			struct kvm kvm = kvms[k];
			struct kvm_vcpu vcpu = { &kvm };
			struct kvm_memory_slot slot = {
				.revoked = cases[i].revoked,
				.page = {
					.pfn = 42,
					.mmio = cases[i].mmio,
					.cached = cases[i].cached,
					.wc = cases[i].wc,
				},
			};
			struct kvm_pfn_memtype memtype =
				kvm_dmabuf_memtype(&vcpu, &slot, 0, 42);
			bool is_mmio = memtype.mmio;
			u8 want = k ? cases[i].honoured : cases[i].ignored;
			u8 got = vmx_get_mt_mask(&vcpu, 0,
						 kvm_is_uncached_pfn(42, memtype, NULL));

			if (got == want && is_mmio == cases[i].is_mmio)
				continue;
			printf("%s, VM %u: EPT bits 0x%02x, wanted 0x%02x; MMIO %d, wanted %d\n",
			       cases[i].what, k, got, want, is_mmio, cases[i].is_mmio);
			bad++;
		}
	}
	return bad || nr_warnings;
}
