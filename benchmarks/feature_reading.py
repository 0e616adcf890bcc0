"""Features to read blind: text to read them on, text to judge what was said of them, and which they are.

    python benchmarks/feature_reading.py draw runs/set --layer 15 --text builtin --text TEXT --out runs/reading
    edgewise transcoder show runs/set m15.f410                     # each of them, from its weights: a guess, and a rule
    edgewise transcoder dashboard runs/set --layers 15 --text runs/reading/read.npy --out runs/reading/pages
    (then the text, and a second rule)
    edgewise transcoder score runs/set blind.json --text runs/reading/judged.npy --hold-out 0 --out blind-scores.json
    edgewise transcoder score runs/set read.json --text runs/reading/judged.npy --hold-out 0 --out read-scores.json
    python benchmarks/feature_reading.py page docs/results/features.json blind-scores.json read-scores.json

Rows to judge on are blocks from all over the text, rows to read are drawn from the others; features are drawn from
those that are on at `--least` tokens of the rows to read, or more. `docs/results/features.json` holds what was said;
the command `rules` makes the files of rules from it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import edgewise as ew
from edgewise.runs import Interval, write_atomically
from edgewise.transcoders.dashboards import DashboardConfig, gather

BLOCK = 4  # judged rows that follow one another
LONGEST = 90  # characters of a rule on the page
PAGE = Path(__file__).parents[1] / "docs" / "results" / "features.md"


def draw(args: argparse.Namespace) -> None:
    """Draw rows and features."""
    (transcoder,) = (each for each in ew.transcoders.read(args.transcoders) if each.spec.reads.layer == args.layer)
    model = ew.load_model(str(transcoder.provenance["model"]["id"]))
    ids = ew.transcoders.read_tokens(args.text, model.tokenizer).ids
    random = np.random.default_rng(args.seed)
    starts = np.linspace(0, len(ids) - BLOCK, args.judged // BLOCK).astype(int)
    judged = (starts[:, None] + np.arange(BLOCK)).ravel()
    read = np.sort(random.choice(np.setdiff1d(np.arange(len(ids)), judged), args.read, replace=False))
    args.out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("read", read), ("judged", judged)):
        np.save(args.out / f"{name}.npy", ids[torch.from_numpy(rows)].numpy().astype(np.int32))
    rows = ew.transcoders.read_tokens(args.out / "read.npy", None)
    (seen,) = gather(model, [transcoder], rows, DashboardConfig(), ew.RunOptions(args.out / "seen")).seen
    often = (seen.on >= args.least).nonzero().flatten().numpy()
    drawn = random.choice(often, args.features, replace=False)
    names = [f"m{args.layer}.f{i}" for i in drawn]
    write_atomically(args.out / "features.txt", "\n".join(names) + "\n")
    print(f"of {len(often)} features that are on at {args.least} tokens or more: {' '.join(names)}")


def rules(args: argparse.Namespace) -> None:
    """The rules of what was said, as `edgewise transcoder score` reads them."""
    said = json.loads(args.said.read_text())["features"]
    for when in ("blind", "read"):
        write_atomically(args.out / f"{when}.json", json.dumps({name: each[when][1] for name, each in said.items()}))
    newcomer = json.loads(args.said.read_text())["newcomer"]
    write_atomically(args.out / "newcomer.json", json.dumps({name: rule for name, (_, rule) in newcomer.items()}))


def page(args: argparse.Namespace) -> None:
    """The page, from what was said and how it was judged."""
    said = json.loads(args.said.read_text())
    blind, read = (json.loads(path.read_text()) for path in (args.blind, args.read))
    scores = [{each["feature"]: each for each in found["scores"]} for found in (blind, read)]
    lines = [said["heading"].strip(), "", _summary(list(scores[1].values()), "after reading")]
    lines += ["", _summary(list(scores[0].values()), "from the weights alone"), "", said["method"].strip(), ""]
    lines += ["| feature | said of it | on | named | both | recall | precision | balanced accuracy | others |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for name, each in said["features"].items():
        for when, found in zip(("blind", "read"), scores, strict=True):
            lines.append(_row(name if when == "blind" else "", when, each[when], found[name]))
    lines += [
        "",
        f"{blind['tokens']:,} tokens judged; whole rules: [features.json](features.json).",
        "",
        said["after"].strip(),
    ]
    write_atomically(PAGE, "\n".join(lines) + "\n")


def _summary(scores: list[dict[str, Any]], when: str) -> str:
    sure = [each for each in scores if each["balanced"] is not None and (each["balanced"]["low"] or 0) > 0.5]
    best = sum(each["better"] <= 0.01 * each["n_others"] for each in sure)
    mean = np.mean([0.5 if each["balanced"] is None else each["balanced"]["value"] for each in scores])
    return (
        f"**Rules {when}:** {len(sure)} of {len(scores)} predict their feature on held-out text above chance (the "
        f"whole interval above 0.5), mean balanced accuracy {mean:.3f}; {best} of these are better for at most 1 % of "
        "the other features."
    )


def _row(name: str, when: str, said: list[str], found: dict[str, Any]) -> str:
    words = {"blind": "weights", "read": "text"}[when]
    short = said[1] if len(said[1]) <= LONGEST else said[1][:LONGEST] + " …"
    rule = "`" + short.replace("|", "\\|").replace("`", "'") + "`"
    others = found["others"]
    beside = "–" if others is None else f"{others['value']:.3f}, {found['better']} of {found['n_others']}"
    rates = [_rate(found[key]) for key in ("recall", "precision")]
    balanced = found["balanced"]
    shown = "–" if balanced is None else str(Interval(**balanced))
    counts = [f"{found[key]:,}" for key in ("on", "named", "both")]
    meant = said[0].replace("<", "&lt;")
    return f"| {name} | {words}: {meant} {rule} | " + " | ".join([*counts, *rates, shown, beside]) + " |"


def _rate(number: dict[str, float] | None) -> str:
    return "–" if number is None else f"{number['value']:.2f}"


def main() -> None:
    """Parse, and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    drawing = commands.add_parser("draw")
    drawing.add_argument("transcoders")
    drawing.add_argument("--layer", type=int, required=True)
    drawing.add_argument("--text", action="append", required=True)
    drawing.add_argument("--features", type=int, default=10)
    drawing.add_argument("--least", type=int, default=20)
    drawing.add_argument("--read", type=int, default=480, help="rows to read")
    drawing.add_argument("--judged", type=int, default=240, help="rows to judge on")
    drawing.add_argument("--seed", type=int, default=0)
    drawing.add_argument("--out", type=Path, default=Path("runs/reading"))
    drawing.set_defaults(do=draw)
    ruling = commands.add_parser("rules")
    ruling.add_argument("said", type=Path)
    ruling.add_argument("--out", type=Path, default=Path("runs/reading"))
    ruling.set_defaults(do=rules)
    paging = commands.add_parser("page")
    for name in ("said", "blind", "read"):
        paging.add_argument(name, type=Path)
    paging.set_defaults(do=page)
    args = parser.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()
