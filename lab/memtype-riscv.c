// SPDX-License-Identifier: GPL-2.0
/*
 * Which memory type, permissions and level a page of a dma-buf gets in riscv's
 * G-stage, by what the exporter says of it.
 *
 * QEMU checks the type of an entry and makes no use of it, so no guest can tell.
 * As in memtype.c the functions are cut out of the kernel's sources.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64, kvm_pfn_t, pgprot_t;

/* As in the kernel's headers, with Svpbmt. */
#define _PAGE_READ		(1ull << 1)
#define _PAGE_WRITE		(1ull << 2)
#define _PAGE_EXEC		(1ull << 3)
#define PAGE_READ		_PAGE_READ
#define PAGE_WRITE		(_PAGE_READ | _PAGE_WRITE)
#define PAGE_READ_EXEC		(_PAGE_READ | _PAGE_EXEC)
#define PAGE_WRITE_EXEC		(_PAGE_READ | _PAGE_WRITE | _PAGE_EXEC)
#define PBMT_NC			(1ull << 61)
#define PBMT_IO			(2ull << 61)
#define PBMT_MASK		(3ull << 61)
#define pgprot_noncached(prot)		(((prot) & ~PBMT_MASK) | PBMT_IO)
#define pgprot_writecombine(prot)	(((prot) & ~PBMT_MASK) | PBMT_NC)
#define kvm_riscv_gstage_index_bits	9
#define min_t(type, a, b)	((type)(a) < (type)(b) ? (type)(a) : (type)(b))

struct kvm {
	struct {
		unsigned long pgd_levels;
	} arch;
};

#include "kvm-dmabuf-page.h"

#include "memtype-functions.h"

/* Uncached is IO, also where write-combining is allowed, and never executable. */
static int check_prot(void)
{
	int bad = 0;

	for (int i = 0; i < 16; i++) {
		struct kvm_dmabuf_page page = {
			.mmio = i & 1, .cached = i & 2, .wc = i & 4, .writable = i & 8,
			.readable = true,
		};
		u64 want = page.writable ? PAGE_WRITE : PAGE_READ;
		u64 got = dmabuf_prot(&page);

		want |= page.cached ? _PAGE_EXEC : PBMT_IO;
		if (got == want)
			continue;
		printf("mmio %d, cached %d, wc %d, writable %d: entry has 0x%llx, wanted 0x%llx\n",
		       page.mmio, page.cached, page.wc, page.writable,
		       (unsigned long long)got, (unsigned long long)want);
		bad++;
	}
	return bad;
}

/* The largest leaf that is not larger than the block. */
static int check_level(void)
{
	int bad = 0;

	for (unsigned long levels = 3; levels <= 5; levels++) {
		for (unsigned int order = 0; order < 52; order++) {
			struct kvm_dmabuf_page page = { .max_order = order };
			struct kvm kvm = { .arch.pgd_levels = levels };
			u32 level = dmabuf_map_level(&kvm, &page);

			if (level < levels && level * 9 <= order &&
			    (level + 1 == levels || (level + 1) * 9 > order))
				continue;
			printf("%lu levels, order %u: level is %u\n", levels, order, level);
			bad++;
		}
	}
	return bad;
}

int main(void)
{
	return check_prot() + check_level();
}
