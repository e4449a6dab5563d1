#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# gstage.sh [ROUNDS]: compile and run lab/gstage.c with arch/riscv/kvm/gstage.c,
# and lab/gstage-faults.c with the fault handlers, as they are in the kernel tree
# now.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../scripts/common.sh"
# shellcheck source=lab/cutout.sh
. "$TOP/lab/cutout.sh"

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

mkdir -p "$dir"/{linux,asm}
# All that these would have is in gstage.c of the lab.
touch "$dir"/linux/{bitops,cpufeature,kvm_host,kvm_types,module,pgtable}.h "$dir/asm/hwcap.h"
cp "$TREE/arch/riscv/include/asm/kvm_gstage.h" "$dir/asm/"
cp "$TREE/arch/riscv/kvm/gstage.c" "$dir/gstage-kernel.c"
gcc -O1 -g -Wall -Werror -Wno-unused-function -Wno-unused-variable -fsanitize=address \
	-isystem "$dir" -I"$dir" -o "$dir/gstage" "$TOP/lab/gstage.c"
ASAN_OPTIONS=detect_leaks=0 "$dir/gstage" "$@"

cut_out_struct include/linux/kvm_dmabuf_table.h kvm_dmabuf_page >"$dir/kvm-dmabuf-page.h"
{
	for f in dmabuf_map_level dmabuf_prot dmabuf_map dmabuf_fault_exit kvm_riscv_dmabuf_fault; do
		cut_out arch/riscv/kvm/dmabuf.c $f
	done
	for f in fault_by_walk fault_is_write access_fault mmio_fault dmabuf_fault page_fault; do
		cut_out arch/riscv/kvm/vcpu_exit.c gstage_$f
	done
} >"$dir/faults-functions.h"
gcc -O1 -Wall -Werror -Wno-unused-function -Wno-discarded-qualifiers -I"$dir" \
	-o "$dir/faults" "$TOP/lab/gstage-faults.c"
"$dir/faults"
