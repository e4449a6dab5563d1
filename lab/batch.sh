#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# batch.sh ARCH FLAVOUR PROFILE TIER: one boot, as TAP on stdout: a line for
# each test of the table, one for the kernel's log. The tests' own output is
# there as TAP comments where they failed, and whole in build/test/.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../scripts/common.sh"
# shellcheck source=lab/table.sh
. "$TOP/lab/table.sh"

arch=$1 flavour=$2 profile=$3 tier=$4
dir=$BUILD/test/$arch-$flavour-$profile
mkdir -p "$dir"
exec > >(tee "$dir.tap")

table "$arch" "$flavour" "$profile" "$tier" >"$dir/list"
n=0
plan=$(($(wc -l <"$dir/list") + 1))
echo "1..$plan"
cpu_now
before=$cpu_seconds start=$SECONDS
"$TOP/lab/boot.sh" "$arch" "$flavour" "$profile" "$dir/list" "$dir" || true
cpu_now
awk -v a="$before" -v b="$cpu_seconds" -v w=$((SECONDS - start)) 'BEGIN { print b - a, w }' >"$dir/cpu"
touch "$dir"/{console,tests}.log

# What a kselftest program printed about the cases that failed.
failed_cases() {
	awk '/^# +RUN / { text = "" }
	     { text = text $0 "\n" }
	     /^not ok / { printf "%s", text; text = "" }' "$1"
}

# What the kernel said while that test ran.
console_of() {
	tr -d '\r' <"$dir/console.log" | awk -v n="$1" '/lab: begin / { on = $NF == n } on'
}

while read -r name _; do
	n=$((n + 1))
	log=$dir/$name.log
	tr -d '\r' <"$dir/tests.log" | awk -v n="$name" '
		$1 == "@@" && $2 == "begin" && $3 == n { on = 1; next }
		$1 == "@@" && $2 == "end" && $3 == n { on = 0 }
		on' >"$log"
	end=$(tr -d '\r' <"$dir/tests.log" | awk -v n="$name" '$1 == "@@" && $2 == "end" && $3 == n { print $4, $5 }')
	read -r rc secs <<<"$end" || true
	desc="$name ($arch, $flavour)"
	case ${rc:-none} in
	0)
		# A program whose every case was skipped tested nothing.
		skips=$(grep -c '^ok .*# SKIP' "$log" || true)
		if [ "$skips" -gt 0 ] && [ "$skips" -eq "$(grep -c '^ok ' "$log")" ]; then
			echo "ok $n - $desc # SKIP $(sed -n 's/^ok .*# SKIP *//p' "$log" | head -n 1)"
		else
			echo "ok $n - $desc, $secs s$([ "$skips" -eq 0 ] || echo ", $skips cases skipped")"
		fi ;;
	4)
		reason=$(sed -n 's/.*# SKIP *:* *//p' "$log" | head -n 1)
		echo "ok $n - $desc # SKIP ${reason:-$(grep -v '^ *$' "$log" | tail -n 1)}" ;;
	none)
		echo "not ok $n - $desc: the machine did not get to its end" ;;
	124 | 137 | 143)
		echo "not ok $n - $desc: timeout after $secs s" ;;
	*)
		echo "not ok $n - $desc: exit status $rc" ;;
	esac
	[ "${rc:-none}" = 0 ] || [ "${rc:-none}" = 4 ] || {
		grep -nE '^ *not ok|^# .*(Expected|Assert|fail)|==== Test Assertion' "$log" | head -n 10 | sed 's/^/# /' || true
		# head ends before what it reads.
		failed_cases "$log" | head -n 100 | sed 's/^/# /' || true
		tail -n 15 "$log" | sed 's/^/# /'
		console_of "$name" | tail -n 15 | sed 's/^/# kernel: /'
		echo "# whole output: $log"
	}
done <"$dir/list"

# Which test was running when the kernel complained.
found=$(tr -d '\r' <"$dir/console.log" | awk -v re="$SPLATS" '
	/lab: begin / { test = $NF }
	$0 ~ re { print (test ? test : "boot") ": " $0 }' | head -n 20)
n=$((n + 1))
if [ -n "$found" ]; then
	echo "not ok $n - no splat ($arch, $flavour, $profile)"
	sed 's/^/# /' <<<"$found"
	echo "# whole log: $dir/console.log"
elif ! grep -q 'lab: warnings reach the console' "$dir/console.log"; then
	echo "not ok $n - no splat ($arch, $flavour, $profile): the console would not show one"
elif ! grep -q '^@@ done' "$dir/tests.log"; then
	echo "not ok $n - no splat ($arch, $flavour, $profile): the machine did not finish"
	{ cat "$dir/qemu.log"; tail -n 20 "$dir/console.log"; } | tr -d '\r' | sed 's/^/# /'
else
	echo "ok $n - no splat ($arch, $flavour, $profile)"
fi
