#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""bench.py DIR [DOC [BEFORE]]: make tables and a plot of DIR/figures.tsv.

DOC is a reStructuredText document: what is between its two markers is replaced
by the table, and the plot is put beside it.  BEFORE is the figures.tsv of another
kernel, to tell what has become of its figures: the document gets a table of that,
too, if it has a pair of markers for it.
"""

import re
import sys
from pathlib import Path
from xml.sax.saxutils import escape

BEGIN, END = ".. figures: begin", ".. figures: end"
BEGIN_CHANGES, END_CHANGES = ".. changes: begin", ".. changes: end"
PLOT = "dmabuf-performance.svg"

# The most that dma-buf may cost, in VMAs that are cold.  First match counts.
BARS = [
    (r"slot creation", r"", 0.5),
    (r"pre-fault$", r"by 1 GiB", 0.25),
    (r"guest fault", r"", 0.5),
    (r"first touch.*in a row", r"", 0.5),
    (r"device reset", r"^4096 x", 1.0),
    (r"device reset", r"^64 x", 0.5),
    (r"revoke, KVM", r"^4096 x|^512 x", 1.0),
    (r"revoke, KVM(?!.*restore)", r"^(1|64) x", 0.5),
    (r"65536 accesses", r"", 1.01),
]
# The most that it may cost in VMAs that are warm.
WARM = 1.01
# Operations that are there to see what is in the others.
INFO = r"entry, access, exit|restore|memory|IOMMU|deletion|common"
# What has become of a figure is told if it changed by more than that.
CHANGED = 0.01
# What is in an operation's figures that has nothing to do with what is measured.
COMMON = [
    (r"^guest fault", "exit to KVM and entry"),
    (r"^revoke.*restore", "decode on"),
    (r"^revoke", "decode off"),
    (r"^device reset", "device reset"),
    (r"^slot|^pre-fault", "ioctl of the VM"),
]
# Parameters of the figures that are a curve and no ratio.
CURVE = r"(\d+) ranges, (\d+) importers"


def read(path):
    """Figures as {(operation, parameters): {path: value}}, and units."""
    rows, units = {}, {}
    for line in path.read_text().splitlines():
        op, params, who, value, unit = line.split("\t")
        rows.setdefault((op, params), {})[who] = int(value)
        units[op, params] = unit
    return rows, units


def ratio(row, who):
    if "dmabuf" not in row or not row.get(who):
        return None
    return row["dmabuf"] / row[who]


def bar_of(key):
    for op, params, limit in BARS:
        if re.search(op, key[0]) and re.search(params, key[1]):
            return limit
    return None


def common_of(key, rows):
    for op, what in COMMON:
        if re.search(op, key[0]):
            return rows.get(("common", what), {}).get("common")
    return None


def ratio_without(row, common):
    """To the cold VMA, without what is common to both."""
    if common is None or ratio(row, "vma-cold") is None or row["vma-cold"] <= common:
        return None
    return max(row["dmabuf"] - common, 0) / (row["vma-cold"] - common)


def verdict(key, row):
    """Which bars this row has, and whether it keeps them."""
    cold, warm, limit = ratio(row, "vma-cold"), ratio(row, "vma-warm"), bar_of(key)
    if limit is None or cold is None or re.search(INFO, key[0]):
        return ""
    missed = []
    if cold > limit:
        missed.append("cold")
    if warm is not None and warm > WARM:
        missed.append("warm")
    return "missed, " + " and ".join(missed) if missed else "met"


def number(value):
    return "" if value is None else f"{value:,}"


def times(value):
    return "" if value is None else f"{value:.3g}" if value < 0.1 else f"{value:.2f}"


def columns(key, rows, unit):
    row, common = rows[key], common_of(key, rows)
    other = [f"{k} {v:,}" for k, v in row.items()
             if k not in ("dmabuf", "vma-cold", "vma-warm")]
    limit = bar_of(key) if verdict(key, row) else None
    return [key[0], key[1], unit, number(row.get("dmabuf")),
            number(row.get("vma-cold")), number(row.get("vma-warm")),
            times(ratio(row, "vma-cold")), times(ratio(row, "vma-warm")),
            times(limit), verdict(key, row), number(common),
            times(ratio_without(row, common)), ", ".join(other)]


HEADS = ["Operation", "Of", "Unit", "dma-buf", "VMA cold", "VMA warm",
         "to cold", "to warm", "Bar", "Verdict", "Common", "Without", "Compare"]


def rst_table(heads, rows):
    rows = [[c or "\\" if i == 0 else c for i, c in enumerate(r)] for r in rows]
    width = [max(len(r[i]) for r in [heads] + rows) for i in range(len(heads))]
    rule = "  ".join("=" * w for w in width)

    def line(cells):
        return "  ".join(c.ljust(w) for c, w in zip(cells, width)).rstrip()

    return "\n".join([rule, line(heads), rule] + [line(r) for r in rows] + [rule])


def scaling(rows):
    """What 512 GiB cost in what 64 GiB cost."""
    out = []
    for (op, params), row in rows.items():
        if "512 GiB" in params:
            small = (op, params.replace("512", "64"))
        elif params.startswith("512 x 1 GiB"):
            small = (op, params.replace("512 x", "64 x", 1))
        else:
            continue
        if small in rows and rows[small].get("dmabuf"):
            out.append([op, params, number(rows[small]["dmabuf"]),
                        number(row["dmabuf"]),
                        times(row["dmabuf"] / rows[small]["dmabuf"]),
                        times(ratio({"dmabuf": row.get("vma-cold", 0)} | {
                            "vma-cold": rows[small].get("vma-cold")}, "vma-cold"))
                        if row.get("vma-cold") else ""])
    return out


def curve(rows):
    """Many ranges, many importers: a line for each number of importers."""
    found, sizes = {}, set()
    for (op, params), row in rows.items():
        ranges, importers = map(int, re.fullmatch(CURVE, params).groups())
        found.setdefault((op, importers), {})[ranges] = row["dmabuf"]
        sizes.add(ranges)
    sizes = sorted(sizes)
    heads = ["Operation", "Importers"] + [f"ranges: {r:,}" for r in sizes] + [
        "an importer", "most to least"]
    return heads, [
        [op, f"{n:,}"] + [number(by.get(r)) for r in sizes] +
        [number(by[sizes[-1]] // (1 if op.startswith("map") else n)),
         times(by[sizes[-1]] / by[sizes[0]])]
        for (op, n), by in sorted(found.items())]


def rst(rows, units):
    many = {k: rows.pop(k) for k in list(rows) if re.fullmatch(CURVE, k[1])}
    out = [rst_table(HEADS, [columns(k, rows, units[k]) for k in rows])]
    scale = scaling(rows)
    if scale:
        out += ["", "What 512 GiB cost, in what 64 GiB cost:", "",
                rst_table(["Operation", "Of", "64 GiB", "512 GiB", "dma-buf",
                           "VMA cold"], scale)]
    if many:
        out += ["", "Buffers of many ranges with many importers, each of which maps a page in",
                "an IOAS with ``IOMMU_IOAS_MAP_RESTORE``; instructions. *An importer* is",
                "the share of one at the largest number of ranges, *most to least* what the",
                "number of ranges makes:", "", rst_table(*curve(many))]
    out += ["", f".. figure:: {PLOT}",
            "   :alt: cost by dma-buf in that by VMA, for each operation", "",
            "   Cost by dma-buf in the cost by VMA. Left of 1 the dma-buf is cheaper;",
            "   the red mark is the bar, the dot the warm VMA."]
    return "\n".join(out) + "\n"


def svg(rows):
    """Ratios to the cold VMA, as bars from 1 on a logarithmic axis."""
    shown = [(k, ratio(r, "vma-cold"), ratio(r, "vma-warm")) for k, r in rows.items()
             if ratio(r, "vma-cold") and not k[0].startswith("entry, access, exit")]
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
    for i, (key, cold, warm) in enumerate(shown):
        y = top + i * line
        a, b = sorted((x(cold), x(1)))
        colour = "#3b6ea5" if cold <= 1.01 else "#c0792a"
        out.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">'
                   f'{escape(key[0] + ": " + key[1])}</text>')
        out.append(f'<rect x="{a:.1f}" y="{y + 3}" width="{max(b - a, 1):.1f}" '
                   f'height="{line - 7}" fill="{colour}"/>')
        out.append(f'<text x="{left + width + 8}" y="{y + 12}">{times(cold)}</text>')
        if warm:
            out.append(f'<circle cx="{x(warm):.1f}" cy="{y + 8.5}" r="3" fill="black"/>')
        limit = bar_of(key) if verdict(key, rows[key]) else None
        if limit:
            out.append(f'<line x1="{x(limit):.1f}" y1="{y}" x2="{x(limit):.1f}" '
                       f'y2="{y + line - 2}" stroke="#c00" stroke-width="2"/>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def changes(rows, before):
    """What has changed since, and all of ordinary memory, which should not."""
    out, same = [], 0
    for key, row in rows.items():
        old = before.get(key, {})
        pairs = [(old.get(who), row.get(who)) for who in ("dmabuf", "vma-cold", "ordinary")]
        pairs = [(a, b) if a and b else (None, None) for a, b in pairs]
        if all(a is None for a, _ in pairs):
            continue
        if pairs[2][0] is None and all(a is None or abs(b / a - 1) <= CHANGED
                                       for a, b in pairs):
            same += 1
            continue
        out.append([key[0], key[1]] + [c for a, b in pairs
                                       for c in (number(a), number(b),
                                                 times(a and b / a))])
    heads = ["Operation", "Of"]
    for who in ("dma-buf", "VMA", "ordinary"):
        heads += [f"{who} before", "now", "ratio"]
    return rst_table(heads, out) + f"\n\n{same} other figures changed by 1 % at most.\n"


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


def main():
    where = Path(sys.argv[1])
    rows, units = read(where / "figures.tsv")
    with open(where / "ratios.tsv", "w") as f:
        for cells in [HEADS] + [columns(k, rows, units[k]) for k in rows]:
            f.write("\t".join(c.replace(",", "") for c in cells) + "\n")
    table, plot = rst(rows, units), svg(rows)
    (where / "table.rst").write_text(table)
    (where / PLOT).write_text(plot)
    changed = None
    if len(sys.argv) > 3:
        changed = changes(rows, read(Path(sys.argv[3]))[0])
        (where / "changes.rst").write_text(changed)
    if len(sys.argv) > 2 and sys.argv[2]:
        update(Path(sys.argv[2]), table, plot, changed)
    print(table)
    if changed:
        print(changed)
    missed = [k for k, r in rows.items() if verdict(k, r).startswith("missed")]
    met = [k for k, r in rows.items() if verdict(k, r) == "met"]
    print(f"{len(met)} bars met, {len(missed)} missed")
    for key in missed:
        print("missed: " + ", ".join(key))


main()
