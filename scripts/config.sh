# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# config_fragments ARCH: the fragments of a kernel that tests run on, one a line.
config_fragments() {
	local f
	for f in base "$1" feature test "test-$1"; do
		[ ! -f "$TOP/lab/config/$f.config" ] || echo "$TOP/lab/config/$f.config"
	done
}

# Entries that the lab adds to the tree's own, without a change to the tree.
use_kconfig() { # OBJ ARCH
	local more=$TOP/lab/config/Kconfig.$2
	unset KBUILD_KCONFIG
	[ -f "$more" ] || return 0
	cat "$TREE/Kconfig" "$more" >"$1/lab.Kconfig.new"
	# Kept if it is the same: the build looks at its time.
	cmp -s "$1/lab.Kconfig.new" "$1/lab.Kconfig" || mv "$1/lab.Kconfig.new" "$1/lab.Kconfig"
	export KBUILD_KCONFIG=$1/lab.Kconfig
}

kconfig_defines() {
	grep -rqE --include='Kconfig*' "^(menu)?config[[:space:]]+${1#CONFIG_}$" \
		"$TREE"/{arch/"$ARCH_SRC",drivers,virt,kernel,lib,init,mm,net,fs} 2>/dev/null
}

# make_config OBJ ARCH FRAGMENT...: allnoconfig plus the fragments, in OBJ.
# kconfig drops an option it cannot honour without a word: here that is an
# error. An option of feature.config that the tree does not define at all is
# no error: the tree may be at an earlier step of the series.
make_config() {
	local obj=$1 arch=$2 f line sym missing=()
	shift 2
	ARCH_SRC=$arch
	mkdir -p "$obj"
	use_kconfig "$obj" "$arch"
	for f; do
		while read -r line; do
			case $line in
			CONFIG_*=*) sym=${line%%=*} ;;
			'# CONFIG_'*' is not set') sym=${line#\# }; sym=${sym%% *} ;;
			*) continue ;;
			esac
			if [ "$(basename "$f")" = feature.config ] && ! kconfig_defines "$sym"; then
				say "    $sym: not in this tree, left out"
				continue
			fi
			echo "$line"
		done <"$f"
	done >"$obj/lab.fragment"

	make -C "$TREE" O="$obj" ARCH="$arch" CROSS_COMPILE="$(cross "$arch")" \
		KCONFIG_ALLCONFIG="$obj/lab.fragment" allnoconfig >"$obj/lab.allnoconfig.log" 2>&1 ||
		{ cat "$obj/lab.allnoconfig.log" >&2; die "allnoconfig failed"; }

	while read -r line; do
		case $line in
		'# '*) sym=${line#\# }; ! grep -q "^${sym%% *}=" "$obj/.config" || missing+=("$line") ;;
		*=n) ! grep -q "^${line%=n}=" "$obj/.config" || missing+=("$line") ;;
		*) grep -qxF -- "$line" "$obj/.config" || missing+=("$line") ;;
		esac
	done <"$obj/lab.fragment"
	[ ${#missing[@]} -eq 0 ] || die "options asked for in lab/config/ that kconfig did not take (unknown, or a dependency is missing):
$(printf '  %s\n' "${missing[@]}")"
}
