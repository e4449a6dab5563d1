#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make hooks: how much of the kernel's own files each topic changes, by
# subsystem: lines added and taken out. What counts is code: new files, tests
# with their mocks, and documentation, samples and MAINTAINERS stand apart.
# TOPIC_LIMIT and ALL_LIMIT are what maintainers are asked to take in; beyond
# them the status is an error with STRICT=1 only.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source=scripts/apply.sh
. "$TOP/scripts/apply.sh"

TOPIC_LIMIT=900
ALL_LIMIT=2600

# The files of the base, then a block of changes for each topic and, at the
# end, for all: "= NAME", numstat lines.
{
	tgit ls-tree -r --name-only refs/tags/base
	prev=refs/tags/base
	while read -r topic end; do
		echo "= $topic"
		tgit diff-tree -r --no-renames --numstat "$prev" "$end"
		prev=$end
	done < <(topic_branches)
	echo "= all of it"
	tgit diff-tree -r --no-renames --numstat refs/tags/base "$prev"
} | awk -F '\t' -v limit=$TOPIC_LIMIT -v all_limit=$ALL_LIMIT -v strict="${STRICT:-}" '
	BEGIN {
		ncols = split("dma-buf iommu vfio kvm include other COUNTED new-files tests docs", cols, " ")
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
		c = name == "all of it" ? all_limit : limit
		if (n["COUNTED"] > c) { printf "  over %d", c; over++ }
		print ""
		delete n
	}
	/^= / { row(); name = substr($0, 3); next }
	name == "" { base[$0]; next }
	{ n[column($3)] += $1 + $2 }
	END {
		row()
		printf "lines changed in files of the base; limits: %d a topic, %d in all\n", limit, all_limit
		exit over && strict
	}'
