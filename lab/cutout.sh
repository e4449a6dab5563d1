# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# For checks that compile functions of the kernel on the host.

# cut_out FILE FUNCTION: from its first line to its closing brace. A function that is
# not found is an error.
cut_out() {
	awk -v fn="$2" '
		!on && /^[a-z].*\(/ && index($0, " " fn "(") { on = 1; found = 1 }
		on
		on && /^}/ { on = 0 }
		END { exit !found }' "$TREE/$1" || die "$1 has no $2()"
}

# cut_out_struct FILE NAME: likewise, of a struct.
cut_out_struct() {
	awk -v start="struct $2 {" '
		$0 == start { on = 1; found = 1 }
		on
		/^};/ { on = 0 }
		END { exit !found }' "$TREE/$1" || die "$1 has no struct $2"
}
