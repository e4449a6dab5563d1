# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# The series is made of topics: folders patches/NN-topic of mails, NNNN-*.patch
# from 0001 on, beside a cover letter, cover.txt (subject, empty line, text).
# Lexical order is the order in which they apply: what git am
# patches/*/*.patch does on the base. In the tree a topic is a branch of its
# folder's name, at its last commit.
#
# apply_series: turn patches/ into commits on top of refs/tags/base, one a
# patch, and print "TOPIC COMMIT" for each, COMMIT being the topic's last.
#
# The commits are made in a private index. No work tree and no reference is
# touched: there is no half-done state. Identity and dates are fixed, so the
# same patches make the same commit ids everywhere.

SERIES_NAME='Revocable device memory series'
SERIES_MAIL='series@localhost'

# What a reader can be sent at once.
TOPIC_MAX=15

# The topics of patches/, in order.
topics() {
	find "$TOP/patches" -mindepth 1 -maxdepth 1 -type d -name '[0-9][0-9]-*' -printf '%f\n' | LC_ALL=C sort
}

# The topics that TOPIC= means, by name or number: all when it is not set.
wanted_topics() {
	local found
	[ -n "${TOPIC:-}" ] || { topics; return; }
	found=$(topics | grep -xE -- "$TOPIC|$TOPIC-.*") || die "TOPIC=$TOPIC: patches/ has $(topics | tr '\n' ' ')"
	printf '%s\n' "$found"
}

# Branches of the tree that are topics.
topic_branches() {
	tgit for-each-ref --format='%(refname:short) %(objectname)' 'refs/heads/[0-9][0-9]-*' | LC_ALL=C sort
}

# Every file that the patches bring in.
new_files() {
	find "$TOP/patches" -name '*.patch' -print0 | xargs -r0 awk '
		/^diff --git / { f = $NF; sub(/^b\//, "", f) }
		/^new file mode / { print f }' | LC_ALL=C sort -u
}

# Folders and names are as git am will see them.
check_layout() {
	local topic patch n lost
	lost=$(find "$TOP/patches" -name '*.patch' -printf '%P\n' | grep -vE '^[0-9]{2}-[^/]+/[0-9]{4}-[^/]+\.patch$' || true)
	[ -z "$lost" ] || die "patches/ has patches that are in no topic, or have no number: $lost"
	for topic in $(topics); do
		n=0
		for patch in "$TOP/patches/$topic"/*.patch; do
			[ -e "$patch" ] || die "patches/$topic has no patch"
			n=$((n + 1))
			[[ $(basename "$patch") == "$(printf '%04d' $n)"-* ]] ||
				die "patches/$topic: where number $n is expected there is $(basename "$patch")"
		done
		[ $n -le $TOPIC_MAX ] || die "patches/$topic has $n patches; $TOPIC_MAX are the limit"
	done
}

apply_one() {
	local patch=$1 prev=$2 n=$3 tmp=$4 name tree
	name=${patch#"$TOP"/patches/}
	git mailinfo --no-scissors "$tmp/body" "$tmp/diff" <"$patch" >"$tmp/info"
	{
		sed -n 's/^Subject: //p' "$tmp/info"
		echo
		cat "$tmp/body"
	} >"$tmp/msg"
	tgit apply --cached --whitespace=nowarn "$tmp/diff" 2>"$tmp/err" ||
		die "patch $name does not apply; the tree is as it was. git says:
$(cat "$tmp/err")"
	tree=$(tgit write-tree)
	[ "$tree" != "$(tgit rev-parse "$prev^{tree}")" ] || die "patch $name changes nothing"
	export GIT_AUTHOR_DATE="$((1767225600 + n * 60)) +0000"
	export GIT_COMMITTER_DATE=$GIT_AUTHOR_DATE
	git stripspace <"$tmp/msg" | tgit commit-tree -p "$prev" "$tree"
}

apply_series() (
	tmp=$(mktemp -d)
	trap 'rm -rf "$tmp"' EXIT
	check_layout
	export GIT_INDEX_FILE=$tmp/index
	export GIT_AUTHOR_NAME=${AUTHOR_NAME:-$SERIES_NAME} GIT_AUTHOR_EMAIL=${AUTHOR_MAIL:-$SERIES_MAIL}
	export GIT_COMMITTER_NAME=$GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL=$GIT_AUTHOR_EMAIL
	head=$(tgit rev-parse 'refs/tags/base^{commit}')
	tgit read-tree "$head"
	n=0
	for topic in $(topics); do
		for patch in "$TOP/patches/$topic"/*.patch; do
			n=$((n + 1))
			head=$(apply_one "$patch" "$head" "$n" "$tmp")
		done
		echo "$topic $head"
	done
)

# series_files COMMIT: the files that the series adds to the base.
series_files() {
	tgit diff-tree -r --no-renames --diff-filter=A --name-only refs/tags/base "$1"
}

# What make tree and make refresh leave behind: patches/, HEAD and the topics
# belong together.
write_stamp() {
	echo "$(series_hash) $(tgit rev-parse HEAD) $(topics_hash)"
}
topics_hash() { topic_branches | sha256sum | cut -c 1-16; }
