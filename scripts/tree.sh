#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make tree: obtain the pinned kernel, put the series on it as one commit per
# patch and one branch per topic. KERNEL_SRC= takes a tarball, a source tree or
# a git repository instead of the network. Where the mirror has another version
# than the pinned one it stops, unless ALLOW_OTHER=1. Work in the tree that
# refresh has not taken back is never overwritten, unless FORCE=1.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source=scripts/apply.sh
. "$TOP/scripts/apply.sh"

STAMP=$TREE/.git/series-stamp

download() {
	local dl=$BUILD/dl opts version
	local deb="$dl/$KPKG.deb"
	mkdir -p "$dl"
	if [ -f "$dl/$KPKG.tar.xz" ]; then
		echo "$dl/$KPKG.tar.xz"
		return
	fi
	say "==> fetching $KPKG $KPKGVER from $KSUITE"
	mapfile -t opts < <(apt_private "$dl/apt" "$KSUITE")
	apt-get "${opts[@]}" -qq update >&2 || die "apt-get update failed"
	version=$KPKGVER
	if ! apt-cache "${opts[@]}" madison "$KPKG" | grep -qF "$version"; then
		version=$(apt-cache "${opts[@]}" madison "$KPKG" | awk 'NR == 1 { print $3 }')
		[ -n "$version" ] || die "the mirror has no $KPKG; use KERNEL_SRC="
		[ "${ALLOW_OTHER:-}" = 1 ] ||
			die "the mirror has $KPKG $version, not $KPKGVER, which the series is made for and whose checksum is known. ALLOW_OTHER=1 takes it all the same, unchecked; KERNEL_SRC= takes a source from elsewhere"
		warn "$KPKG $KPKGVER has been superseded: taking $version, which is not checked against the pinned checksum"
		KSHA256=
	fi
	(cd "$dl" && rm -f "$KPKG"_*.deb && apt-get "${opts[@]}" -q download "$KPKG=$version" >&2) ||
		die "cannot fetch $KPKG $version"
	mv "$dl/$KPKG"_*.deb "$deb"
	dpkg-deb --fsys-tarfile "$deb" | tar -xO "./usr/src/$KPKG.tar.xz" >"$dl/part"
	if [ -n "$KSHA256" ]; then
		echo "$KSHA256  $dl/part" | sha256sum -c --quiet >&2 || die "$KPKG $version: wrong checksum"
	fi
	mv "$dl/part" "$dl/$KPKG.tar.xz"
	rm -f "$deb"
	echo "$dl/$KPKG.tar.xz"
}

# Unpack whatever KERNEL_SRC is into DIR.
unpack() {
	local dir=$1 src=${KERNEL_SRC:-} rev
	[ -n "$src" ] || src=$(download)
	[ -e "$src" ] || die "KERNEL_SRC=$src does not exist"
	if [ -f "$src" ]; then
		say "==> unpacking $src"
		tar -xf "$src" -C "$dir" --strip-components=1
	elif git -C "$src" rev-parse --git-dir >/dev/null 2>&1 &&
	     [ -z "$(git -C "$src" rev-parse --show-prefix)" ]; then
		rev=${KERNEL_REV:-}
		[ -n "$rev" ] || rev=$(git -C "$src" rev-parse -q --verify "refs/tags/v$KVER" ||
				       git -C "$src" rev-parse -q --verify refs/tags/base || echo HEAD)
		say "==> taking $rev of $src"
		git -C "$src" archive "$rev" | tar -x -C "$dir"
		# What make series can name as the base, if that is a public commit.
		git -C "$src" rev-parse "$rev^{commit}" >"$dir.upstream"
	else
		say "==> copying $src"
		tar -C "$src" --exclude=./.git -cf - . | tar -xf - -C "$dir"
	fi
}

