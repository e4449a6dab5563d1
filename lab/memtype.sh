#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# memtype.sh: compile and run lab/memtype.c and lab/memtype-riscv.c with the
# functions as they are in the kernel tree now.

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
