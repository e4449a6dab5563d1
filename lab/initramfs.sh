#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# initramfs.sh ARCH FLAVOUR: busybox, our init, the kernel's modules and the
# selftests, as build/initramfs-<arch>-<flavour>.cpio. A boot appends its list
# of tests as a second archive.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../scripts/common.sh"
# shellcheck source=lab/table.sh
. "$TOP/lab/table.sh"

arch=$1 flavour=$2
obj=$(objdir "$arch" "$flavour")
root=$BUILD/root-$arch-$flavour
out=$BUILD/initramfs-$arch-$flavour.cpio

rm -rf "$root"
mkdir -p "$root"/{bin,lab,tests,lib,proc,sys,dev,tmp}
case $arch in
x86) busybox=/bin/busybox ;;
*)
	foreign_packages "$arch"
	busybox=$(foreign_root "$arch")/bin/busybox
	[ -x "$busybox" ] || busybox=$(foreign_root "$arch")/usr/bin/busybox
	;;
esac
[ -x "$busybox" ] || die "no $busybox"
cp -L "$busybox" "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
install -m 755 "$TOP/lab/init" "$root/init"
install -m 755 "$TOP"/lab/{kunit,kvmopt} "$root/lab/"
cp -a "$obj/lab.modules/lib/modules" "$root/lib/"
find "$root/lib/modules" -type l -delete

while read -r prog; do
	src=$BUILD/selftests/$arch/$prog
	[ -x "$src" ] || die "no test program $src"
	install -D -m 755 "$src" "$root/tests/$prog"
done < <(table_programs "$arch")

(cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) >"$out.part"
mv "$out.part" "$out"
