#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""bench.py DIR [DOC]: make tables and a plot of DIR/figures.tsv.

DOC is a reStructuredText document: what is between its two markers is replaced
by the table, and the plot is put beside it.

BEFORE= in the environment is the figures.tsv of another kernel, the base: what
VMAs cost there is what dma-bufs are compared with, and what has become of VMAs and
of ordinary memory since is a table of its own, for which the document can have
another pair of markers.  AGAIN= is the figures.tsv of another run of the same
kernel: what differs between the two is marked.  ARM64= and RISCV= are the figures.tsv
of these architectures, each of which is a table of its own.
"""

import os
import re
import sys
from pathlib import Path
from xml.sax.saxutils import escape

BEGIN, END = ".. figures: begin", ".. figures: end"
BEGIN_CHANGES, END_CHANGES = ".. changes: begin", ".. changes: end"
PLOT = "dmabuf-performance.svg"

# The most that dma-buf may cost, first match counts: in cold VMAs, in the figure's
# unit, or for each leaf, without what it takes to revoke nothing.
BARS = [
    (r"slot creation", r"", 0.5),
    (r"pre-fault$", r"^64 GiB by 1 GiB", 10000),
    (r"pre-fault$", r"by (2 MiB|4 KiB)", "50 a leaf"),
    (r"guest fault", r"1 GiB", 0.55),
    (r"guest fault", r"2 MiB|4 KiB", 0.65),
    (r"first touch.*in a row", r"", 0.5),
    (r"device reset", r"^4096 x", 0.34),
    (r"device reset", r"^64 x", 0.5),
    (r"restore$", r"64 slots", 6000),
    (r"many dma-bufs, restore$", r"", 20000),
    (r"revoke, KVM$", r"apart", 330000),
    (r"revoke, KVM$", r"^4096 x", 180000),
    (r"revoke, KVM$", r"^(64|512) x.* 1 slot", "40 a leaf"),
    (r"revoke, KVM(?!.*restore)", r"^4096 x|^512 x", 1.0),
    (r"revoke, KVM(?!.*restore)", r"^(1|64) x", 0.5),
    (r"65536 accesses", r"", 1.01),
]
# What somebody notices of a figure, of one run in that of another and of a kernel
# in another one.
CHANGED = 0.01
# The least that an operation can take: what is in its figures that has nothing to
# do with what is measured, what the code that is generated takes to write each
# entry, and one flush of TLBs if there is any.
COMMON = [
    (r"^guest fault", "exit to KVM and entry", 15, 0),
    (r"^revoke.*IOMMU, restore", "decode on", 15, 0),
    (r"^revoke.*restore", "decode on", 0, 0),
    (r"^revoke", "decode off", 19, 258),
    (r"^device reset", "device reset", 19, 258),
    (r"^pre-fault", "ioctl of the VM", 15, 0),
    (r"^slot", "ioctl of the VM", 0, 0),
]
SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
# Sizes in GiB of which what depends on the size is told, and the parameters of these
# figures.
SCALE = [64, 512, 1024, 4096]
OF_SIZE = r"(\d+)( GiB.*| x 1 GiB, 1 slot| x 1 GiB)"
# Other architectures, by what names their figures in the environment, and what comes
# before their table.
OTHERS = {
    "ARM64": """On arm64, where the guest's accesses map what is revoked, as there is no
