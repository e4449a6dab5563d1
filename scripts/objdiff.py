#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Compare two folders of objects function by function.

A function is its instructions and relocations with everything taken out that
moves without a change of code: addresses, raw bytes, offsets into string and
data sections, the numbers gcc appends to clones and unique names. Jumps inside the function
stay, as offsets from its start. Prints one line for each function that
differs, exists on one side only, and a summary; ends with status 0 either
way, for what is acceptable is for people to say.
"""
import os
import re
import subprocess
import sys

FUNC = re.compile(r'^[0-9a-f]+ <(.+)>:$')
INSN = re.compile(r'^\s*[0-9a-f]+:\t(.*)$')
RELOC = re.compile(r'^\s+[0-9a-f]+: (R_\S+)\t(\S+)$')
PAD = re.compile(r'^(nop|int3|cs nop|xchg +%ax,%ax|data16)')


def clone(name):
    name = re.sub(r'(__UNIQUE_ID_\w+)_\d+(\.\d+)?$', r'\1', name)
    return re.sub(r'\.(isra|constprop|part|cold)(\.\d+)?', r'.\1', re.sub(r'\.\d+$', '', name))


def reloc_target(target):
    name = re.split(r'[+-]0x', target)[0]
    if name.startswith('.'):
        return name  # an offset into a section: moves with its neighbours
    return clone(name)


def functions(path):
    dump = os.environ.get('OBJDUMP', 'objdump')
    text = subprocess.run([dump, '-dr', '--no-show-raw-insn', path], check=True,
                          capture_output=True, text=True).stdout
    found, lines = {}, None
    for line in text.splitlines():
        if m := FUNC.match(line):
            lines = found.setdefault(clone(m[1]), [])
        elif lines is None:
            continue
        elif m := RELOC.match(line):
            lines.append(f'  {m[1]} {reloc_target(m[2])}')
        elif m := INSN.match(line):
            insn = re.sub(r'\s*#.*$', '', m[1]).strip()
            # "jmp 1a3 <f+0x33>": the offset says it, the address does not.
            insn = re.sub(r'\b[0-9a-f]+ <([^>+]+)(\+0x[0-9a-f]+)?>',
                          lambda t: f'<{clone(t[1])}{t[2] or ""}>', insn)
            lines.append(re.sub(r'\s+', ' ', insn))
    for lines in found.values():
        while lines and PAD.match(lines[-1]):
            lines.pop()
    return found


def objects(root):
    return {os.path.relpath(os.path.join(d, f), root)
            for d, _, fs in os.walk(root) for f in fs if f.endswith('.o')}


def main():
    base, new = sys.argv[1:3]
    both, differ, total = objects(base) & objects(new), 0, 0
    for o in sorted(objects(base) ^ objects(new)):
        print(f'{o}: only in the {"base" if o in objects(base) else "series"}')
        differ += 1
    for o in sorted(both):
        a, b = functions(os.path.join(base, o)), functions(os.path.join(new, o))
        total += len(a.keys() | b.keys())
        for f in sorted(a.keys() | b.keys()):
            if f not in a or f not in b:
                what = 'only in the ' + ('base' if f in a else 'series')
            elif a[f] != b[f]:
                what = f'differs ({len(a[f])} -> {len(b[f])} lines)'
            else:
                continue
            print(f'{o}: {f}: {what}')
            differ += 1
    print(f'{len(both)} objects, {total} functions, {differ} differences')


main()
