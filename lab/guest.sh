#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# guest.sh: the kernel of the guest of make demo-vmm, in build/obj/x86-guest.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../scripts/common.sh"
# shellcheck source=scripts/config.sh
. "$TOP/scripts/config.sh"

obj=$(objdir x86 guest)
mkdir -p "$obj"
exec 9>"$obj/lab.lock"
flock 9
make_config "$obj" x86 "$TOP/lab/config/guest.config"
run_step "kernel of the guest" "$LOGS/build-x86-guest.log" 1250 \
	make -C "$TREE" O="$obj" ARCH=x86 -j"$JOBS" bzImage
