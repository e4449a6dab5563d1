#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# gstage.sh [ROUNDS]: compile and run lab/gstage.c with arch/riscv/kvm/gstage.c as
# it is in the kernel tree now.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../scripts/common.sh"

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
