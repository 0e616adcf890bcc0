"""Published figures beside those of a second, slow implementation, which shares no code with the engine.

    python benchmarks/independent.py --keep DIR --write          # docs/results/independent.md, all parts
    python benchmarks/independent.py --parts circuits tasks --examples 16
    python benchmarks/independent.py --parts ledger tracr

`tests/independent/` has the implementation: plain hooks on the user's own module, one prompt at a time, nothing padded
or cached, files read byte by byte. The published figures are read from the pages. With `--keep` a part that is done is
not done again. With `--examples` only the first so many are judged, and the library judges the same ones beside, in the
place of the published figure. A figure that is printed with so few digits that 1 % is finer is held to half of its last
digit.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _independent as parts
from _independent import RESULTS, Figure, Study

from edgewise.runs import write_atomically

PAGE = RESULTS / "independent.md"

PARTS: dict[str, tuple[Callable[[Any], Iterator[Figure]], bool]] = {
    "tracr": (parts.tracr, False),
    "ledger": (parts.ledger, True),
    "empty": (parts.empty, True),
    "circuits": (parts.circuits, True),
    "edge-pruning": (parts.edge_pruning, True),
    "tasks": (parts.tasks, True),
    "models": (parts.models, True),
    "attribution": (parts.attribution, True),
    "eap": (parts.eap, True),
    "eap-ig": (parts.eap_ig, True),
}
"""Each part, and whether it needs the model."""


_LEFT = """Not recomputed, and why:

| page | figures | why |
|---|---|---|
| bench.md, quality.md | learned rankings, ACDC, edge pruning | their scores are not in the repository, save the checked-in circuits; finding them took hours |
| quality-paper.md | the circuit of 1,293 edges, and attribution on `greater-than` | likewise |
| prompting.md | learned circuits | likewise |
| transcoders.md, attribution-circuit-tracer.md | all | the transcoders are not in the repository |
| attribution.md | ablations, correlations, scores of pruned graphs | hundreds of graphs; `ledger` and the fast tests hold one graph's edges and scores |
| models.md | Qwen2.5 and Gemma 3, EAP-IG, rankings | their files are other people's uploads; hours |
| feature-circuits.md | all | means of three seeds, of which one circuit each is in the repository: not tried |
| mib.md, seeds.md, several-circuits.md, features.md, methods.md, prompting-qwen.md, attribution-truth.md | all | not tried |
| all | intervals, seconds, memory | drawn at random or of a machine |"""  # noqa: E501 (a table's rows)


def _waiting(names: list[str]) -> str:
    """What of the command was not run."""
    left = ", ".join(f"`{part}`" for part in PARTS if part not in names)
    return f" Of the command's parts these were not run: {left}." if left else ""


def page(figures: list[Figure], names: list[str]) -> str:
    """The page."""
    rows = [
        f"| {f.page} | {f.what} | {'all' if f.pairs is None else f.pairs} | {f.published} | {f.independent:.6g} | "
        f"{f.ratio} |"
        for f in figures
    ]
    apart = [f for f in figures if not f.agrees]
    verdict = f"All {len(figures)} agree." if not apart else f"{len(apart)} of {len(figures)} do not: see below."
    few = sum(f.page != "ledger" and f.pairs is not None for f in figures)
    ledger = sum(f.page == "ledger" for f in figures)
    verdict += (
        f" {len(figures) - few - ledger} are figures of the pages; {few} are of fewer pairs; {ledger} of `ledger`."
    )
    text = f"""# Published figures, computed a second time

Written by `python benchmarks/independent.py --parts {" ".join(names)} --keep DIR --write`, parts with fewer pairs by
`--examples` before.
The second implementation (`tests/independent/`) shares no code with the engine: plain hooks on the `transformers`
module, one prompt at a time, every reader's stream summed write by write; files are read byte by byte, edges are
numbered anew. Only the prompts and the weights are the library's. The fast tests hold the two equal on tiny models to
1e-8. *Agree*: to 1 %, or to half of the last digit that is printed. Where *pairs* is a number, only so many of the
page's pairs are judged, by the library again and by the second implementation, and *published* is the library's figure
of the same pairs.

{verdict}{_waiting(names)}

`ledger` is no page: an attribution graph is made and held against autograd on the module with attention patterns and
norms frozen by hooks. The fast tests hold CPR and CMD.

{_LEFT}

| page | figure | pairs | published | independent | ratio |
|---|---|---|---|---|---|
"""
    return text + "\n".join(rows) + "\n" + "".join(f"\nApart: {f.page}, {f.what}.\n" for f in apart)


def main() -> None:
    """Compute, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--examples", type=int, help="only so many, beside the library's own figures for the same ones")
    parser.add_argument("--keep", type=Path, help="a folder for the figures of parts that are done")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    figures = list[Figure]()
    waiting = [part for part in args.parts if args.keep is None or not (args.keep / f"{part}.json").exists()]
    study = Study(args.examples) if any(PARTS[part][1] for part in waiting) else None
    for part in args.parts:
        kept = None if args.keep is None else args.keep / f"{part}.json"
        if kept is not None and kept.exists():
            found = [Figure(*each) for each in json.loads(kept.read_text())]
        else:
            found = [figure._replace(pairs=args.examples) for figure in PARTS[part][0](study)]
            if kept is not None:
                write_atomically(kept, json.dumps(found))
        for figure in found:
            mark = "" if figure.agrees else "   <-- apart"
            print(
                f"{figure.page:18} {figure.what:60} {figure.published:>10} {figure.independent:12.6g}{mark}", flush=True
            )
        figures += found
    if args.write:
        write_atomically(PAGE, page(figures, args.parts))
    sys.exit(any(not figure.agrees for figure in figures))


if __name__ == "__main__":
    main()
