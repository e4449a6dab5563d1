#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""profile.py TRACE KALLSYMS WINDOW...: what was executed, of profile.so's TRACE.

For each window, counted from 1, the instructions of each function, without and
with what it called.  The latter comes from entries at a function's first
instruction, so functions that the compiler made of several parts, and
interrupts, are in whoever they were called from.
"""

import bisect
import sys
from collections import Counter


def read_symbols(path):
    symbols = []
    for line in open(path, errors="replace"):
        fields = line.split()
        if len(fields) >= 3 and fields[1] in "tTwW" and len(fields[0]) == 16:
            symbols.append((int(fields[0], 16), fields[2]))
    return sorted(symbols)


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
        if addr < 1 << 63:
            name, entry = "(user space, guest)", False
        else:
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
    symbols = read_symbols(kallsyms)
    for number, blocks in windows(trace, set(map(int, numbers))):
        alone, all_in, calls = profile(blocks, symbols)
        print(f"window {number}: {sum(alone.values())} instructions")
        print("   alone  with callees  calls  function")
        for name, n in alone.most_common(45):
            print(f"{n:8} {all_in[name]:13} {calls[name]:6}  {name}")
        print()


main()
