# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
#
# Shared by every script: where things are, how to speak, how to run a long
# step. Sourced, never run. Paths can be overridden from the environment, so
# that two trees or two object directories can live side by side.

set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=${BUILD:-$TOP/build}
TREE=${TREE:-$BUILD/linux}
ARCH=${ARCH:-x86}
DEBUG=${DEBUG:-}
PAGES=${PAGES:-}
FLAVOUR=release
[ -z "$DEBUG" ] || [ "$DEBUG" = 0 ] || FLAVOUR=debug
# A release kernel with pages of another size: a flavour of its own.
[ -z "$PAGES" ] || FLAVOUR=$PAGES
JOBS=${JOBS:-$(nproc)}
LOGS=$BUILD/log

# A tree given as a relative path is relative to where make was called: TOP.
case $TREE in /*) ;; *) TREE=$TOP/$TREE ;; esac
case $BUILD in /*) ;; *) BUILD=$TOP/$BUILD ;; esac

# The source this series is pinned to.
KVER=7.3.4
KPKG=linux-source-7.3
KPKGVER='7.3.4-1~bpo13+1'
KSUITE=trixie-backports
KSHA256=76df1affb19f24926949369be1d74b60071c963c598ce8780bddd4bbf0fc3bc4

# In-tree folders that hold files this series adds.
OVERLAY_DIRS=(Documentation arch drivers include samples tools virt)

# Where somebody uses ccache already. A cache that is empty costs time.
if [ -d /usr/lib/ccache ] && { [ -d "${CCACHE_DIR:-${HOME:-}/.cache/ccache}" ] || [ -d "${HOME:-}/.ccache" ]; }; then
	PATH=/usr/lib/ccache:$PATH
fi

say()  { printf '%s\n' "$*" >&2; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die()  { printf 'error: %s\n' "$*" >&2; exit 1; }

objdir() { echo "${OBJ:-$BUILD/obj/$1$([ "$2" = release ] || echo "-$2")}"; }

# The prefix of the compiler for an architecture, empty for this machine's own.
cross() {
	case $1,$(uname -m) in
	arm64,aarch64 | riscv,riscv64) ;;
	arm64,*) echo aarch64-linux-gnu- ;;
	riscv,*) echo riscv64-linux-gnu- ;;
	esac
}

elapsed() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

# phase NAME COMMAND...: run it; what it took of the processors, with all that it
# started and waited for, is a line of $PHASES. phase_table prints them.
PHASES=${PHASES:-$BUILD/log/phases}

phases_begin() {
	mkdir -p "$(dirname "$PHASES")"
	: >"$PHASES"
}

# User and system time of the children so far, in seconds. times is of the
# shell that runs it: no pipe, no $( ).
cpu_seconds=
cpu_now() {
	local f
	f=$(mktemp)
	times >"$f"
	cpu_seconds=$(awk 'NR == 2 { for (i = 1; i <= 2; i++) { split($i, t, /[ms]/); s += t[1] * 60 + t[2] } print s }' "$f")
	rm -f "$f"
}

phase() {
	local name=$1 before start=$SECONDS rc=0
	shift
	cpu_now
	before=$cpu_seconds
	"$@" || rc=$?
	cpu_now
	echo "$before $cpu_seconds $((SECONDS - start)) $name" >>"$PHASES"
	return $rc
}

phase_table() {
	awk '{ s = $2 - $1; sum += s; w = $3; $1 = $2 = $3 = ""; printf "%7.0f s of CPU, %4d s%s\n", s, w, $0 }
	     END { printf "%7.0f s of CPU in all\n", sum }' "$PHASES" >&2
}

# run_step TITLE LOG TOTAL COMMAND...: run a long command with its output in
# LOG, and say what is going on: how many files were built, of how many (the
# figure of the last complete run, or TOTAL where there was none; 0: unknown).
run_step() {
	local title=$1 log=$2 total=$3 start=$SECONDS every=20 n pid rc=0 line
	shift 3
	mkdir -p "$(dirname "$log")"
	[ ! -s "$log.total" ] || total=$(cat "$log.total")
	[ ! -t 2 ] || every=1
	say "==> $title (log: ${log#"$TOP"/})"
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	while kill -0 "$pid" 2>/dev/null; do
		# A short step ends without having been waited for.
		for ((n = 0; n < every * 5; n++)); do
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.2
		done
		n=$(grep -cE '^ +(CC|AS|LD|AR|HOSTCC|INSTALL)\b' "$log" || true)
		line=$(tail -n 1 "$log" | cut -c 1-50)
		line="    $n$([ "$total" -gt 0 ] && echo "/~$total") steps, $(elapsed $((SECONDS - start))): $line"
		if [ -t 2 ]; then printf '\r\033[K%s' "$line" >&2
		elif kill -0 "$pid" 2>/dev/null; then say "$line"; fi
	done
	wait "$pid" || rc=$?
	[ ! -t 2 ] || printf '\r\033[K' >&2
	if [ $rc -ne 0 ]; then
		say "--- end of $log"
		# With -j the error is rarely the last line.
		grep -nE '(error|Error|undefined reference|\*\*\*)' "$log" | head -n 20 >&2 || true
		say "---"
		tail -n 30 "$log" >&2
		say "FAILED: $title, after $(elapsed $((SECONDS - start))) (whole log: $log)"
		return $rc
	fi
	n=$(grep -cE '^ +(CC|AS|LD|AR|HOSTCC|INSTALL)\b' "$log" || true)
	[ "$n" -lt 200 ] || echo "$n" >"$log.total"
	say "    done in $(elapsed $((SECONDS - start)))"
}

# The Debian mirror this machine itself uses: the entry (deb822 or one-line)
# of its own release and component main. Printed as one URI.
apt_mirror() {
	local codename uri
	# shellcheck disable=SC1091
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	[ -n "$codename" ] || die "no VERSION_CODENAME in /etc/os-release: not Debian? Use KERNEL_SRC="
	uri=$({
		{ cat /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } | awk -v rel="$codename" '
			function flush() {
				if (types ~ / deb / && suites ~ (" " rel " ") && comps ~ / main / &&
				    enabled != "no" && uri != "")
					print uri
				types = suites = comps = uri = enabled = ""
			}
			/^[ \t]*$/ { flush(); next }
			/^#/ { next }
			tolower($1) == "types:" { $1 = ""; types = $0 " " }
			tolower($1) == "suites:" { $1 = ""; suites = $0 " " }
			tolower($1) == "components:" { $1 = ""; comps = $0 " " }
			tolower($1) == "uris:" { uri = $2 }
			tolower($1) == "enabled:" { enabled = tolower($2) }
			END { flush() }'
		{ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true; } |
			sed -n 's/^deb[ \t]\+\(\[[^]]*\][ \t]*\)\?//p' |
			awk -v rel="$codename" '$2 == rel && / main/ { print $1 }'
	} | awk '/\/debian\/?$/ && !found { print; found = 1 } { first = first ? first : $0 }
		 END { if (!found) print first }')
	[ -n "$uri" ] || die "no Debian mirror of $codename in the apt configuration"
	echo "$uri"
}

# apt_private DIR SUITE...: give apt a root of its own in DIR, with these
# suites of the machine's mirror, and print the options that select it. The
# machine's own configuration is read, never written: a suite added there can
# upgrade far more than what was asked for.
apt_private() {
	local dir=$1 suite mirror key=${DEBIAN_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}
	shift
	mirror=$(apt_mirror)
	mkdir -p "$dir"/{lists,cache/archives}/partial
	for suite; do
		echo "deb [signed-by=$key] $mirror $suite main"
	done >"$dir/sources.list"
	printf '%s\n' -o "Dir::Etc::sourcelist=$dir/sources.list" \
		-o Dir::Etc::sourceparts=/dev/null \
		-o "Dir::State::lists=$dir/lists" -o "Dir::Cache=$dir/cache" \
		-o "Dir::Cache::pkgcache=$dir/pkgcache.bin" \
		-o "Dir::Cache::srcpkgcache=$dir/srcpkgcache.bin" \
		-o APT::Sandbox::User=root
}

# What the lab needs of another architecture's packages, unpacked in
# build/dl/ARCH: busybox for the machine, libuuid and libcap for the selftests.
# No foreign architecture is added to this system: an apt root of its own has it.
foreign_root() { echo "$BUILD/dl/$1"; }

foreign_packages() {
	local arch=$1 dl=$BUILD/dl opts codename debarch root deb
	root=$(foreign_root "$arch")
	[ ! -e "$root/.with-libcap" ] || return 0
	# shellcheck disable=SC1091
	codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
	debarch=$arch
	if [ "$arch" = riscv ]; then
		debarch=riscv64
		# The first release that has this architecture.
		[ "$codename" != bookworm ] || codename=trixie
	fi
	say "==> fetching busybox-static, uuid-dev and libcap-dev for $arch"
	mapfile -t opts < <(apt_private "$dl/apt-$arch" "$codename")
	opts+=(-o "APT::Architecture=$debarch" -o "APT::Architectures=$debarch" -o Dir::State::status=/dev/null)
	apt-get "${opts[@]}" -qq update >&2 || die "apt-get update failed"
	rm -rf "$root"
	mkdir -p "$root/deb"
	(cd "$root/deb" && apt-get "${opts[@]}" -q download busybox-static uuid-dev libcap-dev >&2) ||
		die "cannot fetch packages for $arch"
	for deb in "$root"/deb/*.deb; do
		dpkg-deb -x "$deb" "$root"
	done
	rm -rf "$root/deb"
	touch "$root/.with-libcap"
}

# Overlay files of the repository, one a line. Outside a git checkout (a
# tarball of the repository) every file counts.
overlay_files() {
	cd "$TOP"
	if git rev-parse --git-dir >/dev/null 2>&1; then
		git ls-files -co --exclude-standard -- "${OVERLAY_DIRS[@]}" |
			while read -r f; do [ ! -f "$f" ] || echo "$f"; done
	else
		find "${OVERLAY_DIRS[@]}" -type f 2>/dev/null || true
	fi | LC_ALL=C sort -u
}

# What the tree is made from, as one hash.
series_hash() {
	{
		echo "$KVER"
		cd "$TOP"
		find patches -name '*.patch' | LC_ALL=C sort | xargs -r sha256sum
		overlay_files | while read -r f; do
			echo "$f $([ -x "$f" ] && echo x)"
			sha256sum <"$f"
		done
	} | sha256sum | cut -d ' ' -f 1
}

tgit() { git -C "$TREE" -c gc.auto=0 -c core.quotepath=off "$@"; }