``KVM_PRE_FAULT_MEMORY``:""",
    "RISCV": """On riscv, where there is none either, and where KVM maps a VMA by 2 MiB at most:""",
}
# Parameters of the figures that are a curve and no ratio.
CURVE = r"(\d+) ranges, (\d+) importers"


def read(path):
    """Figures as {(operation, parameters): {path: value}}, and units."""
    rows, units = {}, {}
    for line in path.read_text().splitlines():
        op, params, who, value, unit = line.split("\t")
        # The large BAR is measured last, and small slots of it once more.
        rows.setdefault((op, params), {}).setdefault(who, int(value))
        units[op, params] = unit
    return rows, units


def size_of(text):
    number, unit = text.split()
    return int(number) * SIZES[unit]


def leaves_of(key):
    """How many leaves an operation has to do with."""
    op, params = key
    by = re.fullmatch(r"(\d+ .iB) by (\d+ .iB)", params)
    if by:
        return size_of(by[1]) // size_of(by[2])
    many = re.match(r"(\d+) x ", params)
    return int(many[1]) if many else 1 if op == "guest fault" else 0


class Figures:
    """Those of a run, what they are compared with, and what was not steady."""

    def __init__(self, rows, units, before, again):
        self.rows, self.units = rows, units
        self.before, self.again = before or {}, again or {}

    def vma(self, key):
        """A cold VMA, of the base if that was measured."""
        return self.before.get(key, {}).get("vma-cold") or self.rows[key].get("vma-cold")

    def ratio(self, key):
        mine, other = self.rows[key].get("dmabuf"), self.vma(key)
        return None if mine is None or not other else mine / other

    def bar(self, key):
        if "dmabuf" not in self.rows[key]:
            return None
        for op, params, limit in BARS:
            if re.search(op, key[0]) and re.search(params, key[1]):
                return limit if self.vma(key) or not isinstance(limit, float) else None
        return None

    def most(self, key):
        """What the bar is in the figures' unit."""
        limit = self.bar(key)
        if limit is None:
            return None
        if isinstance(limit, float):
            return limit * self.vma(key)
        if isinstance(limit, int):
            return limit
        nothing = self.rows.get((key[0], "0 x 1 GiB, 1 slot"), {}).get("dmabuf", 0)
        return int(limit.split()[0]) * leaves_of(key) + nothing

    def verdict(self, key):
        most = self.most(key)
        if most is None:
            return ""
        return "met" if self.rows[key]["dmabuf"] <= most else "missed"

    def common(self, key):
        for op, what, _, _ in COMMON:
            if re.search(op, key[0]):
                return self.rows.get(("common", what), {}).get("common")
        return None

    def floor(self, key):
        leaves, common = leaves_of(key), self.common(key)
        for op, _, leaf, flush in COMMON:
            if common is not None and re.search(op, key[0]):
                return common + leaves * leaf + (flush if leaves else 0)
        return None

    def number(self, key, who):
        value = self.rows[key].get(who)
        if value is None:
            return ""
        again = self.again.get(key, {}).get(who)
        steady = again is None or abs(again - value) <= CHANGED * value
        return f"{value:,}" if steady else f"~{value:,}"

    def columns(self, key, of=None):
        op, unit, limit = key[0], self.units[key], self.bar(key)
        if unit not in ("ns", key[1]):
            op += f" ({unit})"
        cells = [op, of or key[1], self.number(key, "dmabuf"), self.number(key, "vma-cold"),
                 self.number(key, "vma-warm")]
        if self.before:
            cells.append(number(self.before.get(key, {}).get("vma-cold")))
        return cells + [times(self.ratio(key)), number(self.floor(key)),
                        limit if isinstance(limit, str) else number(limit)
                        if isinstance(limit, int) else times(limit), self.verdict(key)]

    def heads(self):
        return (["Operation", "Of", "dma-buf", "VMA cold", "VMA warm"] +
                (["base: VMA cold"] if self.before else []) +
                ["ratio", "floor", "bar", "verdict"])


def number(value):
    return "" if value is None else f"{value:,}"


def times(value):
    return "" if value is None else f"{value:.3g}" if value < 0.1 else f"{value:.2f}"


def short(rows):
    """Without what is the same whatever it is of: one row for all of these."""
    same = {}
    for key, row in rows.items():
        if key[0].startswith(("entry, access, exit", "65536")) or key[0].endswith(", restore"):
            same.setdefault((key[0], tuple(sorted(row.items()))), []).append(key)
    drop = {k for keys in same.values() for k in keys[1:]}
    count = {keys[0]: len(keys) for keys in same.values()}
    return [(k, f"{k[1]}, and {count[k] - 1} others" if count.get(k, 1) > 1 else k[1])
            for k in rows if k not in drop]


def rst_table(heads, rows):
    rows = [[c or "\\" if i == 0 else c for i, c in enumerate(r)] for r in rows]
    width = [max(len(r[i]) for r in [heads] + rows) for i in range(len(heads))]
    rule = "  ".join("=" * w for w in width)

    def line(cells):
        return "  ".join(c.ljust(w) for c, w in zip(cells, width)).rstrip()

    return "\n".join([rule, line(heads), rule] + [line(r) for r in rows] + [rule])


def of_size(key):
    """The size in GiB that a figure is of, and its parameters without that."""
    found = re.fullmatch(OF_SIZE, key[1])
    return (int(found[1]), found[2].strip()) if found else (None, None)


