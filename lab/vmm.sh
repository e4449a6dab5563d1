#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make demo-vmm: patched kernel -> patched QEMU -> Linux guest with igb, nvme,
# ivshmem and edu assigned. Then the patched binary and Debian's on the kernel
# without the series, and whether Debian's notices which kernel it is on.
# VARIANTS="on unmappable off stock" picks the runs, "trap" is another: lab/vmm/run.
# With it the kernel without the series is left out, unless UNPATCHED=1.
# VARIANTS="bench on off type1": what a BAR of 256 GiB costs, instead.
# GUEST_KERNEL= is a kernel for the guest instead of the release kernel, with
# the drivers built in.
# vmm.sh prepare: only build what it needs, as build/vmm.cpio and build/vmm/
# (the file to fetch, the disk): for the lines of tests.tab with that machine.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../scripts/common.sh"
# shellcheck source=lab/table.sh
. "$TOP/lab/table.sh"
# shellcheck source=scripts/worktree.sh
. "$TOP/scripts/worktree.sh"

dir=$BUILD/test/demo-vmm
data=$BUILD/vmm
cpio=$BUILD/vmm.cpio
root=$BUILD/root-vmm
file_size=256K
UNPATCHED=${UNPATCHED:-$([ -n "${VARIANTS:-}" ] || echo 1)}
[ "$UNPATCHED" = 1 ] || UNPATCHED=
variants=${VARIANTS:-on unmappable off stock}
# What Debian's does is compared between the kernels.
[ -z "$UNPATCHED" ] || [[ " $variants " == *" stock "* ]] || variants+=" stock"
machine=vmm
case $variants in bench*) machine=vmmbench ;; esac

mkdir -p "$BUILD"
exec 7>"$BUILD/vmm.lock"
flock 7

# A dynamic program cannot bring its libraries to a place of its own unless its
# loader comes along, too: lib/ld.so is started with the program as argument.
libraries() { # BINARY...
	for b; do ldd "$b"; done | awk '/=> \// { print $3 }' | sort -u
}

guest_initrd() {
	local g=$BUILD/root-guest
	rm -rf "$g"
	mkdir -p "$g"/{bin,proc,sys,dev,tmp}
	cp -L /bin/busybox "$g/bin/busybox"
	ln -s busybox "$g/bin/sh"
	install -m 755 "$TOP/lab/vmm/guest-init" "$g/init"
	install -m 755 "$TOP/lab/vmm/dhcp-script" "$g/bin/dhcp-script"
	gcc -O2 -Wall -static -o "$g/bin/devtool" "$TOP/lab/vmm/devtool.c"
	sha256sum <"$data/tftp/file" | cut -c 1-64 >"$g/file.sha256"
	# igb, nvme and what they need, with the list that modprobe reads.
	(cd "$(objdir x86 release)/lab.modules" && sed -nE 's/^[^:]*\/(igb|nvme)\.ko: */&/p' lib/modules/*/modules.dep |
		tr -d : | tr ' ' '\n' | LC_ALL=C sort -u |
		sed "s,^,$(echo lib/modules/*)/," | xargs -r cp --parents -t "$g" lib/modules/*/modules.dep)
	(cd "$g" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) | gzip -1 >"$1"
}

