#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make objdiff: with what the series adds configured out, the objects of KVM,
# iommufd and VFIO should be those of the base. Builds both in the same work
# tree and object folder, compares function by function, lists what differs with the
# reason that lab/objdiff.reasons has for it. No reason: the status is an error.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source=scripts/config.sh
. "$TOP/scripts/config.sh"
# shellcheck source=scripts/worktree.sh
. "$TOP/scripts/worktree.sh"

save=$BUILD/objdiff
head=$(tgit rev-parse HEAD)
unexplained=
mkdir -p "$save"

# compare NAME WHAT CONFIG...: build both sides with these fragments.
compare() {
	local name=$1 what=$2 obj=$BUILD/obj/objdiff-$ARCH-$1 dir=$save/$1 side commit key how o
	shift 2
	mkdir -p "$dir"
	how=$({ cat "$@"; "$(cross "$ARCH")gcc" --version; } | sha256sum)
	for side in base series; do
		commit=$head
		[ $side = series ] || commit=refs/tags/base
		# What was made from the same tree in the same way is still good.
		key="$(tgit rev-parse "$commit^{tree}") $how"
		[ "$(cat "$dir/$side.key" 2>/dev/null)" != "$key" ] || continue
		rm -f "$dir/$side.key"
		step_checkout "$commit"
		TREE=$STEP make_config "$obj" "$ARCH" "$@"
		step_make "$obj" "$LOGS/objdiff-$name-$side.log" "${LAB_DIRS[@]}"
		rm -rf "${dir:?}/$side"
		mkdir -p "$dir/$side"
		# Objects that have a source file: no linked ones, no *.mod.o.
		(cd "$obj" && find "${LAB_DIRS[@]}" virt/kvm -name '*.o') | while read -r o; do
			[ -f "$STEP/${o%.o}.c" ] || continue
			mkdir -p "$dir/$side/$(dirname "$o")"
			cp "$obj/$o" "$dir/$side/$o"
		done
		echo "$key" >"$dir/$side.key"
	done
	say "== $what"
	OBJDUMP=$(cross "$ARCH")objdump python3 "$TOP/scripts/objdiff.py" \
		"$dir/base" "$dir/series" "$TOP/lab/objdiff.reasons" || unexplained=1
}

# Something that selects one of these makes make_config stop.
sed -n 's/^\(CONFIG_[A-Z0-9_]*\)=.*/# \1 is not set/p' "$TOP/lab/config/feature.config" >"$save/off.config"
mapfile -t fragments < <(config_fragments "$ARCH" | grep -v /feature.config)
cat "${fragments[@]}" >"$save/all.config"
compare off "the options of the series off" "$save/all.config" "$save/off.config"

# In the first comparison the base has its own way from VFIO to iommufd, which
# the series takes out. Without dma-buf neither side has one.
without='CONFIG_(VFIO_PCI_DMABUF|DMA_SHARED_BUFFER|SYNC_FILE|UDMABUF|DMABUF_HEAPS.*)='
grep -vE "^$without" "$save/all.config" >"$save/none.config"
{
	grep -E "^$without" "$save/all.config" | sed 's/^\([^=]*\)=.*/# \1 is not set/'
	cat "$save/off.config"
} >"$save/none-off.config"
compare none "no dma-buf at all" "$save/none.config" "$save/none-off.config"
[ -z "$unexplained" ] || die "functions differ for which lab/objdiff.reasons has no line"