def scaling(f):
    """What depends on the size, from 64 GiB to the largest BAR."""
    found, out = {}, []
    for key, row in f.rows.items():
        gib, of = of_size(key)
        if gib in SCALE and "dmabuf" in row and key[0] != "first touch of all":
            found.setdefault((key[0], of), {})[gib] = row
    for (op, of), by in found.items():
        if 64 not in by or len(by) == 1:
            continue
        most = max(by)
        mine = [by[64]["dmabuf"], by[most]["dmabuf"]]
        vma = [by[64].get("vma-cold"), by[most].get("vma-cold")]
        out.append([op, of] + [number(by.get(g, {}).get("dmabuf")) for g in SCALE] +
                   [f"{(mine[1] - mine[0]) / (most - 64):.1f}",
                    number(vma[1]), f"{(vma[1] - vma[0]) / (most - 64):,.1f}" if all(vma) else "",
                    times(mine[1] / vma[1]) if vma[1] else ""])
    heads = ["Operation", "Of"] + [f"{g} GiB" if g < 1024 else f"{g // 1024} TiB" for g in SCALE]
    return heads + ["a GiB", "most by VMA", "a GiB by VMA", "ratio"], out


def large(key):
    return (of_size(key)[0] or 0) > 512


def only_both(f):
    """Another architecture's figures: what was measured by dma-buf, and by VMA."""
    out = []
    for key, of in short(f.rows):
        if not {"dmabuf", "unmap"} & set(f.rows[key]) or re.fullmatch(CURVE, key[1]):
            continue
        op, unit = key[0], f.units[key]
        out.append([op if unit in ("ns", key[1]) else f"{op} ({unit})", of,
                    f.number(key, "dmabuf"), f.number(key, "vma-cold"),
                    f.number(key, "vma-warm"), times(f.ratio(key))])
    return rst_table(["Operation", "Of", "dma-buf", "VMA cold", "VMA warm", "ratio"], out)


