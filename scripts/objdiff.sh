#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make objdiff: with what the series adds configured out, the objects of KVM,
# iommufd and VFIO should be those of the base. Builds both in the same work
# tree and object folder, compares function by function, lists what differs.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source=scripts/config.sh
. "$TOP/scripts/config.sh"
# shellcheck source=scripts/worktree.sh
. "$TOP/scripts/worktree.sh"

obj=$BUILD/obj/objdiff-$ARCH
save=$BUILD/objdiff
head=$(tgit rev-parse HEAD)
off=$save/off.config

mkdir -p "$save"
# Something that selects one of these makes make_config stop.
sed -n 's/^\(CONFIG_[A-Z0-9_]*\)=.*/# \1 is not set/p' "$TOP/lab/config/feature.config" >"$off"
how=$({ cat "$TOP"/lab/config/{base,"$ARCH"}.config "$off"; "$(cross "$ARCH")gcc" --version; } | sha256sum)
for side in base series; do
	commit=$head
	[ $side = series ] || commit=refs/tags/base
	# What was made from the same tree in the same way is still good.
	key="$(tgit rev-parse "$commit^{tree}") $how"
	[ "$(cat "$save/$side.key" 2>/dev/null)" != "$key" ] || continue
	rm -f "$save/$side.key"
	step_checkout "$commit"
	TREE=$STEP make_config "$obj" "$ARCH" "$TOP"/lab/config/{base,"$ARCH"}.config "$off"
	step_make "$obj" "$LOGS/objdiff-$side.log" "${LAB_DIRS[@]}"
	rm -rf "${save:?}/$side"
	mkdir -p "$save/$side"
	# Objects that have a source file: no linked ones, no *.mod.o.
	(cd "$obj" && find "${LAB_DIRS[@]}" virt/kvm -name '*.o') | while read -r o; do
		[ -f "$STEP/${o%.o}.c" ] || continue
		mkdir -p "$save/$side/$(dirname "$o")"
		cp "$obj/$o" "$save/$side/$o"
	done
	echo "$key" >"$save/$side.key"
done
OBJDUMP=$(cross "$ARCH")objdump python3 "$TOP/scripts/objdiff.py" "$save/base" "$save/series"
