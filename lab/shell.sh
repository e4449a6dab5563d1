#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make shell: the machine of the tests with all devices, on this terminal.
# PROFILE= picks another of lab/machine.sh. C-a x leaves QEMU.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../scripts/common.sh"
# shellcheck source=lab/machine.sh
. "$TOP/lab/machine.sh"

"$TOP/scripts/build.sh"
"$TOP/scripts/selftests.sh"
"$TOP/lab/initramfs.sh" "$ARCH" "$FLAVOUR"
obj=$(objdir "$ARCH" "$FLAVOUR")
machine "$ARCH" "${PROFILE:-pci}"
kernel=$obj/arch/x86/boot/bzImage
[ "$ARCH" != arm64 ] || kernel=$obj/arch/arm64/boot/Image
exec "${QEMU[@]}" -serial mon:stdio -kernel "$kernel" \
	-initrd "$BUILD/initramfs-$ARCH-$FLAVOUR.cpio" -append "$CMDLINE lab.shell"
