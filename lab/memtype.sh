#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# memtype.sh: compile and run lab/memtype.c, lab/memtype-riscv.c and
# lab/memtype-arm64.c with the functions as they are in the kernel tree now.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../scripts/common.sh"
# shellcheck source=lab/cutout.sh
. "$TOP/lab/cutout.sh"

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

compile_and_run() { # PROGRAM
	gcc -Wall -Werror -Wno-unused-parameter -I"$dir" -o "$dir/$1" "$TOP/lab/$1.c"
	"$dir/$1"
}

cut_out_struct include/linux/kvm_dmabuf_table.h kvm_dmabuf_page >"$dir/kvm-dmabuf-page.h"
{
	cut_out arch/x86/kvm/vmx/vmx.c vmx_ignore_guest_pat
	cut_out arch/x86/kvm/vmx/vmx.c vmx_get_mt_mask
	cut_out arch/x86/kvm/mmu/dmabuf.c page_memtype
	cut_out arch/x86/kvm/mmu/dmabuf.c kvm_dmabuf_memtype
	cut_out arch/x86/kvm/mmu/spte.c kvm_is_uncached_pfn
} >"$dir/memtype-functions.h"
compile_and_run memtype

{
	cut_out arch/riscv/kvm/dmabuf.c dmabuf_map_level
	cut_out arch/riscv/kvm/dmabuf.c dmabuf_prot
} >"$dir/memtype-functions.h"
compile_and_run memtype-riscv

pgtable=arch/arm64/kvm/hyp/pgtable.c
for f in stage2_set_prot_attr kvm_pgtable_stage2_pte_prot stage2_block_get_nr_page_tables \
	 stage2_pte_memtype stage2_split_walker; do
	cut_out $pgtable $f
done >"$dir/memtype-functions.h"
compile_and_run memtype-arm64
