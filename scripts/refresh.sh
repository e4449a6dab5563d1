#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make refresh: the way back, from the commits base..HEAD of the tree to
# patches/ and the files that the series adds. With --check nothing is
# written: the result is compared with what the repository has, and a
# difference is an error.
#
# A topic is a branch NN-name of the tree, at the topic's last commit. A new
# file is part of the patches that make it; what becomes of it is in the
# repository at its path in the kernel, to read and to compare. What is in
# patches/ and not in the tree is not lost silently: that needs FORCE=1.

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
	[ "$have" = "$(series_hash)" ] || [ -z "$(topics)" ] ||
		die "patches/ or the added files have changed since the tree was made from them; refresh would undo that. make tree takes it into the tree, FORCE=1 drops it"
	[ "$(tgit rev-parse HEAD)" != "$base" ] || [ -z "$(topics)" ] ||
		die "the tree has no commits: refresh would empty patches/ (FORCE=1 does)"
fi

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
mkdir "$out/patches"

write_patch() {
	local c=$1 n=$2 topic=$3 text subject name body
	text=$(tgit log -1 --format='%s%n%f%n%b' "$c")
	subject=${text%%$'\n'*} text=${text#*$'\n'}
	name=${text%%$'\n'*} body=
	[ "$text" = "$name" ] || body=${text#*$'\n'}
	if grep -nE '^(---|diff -|Index: |From:)' <<<"$body"; then
		die "the message of \"$subject\" has the line above, which a mail cannot carry"
	fi
	if grep -niE '^(signed-off|reviewed|acked|tested)-by:' <<<"$body"; then
		die "the message of \"$subject\" has a trailer: make series adds the sign-off, mails add the rest"
	fi
	tgit diff-tree -p -r --no-renames --no-color --no-ext-diff --no-textconv --abbrev=12 \
		--src-prefix=a/ --dst-prefix=b/ --unified=3 --diff-algorithm=histogram \
		--indent-heuristic --no-commit-id "$c" >"$out/diff"
	[ -s "$out/diff" ] || die "commit \"$subject\" is empty"
	{
		echo 'From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001'
		echo "From: $SERIES_NAME <$SERIES_MAIL>"
		echo "Subject: [PATCH] $subject"
		echo
		git stripspace <<<"$body"
		echo ---
		echo
		cat "$out/diff"
	} >"$out/patches/$topic/$(printf '%04d' "$n")-${name:0:60}.patch"
	rm "$out/diff"
}

# Lexical order of the branches must be that of the history.
total=0 prev=$base prev_name='tag base' names=()
while read -r topic end; do
	[ -n "$topic" ] || continue
	tgit merge-base --is-ancestor "$end" HEAD ||
		die "branch $topic is at a commit that HEAD does not have. git rebase --update-refs moves the branches along; git branch -f $topic COMMIT puts it right, git branch -D $topic ends the topic"
	tgit merge-base --is-ancestor "$prev" "$end" ||
		die "branch $topic is not built on $prev_name: the names in lexical order must be the order of the commits"
	mapfile -t commits < <(tgit rev-list --reverse "$prev..$end")
	[ ${#commits[@]} -gt 0 ] || die "topic $topic has no commit of its own (git branch -D $topic ends it)"
	[ ${#commits[@]} -le $TOPIC_MAX ] || die "topic $topic has ${#commits[@]} patches; $TOPIC_MAX are the limit: split it (git branch NN-name COMMIT)"
	mkdir "$out/patches/$topic"
	n=0
	for c in "${commits[@]}"; do
		n=$((n + 1))
		write_patch "$c" "$n" "$topic"
	done
	total=$((total + n)) prev=$end prev_name=$topic
	names+=("$topic")
done < <(topic_branches)
lost=$(tgit log --reverse --format='  %h %s' "$prev..HEAD")
[ -z "$lost" ] || die "commits that belong to no topic; git branch -f NN-topic COMMIT moves a topic's end:
$lost"

added=0
while read -r f; do
	[[ " ${OVERLAY_DIRS[*]} " == *" ${f%%/*} "* ]] || die "$f: new files live under ${OVERLAY_DIRS[*]} (OVERLAY_DIRS in scripts/common.sh)"
	mkdir -p "$out/$(dirname "$f")"
	tgit cat-file blob "HEAD:$f" >"$out/$f"
	[ "$(tgit ls-tree HEAD -- "$f" | cut -c 1-6)" != 100755 ] || chmod +x "$out/$f"
	added=$((added + 1))
done < <(series_files HEAD)

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
	[ -n "$check" ] || { rm -f "$f"; rmdir -p "$(dirname "$f")" 2>/dev/null || true; }
done <<<"$before"

while read -r f; do
	[ -e "$out/$f" ] || { note "alien   $f is in no commit of the tree"; }
done < <(overlay_files)
for f in patches/*/cover.txt; do
	[ ! -e "$f" ] || [ -d "$out/${f%/*}" ] || warn "$f is the cover letter of no topic: move or delete it"
done
for topic in "${names[@]}"; do
	[ -e "patches/$topic/cover.txt" ] || warn "patches/$topic has no cover.txt"
done

if [ -n "$check" ]; then
	[ $changed -eq 0 ] || die "refresh would change $changed files"
	say "refresh: clean, ${#names[@]} topics, $total patches, $added new files"
	exit 0
fi

# The way there must give the tree we came from.
apply_series >"$out/list"
again=$(tail -n 1 "$out/list" | cut -d ' ' -f 2)
differ=$(tgit diff-tree -r --name-only "$again" HEAD)
[ -z "$differ" ] || die "the refreshed patches do not give the tree back; they differ in: $differ"
write_stamp >"$stamp"
say "refresh: ${#names[@]} topics, $total patches, $added new files, $changed files written"
