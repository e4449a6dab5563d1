#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make hooks: how much of the kernel's own files each topic changes, by
# subsystem: lines added and taken out. New files, tests with their mocks, and
# documentation, samples and MAINTAINERS stand apart. "code" is what is left of
# COUNTED without comments and empty lines: most of a UAPI header is a comment.
# TOPIC_LIMIT and ALL_LIMIT are what maintainers are asked to take in, the former
# of all lines, the latter of code; beyond them the status is an error with
# STRICT=1 only.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source=scripts/apply.sh
. "$TOP/scripts/apply.sh"

TOPIC_LIMIT=900
ALL_LIMIT=2600

# "LINES CODE FILE" of a diff.
changes() {
	tgit diff-tree -r --no-renames -p -U0 --no-color "$@" | awk '
		function row() { if (lines) printf "%d\t%d\t%s\n", lines, code, file; lines = code = 0 }
		/^diff --git / { row(); file = $4; sub(/^b\//, "", file); head = 1; next }
		/^@@ / { head = 0; next }
		head || !/^[-+]/ { next }
		{ lines++ }
		!/^.[ \t]*($|\/?\*|\/\/)/ { code++ }
		END { row() }'
}

# The files of the base, then a block of changes for each topic and, at the
# end, for all: "= NAME", lines of changes().
{
	tgit ls-tree -r --name-only refs/tags/base
	prev=refs/tags/base
	while read -r topic end; do
		echo "= $topic"
		changes "$prev" "$end"
		prev=$end
	done < <(topic_branches)
	echo "= all of it"
	changes refs/tags/base "$prev"
} | awk -F '\t' -v limit=$TOPIC_LIMIT -v all_limit=$ALL_LIMIT -v strict="${STRICT:-}" '
	BEGIN {
		ncols = split("dma-buf iommu vfio kvm include other COUNTED code new-files tests docs", cols, " ")
		printf "%-24s", "topic"
		for (i = 1; i <= ncols; i++) printf " %9s", cols[i]
		print ""
	}
	function column(f) {
		if (f ~ /^tools\/testing\/|selftest|kunit|[-_]test\.[ch]$|[-_]mock\.[ch]$|_test\.h$|\.kunitconfig$/) return "tests"
		if (!(f in base)) return f ~ /^Documentation\// ? "docs" : "new-files"
		if (f ~ /^(Documentation|samples)\/|^MAINTAINERS$/) return "docs"
		if (f ~ /^drivers\/dma-buf\//) return "dma-buf"
		if (f ~ /^drivers\/iommu\//) return "iommu"
		if (f ~ /^drivers\/vfio\//) return "vfio"
		if (f ~ /^virt\/|^arch\/[^\/]*\/(kvm|include\/asm\/kvm)/) return "kvm"
		if (f ~ /^include\//) return "include"
		return "other"
	}
	function row(   i, c) {
		if (name == "") return
		n["COUNTED"] = n["dma-buf"] + n["iommu"] + n["vfio"] + n["kvm"] + n["include"] + n["other"]
		printf "%-24s", name
		for (i = 1; i <= ncols; i++) printf " %9d", n[cols[i]]
		if (name == "all of it" && n["code"] > all_limit ||
		    name != "all of it" && n["COUNTED"] > limit) { printf "  over"; over++ }
		print ""
		delete n
	}
	/^= / { row(); name = substr($0, 3); next }
	name == "" { base[$0]; next }
	{
		c = column($3)
		n[c] += $1
		if (c !~ /^(new-files|tests|docs)$/) n["code"] += $2
	}
	END {
		row()
		printf "lines changed in files of the base; limits: %d a topic, %d of code in all\n", limit, all_limit
		exit over && strict
	}'
