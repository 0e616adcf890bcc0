"""Studies of transcoders on SmolLM2-135M: their page and pictures, from what these commands leave:

    edgewise transcoder sweep --layers 5,15,25 --text builtin --text TEXT --hold-out 0.02 --tokens 1024000 \\
        --pool-tokens 32768 --out runs/sweep
    edgewise transcoder train --text builtin --text TEXT --hold-out 0.04 --tokens 30720 --batch-tokens 1024 \\
        --pool-tokens 16384 --skip --learning-rate 2e-3 --set start=tokens --set schedule=triangle --out runs/best
    (seven layers anew, with --layers 1,2,8,9,10,11,28 --set objective.normalization=target_norm; all in runs/set)
    edgewise transcoder tune runs/set --text builtin --text TEXT --hold-out 0.04 --tokens 8192 --learning-rate 3e-4 \\
        --set refit_tokens=8192 --out runs/tuned
    edgewise transcoder evaluate runs/set --text builtin --text TEXT --hold-out 0.005 --no-ablations --no-alone \\
        --out runs/set.json
    edgewise transcoder evaluate runs/tuned (likewise, to runs/tuned.json)
    python benchmarks/transcoder_studies.py --set runs/tuned --untuned runs/set.json --judged runs/tuned.json \\
        [--sweep runs/sweep]
    python benchmarks/transcoder_pareto.py (its docstring has the commands, one for each model)
    python benchmarks/transcoder_studies.py --pareto runs/pareto/smollm2 runs/pareto/gemma runs/pareto/qwen
    python benchmarks/greater_than_features.py runs/set --out runs/greater-than.json
    python benchmarks/transcoder_studies.py --greater-than runs/greater-than.json

TEXT is a folder with WikiText-2's validation and test texts (2.4 MB; Merity et al. 2016). Each command may be cut
short and goes on when it is given again. A section of the page whose runs are not given stays as it is, and so does
what stands before the sections, by hand.
"""

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from _page import RESULTS, mark_of, parts_of, write_page

from edgewise import transcoders
from edgewise.runs import Interval
from edgewise.transcoders import Loss

NAME, TITLE, SCRIPT = "transcoders", "Transcoders of SmolLM2-135M", "transcoder_studies"


def sweep_lines(folder: Path) -> list[str]:
    """The table of transcoders and autoencoders at several sparsities, a picture per layer, and what they say."""
    found = json.loads((folder / "sweep.json").read_text())
    own, config = found["original"]["loss"], found["config"]
    n_features = next(iter(found["jobs"].values()))["n_features"]
    lines = [
        "## Transcoder and autoencoder, by sparsity",
        "",
        f"{len(found['jobs'])} trained together, {n_features:,} features each, on "
        f"{config['tokens_seen']:,} tokens in {found['seconds'] / 60:.0f} "
        f"minutes, {_passes(found, config['tokens_seen'])}; {_text(found)}. "
        f"The model's own loss: {own:.4f} nats per token.",
        "",
        "| layer | what | active | explained | loss with the MLP replaced | added | KL | "
        "kept of mean, of zero ablation |",
        "|---|---|---|---|---|---|---|---|",
    ]
    added: dict[tuple[int, str], dict[str, dict[str, float]]] = {}
    for name, job in found["jobs"].items():
        where, kind, activation = name.split(".", 2)
        layer, loss = int(where.removeprefix("layer")), job["replaced"]
        added.setdefault((layer, activation), {})[kind] = loss
        kept = _kept(loss["loss"], own, found["mean"][str(layer)]["loss"], found["zero"][str(layer)]["loss"])
        lines.append(
            f"| {layer} | {kind}, {activation} | {job['active']:.1f} | {_share(job['explained'])} | {_loss(loss)} | "
            f"{loss['kl']:.4f} | {kept} |"
        )
    for layer in config["layers"]:
        zero, mean = found["zero"][str(layer)], found["mean"][str(layer)]
        lines.append(f"| {layer} | mean ablation | | | {_loss(mean)} | {mean['kl']:.4f} | |")
        lines.append(f"| {layer} | zero ablation | | | {_loss(zero)} | {zero['kl']:.4f} | |")
    pairs = [(each["transcoder"], each["autoencoder"]) for each in added.values() if len(each) == 2]
    ahead = sum(one["added"] < other["added"] for one, other in pairs)
    alike = sum(max(one["low"], other["low"]) <= min(one["high"], other["high"]) for one, other in pairs)
    lines += [
        "",
        f"At equal k the transcoder's mean loss is below the autoencoder's in {ahead} of {len(pairs)} pairs; the "
        f"intervals of {alike} overlap. (An autoencoder is given the very vector that it is to write, a transcoder has "
        "to compute it.)",
    ]
    for layer in config["layers"]:
        picture = f"transcoders-layer{layer}.png"
        shutil.copy(folder / f"sweep-layer{layer}.png", RESULTS / picture)
        lines += ["", f"![Loss by active features, layer {layer}]({picture})"]
    return lines


