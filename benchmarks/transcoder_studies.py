"""Two studies of transcoders on SmolLM2-135M: their page and pictures, from what these commands leave:

    edgewise transcoder sweep --layers 5,15,25 --text builtin --text TEXT --hold-out 0.02 --tokens 1024000 \\
        --pool-tokens 32768 --out runs/sweep
    edgewise transcoder train --text builtin --text TEXT --hold-out 0.01 --tokens 2048000 --pool-tokens 32768 \\
        --out runs/set
    edgewise transcoder evaluate runs/set --text builtin --text TEXT --hold-out 0.005 --out runs/set.json
    python benchmarks/transcoder_studies.py --sweep runs/sweep --set runs/set --judged runs/set.json

TEXT is a folder with WikiText-2's validation and test texts (2.4 MB; Merity et al. 2016). Each command may be cut
short and goes on when it is given again.
"""

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

from edgewise import transcoders
from edgewise.runs import write_atomically

RESULTS = Path(__file__).parents[1] / "docs" / "results"
PAGE = RESULTS / "transcoders.md"


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
    added: dict[tuple[int, str, str], float] = {}
    for name, job in found["jobs"].items():
        where, kind, activation = name.split(".", 2)
        layer, loss = int(where.removeprefix("layer")), job["replaced"]
        added[layer, activation, kind] = loss["added"]
        kept = _kept(loss["loss"], own, found["mean"][str(layer)]["loss"], found["zero"][str(layer)]["loss"])
        lines.append(
            f"| {layer} | {kind}, {activation} | {job['active']:.1f} | {job['explained']:.3f} | {_loss(loss)} | "
            f"{loss['kl']:.4f} | {kept} |"
        )
    for layer in config["layers"]:
        zero, mean = found["zero"][str(layer)], found["mean"][str(layer)]
        lines.append(f"| {layer} | mean ablation | | | {_loss(mean)} | {mean['kl']:.4f} | |")
        lines.append(f"| {layer} | zero ablation | | | {_loss(zero)} | {zero['kl']:.4f} | |")
    ahead = sum(
        added[layer, a, "transcoder"] < added[layer, a, "autoencoder"] for layer, a, k in added if k == "transcoder"
    )
    lines += [
        "",
        f"At equal k the transcoder's mean loss is below the autoencoder's in {ahead} of {len(added) // 2} pairs; "
        "the single intervals of some pairs overlap. (An autoencoder is given the very vector that it is to write, a "
        "transcoder has to compute it.)",
    ]
    for layer in config["layers"]:
        picture = f"transcoders-layer{layer}.png"
        shutil.copy(folder / f"sweep-layer{layer}.png", RESULTS / picture)
        lines += ["", f"![Loss by active features, layer {layer}]({picture})"]
    return lines