overlay() {
	local stock
	rm -rf "$root"
	mkdir -p "$root/vmm"/{lib,share}
	cp "$BUILD/obj/qemu/qemu-system-x86_64" "$root/vmm/qemu"
	strip "$root/vmm/qemu"
	stock=
	case " $variants " in
	*" stock "*)
		stock=$(command -v qemu-system-x86_64)
		cp -L "$stock" "$root/vmm/stock" ;;
	esac
	# shellcheck disable=SC2046,SC2086
	cp -L $(libraries "$BUILD/obj/qemu/qemu-system-x86_64" $stock) "$root/vmm/lib/"
	cp -L /lib64/ld-linux-x86-64.so.2 "$root/vmm/lib/ld.so"
	for f in bios-256k.bin kvmvapic.bin linuxboot_dma.bin linuxboot.bin multiboot.bin multiboot_dma.bin efi-virtio.rom efi-e1000.rom vgabios-stdvga.bin; do
		for d in "$BUILD/qemu/pc-bios" /usr/share/seabios /usr/share/qemu /usr/lib/ipxe/qemu; do
			[ ! -f "$d/$f" ] || { cp -L "$d/$f" "$root/vmm/share/"; break; }
		done
	done
	cp "${GUEST_KERNEL:-$(objdir x86 release)/arch/x86/boot/bzImage}" "$root/vmm/bzImage"
	guest_initrd "$root/vmm/initrd"
	install -m 755 "$TOP/lab/vmm/run" "$root/vmm/run"
	mkdir "$root/lab"
	gcc -O2 -Wall -static -o "$root/vmm/devtool" "$TOP/lab/vmm/devtool.c"
	gcc -m32 -O2 -Wall -ffreestanding -fno-pic -no-pie -nostdlib -static \
		-fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables \
		-fno-toplevel-reorder -Wl,-Ttext=0x100000 -Wl,--build-id=none \
		-o "$root/vmm/bench.elf" "$TOP/lab/vmm/bench.c"
	printf '#!/bin/sh\nexec /vmm/run "$@"\n' >"$root/lab/demo-vmm"
	chmod 755 "$root/lab/demo-vmm"
	gcc -O2 -Wall -static -isystem "$BUILD/selftests/x86/hdr/include" \
		-o "$root/vmm/vfio-dmabuf-vmm" "$TREE/samples/vfio-dmabuf/vfio-dmabuf-vmm.c"
	(cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) >"$cpio"
}

prepare() {
	"$TOP/scripts/qemu.sh"
	[ -n "${GUEST_KERNEL:-}" ] || [ -n "${SKIP_BUILD:-}" ] ||
		ARCH=x86 DEBUG='' GUEST=1 "$TOP/scripts/build.sh"
	mkdir -p "$data/tftp"
	head -c "$file_size" /dev/urandom >"$data/tftp/file"
	rm -f "$data/disk"
	truncate -s 64M "$data/disk"
	overlay
}

if [ "${1:-}" = prepare ]; then
	prepare
	exit
fi

# boot FLAVOUR DIR VARIANT...: does the program succeed?
boot() {
	local flavour=$1 dir=$2 pid
	shift 2
	say "==> booting, $flavour kernel ($*)"
	mkdir -p "$dir"
	echo "demo-vmm ${LIMIT:-1300} demo-vmm $*" >"$dir/list"
	: >"$dir/tests.log"
	"$TOP/lab/boot.sh" x86 "$flavour" "$machine" "$dir/list" "$dir" &
	pid=$!
	tail -q -n +1 -F --pid="$pid" "$dir/tests.log" 2>/dev/null | sed -u -e 's/\r//' -e '/^@@/d' || true
	wait "$pid" || true
	tr -d '\r' <"$dir/tests.log" | grep -v '^@@' >"$dir/transcript.txt" || true
	program_succeeded "$dir"
}

# The base, built in a work tree of its own: in the one of make check, each
# checkout would make all objects old.
unpatched_kernel() {
	STEP=$TREE-base
	step_checkout refs/tags/base
	TREE=$STEP OBJ=$(objdir x86 unpatched) "$TOP/scripts/build.sh"
	"$TOP/lab/initramfs.sh" x86 unpatched
}

# What a binary did, without figures that differ from run to run
did() { # VARIANT TRANSCRIPT
	grep "^| $1 " "$2" | sed -E 's/0x[0-9a-f]+/X/g; s/[0-9]+(\.[0-9]+)?/N/g; s/, N all ones//'
}

compare_kernels() {
	local n
	if diff <(did stock "$dir/transcript.txt") <(did stock "$dir/unpatched/transcript.txt") &&
	   n=$(did stock "$dir/transcript.txt" | wc -l) && [ "$n" -gt 0 ]; then
		echo "PASS: Debian's QEMU did the same on both kernels, in all of $n checks"
	else
		echo "FAIL: Debian's QEMU differs between the kernels, see above"
		return 1
	fi
}

if [ -z "${SKIP_BUILD:-}" ] || [ ! -f "$BUILD/initramfs-x86-$FLAVOUR.cpio" ]; then
	build_machine x86 "$FLAVOUR"
fi
[ -z "$UNPATCHED" ] || unpatched_kernel
prepare

# shellcheck disable=SC2086
boot "$FLAVOUR" "$dir" $variants
[ -n "$UNPATCHED" ] || exit 0
boot unpatched "$dir/unpatched" unpatched auto stock
compare_kernels