def set_lines(folder: Path, untuned: Path, judged: Path) -> list[str]:
    """The table of a transcoder for every layer, before and after it was tuned as a whole."""
    before, after = json.loads(untuned.read_text()), json.loads(judged.read_text())
    method = transcoders.read(next(iter(sorted(folder.glob("layer*.safetensors")))))[0].provenance["method"]
    tuned, own = method["tuned"], after["original"]["loss"]
    lines = [
        "## A transcoder for every layer",
        "",
        f"{len(after['transcoders'])} transcoders of {after['transcoders'][0]['n_features']:,} features, "
        f"{after['transcoders'][0]['activation']}, {'with' if method['skip'] else 'without'} skip connections, start "
        f"`{method['start']}`, trained on {method['steps'] * method['batch_tokens']:,} tokens in "
        f"{method['seconds'] / 60:.0f} minutes; then fitted as a whole to {tuned['refit_tokens']:,} "
        f"tokens and tuned on {tuned['steps'] * tuned['batch_tokens']:,}, in "
        f"{tuned['seconds'] / 60:.0f} minutes; {_text(after)}, {after['tokens']:,} next tokens. The model's own loss: "
        f"{own:.4f} nats per token.",
        "",
        "| all MLPs at once | loss | added | KL |",
        "|---|---|---|---|",
        f"| trained one by one | {_loss(before['all']['replaced'])} | {before['all']['replaced']['kl']:.3f} |",
        f"| and tuned as a whole | {_loss(after['all']['replaced'])} | {after['all']['replaced']['kl']:.3f} |",
        "",
        "| layer | active | explained | tuned | live | tuned |",
        "|---|---|---|---|---|---|",
    ]
    for one, two in zip(before["transcoders"], after["transcoders"], strict=True):
        layer = two["writes"][0].split()[1]
        lines.append(
            f"| {layer} | {two['active']:.1f} | {_share(one['explained'])} | {_share(two['explained'])} | "
            f"{one['live']:,} | {two['live']:,} |"
        )
    return lines


def pareto_lines(folders: list[Path]) -> list[str]:
    """Transcoders beside autoencoders at equal numbers of active features, a table for each model."""
    lines = ["## Transcoder and autoencoder at equal L0", "", PARETO]
    for folder in folders:
        lines += ["", *_pareto_of(json.loads((folder / "pareto.json").read_text()), folder)]
    return lines


