#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make build [ARCH=x86|arm64|riscv] [DEBUG=1]: the kernel and its modules, out of
# tree, in build/obj/<arch>[-debug]. ARCH=arm64 PAGES=16k or 64k: with pages of
# that size, in build/obj/arm64-16k and arm64-64k.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source=scripts/config.sh
. "$TOP/scripts/config.sh"

obj=$(objdir "$ARCH" "$FLAVOUR")
case $ARCH in
x86) image=arch/x86/boot/bzImage targets='bzImage modules' total=1860 ;;
arm64) image=arch/arm64/boot/Image targets='Image modules' total=1900 ;;
riscv) image=arch/riscv/boot/Image targets='Image modules' total=1600 ;;
*) die "ARCH=$ARCH: x86, arm64 or riscv" ;;
esac

mapfile -t fragments < <(config_fragments "$ARCH")
if [ "$FLAVOUR" = debug ]; then
	fragments+=("$TOP/lab/config/debug.config")
	[ ! -f "$TOP/lab/config/debug-$ARCH.config" ] || fragments+=("$TOP/lab/config/debug-$ARCH.config")
elif [ "$FLAVOUR" != release ]; then
	[ -f "$TOP/lab/config/$ARCH-$FLAVOUR.config" ] || die "ARCH=$ARCH PAGES=$PAGES: no lab/config/$ARCH-$FLAVOUR.config"
	fragments+=("$TOP/lab/config/$ARCH-$FLAVOUR.config")
fi

mkdir -p "$obj"
exec 9>"$obj/lab.lock"
flock 9
# The release kernel of x86 can have less or more than the tests on it need.
# MINIMAL=1: no more than make demo needs. GUEST=1: it boots in the guests of the
# vmm machine, too. What it once had it keeps: nothing is built to and fro.
if [ "$ARCH/$FLAVOUR" = x86/release ]; then
	[ -z "${GUEST:-}" ] || touch "$obj/lab.guest"
	[ ! -f "$obj/lab.guest" ] || fragments+=("$TOP/lab/config/guest.config")
	[ -n "${MINIMAL:-}" ] || touch "$obj/lab.tests"
	if [ ! -f "$obj/lab.tests" ]; then
		mkdir -p "$obj/minimal"
		grep -vE 'KUNIT|TEST|MOCK' "$TOP/lab/config/feature.config" >"$obj/minimal/feature.config"
		fragments=("$TOP"/lab/config/{base,x86}.config "$obj/minimal/feature.config")
	fi
	# Here, or the tests' kernel would have to be built anew after the demo's.
	fragments+=("$TOP/lab/config/release-x86.config")
fi
make_config "$obj" "$ARCH" "${fragments[@]}"
# shellcheck disable=SC2086
run_step "kernel, $ARCH, $FLAVOUR" "$LOGS/build-$ARCH-$FLAVOUR.log" $total \
	make -C "$TREE" O="$obj" ARCH="$ARCH" CROSS_COMPILE="$(cross "$ARCH")" -j"$JOBS" $targets
run_step "modules, $ARCH, $FLAVOUR" "$LOGS/modules-$ARCH-$FLAVOUR.log" 0 \
	make -C "$TREE" O="$obj" ARCH="$ARCH" CROSS_COMPILE="$(cross "$ARCH")" -j"$JOBS" \
	INSTALL_MOD_PATH="$obj/lab.modules" modules_install
[ -f "$obj/$image" ] || die "no $image"
say "built: ${obj#"$TOP"/}/$image"
