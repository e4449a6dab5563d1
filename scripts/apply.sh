# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# apply_series REF: turn patches/ and the overlay into commits on top of
# refs/tags/base, one per patch, and set REF to the last one.
#
# The commits are made in a private index. No work tree is touched, and REF
# moves only once every patch went in: there is no half-done state.
#
# A patch is a mail as git knows it. Between "---" and the diff it names the
# new files it brings, one "New-file: PATH" line each; their content is the
# file of that path in this repository. Every overlay file belongs to exactly
# one patch. Identity and dates are fixed, so the same patches make the same
# commit ids everywhere.

SERIES_NAME='Revocable device memory series'
SERIES_MAIL='series@localhost'

# Every New-file: line of the patches.
new_files() {
	find "$TOP/patches" -name '*.patch' -exec sed -n '/^diff --git /q; s/^New-file: //p' {} \; | LC_ALL=C sort
}

check_ownership() {
	local dup lost
	dup=$(new_files | uniq -d)
	[ -z "$dup" ] || die "new files named by more than one patch: $dup"
	lost=$(LC_ALL=C comm -23 <(overlay_files) <(new_files))
	[ -z "$lost" ] || die "overlay files that no patch brings in (add a New-file: line, or commit them in the tree and run make refresh): $lost"
}

apply_one() {
	local patch=$1 prev=$2 n=$3 tmp=$4 name blob mode f tree
	name=$(basename "$patch")
	git mailinfo -k -b --no-scissors "$tmp/body" "$tmp/diff" <"$patch" >"$tmp/info"
	{
		sed -n 's/^Subject: //p' "$tmp/info" | sed 's/^\[PATCH[^]]*\] //'
		echo
		cat "$tmp/body"
	} >"$tmp/msg"

	if grep -q '^diff --git ' "$tmp/diff"; then
		tgit apply --cached --whitespace=nowarn "$tmp/diff" 2>"$tmp/err" ||
			die "patch $name does not apply; the tree is as it was. git says:
$(cat "$tmp/err")"
	fi
	while read -r f; do
		[ -f "$TOP/$f" ] || die "patch $name brings $f, which is not in this repository"
		tgit cat-file -e "$prev:$f" 2>/dev/null && die "patch $name brings $f, which the tree has already"
		mode=100644
		[ ! -x "$TOP/$f" ] || mode=100755
		blob=$(tgit hash-object -w --no-filters -- "$TOP/$f")
		tgit update-index --add --cacheinfo "$mode,$blob,$f"
	done < <(sed -n '/^diff --git /q; s/^New-file: //p' "$tmp/diff")

	tree=$(tgit write-tree)
	[ "$tree" != "$(tgit rev-parse "$prev^{tree}")" ] || die "patch $name changes nothing"
	export GIT_AUTHOR_DATE="$((1767225600 + n * 60)) +0000"
	export GIT_COMMITTER_DATE=$GIT_AUTHOR_DATE
	git stripspace <"$tmp/msg" | tgit commit-tree -p "$prev" "$tree"
}

apply_series() (
	ref=$1
	tmp=$(mktemp -d)
	trap 'rm -rf "$tmp"' EXIT
	check_ownership
	export GIT_INDEX_FILE=$tmp/index
	export GIT_AUTHOR_NAME=${AUTHOR_NAME:-$SERIES_NAME} GIT_AUTHOR_EMAIL=${AUTHOR_MAIL:-$SERIES_MAIL}
	export GIT_COMMITTER_NAME=$GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL=$GIT_AUTHOR_EMAIL
	head=$(tgit rev-parse 'refs/tags/base^{commit}')
	tgit read-tree "$head"
	n=0
	for patch in "$TOP"/patches/*.patch; do
		[ -e "$patch" ] || continue
		n=$((n + 1))
		head=$(apply_one "$patch" "$head" "$n" "$tmp")
	done
	tgit update-ref "$ref" "$head"
)
