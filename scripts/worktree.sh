# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# A second work tree next to the first, build/linux-step, for builds that walk
# through the series. The tree that people edit is left alone. One script at a
# time uses it: step_checkout waits for the other to end.

STEP=$TREE-step

# step_checkout COMMIT
step_checkout() {
	exec 8>"$STEP.lock"
	flock 8
	[ -e "$STEP/.git" ] || {
		tgit worktree prune
		say "==> making a second work tree"
		tgit worktree add -q --detach "$STEP" "$1"
	}
	git -C "$STEP" checkout -q --force --detach "$1"
	git -C "$STEP" clean -qfd
}

# Where the series has its objects.
LAB_DIRS=(drivers/dma-buf/ drivers/iommu/iommufd/ drivers/vfio/)
[ "$ARCH" = x86 ] && LAB_DIRS+=(arch/x86/kvm/) || LAB_DIRS+=("arch/$ARCH/kvm/")

# step_make OBJ LOG ARGUMENTS...
step_make() {
	local obj=$1 log=$2
	shift 2
	run_step "$(git -C "$STEP" log -1 --format=%s | cut -c 1-60)" "$log" 0 \
		make -C "$STEP" O="$obj" ARCH="$ARCH" CROSS_COMPILE="$(cross "$ARCH")" -j"$JOBS" "$@"
}

warnings() { # of a log, without line numbers
	{ grep -E '(warning|error): ' "$1" || true; } | sed -E "s,$STEP/,,g; s,([a-z0-9_-]+/){3}(\.\./){3},,g; s,(\.\./)+,,g; s/:[0-9]+(:[0-9]+)?:/:/g" | LC_ALL=C sort -u
}
