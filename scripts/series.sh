#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make series [TOPIC=NN-topic]: the mails to send, a folder in build/series for
# each topic, under the name and with the Signed-off-by of git config, To and
# Cc as the kernel's get_maintainer.pl says. The cover letter is the topic's
# cover.txt: subject, empty line, text. REROLL=2 makes a v2, RFC=1 an RFC.
#
# The tree's base is a commit that exists only here. BASE_COMMIT= is the
# public one to name in the mails; when the tree was made from a git repository
# (KERNEL_SRC=), that repository's commit is named. The patches of the topics
# below appear as prerequisites either way.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source=scripts/apply.sh
. "$TOP/scripts/apply.sh"

AUTHOR_NAME=$(git -C "$TOP" config user.name) || die "git config user.name is not set"
AUTHOR_MAIL=$(git -C "$TOP" config user.email) || die "git config user.email is not set"
export GIT_COMMITTER_NAME=$AUTHOR_NAME GIT_COMMITTER_EMAIL=$AUTHOR_MAIL
want=$(wanted_topics)
[ -n "$want" ] || die "there are no patches"
BASE_COMMIT=${BASE_COMMIT:-$(tgit config --get series.upstream || true)}
[ -z "$BASE_COMMIT" ] || [[ $BASE_COMMIT =~ ^[0-9a-f]{40}$ ]] || die "BASE_COMMIT=$BASE_COMMIT: 40 hex digits"
for topic in $want; do
	[ -f "$TOP/patches/$topic/cover.txt" ] || die "no patches/$topic/cover.txt"
done

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
apply_series >"$tmp/list"

# readers MAIL: "To: someone" and "Cc: someone" lines. Maintainers are asked,
# reviewers and lists are told.
readers() {
	(cd "$TREE" && perl scripts/get_maintainer.pl --no-git --no-git-fallback --rolestats "$1") |
		sed -nE -e 's/^(.*) \((maintainer|supporter|odd fixer)[^()]*(\(.*\)[^()]*)?\)$/To: \1/p' -e t \
			-e 's/^(.*) \([^()]*(\(.*\)[^()]*)?\)$/Cc: \1/p'
}

# address MAIL READERS: put them into its head, one header of each kind, and
# the base where format-patch named the private one. Who is asked is not told.
address() {
	LC_ALL=C awk -v base="$BASE_COMMIT" '
		FNR == NR {
			kind = substr($0, 1, 2); who = substr($0, 5)
			if ((kind, who) in seen || (("To", who) in seen)) next
			seen[kind, who]
			list[kind] = list[kind] (list[kind] == "" ? kind ": " : ",\n    ") who
			next
		}
		/^$/ && !body {
			if (list["To"] != "") print list["To"]
			if (list["Cc"] != "") print list["Cc"]
			body = 1
		}
		/^base-commit: / { if (base != "") print "base-commit: " base; next }
		{ print }' <(LC_ALL=C sort -ru "$2") "$1" >"$1.new"
	mv "$1.new" "$1"
}

mails() { # TOPIC FROM TO
	local topic=$1 from=$2 to=$3 out=$BUILD/series/$1 cover=$TOP/patches/$1/cover.txt mail letter
	local args=(--signoff --cover-letter --base=refs/tags/base --abbrev=12 -o "$out")
	[ -z "${REROLL:-}" ] || args+=(-v "$REROLL")
	[ -z "${RFC:-}" ] || args+=(--rfc)
	rm -rf "$out"
	mkdir -p "$out"
	tgit -c user.name="$AUTHOR_NAME" -c user.email="$AUTHOR_MAIL" format-patch -q "${args[@]}" "$from..$to"
	letter=$(find "$out" -name '*0000-cover-letter.patch')
	awk -v cover="$cover" '
		/\*\*\* SUBJECT HERE \*\*\*/ { getline s < cover; i = index($0, "*** SUBJECT"); print substr($0, 1, i - 1) s; next }
		/\*\*\* BLURB HERE \*\*\*/ { getline l < cover; while ((getline l < cover) > 0) print l; next }
		{ print }' "$letter" >"$letter.new"
	mv "$letter.new" "$letter"
	: >"$tmp/all"
	for mail in "$out"/*.patch; do
		[ "$mail" != "$letter" ] || continue
		readers "$mail" >"$tmp/readers"
		grep -q '^To: ' "$tmp/readers" || warn "${mail#"$BUILD"/}: get_maintainer.pl names nobody to send it to"
		cat "$tmp/readers" >>"$tmp/all"
		address "$mail" "$tmp/readers"
	done
	address "$letter" "$tmp/all"
	say "series: $topic: $(find "$out" -name '*.patch' | wc -l) mails in ${out#"$TOP"/}"
}

prev=refs/tags/base
while read -r topic end; do
	! grep -qxF -- "$topic" <<<"$want" || mails "$topic" "$prev" "$end"
	prev=$end
done <"$tmp/list"
[ -n "$BASE_COMMIT" ] ||
	warn "the mails name no base-commit: the public id of Linux $KVER is not known here. BASE_COMMIT= names it"