make_base() {
	local tmp=$TREE.part version
	[ ! -e "$TREE" ] || die "$TREE exists and has no tag base: remove it first"
	rm -rf "$tmp" "$tmp.upstream"
	mkdir -p "$tmp"
	unpack "$tmp"
	[ -f "$tmp/Kbuild" ] || die "that is no kernel source"
	version=$(awk '/^(VERSION|PATCHLEVEL|SUBLEVEL) =/ { v = v sep $3; sep = "." } /^NAME/ { exit } END { print v }' "$tmp/Makefile")
	[ "$version" = "$KVER" ] || warn "this is Linux $version; the series is made for $KVER"
	# Debian's source package ignores every file but debian/: new files
	# would be invisible to git.
	[ ! -f "$tmp/.gitignore" ] || sed -i -e '\,^/\*$,d' -e '\,^!/debian/$,d' "$tmp/.gitignore"
	say "==> making the base commit"
	git -C "$tmp" init -q -b series
	git -C "$tmp" config gc.auto 0
	git -C "$tmp" config core.looseCompression 0
	git -C "$tmp" -c core.looseCompression=0 add -A -f
	GIT_AUTHOR_NAME=$SERIES_NAME GIT_AUTHOR_EMAIL=$SERIES_MAIL \
	GIT_COMMITTER_NAME=$SERIES_NAME GIT_COMMITTER_EMAIL=$SERIES_MAIL \
	GIT_AUTHOR_DATE='1767225600 +0000' GIT_COMMITTER_DATE='1767225600 +0000' \
		git -C "$tmp" commit -q --no-verify -m "Linux $version"
	git -C "$tmp" tag base
	[ ! -f "$tmp.upstream" ] || git -C "$tmp" config series.upstream "$(cat "$tmp.upstream")"
	rm -f "$tmp.upstream"
	mv "$tmp" "$TREE"
}

[ -e "$TREE/.git" ] && tgit rev-parse -q --verify refs/tags/base >/dev/null || make_base

# A linked work tree has a .git file: keep the stamp with the real folder.
STAMP=$(tgit rev-parse --absolute-git-dir)/series-stamp
want=$(series_hash)
head=$(tgit rev-parse HEAD)
have_hash='' have_head='' have_topics=''
[ ! -f "$STAMP" ] || read -r have_hash have_head have_topics <"$STAMP" || true

if [ "$want $head $(topics_hash)" = "$have_hash $have_head $have_topics" ]; then
	say "tree: up to date (${TREE#"$TOP"/}, $(tgit rev-list --count refs/tags/base..HEAD) patches)"
	exit 0
fi

# Whatever make tree or make refresh did not leave here is somebody's work.
if [ -z "${FORCE:-}" ]; then
	[ "$head" = "$have_head" ] || [ "$head" = "$(tgit rev-parse 'refs/tags/base^{commit}')" ] ||
		die "the tree has commits that are not in patches/: make refresh takes them back, FORCE=1 drops them"
	[ -z "$have_topics" ] || [ "$(topics_hash)" = "$have_topics" ] ||
		die "the tree's topics (branches NN-name) are not those of patches/: make refresh takes them back, FORCE=1 drops them"
	[ -z "$(tgit status --porcelain)" ] ||
		die "the tree has uncommitted work (git -C ${TREE#"$TOP"/} status): commit it and make refresh, or FORCE=1 drops it"
fi

list=$(mktemp)
trap 'rm -f "$list"' EXIT
apply_series >"$list"
new=$(tail -n 1 "$list" | cut -d ' ' -f 2)
[ -n "$new" ] || new=$(tgit rev-parse 'refs/tags/base^{commit}')
# Writes only the files that differ: what was built from the others stays built.
tgit reset -q --hard "$new"
[ -z "${FORCE:-}" ] || tgit clean -qfd -- "${OVERLAY_DIRS[@]}"
gone='s,^\([^ ]*\) .*,delete refs/heads/\1,'
{
	topic_branches | sed "$gone" | grep -vxFf <(sed "$gone" "$list") || true
	sed 's,^,update refs/heads/,' "$list"
} | tgit update-ref --stdin
# So that a rebase takes the topics' branches along.
tgit config rebase.updateRefs true
write_stamp >"$STAMP"

# The added files of the repository are for readers: the patches count.
while read -r f; do
	[ -f "$TOP/$f" ] && tgit cat-file blob "HEAD:$f" | cmp -s - "$TOP/$f" ||
		warn "$f is not what the patches make of it: make refresh writes it"
done < <(series_files HEAD)
say "tree: $(wc -l <"$list") topics, $(tgit rev-list --count refs/tags/base..HEAD) patches on Linux $KVER in ${TREE#"$TOP"/}"
