#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make check [TOPIC=NN-topic]: what a reviewer runs. checkpatch --strict on
# each patch; kernel-doc, the documentation's syntax and MAINTAINERS for the
# files it touches; then a build of every step, on all that is below it, with
# W=1 and sparse: a step that does not build, or that warns where the base does
# not, is an error. Without TOPIC= the whole kernel and the selftests are
# linked at the end, and drivers that use what the series changes are compiled
# (check-users.sh). FAST=1 leaves the builds out, FULL=1 builds the whole
# kernel at each step rather than the folders the series is about.

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
below=refs/tags/base commits=()
topic_list=$(wanted_topics)
while read -r topic end; do
	if grep -qxF -- "$topic" <<<"$topic_list"; then
		mapfile -t -O ${#commits[@]} commits < <(tgit rev-list --reverse "$below..$end")
	fi
	below=$end
done < <(topic_branches)
[ ${#commits[@]} -gt 0 ] || { say "check: no patches"; exit 0; }

# What checkpatch gets wrong: its type of complaint, the file, the line; the
# last two are regular expressions. Anything else it says is an error.
EXCEPTIONS=(
	# Types of the kselftest harness. checkpatch takes FIXTURE_DATA(x) for a
	# call and the asterisk behind it for a multiplication.
	'SPACING|^tools/testing/selftests/|FIXTURE_(DATA|VARIANT)\([a-z0-9_]+\) \*'
	# The parts of a trace event are lists of statements, laid out like a
	# block in every trace header of the kernel.
	'OPEN_ENDED_LINE|^include/trace/events/|^\+	TP_(STRUCT__entry|fast_assign)\($'
	'PARENTHESIS_ALIGNMENT|^include/trace/events/|^\+(DECLARE_EVENT_CLASS|DEFINE_EVENT|TRACE_EVENT)\('
	# Test programs: macros that return from a case are how the harness skips,
	# and those that make variants use their arguments more than once. Device
	# memory is volatile, as what a signal handler sets. "unbind" is a file.
	'MACRO_WITH_FLOW_CONTROL|^tools/testing/selftests/|^\+#define SKIP_IF'
	'MULTISTATEMENT_MACRO_USE_DO_WHILE|^tools/testing/selftests/|^\+#define RACE_VARIANT\('
	'MACRO_ARG_REUSE|^tools/testing/selftests/|^\+#define (RACE_VARIANT|POINTS)\('
	'VOLATILE|^tools/testing/selftests/|volatile'
	'EMBEDDED_FUNCTION_NAME|^tools/testing/selftests/|driver/unbind|see mappings of'
	'MACRO_ARG_REUSE|^tools/testing/selftests/vfio/|^\+#define EXPECT_(PRIVATE|SHARED)\('
	'COMPLEX_MACRO|^tools/testing/selftests/kvm/|^\+#define CELL'
	'BIT_MACRO|^tools/testing/selftests/|^\+#define (GUEST_SIP_SSIP|GMEM_STEP_DEFAULT)'
	'OPEN_ENDED_LINE|^tools/testing/selftests/iommu/|test_cmd_get_dirty_bitmap\($'
	# ASSERT_GT() of the harness ends in a loop of its own.
	'BRACES|^tools/testing/selftests/vfio/vfio_pci_dmabuf_busy_test\.c|^\+	while \(!ret && '
	# What KVM_RUN says of an access that it cannot emulate.
	'ENOSYS|^tools/testing/selftests/kvm/|errno, ENOSYS'
	# Lines that a patch moves, or that do as their neighbours do.
	'PREFER_DEFINED_ATTRIBUTE_MACRO|^tools/testing/selftests/iommu/iommufd_utils\.h|mfd'
	'OPEN_ENDED_LINE|^drivers/vfio/vfio_main\.c|vfio_ioctl_device_feature_'
	# A function that an architecture has, and the macro that says so.
	'LINE_SPACING|/include/asm/kvm_host\.h|^\+}$'
	# The tree begins with a release, and has none of the commits before it.
	'UNKNOWN_COMMIT_ID|^$|'
	# User space includes this header, and has no BIT_ULL().
	'BIT_MACRO|^drivers/iommu/iommufd/iommufd_test\.h|1ULL << '
)

# Bugs for stable whose commit could not be verified. An id is not made up for them.
NO_FIXES=(
	'PCI/AER: Make inject_lock a raw spinlock'
	'RISC-V: KVM: Flush TLBs before mmu_lock is dropped'
	'RISC-V: KVM: Build without the vector extension'
)

# checkpatch's output without the exceptions and the totals.
complaints() {
	printf '%s\n' "${EXCEPTIONS[@]}" | awk '
		FNR == NR { n++; split($0, f, "|"); type[n] = f[1]; file[n] = f[2]
			line[n] = substr($0, length(f[1] f[2]) + 3); next }
		function flush(   i, t, p) {
			split(head, t, ":")
			for (i = 1; i <= n; i++)
				if (t[2] == type[i] && path ~ file[i] && code ~ line[i])
					text = ""
			printf "%s", text
			text = head = path = code = ""
		}
		/^total: / { next }
		/^(ERROR|WARNING|CHECK):[A-Z_]+: / { flush(); head = $0 }
		/^#[0-9]+: FILE: / { path = $3; sub(/:[0-9]+:?$/, "", path) }
		/^\+/ && code == "" { code = $0 }
		/./ { text = text $0 "\n" }
		END { flush() }' - <(printf '%s\n' "$1")
}

# MAINTAINERS of the kernel is not part of the series: its entry is in this
# repository (FILE_PATH_CHANGES). The sign-off is made up by make series. The
# modules that spdxcheck needs are those of Debian's python, hence the PATH.
check_patch() {
	local out rc=0 ignore=FILE_PATH_CHANGES,MISSING_SIGN_OFF,NO_AUTHOR_SIGN_OFF
	! printf '%s\n' "${NO_FIXES[@]}" | grep -qxF -- "$(tgit log -1 --format=%s "$1")" ||
		ignore+=,MISSING_FIXES_TAG
	out=$(tgit format-patch -1 --stdout "$1" | (cd "$TREE" &&
		PATH=/usr/bin:$PATH perl scripts/checkpatch.pl --strict --quiet \
		--show-types --ignore "$ignore" - 2>&1)) || rc=$?
	[ $rc -le 1 ] || { printf '%s\n' "$out"; return 1; }
	out=$(complaints "$out")
	[ -z "$out" ] || { printf '%s\n' "$out"; return 1; }
}

for c in "${commits[@]}"; do
	s=$(tgit log -1 --format=%s "$c")
	if out=$(check_patch "$c"); then
		say "ok: checkpatch: $s"
	else
		say "$out"
		complain "checkpatch --strict: $s"
	fi
done

# What the patches touch, as it is after the last of them. What was there
# before is to be no worse than it was.
last=${commits[-1]}
touched() { # PATHSPEC...
	for c in "${commits[@]}"; do
		tgit diff-tree -r --no-renames --no-commit-id --name-only "$c" -- "$@"
	done | LC_ALL=C sort -u | while read -r f; do
		! tgit cat-file -e "$last:$f" 2>/dev/null || echo "$f"
	done
}

# no_worse WHAT FILE... -- COMMAND...: the command says of each file, given to
# it by its path in a folder, what is wrong with it. Line numbers do not count.
no_worse() {
	local what=$1 files=() f out bad=0
	shift
	while [ "$1" != -- ]; do files+=("$1"); shift; done
	shift
	[ ${#files[@]} -gt 0 ] || return 0
	for f in "${files[@]}"; do
		mkdir -p "$tmp/new/$(dirname "$f")" "$tmp/old/$(dirname "$f")"
		tgit cat-file blob "$last:$f" >"$tmp/new/$f"
		tgit cat-file blob "refs/tags/base:$f" >"$tmp/old/$f" 2>/dev/null || rm -f "$tmp/old/$f"
		out=$(cd "$tmp/new" && "$@" "$f" 2>&1) || true
		[ -n "$out" ] || continue
		if [ -f "$tmp/old/$f" ]; then
			out=$(awk '{ k = $0; gsub(/:[0-9]+/, "", k) } FILENAME == ARGV[1] { old[k]++; next } old[k]-- <= 0' \
				<(cd "$tmp/old" && "$@" "$f" 2>&1 || true) <(printf '%s\n' "$out"))
		fi
		[ -z "$out" ] || { say "$out"; bad=1; }
	done
	[ $bad -eq 0 ] && say "ok: $what of ${#files[@]} files" || complain "$what"
}

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
kdoc=$(find "$TREE/scripts" "$TREE/tools/docs" -maxdepth 1 \( -name kernel-doc -o -name kernel-doc.py \) 2>/dev/null | head -n 1)
mapfile -t files < <(touched '*.[ch]' ':!tools/')
# VFIO's UAPI header opens every comment as if it were kernel-doc.
kernel_doc() {
	"$kdoc" -none -Wall "$1" 2>&1 | if [ "$1" = include/uapi/linux/vfio.h ]; then
		sed "/This comment starts with '\/\*\*', but isn't a kernel-doc/,+1d
			/cannot understand function prototype: 'struct vfio_/d"
	else cat; fi
}
no_worse kernel-doc "${files[@]}" -- kernel_doc
mapfile -t files < <(touched '*.rst')
no_worse "syntax of the documentation" "${files[@]}" -- /usr/bin/python3 "$TOP/scripts/rstcheck.py"

# get_maintainer.pl is to name somebody who knows the file, by the
# MAINTAINERS that the series leaves behind.
unmaintained() {
	local catch_all=$'THE REST\nDOCUMENTATION\nKERNEL SELFTEST FRAMEWORK\nTRACING' f
	mkdir -p "$tmp/lk/scripts"
	tgit archive "$last" MAINTAINERS scripts/get_maintainer.pl .get_maintainer.ignore .mailmap \
		COPYING CREDITS Kbuild Makefile README | tar -x -C "$tmp/lk"
	# It looks for these to tell that it is in a kernel.
	mkdir -p "$tmp"/lk/{Documentation,arch,include,drivers,fs,init,ipc,kernel,lib,scripts}
	cd "$tmp/lk"
	while read -r f; do
		mkdir -p "$(dirname "$f")"
		tgit cat-file blob "$last:$f" >"$f"
		perl scripts/get_maintainer.pl --no-git --no-git-fallback --no-m --no-r --no-l --sections -f "$f" 2>&1 |
			grep -vE '^([A-Z]:.*)?$' | grep -qvxF "$catch_all" || echo "$f"
	done
}
mapfile -t files < <(touched . | while read -r f; do tgit cat-file -e "refs/tags/base:$f" 2>/dev/null || echo "$f"; done)
out=
[ ${#files[@]} -eq 0 ] || out=$(printf '%s\n' "${files[@]}" | unmaintained)
[ -z "$out" ] && say "ok: MAINTAINERS has ${#files[@]} new files" || complain "no section of the kernel's MAINTAINERS has:
$out"

# Drop the objects that were made from a file which was warned about, or the
# next build would not mention it again.
forget() { # WARNINGS
	local f cmd
	cut -d : -f 1 <<<"$1" | LC_ALL=C sort -u | while read -r f; do
		(cd "$obj" && grep -rlF --include='.*.cmd' "/$f" "${LAB_DIRS[@]}" virt/kvm 2>/dev/null || true) |
			while read -r cmd; do
				cmd=$obj/$cmd
				rm -f "$cmd" "${cmd%/*}/$(basename "${cmd%.cmd}" | cut -c 2-)"
			done
	done
}

# build_step COMMIT: what is wrong with it, as text; nothing if nothing is.
build_step() {
	local c=$1 log=$LOGS/check-step.log new
	step_checkout "$c"
	if ! (TREE=$STEP make_config "$obj" "$ARCH" "${fragments[@]}") >"$log" 2>&1; then
		cat "$log"
		return
	fi
	if ! step_make "$obj" "$log" W=1 C=1 CHECK="$sparse" "${targets[@]}"; then
		echo "does not build"
		grep -E '(error|undefined reference)' "$log" | head -n 20 || true
		return
	fi
	! grep -q 'is not available or not up to date' "$log" || die "sparse did not run: see $log"
	new=$(warnings "$log")
	if [ "$c" != refs/tags/base ]; then
		new=$(LC_ALL=C comm -13 "$known" <(printf '%s\n' "$new") | sed '/^$/d')
		[ -z "$new" ] || forget "$new"
	fi
	[ -z "$new" ] || printf '%s\n' "$new"
	[ "$c" = refs/tags/base ] || tgit diff --quiet "$c^" "$c" -- tools/testing/selftests ||
		step_selftests 2>/dev/null || { rm -rf "$SELFTESTS_STEP"; step_selftests; } ||
		echo "the selftests do not build"
}

# What is left of a later step may name headers that this one does not have yet:
# then once more, from nothing.
SELFTESTS_STEP=$BUILD/selftests/check-$ARCH
step_selftests() {
	TREE=$STEP SELFTESTS=$SELFTESTS_STEP "$TOP/scripts/selftests.sh" --there >/dev/null
}

# A step that was built is not built again: what came out is kept under the
# name of its tree. To change one patch costs its own build and those of the
# patches behind it, and of these only what the change touches.
if [ -z "${FAST:-}" ]; then
	obj=$BUILD/obj/check-$ARCH
	mapfile -t fragments < <(config_fragments "$ARCH")
	for f in "$TOP/lab/config/check.config" "$TOP/lab/config/debug-$ARCH.config"; do
		[ ! -f "$f" ] || fragments+=("$f")
	done
	targets=("${LAB_DIRS[@]}")
	[ -z "${FULL:-}" ] || targets=(all)
	# Debian's sparse (0.6.4) does not know the first word, so that the kernel
	# leaves it out, without failing. What __typeof__ gets wrong instead
	# it gets wrong on the base as well. Nor does it know that the second is
	# constant, which MODULE_LICENSE() and its like assert.
	sparse="sparse -D__typeof_unqual__=__typeof__ '-D__builtin_strlen(x)=(sizeof(x)-1)'"
	command -v sparse >/dev/null || die "sparse is not installed"
	how=$({ cat "${fragments[@]}"; echo "${targets[*]} $sparse"; "$(cross "$ARCH")gcc" --version; } | sha256sum | cut -c 1-12)
	results=$obj/results-$how
	known=$results/base
	mkdir -p "$results"
	if [ -e "$obj/busy" ] || [ ! -f "$known" ]; then
		# Warnings of objects that are there now would not be seen.
		(cd "$obj" && find "${LAB_DIRS[@]}" virt/kvm -name '*.o' -delete 2>/dev/null) || true
	fi
	touch "$obj/busy"
	[ -f "$known" ] || { build_step refs/tags/base >"$known.part"; mv "$known.part" "$known"; }
	! grep -q '^does not build' "$known" || { cat "$known" >&2; rm "$known"; die "the base does not build"; }
	for c in "${commits[@]}"; do
		s=$(tgit log -1 --format=%s "$c")
		result=$results/$(tgit rev-parse "$c^{tree}")
		[ -f "$result" ] || { build_step "$c" >"$result.part"; mv "$result.part" "$result"; }
		if [ -s "$result" ]; then
			cat "$result" >&2
			complain "W=1, sparse: $s"
		else
			say "ok: W=1, sparse: $s"
		fi
	done
	rm -f "$obj/busy"

	# Whether it links: vmlinux, and modpost of the modules, of the flavour
	# that has everything in it. It is the object folder of make test.
	if [ -z "${TOPIC:-}" ]; then
		DEBUG=1 "$TOP/scripts/build.sh" || complain "the series does not link"
		"$TOP/scripts/selftests.sh" || complain "the selftests do not build"
		[ "$ARCH" != x86 ] || "$TOP/scripts/check-users.sh" ||
			complain "drivers elsewhere do not build, or warn"
	fi
fi

[ $fail -eq 0 ] || die "check: $fail complaints"
say "check: ${#commits[@]} patches, nothing to complain about${FAST:+ (FAST: not built)}"
