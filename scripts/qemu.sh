#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make qemu: the VMM of the demo. QEMU's source as Debian ships it, pinned,
# with clients/qemu/ on it as one commit per patch in build/qemu, and a build
# of x86_64-softmmu with nothing but KVM in build/obj/qemu. QEMU_SRC= takes
# the tarball from a file instead of the mirror.
# With the argument source: no build.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

QVER=10.0.2
QTAR=qemu_10.0.2+ds.orig.tar.xz
QSUITE=bookworm-backports
QSHA256=0901da33844a331bf8b3602b9c1fbd178e60b737c8e3ade678255bd090c9b9f1
QTREE=${QTREE:-$BUILD/qemu}
QOBJ=${QOBJ:-$BUILD/obj/qemu}

PACKAGES=(python3-venv ninja-build pkg-config libglib2.0-dev libpixman-1-dev
	  zlib1g-dev libfdt-dev bzip2)
# Old releases have these in their backports only.
NEWER=(meson python3-pycotap)

installed() { [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" = 'ii ' ]; }
new_enough() { dpkg --compare-versions "$(dpkg-query -W -f '${Version}' "$1" 2>/dev/null)" ge 1.1; }

deps() {
	local p want=() newer=() opts codename log=$LOGS/qemu-deps.log
	[ "${DEPS:-}" != skip ] || return 0
	for p in "${PACKAGES[@]}"; do installed "$p" || want+=("$p"); done
	for p in "${NEWER[@]}"; do installed "$p" && new_enough "$p" || newer+=("$p"); done
	[ $((${#want[@]} + ${#newer[@]})) -gt 0 ] || return 0
	if [ "$(id -u)" != 0 ]; then
		die "packages are missing. As root: apt-get install --no-install-recommends ${want[*]} ${newer[*]} (meson 1.5 or newer)"
	fi
	export DEBIAN_FRONTEND=noninteractive
	if [ ${#want[@]} -gt 0 ]; then
		run_step "apt-get update" "$log" 0 apt-get -q update || true
		run_step "installing ${want[*]}" "$log" 0 \
			apt-get -q install -y --no-install-recommends "${want[@]}"
	fi
	if [ ${#newer[@]} -gt 0 ]; then
		# shellcheck disable=SC1091
		codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
		mapfile -t opts < <(apt_private "$BUILD/dl/apt-qemu" "$codename" "$codename-updates" "$codename-backports")
		run_step "package lists of $codename-backports" "$log" 0 apt-get "${opts[@]}" -q update
		run_step "installing ${newer[*]} from $codename-backports" "$log" 0 \
			apt-get "${opts[@]}" -q install -y --no-install-recommends \
			-t "$codename-backports" "${newer[@]}"
	fi
}

# The orig tarball of the source package, that file alone.
download() {
	local dl=$BUILD/dl dir=$BUILD/dl/apt-qemu-src opts
	mkdir -p "$dl"
	if [ -n "${QEMU_SRC:-}" ]; then
		cp "$QEMU_SRC" "$dl/part.qemu"
	elif [ -f "$dl/$QTAR" ]; then
		return
	else
		mapfile -t opts < <(apt_private "$dir" "$QSUITE")
		sed -i 's/^deb /deb-src /' "$dir/sources.list"
		run_step "source list of $QSUITE" "$LOGS/qemu-dl.log" 0 apt-get "${opts[@]}" -q update
		rm -rf "$dir/src"
		mkdir -p "$dir/src"
		(cd "$dir/src" && run_step "fetching $QTAR" "$LOGS/qemu-dl.log" 0 \
			apt-get "${opts[@]}" -q --tar-only --download-only --only-source source "qemu/$QSUITE")
		[ -f "$dir/src/$QTAR" ] || die "the mirror has no $QTAR any more ($(ls "$dir/src")); use QEMU_SRC="
		mv "$dir/src/$QTAR" "$dl/part.qemu"
	fi
	echo "$QSHA256  $dl/part.qemu" | sha256sum -c --quiet >&2 || die "$QTAR: wrong checksum"
	mv "$dl/part.qemu" "$dl/$QTAR"
}

qgit() { git -C "$QTREE" -c gc.auto=0 -c user.name=series -c user.email=series@localhost "$@"; }

make_base() {
	local f
	[ ! -e "$QTREE" ] || die "$QTREE exists and has no tag base: remove it first"
	rm -rf "$QTREE.part"
	mkdir -p "$QTREE.part"
	say "==> unpacking $QTAR"
	tar -xf "$BUILD/dl/$QTAR" -C "$QTREE.part" --strip-components=1
	# The tarball has no firmware binaries; the build wants to see the files.
	for f in aarch64-code arm-code arm-vars riscv-code riscv-vars i386-code \
		 i386-secure-code i386-vars x86_64-code x86_64-secure-code \
		 loongarch64-code loongarch64-vars; do
		[ -e "$QTREE.part/pc-bios/edk2-$f.fd.bz2" ] ||
			bzip2 -c </dev/null >"$QTREE.part/pc-bios/edk2-$f.fd.bz2"
	done
	git -C "$QTREE.part" init -q -b series
	git -C "$QTREE.part" config gc.auto 0
	git -C "$QTREE.part" add -A -f
	git -C "$QTREE.part" -c user.name=series -c user.email=series@localhost \
		commit -q --no-verify -m "QEMU $QVER"
	git -C "$QTREE.part" tag base
	mv "$QTREE.part" "$QTREE"
}

# One commit per patch. Commits made in build/qemu and not exported stay.
apply() {
	local want have head
	want=$(cat "$TOP"/clients/qemu/[0-9]*.patch 2>/dev/null | sha256sum | cut -d ' ' -f 1)
	head=$(qgit rev-parse HEAD)
	read -r have _ 2>/dev/null <"$QTREE/.git/series-stamp" || have=
	if [ "$(cat "$QTREE/.git/series-stamp" 2>/dev/null)" = "$want $head" ]; then
		return
	fi
	if [ -n "$have" ] && [ "${FORCE:-}" != 1 ]; then
		[ "$(cut -d ' ' -f 2 "$QTREE/.git/series-stamp")" = "$head" ] && [ -z "$(qgit status --porcelain -uno)" ] || {
			warn "build/qemu has work that is not in clients/qemu: built as it is (FORCE=1 drops it)"
			return
		}
	fi
	qgit reset -q --hard base
	if compgen -G "$TOP/clients/qemu/[0-9]*.patch" >/dev/null; then
		qgit am -q --3way "$TOP"/clients/qemu/[0-9]*.patch
	fi
	echo "$want $(qgit rev-parse HEAD)" >"$QTREE/.git/series-stamp"
	say "qemu: $(qgit rev-list --count base..HEAD) patches on QEMU $QVER in ${QTREE#"$TOP"/}"
}

build() {
	mkdir -p "$QOBJ"
	exec 9>"$QOBJ/lab.lock"
	flock 9
	if [ ! -f "$QOBJ/build.ninja" ]; then
		(cd "$QOBJ" && run_step "configuring QEMU" "$LOGS/qemu-configure.log" 0 \
			"$QTREE/configure" --python=/usr/bin/python3 --target-list=x86_64-softmmu \
			--without-default-features --enable-kvm --disable-tcg \
			--disable-docs --disable-tools --disable-guest-agent \
			--disable-werror --disable-install-blobs --disable-download \
			--enable-trace-backends=log)
	fi
	run_step "QEMU $QVER" "$LOGS/qemu-build.log" 0 ninja -C "$QOBJ" -j"$JOBS" qemu-system-x86_64
	say "built: ${QOBJ#"$TOP"/}/qemu-system-x86_64"
}

deps
if [ ! -e "$QTREE/.git" ]; then
	download
	make_base
fi
apply
[ "${1:-}" = source ] || build
