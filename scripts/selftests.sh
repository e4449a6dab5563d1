#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The test programs that lab/tests.tab names, static, in
# build/selftests/<arch>. Only those: the kernel has hundreds. With --there:
# of them only those that the tree has, which may be an earlier step.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source=lab/table.sh
. "$TOP/lab/table.sh"

out=${SELFTESTS:-$BUILD/selftests/$ARCH}
there=${1:-}
hdr=$out/hdr
mkdir -p "$out"
exec 9>"$out/lock"
flock 9

# libuuid and libcap, where they are not those that the packages installed.
libs=
if [ -n "$(cross "$ARCH")" ]; then
	foreign_packages "$ARCH"
	libs=-L$(echo "$(foreign_root "$ARCH")"/usr/lib/*-linux-gnu)
fi

if [ "$ARCH" = riscv ]; then
	# The linker puts programs of this architecture at 64 KiB, where tests
	# want addresses for themselves.
	libs+=' -Wl,-Ttext-segment=0x10000000'
	# libuuid may come from a newer release than libc (foreign_packages()).
	libc=$("$(cross "$ARCH")gcc" -print-file-name=libc.a)
	for f in strtoul fscanf; do
		grep -q "__isoc23_$f" "$libc" || libs+=" -Wl,--defsym=__isoc23_$f=$f"
	done
fi

build_dir() {
	local dir=$1
	shift
	mkdir -p "$out/$dir"
	make -C "$TREE/tools/testing/selftests/$dir" ARCH="$ARCH" CROSS_COMPILE="$(cross "$ARCH")" \
		OUTPUT="$out/$dir" KHDR_INCLUDES="-isystem $hdr/include" \
		LDFLAGS="-static $libs" -j"$JOBS" "${@/#/$out/$dir/}"
}

build_all() {
	local dir
	make -C "$TREE" O="$out/kbuild" ARCH="$ARCH" CROSS_COMPILE="$(cross "$ARCH")" \
		INSTALL_HDR_PATH="$hdr" headers_install
	for dir in kvm vfio iommu; do
		mapfile -t progs < <(table_programs "$ARCH" | sed -n "s,^$dir/,,p" |
			while read -r prog; do
				[ -n "$there" ] && [ ! -f "$TREE/tools/testing/selftests/$dir/$prog.c" ] || echo "$prog"
			done)
		[ ${#progs[@]} -eq 0 ] || build_dir "$dir" "${progs[@]}"
	done
}

run_step "selftests, $ARCH" "$LOGS/selftests-$ARCH.log" 0 build_all
