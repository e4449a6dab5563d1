#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2054
#
# boot.sh ARCH FLAVOUR PROFILE LIST DIR: boot that machine, let it run the
# tests in LIST ("name timeout command..." lines), leave DIR/console.log (the
# kernel) and DIR/tests.log (the tests). Ends when the machine does, or when
# it is long past the sum of all timeouts.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../scripts/common.sh"
# shellcheck source=lab/machine.sh
. "$TOP/lab/machine.sh"

arch=$1 flavour=$2 profile=$3 list=$4 dir=$5
obj=$(objdir "$arch" "$flavour")
mkdir -p "$dir/cpio/lab"
cp "$list" "$dir/cpio/lab/list"
(cd "$dir/cpio" && find . | cpio -o -H newc -R 0:0 --quiet) >"$dir/list.cpio"
extra=()
case $profile in vmm*) extra=("$BUILD/vmm.cpio") ;; esac
cat "$BUILD/initramfs-$arch-$flavour.cpio" "${extra[@]}" "$dir/list.cpio" >"$dir/initrd"
rm -f "$dir"/{console,tests}.log

machine "$arch" "$profile"
case $arch in
x86)
	kernel=$obj/arch/x86/boot/bzImage
	QEMU+=(-serial "file:$dir/console.log" -serial "file:$dir/tests.log")
	CMDLINE+=" lab.out=/dev/ttyS1"
	;;
arm64 | riscv)
	# The virt machine has one port for us: the tests' is a virtio one.
	kernel=$obj/arch/$arch/boot/Image
	QEMU+=(-serial "file:$dir/console.log" -chardev "file,id=out,path=$dir/tests.log"
	       -device virtio-serial-pci,addr=2 -device virtconsole,chardev=out)
	CMDLINE+=" lab.out=/dev/hvc0"
	;;
esac
limit=$(awk '{ t += $2 } END { print t + 180 }' "$list")
# shellcheck disable=SC2206
QEMU+=(${QEMU_EXTRA:-} -kernel "$kernel" -initrd "$dir/initrd" -append "$CMDLINE")
printf '%q ' "${QEMU[@]}" >"$dir/qemu.cmd"
rc=0
timeout -k 10 "$limit" "${QEMU[@]}" >"$dir/qemu.log" 2>&1 </dev/null || rc=$?
rm -rf "$dir"/{cpio,list.cpio,initrd}
[ $rc -eq 0 ] || echo "QEMU ended with status $rc (124: the machine was stopped after $limit s)" >>"$dir/qemu.log"
exit $rc
