#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Compare two folders of objects function by function.

A function is its instructions and relocations with everything taken out that
moves without a change of code: addresses, raw bytes, offsets into string and
data sections, the numbers gcc appends to clones and unique names. Jumps inside the function
stay, as offsets from its start. Prints the functions that differ or exist on
one side only, by object and by the reason that lab/objdiff.reasons gives; a
difference without a reason is an error. Functions in which nothing but numbers
differ use a structure whose fields have moved: they are counted, not listed.

objdiff.py BASE SERIES REASONS
"""
import os
import re
import subprocess
import sys
from collections import Counter
from fnmatch import fnmatch

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


def layout(lines):
    """A function without numbers: what is left if a structure's fields moved."""
    return [re.sub(r'(-?0x[0-9a-f]+)(?=\()', '', re.sub(r'\+0x[0-9a-f]+>', '>', line))
            if '(' in line or '<' in line else re.sub(r'\$-?0x[0-9a-f]+', '$N', line)
            for line in lines]


class Reasons:
    """lab/objdiff.reasons: REASON OBJECT FUNCTION..., shell patterns."""

    def __init__(self, path):
        self.rows = []
        with open(path, encoding='utf-8') as f:
            for line in f:
                if line.strip() and not line.startswith('#'):
                    reason, obj, *names = line.split()
                    self.rows.append((reason, obj, names))

    def of(self, obj, name):
        for reason, objs, names in self.rows:
            if fnmatch(obj, objs) and any(fnmatch(name, n) for n in names):
                return reason
        return None


def compare(a, b):
    """What there is to say of a function, None if it is the same."""
    if a is None:
        return 'new'
    if b is None:
        return 'gone'
    if a == b:
        return None
    if len(a) == len(b) and layout(a) == layout(b):
        return 'moved'
    return f'{len(a)} to {len(b)}'


def main():
    base, new = sys.argv[1:3]
    reasons, total, moved, lost = Reasons(sys.argv[3]), 0, 0, 0
    counts = Counter()
    old, now = objects(base), objects(new)
    for o in sorted(old | now):
        a = functions(os.path.join(base, o)) if o in old else None
        b = functions(os.path.join(new, o)) if o in now else None
        if a is None or b is None:
            # One line for a file that only one side has, not one for a function.
            n, what = (len(b), 'new') if a is None else (len(a), 'gone')
            total += n
            reason = reasons.of(o, 'FILE')
            counts[reason, what] += n
            lost += reason is None
            print(f'{o}: {reason or "NO REASON"}: the file is {what}, {n} functions')
            continue
        total += len(a.keys() | b.keys())
        found = {}
        for f in sorted(a.keys() | b.keys()):
            what = compare(a.get(f), b.get(f))
            if what == 'moved':
                moved += 1
            elif what:
                reason = reasons.of(o, f)
                counts[reason, what if what in ('new', 'gone') else 'changed'] += 1
                lost += reason is None
                found.setdefault(reason or 'NO REASON', []).append(f'{f} ({what})')
        for reason, names in sorted(found.items()):
            print(f'{o}: {reason}: {", ".join(names)}')
    print('\n| reason | changed | new | gone |\n|---|---|---|---|')
    for reason in sorted({r for r, _ in counts}, key=str):
        print(f'| {reason} | ' + ' | '.join(str(counts[reason, w]) for w in ('changed', 'new', 'gone')) + ' |')
    print(f'\n{total} functions, {sum(n for (_, w), n in counts.items() if w == "changed")} changed, '
          f'{moved} with other numbers only, {lost} without a reason')
    return 1 if lost else 0


sys.exit(main())
