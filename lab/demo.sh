#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make demo: boot the patched kernel, run the table's demo line in it, show
# its transcript as it is written and keep it in build/test/demo/transcript.txt.
# Fails if any line of it was measured to be wrong, or if the kernel complained.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../scripts/common.sh"
# shellcheck source=lab/table.sh
. "$TOP/lab/table.sh"

dir=$BUILD/test/demo
mkdir -p "$dir"
table "$ARCH" "$FLAVOUR" demo demo >"$dir/list"
[ -s "$dir/list" ] || die "lab/tests.tab has no demo line for $ARCH, $FLAVOUR: not there yet"
phases_begin
phase "packages of this machine" "$TOP/scripts/deps.sh"
phase "the tree" "$TOP/scripts/tree.sh"
MINIMAL=1 phase "kernel" "$TOP/scripts/build.sh"
export PROGRAMS_OF=demo
phase "its program" "$TOP/scripts/selftests.sh"
"$TOP/lab/initramfs.sh" "$ARCH" "$FLAVOUR"

say "==> booting"
: >"$dir/tests.log"
phase "the machine" "$TOP/lab/boot.sh" "$ARCH" "$FLAVOUR" demo "$dir/list" "$dir" &
pid=$!
# The seed is a line that every KVM selftest begins with.
tail -q -n +1 -F --pid="$pid" "$dir/tests.log" 2>/dev/null | stdbuf -o0 tr -d '\r' |
	grep --line-buffered -v -e '^@@' -e '^Random seed' | tee "$dir/transcript.txt" || true
wait "$pid" || true
program_succeeded "$dir"
found=$(tr -d '\r' <"$dir/console.log" | grep -E "$SPLATS" | head -n 5 || true)
[ -z "$found" ] || die "the kernel complained (${dir#"$TOP"/}/console.log):
$found"
phase_table
say "transcript: ${dir#"$TOP"/}/transcript.txt"
