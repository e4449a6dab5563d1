#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make deps: the Debian packages that building and booting need. Root
# installs them; anybody else gets the exact line. QEMU has to be 9 or newer
# (igb): where the release has an older one, that alone comes from its
# backports, through an apt root of its own; the machine's configuration gets
# no suite added.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

PACKAGES=(
	git make gcc libc6-dev bc bison flex libelf-dev libssl-dev libcap-dev
	uuid-dev cpio kmod rsync perl python3 python3-ply python3-git python3-docutils xz-utils sparse
	busybox-static
)
QEMU=(qemu-system-x86)
case $ARCH in
arm64)
	PACKAGES+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
	QEMU+=(qemu-system-arm)
	;;
riscv)
	PACKAGES+=(gcc-riscv64-linux-gnu libc6-dev-riscv64-cross)
	# A package of its own since the 10.0 of backports. Its firmware has to
	# know the AIA interrupt controllers: from the same release.
	QEMU+=(qemu-system-riscv opensbi)
	;;
esac

command -v dpkg-query >/dev/null || die "not a Debian system: install what ${0##*/} lists by other means, then make with DEPS=skip"
[ "${DEPS:-}" != skip ] || exit 0

[ "$ARCH" = x86 ] || foreign_packages "$ARCH"

installed() { [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" = 'ii ' ]; }
new_enough() { # PACKAGE VERSION
	local min=1:9
	[ "$1" != opensbi ] || min=1.3
	dpkg --compare-versions "${2:-0}" ge "$min"
}
candidate() { apt-cache policy "$1" | sed -n 's/^  Candidate: //p'; }

want=()
for p in "${PACKAGES[@]}"; do
	installed "$p" || want+=("$p")
done
qemu=()
for p in "${QEMU[@]}"; do
	installed "$p" && new_enough "$p" "$(dpkg-query -W -f '${Version}' "$p")" || qemu+=("$p")
done
[ $((${#want[@]} + ${#qemu[@]})) -gt 0 ] || exit 0

export DEBIAN_FRONTEND=noninteractive
log=$LOGS/deps.log
mkdir -p "$LOGS"
if [ "$(id -u)" = 0 ]; then
	run_step "apt-get update" "$log" 0 apt-get -q update || true
fi
backports=
if [ ${#qemu[@]} -gt 0 ]; then
	if new_enough "${qemu[0]}" "$(candidate "${qemu[0]}")"; then
		want+=("${qemu[@]}")
		qemu=()
	else
		# shellcheck disable=SC1091
		backports=$(. /etc/os-release && echo "$VERSION_CODENAME")
	fi
fi

if [ "$(id -u)" != 0 ]; then
	say "Packages are missing. As root:"
	[ ${#want[@]} -eq 0 ] || say "  apt-get install --no-install-recommends ${want[*]}"
	[ ${#qemu[@]} -eq 0 ] || say "  apt-get install --no-install-recommends -t $backports-backports ${qemu[*]}   # 9 or newer is needed; with $backports-backports enabled, or run make deps as root, which leaves no suite behind"
	exit 1
fi

if [ ${#want[@]} -gt 0 ]; then
	run_step "installing ${want[*]}" "$log" 0 \
		apt-get -q install -y --no-install-recommends "${want[@]}"
fi
if [ ${#qemu[@]} -gt 0 ]; then
	mapfile -t opts < <(apt_private "$BUILD/dl/apt-qemu" "$backports" "$backports-updates" "$backports-backports")
	run_step "package lists of $backports-backports" "$log" 0 apt-get "${opts[@]}" -q update
	run_step "installing ${qemu[*]} from $backports-backports" "$log" 0 \
		apt-get "${opts[@]}" -q install -y --no-install-recommends \
		-t "$backports-backports" "${qemu[@]}"
fi