def _pareto_of(found: dict[str, Any], folder: Path) -> list[str]:
    """One model's text and table."""
    study, model, layer = found["study"], found["conditions"]["model"], found["study"]["layer"]
    (zero,), (mean,) = found["zero"].values(), found["mean"].values()
    jobs = {tuple(job["name"].split(", ")): job for job in found["transcoders"]}
    sparsities = list(dict.fromkeys(activation for _, activation in jobs))
    others = [kind for kind in dict.fromkeys(kind for kind, _ in jobs) if kind != "autoencoder"]
    tried = {kind: _tried(folder, kind) for kind in ("autoencoder", *others)}
    rows, verdicts = [], dict[str, list[Interval]]()
    for activation in sparsities:
        cells = [_pareto_cell(jobs["autoencoder", activation])]
        for kind in others:
            lost, base = (Loss(**jobs[each, activation]["replaced"]) for each in (kind, "autoencoder"))
            difference = lost.minus(base)
            verdicts.setdefault(kind, []).append(difference)
            cells += [_pareto_cell(jobs[kind, activation]), f"{difference:+.4f}"]
        rows.append(f"| {activation.removeprefix('topk')} | " + " | ".join(cells) + " |")
    columns = ["active", "autoencoder"] + [each for kind in others for each in (kind, "minus the autoencoder's loss")]
    n_features = found["transcoders"][0]["n_features"]
    name = Path(model["id"]).name
    return [
        f"### {name}, layer {layer}",
        "",
        "\n\n".join(_verdict(kind, verdicts[kind]) for kind in others),
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *rows,
        "",
        f"{n_features:,} features each; weights {model['weights_hash'][:12]}; trained on {study['tokens_seen']:,} "
        f"tokens of {study['text_tokens']:,} ({study['precision']}); judged on {study['rows']} rows of 128 tokens, "
        f"{found['tokens']:,} next tokens. The model's own loss is {found['original']['loss']:.4f}; zero ablation adds "
        f"{zero['added']:.4f}, mean ablation {mean['added']:.4f}. Settings of lowest training loss on "
        f"{study['tried_tokens']:,} tokens: "
        + "; ".join(f"{kind}: {said}" for kind, said in tried.items())
        + f". All in {study['seconds'] / 60:.0f} minutes.",
    ]


def _pareto_cell(job: dict[str, Any]) -> str:
    loss = job["replaced"]
    return f"{_interval(loss, 'added')}, {_share(job['explained'])}"


def _tried(folder: Path, kind: str) -> str:
    """The setting that a kind took, and what it left unexplained beside the worst."""
    found = json.loads((folder / f"tries-{kind.replace(' ', '-')}.json").read_text())
    best, worst = (choose(found, key=lambda each: each["loss"]) for choose in (min, max))
    return f"start {best['start']}, rate {best['learning_rate']:g} ({best['loss']:.3f}, worst {worst['loss']:.3f})"


def _verdict(kind: str, found: list[Interval]) -> str:
    """Whether a kind of transcoder reaches autoencoders, in words."""
    ends = np.array([(each.low, each.high) for each in found], dtype=float)
    below, above, n = int((ends[:, 1] < 0).sum()), int((ends[:, 0] > 0).sum()), len(found)
    if below == n:
        said = f"adds less loss than the autoencoder at all {n} sparsities"
    elif above == n:
        said = f"does not reach the autoencoder: it adds more loss at all {n} sparsities"
    else:
        equal = n - below - above
        counts = (
            ("adds less loss than the autoencoder", below),
            ("adds more", above),
            ("cannot be told from the autoencoder", equal),
        )
        said = ", ".join(f"{what} at {count}" for what, count in counts if count) + f" of {n} sparsities"
    return f"**The {kind} {said}.**"


def greater_than_lines(path: Path) -> list[str]:
    """One MLP's features and neurons by how much they vary with the year."""
    found = json.loads(path.read_text())
    layer, own, curves = found["layer"], found["own"], found["curves"]
    features, skip, neurons = curves.values()
    n, few = found["n_features"], [each for each in neurons if each["kept"] <= 20]
    lines = [
        "## Greater-than in one MLP",
        "",
        f"{Path(found['model']['id']).name}, layer {layer}, {found['prompts']} prompts. {GREATER_THAN}",
        "",
        f"The model itself: {_interval(own, 'value')}; with the MLP's mean in its place "
        f"{found['mean_ablated'][str(layer)]:.4f}. {found['on_somewhere']} of {n:,} features are on for some year.",
        "",
        "| k | features | features, the skip connection following the year | neurons |",
        "|---|---|---|---|",
    ]
    for i, each in enumerate(few):
        lines.append(f"| {each['kept']} | {_interval(features[i])} | {_interval(skip[i])} | {_interval(each)} |")
    lines.append(f"| all | {_interval(features[-1])} | {_interval(skip[-1])} | {_interval(neurons[-1])} |")
    return [*lines, "", f"{_reaches('neurons', neurons, own)} {_reaches('features', features, own)}"]


