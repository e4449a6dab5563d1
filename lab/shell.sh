#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make shell: the machine of the tests with all devices, on this terminal.
# PROFILE= picks another of lab/machine.sh. C-a x leaves QEMU.
#
# With standard input not a terminal it is a script that the machine runs, and
# the status is the script's: echo 'uname -r; ls /tests' | make shell

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../scripts/common.sh"
# shellcheck source=lab/machine.sh
. "$TOP/lab/machine.sh"
# shellcheck source=lab/table.sh
. "$TOP/lab/table.sh"

commands=
[ -t 0 ] || commands=$(cat)
build_machine "$ARCH" "$FLAVOUR"
obj=$(objdir "$ARCH" "$FLAVOUR")
machine "$ARCH" "${PROFILE:-pci}"
kernel=$obj/arch/x86/boot/bzImage
[ "$ARCH" = x86 ] || kernel=$obj/arch/$ARCH/boot/Image
initrd=$BUILD/initramfs-$ARCH-$FLAVOUR.cpio
QEMU+=(-kernel "$kernel" -append "$CMDLINE lab.shell")
if [ -z "$commands" ]; then
	exec "${QEMU[@]}" -serial mon:stdio -initrd "$initrd"
fi

# Not through the serial line: what is sent to it before the shell is there
# gets lost.
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/lab"
printf '%s\n' "$commands" >"$dir/lab/commands"
{ cat "$initrd"; (cd "$dir" && echo lab/commands | cpio -o -H newc -R 0:0 --quiet); } >"$dir/initrd"
timeout -k 10 "${TIMEOUT:-600}" "${QEMU[@]}" -serial stdio -initrd "$dir/initrd" </dev/null | tee "$dir/log" || true
rc=$(tr -d '\r' <"$dir/log" | sed -n 's/^@@ shell //p')
[ -n "$rc" ] || die "the machine ended before the commands did"
exit "$rc"
