#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# profile.sh [GROUP]: where the instructions of make bench go. Runs dmabuf_bench
# (a group of its figures: see its -h) in the bench machine with a plugin that
# tells what is executed in each window that is measured. In build/profile/:
#
#   map           the figures, each with the number of its last window
#   trace, syms   for lab/profile.py build/profile/trace build/profile/syms N...
#
# Figures that alternate have every other window: of the five runs of a
# revocation the last is the window before the map's, the restore that window.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../scripts/common.sh"
# shellcheck source=lab/table.sh
. "$TOP/lab/table.sh"

if [ "$ARCH" != x86 ] || [ "$FLAVOUR" != release ]; then
	die "profiles are made of the x86 release kernel"
fi
dir=$BUILD/profile
mkdir -p "$dir"
gcc -O2 -Wall -shared -fPIC -o "$dir/profile.so" "$TOP/lab/profile.c"
{
	echo "syms 60 cat /proc/kallsyms"
	ONLY=bench table x86 release bench bench | sed "s/\$/${1:+ -c $1}/"
} >"$dir/list"
build_machine x86 release

say "==> measuring (${dir#"$TOP"/}/tests.log)"
QEMU_EXTRA="-plugin $dir/profile.so,out=$dir/trace" \
	"$TOP/lab/boot.sh" x86 release bench "$dir/list" "$dir" || true
grep -q '^@@ end bench 0 ' "$dir/tests.log" || die "the program failed (${dir#"$TOP"/}/tests.log)"
tr -d '\r' <"$dir/tests.log" | sed -n '/@@ end syms/q; p' >"$dir/syms"
tr -d '\r' <"$dir/tests.log" |
	awk '/^BENCH/ { line = $0 } /^# until window/ { print $4 "\t" line }' >"$dir/map"
say "figures and windows are in ${dir#"$TOP"/}/map"
