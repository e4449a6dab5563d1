#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make bench: boot the release kernel where the clock counts instructions, run
# the table's bench line in it, and make of what it printed a table of ratios
# and a plot. In build/bench/:
#
#   figures.tsv   what was measured, a figure a line
#   ratios.tsv    each operation by dma-buf, by VMA cold and warm, the ratios
#   table.rst     the same to read, and dmabuf-performance.svg to look at
#
# DOC=FILE puts table and plot into a document, between its two markers, and
# beside it. BEFORE=FILE is the figures.tsv of the base kernel, whose VMAs are
# compared with then, and makes a table of what has become of them, changes.rst.
# AGAIN=FILE is the figures.tsv of another run, and marks what is not steady.
# ARM64=FILE and RISCV=FILE are the figures.tsv of these architectures, ARM64_AGAIN=
# and RISCV_AGAIN= of another run.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../scripts/common.sh"
# shellcheck source=lab/table.sh
. "$TOP/lab/table.sh"
# shellcheck source=lab/machine.sh
. "$TOP/lab/machine.sh"

[ "$FLAVOUR" = release ] || die "make bench measures the release kernel: no DEBUG="
dir=$BUILD/bench
[ "$ARCH" = x86 ] || dir+=-$ARCH
mkdir -p "$dir"
table "$ARCH" release bench bench >"$dir/list"
[ -s "$dir/list" ] || die "lab/tests.tab has no bench line for $ARCH"
build_machine "$ARCH" release

: >"$dir/figures.tsv"
for profile in bench largebench; do
	table "$ARCH" release $profile bench >"$dir/list"
	[ -s "$dir/list" ] || continue
	say "==> measuring (${dir#"$TOP"/}/tests.log)"
	: >"$dir/tests.log"
	"$TOP/lab/boot.sh" "$ARCH" release $profile "$dir/list" "$dir" || true
	# Nanoseconds are instructions, see bench_machine().
	tr -d '\r' <"$dir/tests.log" | sed -n 's/^BENCH\t//p' |
		awk -F'\t' -v OFS='\t' -v per=$((1 << $(bench_shift "$ARCH"))) '
			$5 == "ns" { $4 = sprintf("%.0f", int($4 / per)) } { print }' >>"$dir/figures.tsv"
	program_succeeded "$dir"
done
python3 "$TOP/lab/bench.py" "$dir" "${DOC:-}"