def set_lines(folder: Path, judged: Path) -> list[str]:
    """The table of a transcoder for every layer."""
    found = json.loads(judged.read_text())
    own = found["original"]["loss"]
    provenance = transcoders.read(next(iter(sorted(folder.glob("layer*.safetensors")))))[0].provenance
    method = provenance["method"]
    lines = [
        "## A transcoder for every layer",
        "",
        f"{len(found['transcoders'])} transcoders of {found['transcoders'][0]['n_features']:,} features, "
        f"{found['transcoders'][0]['activation']}, trained together on {method['steps'] * method['batch_tokens']:,} "
        f"tokens in {method['seconds'] / 60:.0f} minutes, {_passes(found, method['steps'] * method['batch_tokens'])}; "
        f"{_text(found)}, {found['tokens']:,} next tokens. "
        f"The model's own loss: {own:.4f} nats per token.",
        "",
        "| layer | active | explained | live | loss, replaced | added | KL | zero ablation | mean ablation | "
        "kept of mean, of zero ablation |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for job in found["transcoders"]:
        layer = job["writes"][0].split()[1]
        loss, zero, mean = job["replaced"], found["zero"][layer]["loss"], found["mean"][layer]["loss"]
        lines.append(
            f"| {layer} | {job['active']:.1f} | {job['explained']:.3f} | {job['live']:,} | {_loss(loss)} | "
            f"{loss['kl']:.4f} | {zero:.3f} | {mean:.3f} | {_kept(loss['loss'], own, mean, zero)} |"
        )
    lines += ["", "| all MLPs at once | loss | added | KL |", "|---|---|---|---|"]
    lines += [f"| {name} | {_loss(loss)} | {loss['kl']:.3f} |" for name, loss in found["all"].items()]
    together, layers = found["all"], found["transcoders"]
    kept = _kept(together["replaced"]["loss"], own, together["mean"]["loss"], together["zero"]["loss"])
    least = min(layers, key=lambda job: job["live"])
    said = (
        f"All at once they add {together['replaced']['added']:.2f} nats, mean ablation of all adds "
        f"{together['mean']['added']:.2f}: kept of what the MLPs are worth beside mean and zero ablation {kept}. (Zero "
        f"ablation of all, {together['zero']['loss']:.1f} nats, is far worse than a uniform guess, "
        f"{math.log(49_152):.1f}.) Fewest live features: {least['writes'][0].replace(' mlp_out', '')}, "
        f"{least['live']:,} of {least['n_features']:,}."
    )
    lines += ["", said]
    return lines


def _text(found: dict[str, Any]) -> str:
    conditions = found["conditions"]
    if not conditions["held_out"]:
        raise SystemExit("judged on text that was trained on; give --hold-out")
    text = conditions["text"]
    return f"judged on {text['rows']} held-out rows of {text['context']} tokens"


def _passes(found: dict[str, Any], seen: int) -> str:
    """How often, to a tenth, each token was seen; the one or two percent held out do not change that."""
    return f"each token of the text seen {seen / found['conditions']['text']['tokens']:.1f} times"


def _loss(loss: dict[str, float]) -> str:
    return f"{loss['loss']:.4f} | {loss['added']:.4f} [{loss['low']:.4f}, {loss['high']:.4f}]"


def _kept(loss: float, own: float, *ablated: float) -> str:
    """1 − loss added / loss that an ablation adds."""
    return ", ".join(f"{1 - (loss - own) / (each - own):.0%}" for each in ablated)


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", type=Path, help="what `edgewise transcoder sweep` wrote, if it is done")
    parser.add_argument("--set", type=Path, required=True, help="what `edgewise transcoder train` wrote")
    parser.add_argument("--judged", type=Path, required=True, help="what `edgewise transcoder evaluate` wrote")
    args = parser.parse_args()
    lines = [*sweep_lines(args.sweep), ""] if args.sweep else []
    lines += set_lines(args.set, args.judged)
    write_atomically(PAGE, "\n".join([HEADING, *lines]) + "\n")


HEADING = """\
# Transcoders of SmolLM2-135M

Written by `benchmarks/transcoder_studies.py`, whose docstring has the commands; one thread of two CPU cores for each,
beside other work. SmolLM2-135M-Instruct in Q4_1 weights, from the MLP module's input to its output. Text: the
documentation of the installed Python (`builtin`) and WikiText-2's test and validation texts, in which rare words (6 %
of all) stand as `<unk>`, three tokens each; some 0.89 million tokens. The learning rate is the default's, chosen on the
training loss of one transcoder. Loss and KL are of the next token; what is added to the model's own loss has its 95 %
bootstrap interval over rows. Special and first tokens keep the MLP's own output. Explained: 1 − squared error /
variance about the mean. Live: features active on any judged token. Means of mean ablation: over the judged tokens.
Kept: 1 − loss added / loss that an ablation adds, beside mean ablation and beside zero ablation (the kinder number).

**What the intervals are worth.** Held out are the last rows, which are pieces of WikiText's last articles: four for the
first table, two for the second. So the intervals say how sure the numbers are for such articles, not for other text,
and the two tables, judged on different rows, cannot be compared with each other.

**Scale.** One and two million tokens are a sixtieth and a thirtieth of what the published transcoders of GPT-2 were
trained on (60 million). The numbers show that the training works and how the kinds compare when both are short of data;
they are not what longer training on more text would give.
"""


if __name__ == "__main__":
    main()