def curve(f):
    """Many ranges, many importers: a line for each number of importers."""
    found, text, sizes = {}, {}, set()
    for key in f.rows:
        of = re.fullmatch(CURVE, key[1])
        if not of:
            continue
        ranges, importers = map(int, of.groups())
        found.setdefault((key[0], importers), {})[ranges] = f.rows[key]["dmabuf"]
        text[key[0], importers, ranges] = f.number(key, "dmabuf")
        sizes.add(ranges)
    sizes = sorted(sizes)
    heads = ["Operation", "Importers"] + [f"ranges: {r:,}" for r in sizes] + [
        "an importer", "most to least"]
    return heads, [
        [op, f"{n:,}"] + [text.get((op, n, r), "") for r in sizes] +
        [number(by[sizes[-1]] // (1 if op.startswith("map") else n)),
         times(by[sizes[-1]] / by[sizes[0]])]
        for (op, n), by in sorted(found.items())]


def rst(f, others):
    many = curve(f)
    f.rows = {k: r for k, r in f.rows.items() if not re.fullmatch(CURVE, k[1])}
    common = [[k[1], number(r["common"])] for k, r in f.rows.items() if k[0] == "common"]
    out = [rst_table(f.heads(), [f.columns(k, of) for k, of in short(f.rows)
                                 if not {"common", "ordinary", "noticed"} & set(f.rows[k])
                                 and not large(k)])]
    if common:
        out += ["", "What is in the figures of both that has nothing to do with either:", "",
                rst_table(["What", "costs"], common)]
    unmap = [[k[1], number(r["dmabuf"]), number(r["unmap"])]
             for k, r in f.rows.items() if "unmap" in r and "dmabuf" in r]
    if unmap:
        out += ["", "Revoking the IOMMU's mapping, and what an unmap ioctl of as much takes:", "",
                rst_table(["Of", "revoke", "unmap"], unmap)]
    noticed = {}
    for (op, what), row in f.rows.items():
        if "noticed" in row:
            noticed.setdefault(op, {})[what] = number(row["noticed"])
    if noticed:
        whats = list(next(iter(noticed.values())))
        out += ["", "What VMs notice that have another device:", "",
                rst_table(["What"] + whats, [[op] + [by.get(w, "") for w in whats]
                                         for op, by in noticed.items()])]
    heads, scale = scaling(f)
    if scale:
        out += ["", "What depends on the size, and what a GiB more costs. *Ratio* is that of",
                "the largest size:", "", rst_table(heads, scale)]
    if many[1]:
        out += ["", "Buffers of many ranges with many importers, each of which maps a page in",
                "an IOAS with ``IOMMU_IOAS_MAP_RESTORE``; instructions. *An importer* is",
                "the share of one at the largest number of ranges, *most to least* what the",
                "number of ranges makes:", "", rst_table(*many)]
    for name, figures in others.items():
        out += ["", OTHERS[name], "", only_both(figures)]
    out += ["", f".. figure:: {PLOT}",
            "   :alt: cost by dma-buf in that by VMA, for each operation", "",
            "   Cost by dma-buf in the cost by VMA. Left of 1 the dma-buf is cheaper;",
            "   the red mark is the bar."]
    return "\n".join(out) + "\n"


def svg(f):
    """Ratios to the cold VMA, as bars from 1 on a logarithmic axis."""
    shown = [(k, f.ratio(k), f.most(k)) for k, _ in short(f.rows)
             if f.ratio(k) and not large(k) and not k[0].startswith("entry, access, exit")]
    left, width, line, top = 430, 460, 18, 40
    lo, hi = -4, 1          # powers of ten
    height = top + line * len(shown) + 40

    def x(value):
        from math import log10
        at = min(max(log10(value), lo), hi)
        return left + (at - lo) / (hi - lo) * width

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 70}" '
           f'height="{height}" font-family="sans-serif" font-size="12">',
           "<!-- SPDX-License-Identifier: GPL-2.0 -->",
           '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="{left}" y="16">cost by dma-buf / cost by VMA (cold)</text>']
    for power in range(lo, hi + 1):
        at = x(10 ** power)
        out.append(f'<line x1="{at:.1f}" y1="{top - 6}" x2="{at:.1f}" y2="{height - 30}" '
                   f'stroke="{"#444" if power == 0 else "#ddd"}"/>')
        out.append(f'<text x="{at:.1f}" y="{top - 10}" text-anchor="middle" '
                   f'fill="#666">{10 ** power:g}</text>')
    for i, (key, cold, most) in enumerate(shown):
        y = top + i * line
        a, b = sorted((x(cold), x(1)))
        colour = "#3b6ea5" if cold <= 1.01 else "#c0792a"
        out.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">'
                   f'{escape(key[0] + ": " + key[1])}</text>')
        out.append(f'<rect x="{a:.1f}" y="{y + 3}" width="{max(b - a, 1):.1f}" '
                   f'height="{line - 7}" fill="{colour}"/>')
        out.append(f'<text x="{left + width + 8}" y="{y + 12}">{times(cold)}</text>')
        if most:
            limit = x(most / f.vma(key))
            out.append(f'<line x1="{limit:.1f}" y1="{y}" x2="{limit:.1f}" '
                       f'y2="{y + line - 2}" stroke="#c00" stroke-width="2"/>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def changes(f):
    """What has become of VMAs, and all of ordinary memory, which should not."""
    out, same = [], 0
    for key, row in f.rows.items():
        for who in ("vma-cold", "ordinary"):
            old, new = f.before.get(key, {}).get(who), row.get(who)
            if not old or not new:
                continue
            if who == "vma-cold" and abs(new / old - 1) <= CHANGED:
                same += 1
                continue
            out.append([key[0] + (", VMA" if who == "vma-cold" else ""), key[1], number(old),
                        f.number(key, who), times(new / old)])
    heads = ["Operation", "Of", "base", "now", "ratio"]
    return rst_table(heads, out) + (f"\n\n{same} other figures of VMAs changed by 1 % "
                                    "at most.\n")


def between(text, begin, end, new):
    head, rest = text.split(begin + "\n", 1)
    tail = rest.split(end, 1)[1]
    return f"{head}{begin}\n\n{new}\n{end}{tail}"


def update(doc, table, plot, changed):
    text = between(doc.read_text(), BEGIN, END, table)
    if changed and BEGIN_CHANGES in text:
        text = between(text, BEGIN_CHANGES, END_CHANGES, changed)
    doc.write_text(text)
    (doc.parent / PLOT).write_text(plot)


def other(name):
    return read(Path(os.environ[name]))[0] if os.environ.get(name) else None


def other_archs():
    return {name: Figures(*read(Path(os.environ[name])), None, other(name + "_AGAIN"))
            for name in OTHERS if os.environ.get(name)}


def main():
    where = Path(sys.argv[1])
    f = Figures(*read(where / "figures.tsv"), other("BEFORE"), other("AGAIN"))
    with open(where / "ratios.tsv", "w") as out:
        for cells in [f.heads()] + [f.columns(k) for k in f.rows]:
            out.write("\t".join(c.replace(",", "") for c in cells) + "\n")
    table, plot = rst(f, other_archs()), svg(f)
    (where / "table.rst").write_text(table)
    (where / PLOT).write_text(plot)
    changed = changes(f) if f.before else None
    if changed:
        (where / "changes.rst").write_text(changed)
    if len(sys.argv) > 2 and sys.argv[2]:
        update(Path(sys.argv[2]), table, plot, changed)
    print(table)
    if changed:
        print(changed)
    missed = [k for k in f.rows if f.verdict(k) == "missed"]
    met = [k for k in f.rows if f.verdict(k) == "met"]
    print(f"{len(met)} bars met, {len(missed)} missed")
    for key in missed:
        print("missed: " + ", ".join(key))


main()