def _reaches(units: str, curve: list[dict[str, float]], own: dict[str, float]) -> str:
    """How many units reach the interval of the model itself, or how far any number of them comes."""
    enough = next((each["kept"] for each in curve if each["score"] >= own["low"]), None)
    if enough is None:
        most = max(each["score"] for each in curve)
        return f"**No number of {units} gives back what ablation takes**: they come to {most:.4f}."
    return f"**{enough} {units} give back what ablation takes.**"


def _interval(each: dict[str, Any], name: str = "score") -> str:
    return f"{Interval(each[name], each['low'], each['high']):.4f}"


def _text(found: dict[str, Any]) -> str:
    conditions = found["conditions"]
    if not conditions["held_out"]:
        raise SystemExit("judged on text that was trained on; give --hold-out")
    text = conditions["text"]
    return f"judged on {text['rows']} held-out rows of {text['context']} tokens"


def _passes(found: dict[str, Any], seen: int) -> str:
    """How often, to a tenth, each token was seen; the one or two percent held out do not change that."""
    return f"each token of the text seen {seen / found['conditions']['text']['tokens']:.1f} times"


def _share(explained: float | None) -> str:
    """Of the variance; there is none where the output does not vary."""
    return "–" if explained is None else f"{explained:.3f}"


def _loss(loss: dict[str, float]) -> str:
    return f"{loss['loss']:.4f} | {_interval(loss, 'added')}"


def _kept(loss: float, own: float, *ablated: float) -> str:
    """1 − loss added / loss that an ablation adds."""
    return ", ".join(f"{1 - (loss - own) / (each - own):.0%}" for each in ablated)


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, help="what `edgewise transcoder tune` wrote")
    parser.add_argument("--untuned", type=Path, help="what `edgewise transcoder evaluate` wrote of the set before that")
    parser.add_argument("--judged", type=Path, help="and of the tuned set")
    parser.add_argument("--sweep", type=Path, help="what `edgewise transcoder sweep` wrote")
    parser.add_argument("--greater-than", type=Path, help="what `greater_than_features.py` wrote")
    parser.add_argument("--pareto", type=Path, nargs="+", help="what `transcoder_pareto.py` wrote of each model")
    args = parser.parse_args()
    made = [sweep_lines(args.sweep) if args.sweep else []]
    made.append(set_lines(args.set, args.untuned, args.judged) if args.set else [])
    made.append(pareto_lines(args.pareto) if args.pareto else [])
    made.append(greater_than_lines(args.greater_than) if args.greater_than else [])
    fresh = {lines[0]: "\n".join(lines) for lines in made if lines}
    _, before = parts_of(RESULTS / f"{NAME}.md", TITLE, mark_of(SCRIPT))
    kept = {text.splitlines()[0]: text.strip() for text in re.split(r"(?m)^(?=## )", before)[1:]}
    titles = [title for title in ORDER if title in fresh or title in kept]
    write_page(NAME, TITLE, SCRIPT, "".join(f"\n{(kept | fresh)[title]}\n" for title in titles))


ORDER = (
    "## Transcoder and autoencoder at equal L0",
    "## A transcoder for every layer",
    "## Greater-than in one MLP",
    "## Transcoder and autoencoder, by sparsity",
)
PARETO = """\
`benchmarks/transcoder_pareto.py`, one thread beside other work. A transcoder reads the MLP's input, an autoencoder the
very output that it is to write; with the same number of active features, which of the two costs the model less when
it stands in the MLP's place? Dunefsky et al. 2024 found the two equal, or transcoders ahead. Each kind tries six
settings (two starts, rates of 0.001, 0.002 and 0.004) on fewer tokens and keeps the one of lowest training loss, which
may be at the edge of those tried. In a cell: loss added with its 95 % interval over rows, then explained variance;
differences are taken row by row. A skip connection is a linear map beside the features, which no active feature stands
for: where its column hardly changes with k, the map does most of it. Rows judged are blocks from all over the text, so
their neighbours were trained on, by all kinds alike."""
GREATER_THAN = """\
`benchmarks/greater_than_features.py`: of all MLPs the one whose mean ablation at the last token costs most. Prompts:
"The war lasted from the year 1732 to the year 17". Score: P(right tens digits) − P(wrong), among the ten digits.
Features, and neurons, are ranked by the variance of their activation at the last token over the years; all but the
first k are held at their mean over the years."""


if __name__ == "__main__":
    main()
