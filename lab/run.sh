#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# run.sh ci|all: build what the table needs, boot every machine of it, report
# through prove. Ends with one line: N passed, N failed. ARCH= keeps to one.

archs=${ARCH:-x86 arm64}
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../scripts/common.sh"
# shellcheck source=lab/table.sh
. "$TOP/lab/table.sh"

tier=$1
out=$BUILD/test
start=$SECONDS
rm -rf "$out"
mkdir -p "$out/t"

# A script for each boot, in the order in which prove shall run them.
n=0
kernels=()
# The tests of the repository itself need no machine.
if [ -z "${ONLY:-}" ]; then
	printf '#!/bin/sh\nexec "%s/lab/host.sh"\n' "$TOP" >"$out/t/00-host.t"
fi
for arch in $archs; do
	for flavour in release debug; do
		[ -z "${FLAVOURS:-}" ] || [[ " $FLAVOURS " == *" $flavour "* ]] || continue
		for profile in $(profiles); do
			[ -n "$(table "$arch" "$flavour" "$profile" "$tier")" ] || continue
			n=$((n + 1))
			[[ " ${kernels[*]} " == *" $arch/$flavour "* ]] || kernels+=("$arch/$flavour")
			printf '#!/bin/sh\nexec "%s/lab/batch.sh" %s %s %s %s\n' \
				"$TOP" "$arch" "$flavour" "$profile" "$tier" \
				>"$out/t/$(printf '%02d' $n)-$arch-$flavour-$profile.t"
		done
	done
done
[ ${#kernels[@]} -gt 0 ] || die "no test of the table is meant${ONLY:+ by ONLY=$ONLY}"

for arch in $archs; do
	[[ " ${kernels[*]}" == *" $arch/"* ]] || continue
	ARCH=$arch "$TOP/scripts/deps.sh"
	for flavour in release debug; do
		[[ " ${kernels[*]} " == *" $arch/$flavour "* ]] || continue
		ARCH=$arch DEBUG=$([ "$flavour" = release ] || echo 1) "$TOP/scripts/build.sh"
	done
	ARCH=$arch "$TOP/scripts/selftests.sh"
done
for kernel in "${kernels[@]}"; do
	"$TOP/lab/initramfs.sh" "${kernel%/*}" "${kernel#*/}"
done

# The guests of the vmm machine bring their VMM and their kernel.
if compgen -G "$out/t/*-vmm.t" >/dev/null; then
	"$TOP/lab/vmm.sh" prepare
fi

say "==> running the tests (output of each in ${out#"$TOP"/}/)"
rc=0
# A machine takes one CPU of the host: accel in machine.sh.
prove --exec /bin/sh --jobs "$JOBS" --verbose --comments "$out"/t/*.t | tee "$out/prove.log" || rc=$?

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
