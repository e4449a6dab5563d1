#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# run.sh ci|all: tree and packages, build what the table needs, boot every
# machine of it, report through prove, say what each phase took. Ends with one
# line: N passed, N failed. ARCH= keeps to one architecture.

archs=${ARCH:-x86 arm64 riscv}
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../scripts/common.sh"
# shellcheck source=lab/table.sh
. "$TOP/lab/table.sh"

tier=$1
out=$BUILD/test
start=$SECONDS
rm -rf "$out"
mkdir -p "$out/t"
phases_begin
phase "packages of this machine" "$TOP/scripts/deps.sh"
phase "the tree" "$TOP/scripts/tree.sh"

# A stage for each kernel, and one for the guests of the vmm machine, which bring
# their VMM: what it needs is built, its machines are booted. What runs on both
# kernels of x86 has run on one when the second is built.
STAGES="x86/release x86/debug arm64/release arm64/debug arm64/16k arm64/64k riscv/release riscv/debug x86/release/vmm"

# The machines of a stage.
stage_profiles() { # ARCH FLAVOUR VMM
	local profile
	for profile in $(profiles); do
		[ "$([ "$profile" != vmm ] || echo vmm)" = "$3" ] || continue
		[ -z "$(table "$1" "$2" "$profile" "$tier")" ] || echo "$profile"
	done
}

rc=0
# A machine takes one CPU of the host: accel in machine.sh.
run_tests() { # SCRIPT...
	prove --exec /bin/sh --jobs "$JOBS" --verbose --comments "$@" | tee -a "$out/prove.log"
}

programs=
build_stage() { # ARCH FLAVOUR VMM
	export ARCH=$1
	phase "packages for $1" "$TOP/scripts/deps.sh"
	DEBUG=$([ "$2" != debug ] || echo 1) PAGES=$([[ $2 = release || $2 = debug ]] || echo "$2") GUEST=${3:+1} \
		phase "kernel, $1, $2" "$TOP/scripts/build.sh"
	# They are the same for all kernels of an architecture.
	[[ " $programs " == *" $1 "* ]] || phase "test programs, $1" "$TOP/scripts/selftests.sh"
	programs+=" $1"
	"$TOP/lab/initramfs.sh" "$1" "$2"
	[ -z "$3" ] || phase "QEMU" env SKIP_BUILD=1 "$TOP/lab/vmm.sh" prepare
}

run_stage() { # ARCH FLAVOUR VMM
	local profile script
	local -a scripts=()
	build_stage "$@"
	for profile in $(stage_profiles "$@"); do
		script=$out/t/$1-$2-$profile.t
		printf '#!/bin/sh\nexec "%s/lab/batch.sh" %s %s %s %s\n' \
			"$TOP" "$1" "$2" "$profile" "$tier" >"$script"
		scripts+=("$script")
	done
	say "==> running the tests, $1, $2 (output of each in ${out#"$TOP"/}/)"
	phase "tests, $1, $2${3:+, $3}" run_tests "${scripts[@]}" || rc=$?
}

# TIME_LIMIT= is what all of it may take, in minutes: on a machine that is too slow
# for another stage, going by those before, its tests are skipped, and the report
# says so. The debug kernel takes about 1.6 times what the release one does.
slowest=0
weight() { [ "$1" = debug ] && echo 16 || echo 10; }
in_time() { # FLAVOUR
	[ -z "${TIME_LIMIT:-}" ] ||
		[ $((SECONDS - start + slowest * $(weight "$1"))) -le $((TIME_LIMIT * 60)) ]
}

skip_stage() { # ARCH FLAVOUR VMM
	local profile name i
	for profile in $(stage_profiles "$@"); do
		i=0
		while read -r name _; do
			i=$((i + 1))
			echo "ok $i - $name ($1, $2) # SKIP no time left: $(elapsed $((SECONDS - start))) of $TIME_LIMIT minutes used, it takes about $(elapsed $((slowest * $(weight "$2"))))"
		done < <(table "$1" "$2" "$profile" "$tier") | tee "$out/$1-$2-$profile.tap"
	done
}

# Programs of other tiers are for other commands.
export PROGRAMS_OF="ci all"
[ "$tier" = all ] || PROGRAMS_OF=$tier

# The tests of the repository itself need no machine.
if [ -z "${ONLY:-}" ]; then
	printf '#!/bin/sh\nexec "%s/lab/host.sh"\n' "$TOP" >"$out/t/host.t"
	phase "tests of the repository" run_tests "$out/t/host.t" || rc=$?
fi
stages=0
for stage in $STAGES; do
	IFS=/ read -r arch flavour vmm <<<"$stage"
	[[ " $archs " == *" $arch "* ]] || continue
	[ -z "${FLAVOURS:-}" ] || [[ " $FLAVOURS " == *" $flavour "* ]] || continue
	[ -n "$(stage_profiles "$arch" "$flavour" "$vmm")" ] || continue
	stages=$((stages + 1))
	if ! in_time "$flavour"; then
		skip_stage "$arch" "$flavour" "$vmm"
		continue
	fi
	began=$SECONDS
	run_stage "$arch" "$flavour" "$vmm"
	took=$(((SECONDS - began) / $(weight "$flavour")))
	[ $took -le $slowest ] || slowest=$took
done
[ $stages -gt 0 ] || die "no test of the table is meant${ONLY:+ by ONLY=$ONLY}"
awk '{ printf "%7.0f s of CPU for the tests, %4d s %s\n", $1, $2, FILENAME }' "$out"/*/cpu 2>/dev/null |
	sed 's,[^ ]*/test/,,; s,/cpu$,,' >&2 || true
phase_table

# The summary counts test lines, which prove does not print.
cat "$out"/*.tap | awk -v rc=$rc -v secs="$(elapsed $((SECONDS - start)))" '
	/^not ok / { failed++ }
	/^ok / { if (/# SKIP/) skipped++; else passed++ }
	END {
		print "took " secs > "/dev/stderr"
		# prove sees what a line count cannot: a plan that was not kept.
		if (rc && !failed) { failed = 1; print "prove failed" > "/dev/stderr" }
		printf "%d passed, %d failed%s\n", passed, failed, skipped ? ", " skipped " skipped" : ""
		exit failed > 0 || passed == 0
	}'
