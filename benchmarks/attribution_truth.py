"""Attribution graphs of compiled programs beside their true circuits: heads and MLPs.

    python benchmarks/attribution_truth.py [--programs reverse …] [--inputs 12] [--write]

Programs other than `reverse` and `xproportion` need the extra `tracr`. `--write` makes the tables of
docs/results/attribution-truth.md; what stands before them is written by hand.
"""

import argparse
from pathlib import Path

from _page import write_page

import edgewise as ew
from edgewise import tracr
from edgewise.models import SHIPPED, save_compiled
from edgewise.tracr import ComponentRecovery, GraphRecovery

ABLATIONS = ("interchange", "zero")


def recovery_of(name: str, inputs: int) -> GraphRecovery:
    """One program's graphs."""
    shipped = f"tracr:{name}"
    if shipped not in SHIPPED:
        shipped = f"runs/tracr/models/{name}.safetensors"
        if not Path(shipped).is_file():
            save_compiled(tracr.compile_library(name), shipped)
    model = ew.load_model(shipped)
    truths = [tracr.find_truth(ew.Engine(model, model.graph(), ew.Ablation(kind))) for kind in ABLATIONS]
    return tracr.compare_graphs(model, truths, most_inputs=inputs)


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """As Markdown, the first row on top."""
    return [f"| {' | '.join(row)} |" for row in (rows[0], ("---",) * len(rows[0]), *rows[1:])]


def programs(found: list[GraphRecovery]) -> list[str]:
    """What was run."""
    rows = [("program", "heads and MLPs", "inputs", "graphs of reasons", "largest residual")]
    rows += [
        (each.program, str(each.components), str(each.inputs), f"{each.reasons:,}", f"{each.residual:.0e}")
        for each in found
    ]
    return table(rows)


def recovered(found: list[GraphRecovery]) -> list[str]:
    """Precision and recall; shares with the same result in one line."""
    rows = [(program.program, *_cells(row)) for program in found for row in program.rows]
    shares = dict[tuple[str, ...], list[str]]()
    for program, share, *rest in rows:
        shares.setdefault((program, *rest), []).append(share)
    head = ("program", "truth", "reasons", "share", "true", "found", "precision, recall", "EAP", "random")
    lines: list[tuple[str, ...]] = [(*head, "missing", "not true")]
    lines += [(*key[:3], ", ".join(each), *key[3:]) for key, each in shares.items()]
    return table(lines)


def _cells(row: ComponentRecovery) -> tuple[str, ...]:
    pairs = ((row.precision, row.recall), row.eap, row.random)
    return (
        f"{row.share:g}",
        row.ablation,
        "with" if row.reasons else "without",
        str(len(row.true)),
        str(len(row.found)),
        *(f"{precision:.2f}, {recall:.2f}" for precision, recall in pairs),
        " ".join(row.missing),
        " ".join(row.extra),
    )


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", nargs="+", choices=tuple(tracr.LIBRARY), default=["reverse", "xproportion"])
    parser.add_argument("--inputs", type=int, default=12)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    found = [recovery_of(name, args.inputs) for name in args.programs]
    lines = [*programs(found), "", *recovered(found)]
    print("\n".join(lines))
    if args.write:
        tables = "\n".join(("", *lines, ""))
        write_page("attribution-truth", "Attribution graphs beside true circuits", "attribution_truth", tables)


if __name__ == "__main__":
    main()
