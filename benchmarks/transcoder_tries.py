"""What makes a transcoder better, one layer and one change at a time, on little text:

    python benchmarks/transcoder_tries.py TEXT [--layers 15,29] [--tokens 49152] [--out runs/tries]

Trains each of `TRIES` on the same activations (kept on disk, so that the language model runs once) and judges all of a
layer's on a piece of the text that is neither trained on nor judged on elsewhere: the rows before the last 2 %. What is
there already is not made again. `transcoder_studies.py` makes the table.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import edgewise as ew
from edgewise.runs import write_atomically
from edgewise.transcoders import Site, TokenRows, Transcoder, TranscoderLoss
from edgewise.transcoders.training import CachedActivations, TrainingConfig, train, write_cache

BEFORE: dict[str, Any] = {"batch_tokens": 2048, "schedule": "linear", "start": "random", "skip": False}
"""The settings of the transcoders that lost to autoencoders."""
SKIP: dict[str, Any] = BEFORE | {"skip": True}
TOKENS: dict[str, Any] = SKIP | {"start": "tokens"}
SMALL: dict[str, Any] = TOKENS | {"batch_tokens": 1024, "schedule": "triangle"}
TRIES: dict[str, dict[str, Any]] = {
    "autoencoder, as before": BEFORE | {"kinds": ("autoencoder",)},
    "transcoder, as before": BEFORE,
    "skip from ridge regression": SKIP,
    "features from tokens": TOKENS,
    "batch 1,024, rate falling throughout": SMALL,
    "autoencoder, with all that but the skip": SMALL | {"skip": False, "kinds": ("autoencoder",)},
    "rate × 2": SMALL | {"learning_rate": 4e-3},
    "rate × 1/2": SMALL | {"learning_rate": 1e-3},
    "batch 512": SMALL | {"batch_tokens": 512},
    "features from tokens, no skip": SMALL | {"skip": False},
    "skip at the full rate": SMALL | {"skip_rate": 1.0},
    "batch_topk": SMALL | {"activations": ("batch_topk:32",)},
    "error relative to each token's": SMALL | {"objective": TranscoderLoss("target_sq_norm")},
}
"""Each a change of an earlier one: of the last before it up to the fifth, then of the fifth."""


def pieces(model: Any, text: list[str], n_tokens: int, n_rows: int) -> tuple[TokenRows, TokenRows]:
    """The rows to train on, a random choice, and those to judge on."""
    import torch

    rows = ew.transcoders.read_tokens(text, model.tokenizer)
    training, last = rows.split(0.04)
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))
    chosen = training.ids[order[: n_tokens // training.ids.shape[1]]]
    judged = last.ids[: len(last) // 2]
    judged = judged[:: max(1, len(judged) // n_rows)][:n_rows]
    return TokenRows(chosen, training.source | {"rows": f"{len(chosen)} drawn"}), TokenRows(judged, {"text": ["piece"]})


def tried(model: Any, rows: TokenRows, cache: CachedActivations, layer: int, out: Path) -> dict[str, Transcoder]:
    """Each try's transcoder of a layer, from its file where there is one."""
    found = {}
    for number, (name, changes) in enumerate(TRIES.items()):
        path = out / f"layer{layer}" / f"{number}.safetensors"
        if not path.is_file():
            config = TrainingConfig((layer,), **{"learning_rate": 2e-3, "tokens": rows.n_tokens * 9 // 10} | changes)
            config = replace(config, pool_tokens=rows.n_tokens // 2)
            result = train(model, rows, config, cache=cache, options=ew.RunOptions(progress=False))
            (transcoder,) = next(iter(result.transcoders.values()))
            ew.transcoders.save(transcoder, path)
            print(f"layer {layer}, {name}: {result.seconds:.0f} s", flush=True)
        found[name] = ew.transcoders.load(path)
        found[name].name = name
    return found


def main() -> None:
    """Parse, train, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="a folder with WikiText-2's validation and test texts; `builtin` comes before it")
    parser.add_argument("--layers", default="15,29")
    parser.add_argument("--tokens", type=int, default=49_152)
    parser.add_argument("--rows", type=int, default=24, help="to judge on")
    parser.add_argument("--out", type=Path, default=Path("runs/tries"))
    args = parser.parse_args()
    model, layers = ew.load_model("smollm2-135m"), [int(each) for each in args.layers.split(",")]
    rows, judged = pieces(model, ["builtin", args.text], args.tokens, args.rows)
    sites = [Site(kind, layer) for layer in layers for kind in ("mlp_in", "mlp_out")]
    cache = args.out / "cache"
    bf16 = ew.runs.fastest_precision(model.device) == "bfloat16"
    kept = CachedActivations(cache) if cache.is_dir() else write_cache(model, rows, sites, cache, bf16=bf16)
    for layer in layers:
        path = args.out / f"layer{layer}.json"
        if not path.is_file():
            found = tried(model, rows, kept, layer, args.out)
            result = ew.transcoders.evaluate_transcoders(model, list(found.values()), judged)
            write_atomically(path, json.dumps(asdict(result) | {"tokens_seen": rows.n_tokens * 9 // 10}))


if __name__ == "__main__":
    main()
