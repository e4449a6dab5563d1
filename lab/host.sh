#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Tests of the repository itself, as TAP: no machine needed.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../scripts/common.sh"
# shellcheck source=scripts/apply.sh
. "$TOP/scripts/apply.sh"
exec > >(tee "$BUILD/test/host.tap")

n=0
try() {
	local desc=$1 out rc=0
	shift
	n=$((n + 1))
	out=$("$@" 2>&1) || rc=$?
	if [ $rc -eq 0 ]; then echo "ok $n - $desc"
	else
		echo "not ok $n - $desc"
		sed 's/^/# /' <<<"$out"
	fi
}

no_foreign_files() {
	# New files only: a file that the base has belongs into a patch.
	local f bad=0
	while read -r f; do
		! tgit cat-file -e "refs/tags/base:$f" 2>/dev/null || { echo "$f is a file of the base"; bad=1; }
	done < <(overlay_files)
	return $bad
}

spdx_everywhere() {
	local f bad=0
	while read -r f; do
		case $f in *.patch | *.txt | COPYING | .gitignore) continue ;; esac
		head -n 3 "$TOP/$f" | grep -q 'SPDX-License-Identifier:' || { echo "$f has no SPDX line"; bad=1; }
	done < <(git -C "$TOP" ls-files)
	return $bad
}

# By its patterns: one that ends with a slash is a folder with all in it,
# elsewhere * does not match a slash.
matches() {
	local slashes='[!/]'
	[[ $2 != */ ]] || { [[ $1 = "$2"* ]]; return; }
	# shellcheck disable=SC2053
	[ "${1//$slashes/}" = "${2//$slashes/}" ] && [[ $1 = $2 ]]
}

in_maintainers() {
	local f pat bad=0 found
	while read -r f; do
		found=
		while read -r pat; do
			! matches "$f" "$pat" || found=1
		done < <(sed -n 's/^F:[ \t]*//p' "$TOP/MAINTAINERS")
		[ -n "$found" ] || { echo "$f is in no entry of MAINTAINERS"; bad=1; }
	done < <(overlay_files)
	return $bad
}

# A patch that cannot apply must leave the tree as it is and be named.
broken_patch_is_refused() (
	copy=$(mktemp -d)
	trap 'rm -rf "$copy"' EXIT
	mkdir -p "$copy/patches/01-topic"
	cp -r "$TOP/scripts" "$copy/"
	cat >"$copy/patches/01-topic/0001-broken.patch" <<-'EOF'
		From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
		From: nobody <nobody@localhost>
		Subject: [PATCH] broken

		---

		diff --git a/virt/Makefile b/virt/Makefile
		--- a/virt/Makefile
		+++ b/virt/Makefile
		@@ -1,1 +1,1 @@
		-this line is not there
		+nor this one
	EOF
	before=$(tgit rev-parse HEAD)
	git clone -q --shared --no-checkout "$TREE" "$copy/linux" 2>&1
	git -C "$copy/linux" tag -f base "$(tgit rev-parse refs/tags/base)" >/dev/null
	git -C "$copy/linux" update-ref HEAD refs/tags/base
	git -C "$copy/linux" read-tree HEAD
	if out=$(TREE=$copy/linux FORCE=1 "$copy/scripts/tree.sh" 2>&1); then
		echo "it was taken: $out"
		exit 1
	fi
	grep -q '01-topic/0001-broken.patch does not apply' <<<"$out" || { echo "not named: $out"; exit 1; }
	[ "$(git -C "$copy/linux" rev-parse HEAD)" = "$(git -C "$copy/linux" rev-parse base)" ] || { echo "HEAD moved"; exit 1; }
	[ "$(tgit rev-parse HEAD)" = "$before" ]
)

# The mails as somebody else would take them. In a tree of only the files that
# they touch: git am looks at no others.
mails_give_the_tree() (
	copy=$(mktemp -d)
	trap 'rm -rf "$copy"' EXIT
	export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@localhost GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@localhost
	find "$TOP/patches" -name '*.patch' -print0 | xargs -r0 sed -n 's,^diff --git a/.* b/,,p' |
		LC_ALL=C sort -u >"$copy/touched"
	touched() { tgit ls-tree -r "$1" --full-tree | LC_ALL=C awk -F '\t' 'NR == FNR { on[$1] = 1; next } $2 in on' "$copy/touched" -; }
	git clone -q --shared --no-checkout "$TREE" "$copy/linux"
	cd "$copy/linux"
	touched refs/tags/base | git update-index --index-info
	git update-ref refs/heads/am "$(git commit-tree -m base "$(git write-tree)")"
	git symbolic-ref HEAD refs/heads/am
	git checkout -q -f am
	git am -q "$TOP"/patches/*/*.patch
	diff <(git ls-tree -r HEAD) <(touched HEAD)
)

try "git am of all mails gives the tree" mails_give_the_tree
try "tree, then refresh, changes nothing" "$TOP/scripts/refresh.sh" --check
try "a patch that does not apply is named and leaves nothing half done" broken_patch_is_refused
try "no overlay file is a file of the base" no_foreign_files
try "memory types: EPT and the G-stage follow the attributes of a dma-buf, split blocks keep theirs" "$TOP/lab/memtype.sh"
try "riscv: faults come to what they should, tables are flushed and freed" "$TOP/lab/gstage.sh"
try "every file has an SPDX line" spdx_everywhere
try "every file the series adds is in MAINTAINERS" in_maintainers
echo "1..$n"
