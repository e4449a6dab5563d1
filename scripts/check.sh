#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make check: what a reviewer runs. checkpatch --strict on each patch,
# kernel-doc on the new files, then a build of every step of the series with
# W=1 and sparse: a step that does not build, or that warns where the base
# does not, is an error. FAST=1 leaves the builds out, FULL=1 builds and links
# the whole kernel at each step rather than the folders the series is about.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source=scripts/apply.sh
. "$TOP/scripts/apply.sh"
# shellcheck source=scripts/config.sh
. "$TOP/scripts/config.sh"
# shellcheck source=scripts/worktree.sh
. "$TOP/scripts/worktree.sh"

fail=0
complain() { fail=$((fail + 1)); say "FAILED: $*"; }
mapfile -t commits < <(tgit rev-list --reverse refs/tags/base..HEAD)
[ ${#commits[@]} -gt 0 ] || { say "check: no patches"; exit 0; }

# MAINTAINERS of the kernel is not part of the series: its entry is in this
# repository (FILE_PATH_CHANGES). The sign-off is made up by make series.
for c in "${commits[@]}"; do
	s=$(tgit log -1 --format=%s "$c")
	if ! out=$(tgit format-patch -1 --stdout "$c" | (cd "$TREE" && perl scripts/checkpatch.pl \
		--strict --quiet --show-types --ignore FILE_PATH_CHANGES,MISSING_SIGN_OFF,NO_AUTHOR_SIGN_OFF - 2>&1)); then
		printf '%s\n' "$out" >&2
		complain "checkpatch --strict: $s"
	else
		say "ok: checkpatch: $s"
	fi
done

new=()
while read -r f; do new+=("$TREE/$f"); done < <(tgit diff --no-renames --diff-filter=A --name-only refs/tags/base HEAD -- '*.[ch]' ':!tools/')
if [ ${#new[@]} -gt 0 ]; then
	kdoc=$(find "$TREE/scripts" "$TREE/tools/docs" -maxdepth 1 \( -name kernel-doc -o -name kernel-doc.py \) 2>/dev/null | head -n 1)
	out=$("$kdoc" -none -Wall "${new[@]}" 2>&1) || true
	[ -z "$out" ] && say "ok: kernel-doc of ${#new[@]} files" || { say "$out"; complain "kernel-doc"; }
fi

warnings() { # of a log, without line numbers
	{ grep -E '(warning|error): ' "$1" || true; } | sed -E "s,($STEP/|(\.\./)+),,g; s/:[0-9]+(:[0-9]+)?:/:/g" | LC_ALL=C sort -u
}

if [ -z "${FAST:-}" ]; then
	obj=$BUILD/obj/check-$ARCH
	targets=("${LAB_DIRS[@]}")
	[ -z "${FULL:-}" ] || targets=(all)
	# Debian's sparse (0.6.4) does not know this word, so that the kernel
	# leaves it out, without failing. What __typeof__ gets wrong instead
	# it gets wrong on the base as well.
	sparse='sparse -D__typeof_unqual__=__typeof__'
	command -v sparse >/dev/null || die "sparse is not installed"
	step_checkout refs/tags/base
	known=$obj/known-warnings
	n=0
	for c in base "${commits[@]}"; do
		[ "$c" = base ] && step_checkout refs/tags/base || step_checkout "$c"
		log=$LOGS/check-$n.log
		TREE=$STEP make_config "$obj" "$ARCH" "$TOP"/lab/config/{base,"$ARCH",feature}.config 2>/dev/null ||
			{ complain "configuration of step $n"; n=$((n + 1)); continue; }
		# The base is built from nothing for the record, once.
		if [ "$c" = base ] && [ -f "$known" ]; then
			n=$((n + 1))
			continue
		fi
		if ! step_make "$obj" "$log" W=1 C=1 CHECK="$sparse" "${targets[@]}"; then
			complain "step $n does not build: $(git -C "$STEP" log -1 --format=%s)"
		elif grep -q 'is not available or not up to date' "$log"; then
			die "sparse did not run: see $log"
		elif [ "$c" = base ]; then
			warnings "$log" >"$known"
		else
			more=$(LC_ALL=C comm -13 "$known" <(warnings "$log"))
			[ -z "$more" ] || { say "$more"; complain "new warnings in step $n: $(git -C "$STEP" log -1 --format=%s)"; }
		fi
		n=$((n + 1))
	done
fi

[ $fail -eq 0 ] || die "check: $fail complaints"
say "check: ${#commits[@]} patches, nothing to complain about${FAST:+ (FAST: not built)}"
