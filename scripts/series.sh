#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make series: the mails to send, in build/series, under the name and with
# the Signed-off-by of git config. The cover letter is patches/cover.txt:
# subject, empty line, text. REROLL=2 makes a v2, RFC=1 an RFC.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source=scripts/apply.sh
. "$TOP/scripts/apply.sh"

out=${1:-$BUILD/series}
cover=$TOP/patches/cover.txt
AUTHOR_NAME=$(git -C "$TOP" config user.name) || die "git config user.name is not set"
AUTHOR_MAIL=$(git -C "$TOP" config user.email) || die "git config user.email is not set"
[ -n "$(find "$TOP/patches" -name '*.patch')" ] || die "there are no patches"
[ -f "$cover" ] || die "no patches/cover.txt"

apply_series refs/series/send
rm -rf "$out"
mkdir -p "$out"
export GIT_COMMITTER_NAME=$AUTHOR_NAME GIT_COMMITTER_EMAIL=$AUTHOR_MAIL
args=(--signoff --cover-letter --base=refs/tags/base -o "$out")
[ -z "${REROLL:-}" ] || args+=(-v "$REROLL")
[ -z "${RFC:-}" ] || args+=(--rfc)
tgit -c user.name="$AUTHOR_NAME" -c user.email="$AUTHOR_MAIL" format-patch -q "${args[@]}" refs/tags/base..refs/series/send
tgit update-ref -d refs/series/send

letter=$(find "$out" -name '*0000-cover-letter.patch')
awk -v cover="$cover" '
	/\*\*\* SUBJECT HERE \*\*\*/ { getline s < cover; sub(/\*\*\* SUBJECT HERE \*\*\*/, s) ; print; next }
	/\*\*\* BLURB HERE \*\*\*/ { getline l < cover; while ((getline l < cover) > 0) print l; next }
	{ print }' "$letter" >"$letter.new"
mv "$letter.new" "$letter"
say "series: $(find "$out" -name '*.patch' | wc -l) mails in ${out#"$TOP"/}; each one's readers:"
say "  cd ${TREE#"$TOP"/} && scripts/get_maintainer.pl ${out}/*.patch"
