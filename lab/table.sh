# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Reads lab/tests.tab, and what several commands do with a line of it.

# table ARCH FLAVOUR PROFILE TIER: "name timeout command" lines of one boot.
# ONLY= keeps the tests whose name matches one of its shell patterns. SLOW= multiplies
# all timeouts, for a machine that has other things to do.
#
# In tier ci a line for both flavours runs on both kernels of x86, and elsewhere on
# the release kernel alone: what debug finds in common code it finds on x86. Unless
# somebody asks for a flavour or for tests by name.
table() {
	local arch=$1 flavour=$2 profile=$3 tier=$4
	local name archs flavours machine t limit prog pat keep d
	while read -r name archs flavours machine t limit prog; do
		case $name in '#'* | '') continue ;; esac
		[[ ,$archs, == *,$arch,* && ,$flavours, == *,$flavour,* && $machine == "$profile" ]] || continue
		[[ $tier != ci || $arch == x86 || $flavours != *,* || -n ${ONLY:-}${FLAVOURS:-} ]] ||
			[ "$flavour" = release ] || continue
		case $tier in
		all) [[ $t != demo && $t != bench ]] || continue ;;
		*) [ "$t" = "$tier" ] || continue ;;
		esac
		keep=
		for pat in ${ONLY:-"*"}; do
			# shellcheck disable=SC2053
			[[ $name != $pat ]] || keep=1
		done
		[ -n "$keep" ] || continue
		[ "$flavour" != debug ] || limit=$((limit * 4))
		limit=$((limit * ${SLOW:-1}))
		while [[ $prog =~ @([a-z]+) ]]; do
			d=$(device_address "${BASH_REMATCH[1]}")
			prog=${prog/@"${BASH_REMATCH[1]}"/$d}
		done
		echo "$name $limit $prog"
	done <"$TOP/lab/tests.tab"
}

device_address() (
	# shellcheck source=lab/machine.sh
	. "$TOP/lab/machine.sh"
	[ -n "${DEVICE[$1]:-}" ] || die "tests.tab: no device @$1"
	echo "${DEVICE[$1]}"
)

# table_programs ARCH: the test programs that the table names, "folder/name".
# PROGRAMS_OF= keeps to the lines of these tiers.
table_programs() {
	awk -v arch="$1" -v tiers="${PROGRAMS_OF:-}" '
		/^#/ || NF < 7 || ("," $2 ",") !~ ("," arch ",") { next }
		tiers != "" && (" " tiers " ") !~ (" " $5 " ") { next }
		{ for (i = 7; i <= NF; i++) if ($i ~ /^(kvm|vfio|iommu)\//) { print $i; break } }' \
		"$TOP/lab/tests.tab" | sort -u
}

# Machine profiles the table uses.
profiles() { awk '!/^#/ && NF >= 7 { print $4 }' "$TOP/lab/tests.tab" | sort -u; }

# Kernel, test programs and initramfs, as far as they are not there.
build_machine() { # ARCH FLAVOUR
	"$TOP/scripts/build.sh"
	"$TOP/scripts/selftests.sh"
	"$TOP/lab/initramfs.sh" "$1" "$2"
}

# DIR, where a machine ran the lines of DIR/list: dies unless all of them succeeded.
program_succeeded() {
	local rc
	rc=$(tr -d '\r' <"$1/tests.log" | awk '$1 == "@@" && $2 == "end" { print $4 }' | tr '\n' ' ')
	[[ $rc == *[!0\ ]* || $(wc -w <<<"$rc") -ne $(wc -l <"$1/list") ]] || return 0
	tail -n 20 "$1/tests.log" >&2
	die "the program ended with status ${rc:-none} (${1#"$TOP"/}/console.log has the kernel's side)"
}

# What a kernel says when something is wrong with it.
# shellcheck disable=SC2034
SPLATS='WARNING:|BUG:|KASAN|Oops|general protection|possible circular locking|possible recursive locking|inconsistent lock state|suspicious RCU|INFO: task .* blocked|UBSAN|rcu.*(stall|self-detected)|sleeping function|Kernel panic|lab: .* was not bound'
