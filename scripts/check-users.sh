#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The part of make check that looks at the rest of the kernel: drivers that the
# lab has no device for are compiled, never run. Each patch's files outside of
# LAB_DIRS at that patch, and after the last one every file that names a part of
# dma-buf's interface that the series changes. With W=1, in an object folder of
# allmodconfig for x86; what the base warns about already does not count. A file
# that allmodconfig leaves out is named.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source=scripts/apply.sh
. "$TOP/scripts/apply.sh"
# shellcheck source=scripts/worktree.sh
. "$TOP/scripts/worktree.sh"

[ "$ARCH" = x86 ] || die "ARCH=$ARCH: other architectures have no allmodconfig here"
obj=$BUILD/obj/check-users
log=$LOGS/check-users.log
USERS='dma_buf_(dynamic_)?attach\(|struct dma_buf_(attach_)?ops|dma_buf_(invalidate|move_notify)|dma_buf_mapping_'
mkdir -p "$obj"

# Checkers and debug information make compiling several times as long.
cat >"$obj/lab.fragment" <<EOF
CONFIG_COMPILE_TEST=y
CONFIG_WERROR=n
CONFIG_DEBUG_INFO_NONE=y
CONFIG_KASAN=n
CONFIG_KCSAN=n
CONFIG_KMSAN=n
CONFIG_UBSAN=n
CONFIG_GCOV_KERNEL=n
CONFIG_KCOV=n
CONFIG_RUST=n
CONFIG_HEADERS_INSTALL=n
CONFIG_MODULE_SIG=n
EOF

# Of a list of files, one a line: sources that the lab's own kernels leave out.
elsewhere() {
	grep -E '^(drivers|fs|kernel|lib|mm|net|sound)/.*\.c$' |
		grep -vE '^drivers/(dma-buf|iommu/iommufd|vfio)/([^/]+$|pci/[^/]+$|.*kunit|selftests/)' || true
}

# compile COMMIT FILE...: warnings and errors, without line numbers.
compile() {
	local commit=$1 f objects=()
	shift
	step_checkout "$commit"
	for f; do [ ! -f "$STEP/$f" ] || objects+=("${f%.c}.o"); done
	[ ${#objects[@]} -gt 0 ] || return 0
	(cd "$obj" && rm -f "${objects[@]}")
	if ! { KCONFIG_ALLCONFIG=$obj/lab.fragment make -C "$STEP" O="$obj" ARCH=x86 allmodconfig &&
		make -C "$STEP" O="$obj" ARCH=x86 -j"$JOBS" prepare modules_prepare; } >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		die "allmodconfig does not prepare"
	fi
	make -k -C "$STEP" O="$obj" ARCH=x86 -j"$JOBS" W=1 "${objects[@]}" >>"$log" 2>&1 || true
	for f in "${objects[@]}"; do
		[ -f "$obj/$f" ] || grep -q "${f%.o}\.c:.*error:" "$log" || echo "not built: ${f%.o}.c"
	done
	warnings "$log"
}

fail=0
judge() { # WHAT KNOWN FOUND
	local new
	new=$(LC_ALL=C comm -13 <(LC_ALL=C sort -u <<<"$2") <(LC_ALL=C sort -u <<<"$3") | sed '/^$/d')
	[ -n "$new" ] || { say "ok: the rest of the kernel: $1"; return 0; }
	say "$new"
	fail=$((fail + 1))
	say "FAILED: the rest of the kernel: $1"
}

last=$(tgit rev-parse HEAD)
declare -A of=()
commits=() all=()
for c in $(tgit rev-list --reverse "refs/tags/base..$last"); do
	of[$c]=$(tgit diff-tree -r --no-commit-id --name-only "$c" | elsewhere | tr '\n' ' ')
	[ -z "${of[$c]}" ] || commits+=("$c")
done
mapfile -t all < <({
	printf '%s ' "${of[@]}" | tr ' ' '\n'
	tgit grep -lE "$USERS" "$last" -- '*.c' | sed 's/^[^:]*://' | elsewhere
	tgit ls-tree -r --name-only "$last" drivers/vfio/pci | elsewhere
} | sed '/^$/d' | LC_ALL=C sort -u)

known=$(compile refs/tags/base "${all[@]}")
say "$(grep '^not built' <<<"$known" || true)"
for c in "${commits[@]}"; do
	# shellcheck disable=SC2086
	judge "$(tgit log -1 --format=%s "$c")" "$known" "$(compile "$c" ${of[$c]})"
done
judge "${#all[@]} files that use what the series changes" "$known" "$(compile "$last" "${all[@]}")"
[ $fail -eq 0 ]
