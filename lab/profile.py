#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""profile.py TRACE KALLSYMS WINDOW...: what was executed, of profile.so's TRACE.

For each window, counted from 1, the instructions of each function, without and
with what it called.  The latter comes from entries at a function's first
instruction, so functions that the compiler made of several parts, and
interrupts, are in whoever they were called from.

MAPS= in the environment is the /proc/PID/maps of the one process that counts, and
BINARIES= the folders of its program and libraries, with colons: where MAPS says a
mapping is of /x/y, its symbols are those of y in the first folder that has it.
"""

import bisect
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path


def read_symbols(path):
    symbols = []
    for line in open(path, errors="replace"):
        fields = line.split()
        if len(fields) >= 3 and fields[1] in "tTwW" and len(fields[0]) == 16:
            symbols.append((int(fields[0], 16), fields[2]))
    return symbols


def read_user(maps, folders):
    """Symbols of a process: of executable mappings, moved to where these are."""
    symbols = []
    for line in open(maps):
        fields = line.split()
        if len(fields) < 6 or "x" not in fields[1]:
            continue
        start, end = (int(n, 16) for n in fields[0].split("-"))
        name = Path(fields[5]).name
        symbols += [(start, f"({name})"), (end, "(user space, guest)")]
        path = next((Path(d) / name for d in folders if (Path(d) / name).exists()), None)
        if not path:
            continue
        # Where a file is mapped, and what addresses its symbols have there.
        offset = int(fields[2], 16)
        head = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True).stdout
        for ph in head.splitlines():
            ph = ph.split()
            if ph[:1] == ["LOAD"] and int(ph[1], 16) & ~0xfff == offset:
                move = start - (int(ph[2], 16) & ~0xfff)
                break
        else:
            continue
        for option in ([], ["-D"]):
            out = subprocess.run(["nm", *option, "--defined-only", path],
                                 capture_output=True, text=True).stdout
            for sym in out.splitlines():
                sym = sym.split()
                if len(sym) == 3 and sym[1] in "tTwWiu" and start <= int(sym[0], 16) + move < end:
                    symbols.append((int(sym[0], 16) + move, sym[2].split("@")[0]))
    return symbols


def windows(path, wanted):
    number, blocks = 0, None
    for line in open(path):
        if line.startswith("window"):
            if blocks is not None:
                yield number, blocks
            number += 1
            blocks = [] if number in wanted else None
        elif blocks is not None:
            addr, n = line.split()
            blocks.append((int(addr, 16), int(n)))
    if blocks is not None:
        yield number, blocks


def profile(blocks, symbols):
    starts = [s[0] for s in symbols]
    alone, all_in, calls, stack = Counter(), Counter(), Counter(), []
    for addr, n in blocks:
        i = bisect.bisect_right(starts, addr) - 1
        name, entry = symbols[i][1], symbols[i][0] == addr
        if entry:
            calls[name] += 1
        if not stack or entry:
            stack.append(name)
        elif name in stack:
            while stack[-1] != name:
                stack.pop()
        else:
            stack.append(name)
        alone[name] += n
        for f in set(stack):
            all_in[f] += n
    return alone, all_in, calls


def main():
    trace, kallsyms, *numbers = sys.argv[1:]
    symbols = [(0, "(user space, guest)")] + read_symbols(kallsyms)
    if os.environ.get("MAPS"):
        symbols += read_user(os.environ["MAPS"], os.environ.get("BINARIES", "").split(":"))
    symbols.sort()
    for number, blocks in windows(trace, set(map(int, numbers))):
        alone, all_in, calls = profile(blocks, symbols)
        print(f"window {number}: {sum(alone.values())} instructions")
        print("   alone  with callees  calls  function")
        for name, n in alone.most_common(45):
            print(f"{n:8} {all_in[name]:13} {calls[name]:6}  {name}")
        print()


main()
