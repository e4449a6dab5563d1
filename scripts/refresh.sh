#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make refresh: the way back, from the commits base..HEAD of the tree to
# patches/ and the overlay. With --check nothing is written: the result is
# compared with what the repository has, and a difference is an error.
#
# A new file enters in one commit with its final content. A later commit that
# touches it again is refused: fold it into the first one. What is in patches/
# and not in the tree is not lost silently: that needs FORCE=1.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source=scripts/apply.sh
. "$TOP/scripts/apply.sh"

check=
[ "${1:-}" != --check ] || check=1
[ -e "$TREE/.git" ] || die "no tree: make tree first"
base=$(tgit rev-parse 'refs/tags/base^{commit}')
[ "$(tgit merge-base "$base" HEAD)" = "$base" ] || die "the tree's HEAD is not built on tag base"
[ -z "$(tgit rev-list --merges "$base..HEAD")" ] || die "the series has merges: rebase it"
[ -z "$(tgit status --porcelain --untracked-files=no)" ] ||
	warn "uncommitted work in the tree is not taken back"

stamp=$(tgit rev-parse --absolute-git-dir)/series-stamp
if [ -z "$check" ] && [ -z "${FORCE:-}" ]; then
	# The tree may be older than patches/: after a pull, or an edit here.
	read -r have _ 2>/dev/null <"$stamp" || have=
	[ "$have" = "$(series_hash)" ] || [ -z "$(find "$TOP/patches" -name '*.patch')" ] ||
		die "patches/ or the added files have changed since the tree was made from them; refresh would undo that. make tree takes it into the tree, FORCE=1 drops it"
	[ "$(tgit rev-parse HEAD)" != "$base" ] || [ -z "$(find "$TOP/patches" -name '*.patch')" ] ||
		die "the tree has no commits: refresh would empty patches/ (FORCE=1 does)"
fi

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
mkdir "$out/patches"
declare -A owner=()

write_patch() {
	local c=$1 n=$2 file f subject
	local -a new=() rest=()
	while IFS=$'\t' read -r st f; do
		[ -z "${owner[$f]:-}" ] || die "commit \"$(tgit log -1 --format=%s "$c")\" touches $f, which an earlier one of the series adds.
Fold it: git commit --fixup=$(tgit rev-parse --short=12 "${owner[$f]}"), then git rebase -i --autosquash base"
		if [ "$st" = A ]; then
			owner[$f]=$c
			new+=("$f")
		fi
		rest+=("$f")
	done < <(tgit diff-tree -r --no-renames --name-status --no-commit-id "$c")
	[ ${#rest[@]} -gt 0 ] || die "commit $(tgit log -1 --format='%h %s' "$c") is empty"
	for f in "${new[@]}"; do
		[[ " ${OVERLAY_DIRS[*]} " == *" ${f%%/*} "* ]] || die "$f: new files live under ${OVERLAY_DIRS[*]} (OVERLAY_DIRS in scripts/common.sh)"
	done

	subject=$(tgit log -1 --format=%s "$c")
	if tgit log -1 --format=%b "$c" | grep -nE '^(---|diff -|Index: |From:|New-file:)'; then
		die "the message of \"$subject\" has the line above, which a mail cannot carry"
	fi
	if tgit log -1 --format=%b "$c" | grep -niE '^(signed-off|reviewed|acked|tested)-by:'; then
		die "the message of \"$subject\" has a trailer: make series adds the sign-off, mails add the rest"
	fi
	file=$out/patches/$(printf '%04d' "$n")-$(tgit log -1 --format=%f "$c" | cut -c 1-60).patch
	{
		echo 'From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001'
		echo "From: $SERIES_NAME <$SERIES_MAIL>"
		echo "Subject: [PATCH] $subject"
		echo
		tgit log -1 --format=%b "$c" | git stripspace
		echo ---
		[ ${#new[@]} -eq 0 ] || printf 'New-file: %s\n' "${new[@]}"
		echo
		tgit diff-tree -p -r --no-renames --no-color --no-ext-diff --no-textconv --abbrev=12 \
			--src-prefix=a/ --dst-prefix=b/ --unified=3 --diff-algorithm=histogram \
			--indent-heuristic --diff-filter=a --no-commit-id "$c"
	} >"$file"
}

n=0
for c in $(tgit rev-list --reverse "$base..HEAD"); do
	n=$((n + 1))
	write_patch "$c" "$n"
done

for f in "${!owner[@]}"; do
	mkdir -p "$out/$(dirname "$f")"
	tgit cat-file blob "HEAD:$f" >"$out/$f"
	[ "$(tgit ls-tree HEAD -- "$f" | cut -c 1-6)" != 100755 ] || chmod +x "$out/$f"
done

cd "$TOP"
before=$(find patches -name '*.patch' 2>/dev/null; new_files)
changed=0
note() { changed=$((changed + 1)); say "  $*"; }
same() { cmp -s "$1" "$2" && [ "$(test -x "$1" && echo x)" = "$(test -x "$2" && echo x)" ]; }

# Files to write, then files that are no longer part of the series.
while read -r f; do
	same "$out/$f" "$f" && continue
	note "$([ -e "$f" ] && echo changed || echo new)     $f"
	[ -n "$check" ] || { mkdir -p "$(dirname "$f")"; cp -f "$out/$f" "$f"; }
done < <(cd "$out" && find . -type f -printf '%P\n' | LC_ALL=C sort)
while read -r f; do
	[ -n "$f" ] && [ ! -e "$out/$f" ] && [ -e "$f" ] || continue
	note "gone    $f"
	[ -n "$check" ] || rm -f "$f"
done <<<"$before"

while read -r f; do
	[ -e "$out/$f" ] || warn "$f is in no commit of the tree: left alone, but make tree will refuse it"
done < <(overlay_files)

if [ -n "$check" ]; then
	[ $changed -eq 0 ] || die "refresh would change $changed files"
	say "refresh: clean, $n patches, ${#owner[@]} new files"
	exit 0
fi

# The way there must give the tree we came from.
apply_series refs/series/check
same_tree=$(tgit diff-tree -r --name-only refs/series/check HEAD)
tgit update-ref -d refs/series/check
[ -z "$same_tree" ] || die "the refreshed patches do not give the tree back; they differ in: $same_tree"
echo "$(series_hash) $(tgit rev-parse HEAD)" >"$stamp"
say "refresh: $n patches, ${#owner[@]} new files, $changed files written"
