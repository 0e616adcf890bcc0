"""Transcoders beside autoencoders of the MLP's output at equal numbers of active features, on one layer of a model:

    python benchmarks/transcoder_pareto.py smollm2-135m --layer 15 --text builtin --text TEXT \\
        --tokens 131072 --tried-tokens 32768 --judged 48 --out runs/pareto/smollm2
    python benchmarks/transcoder_pareto.py gemma-3-270m-q4_k_m.gguf --layer 9 --text builtin --text TEXT \\
        --tokens 65536 --tried-tokens 16384 --judged 24 --out runs/pareto/gemma
    python benchmarks/transcoder_pareto.py qwen2.5-coder-0.5b-instruct-q4_k_m.gguf --layer 12 --text builtin \\
        --text TEXT --tokens 65536 --tried-tokens 16384 --judged 24 --out runs/pareto/qwen

The model runs once over the text that is trained on; its vectors stay on disk. Every kind of `KINDS` then tries each of
`TRIES` at one sparsity, and takes the one with the lowest training loss for all sparsities. All are judged in the MLP's
place on the same rows, which are blocks from all over the text. `transcoder_studies.py --pareto` makes the tables. A
run that was cut short goes on when the command is given again; with other settings the command ends. TEXT is a folder
with WikiText-2's validation and test texts. The sizes above are the page's (tries of a quarter of the tokens); the
defaults are larger.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from _page import held_to

import edgewise as ew
from edgewise.runs import fastest_precision, write_atomically
from edgewise.transcoders import Site, TokenRows, Transcoder
from edgewise.transcoders.training import CachedActivations, TrainingConfig, train, write_cache

KINDS: dict[str, dict[str, Any]] = {
    "autoencoder": {"kinds": ("autoencoder",)},
    "transcoder": {"kinds": ("transcoder",)},
    "transcoder with skip": {"kinds": ("transcoder",), "skip": True},
}
TRIES: tuple[dict[str, Any], ...] = tuple(
    {"start": start, "learning_rate": rate} for start in ("random", "tokens") for rate in (1e-3, 2e-3, 4e-3)
)
"""The same for each kind."""
TRIED = "topk:32"
SPARSITIES = ("topk:8", "topk:16", "topk:32", "topk:64", "topk:128")
_BLOCK = 4  # judged rows that follow one another
_COMPARED = 64  # training rows on which tries are compared


def pieces(rows: TokenRows, n_tokens: int, n_judged: int) -> tuple[TokenRows, TokenRows]:
    """A random choice of rows to train on, and blocks of rows to judge on, from all over the text."""
    n_blocks = n_judged // _BLOCK
    starts = torch.linspace(0, len(rows) - _BLOCK, n_blocks).long()
    judged = (starts[:, None] + torch.arange(_BLOCK)).flatten()
    free = torch.ones(len(rows), dtype=torch.bool).index_fill(0, judged, False).nonzero().flatten()
    order = torch.randperm(len(free), generator=torch.Generator().manual_seed(0))
    chosen = free[order[: n_tokens // rows.ids.shape[1]]]
    said = rows.source | {"rows": f"{len(chosen)} drawn, without the {len(judged)} judged on"}
    return TokenRows(rows.ids[chosen], said), TokenRows(
        rows.ids[judged], {"text": ["held out"], "rows": f"{n_blocks} blocks of {_BLOCK}"}
    )


@torch.no_grad()
def training_loss(transcoder: Transcoder, cache: CachedActivations) -> float:
    """Squared error / variance about the mean on the first training rows, but for each row's first token."""
    found = cache.rows(torch.arange(min(_COMPARED, len(cache.ids))))
    x, y = (found[site][:, 1:].flatten(0, 1) for site in (transcoder.spec.reads, *transcoder.spec.writes))
    return float((transcoder(x) - y).square().sum() / (y - y.mean(0)).square().sum())


def settings(layer: int, features: int, tokens: int, kind: str, changes: dict[str, Any]) -> TrainingConfig:
    """Of one kind; small batches and a rate that falls throughout are what short runs want."""
    same = {"features": features, "tokens": tokens, "batch_tokens": 1024, "schedule": "triangle"}
    return TrainingConfig((layer,), **same | KINDS[kind] | changes)


def best_try(
    model: Any, rows: TokenRows, cache: CachedActivations, kind: str, config: TrainingConfig, out: Path
) -> dict[str, Any]:
    """The settings of lowest training loss, from the file where they were tried before."""
    path = out / f"tries-{kind.replace(' ', '-')}.json"
    if not path.is_file():
        found: list[dict[str, Any]] = []
        for changes in TRIES:
            begin = time.monotonic()
            tried = train(
                model,
                rows,
                replace(config, activations=(TRIED,), **changes),
                cache=cache,
                options=ew.RunOptions(progress=False),
            )
            ((transcoder,),) = tried.transcoders.values()
            found.append(changes | {"loss": training_loss(transcoder, cache)})
            print(f"{kind}: {found[-1]}, {time.monotonic() - begin:.0f} s", flush=True)
        write_atomically(path, json.dumps(found, indent=2))
    tried = json.loads(path.read_text())
    return min(tried, key=lambda each: each["loss"])


def main() -> None:
    """Parse, cache, try, train, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--layer", type=int, required=True)
    parser.add_argument("--text", action="append", required=True)
    parser.add_argument("--features", type=int, default=4608)
    parser.add_argument("--tokens", type=int, default=262_144)
    parser.add_argument("--tried-tokens", type=int, default=65_536, help="of each try")
    parser.add_argument("--judged", type=int, default=64, help="rows to judge on")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    asked = {name: getattr(args, name) for name in ("layer", "text", "features", "tokens", "tried_tokens", "judged")}
    asked |= {"model": args.model}
    if (settings_file := args.out / "asked.json").is_file():
        held_to(settings_file, json.loads(settings_file.read_text()), asked)
    begin, model = time.monotonic(), ew.load_model(args.model)
    rows, judged = pieces(ew.transcoders.read_tokens(args.text, model.tokenizer), args.tokens, args.judged)
    sites, folder = [Site(kind, args.layer) for kind in ("mlp_in", "mlp_out")], args.out / "cache"
    bf16 = fastest_precision(model.device) == "bfloat16"
    args.out.mkdir(parents=True, exist_ok=True)
    if not settings_file.is_file() and any(args.out.glob("*.json")):
        sys.exit(f"{args.out}: holds results of settings that are not known; choose another --out")
    write_atomically(settings_file, json.dumps(asked))
    if not folder.is_dir():
        write_cache(model, rows, sites, folder, dtype="bfloat16", bf16=bf16)
        print(f"{rows.n_tokens:,} tokens through the model, {time.monotonic() - begin:.0f} s", flush=True)
    cache = CachedActivations(folder)
    chosen, found = {}, dict[str, Transcoder]()
    for kind in KINDS:
        config = settings(args.layer, args.features, args.tried_tokens, kind, {})
        chosen[kind] = best_try(model, rows, cache, kind, config, args.out)
        changes = {name: value for name, value in chosen[kind].items() if name != "loss"}
        config = settings(args.layer, args.features, args.tokens, kind, changes | {"activations": SPARSITIES})
        options = ew.RunOptions(args.out / kind.replace(" ", "-"), checkpoint_seconds=120.0)
        result = train(model, rows, config, cache=cache, options=options)
        if result.stopped:
            raise SystemExit(130)
        print(f"{kind}: trained in {result.seconds:.0f} s", flush=True)
        for name, (transcoder,) in result.transcoders.items():
            transcoder.name = f"{kind}, {name.rsplit('.', 1)[1]}"
            found[transcoder.name] = transcoder
    result = ew.transcoders.evaluate_transcoders(model, list(found.values()), judged, together=False)
    said = {
        "chosen": chosen,
        "tries": len(TRIES),
        "layer": args.layer,
        "tokens_seen": args.tokens // 1024 * 1024,
        "tried_tokens": args.tried_tokens,
        "precision": "bfloat16" if bf16 else "float32",
        "rows": judged.source["rows"],
        "text_tokens": rows.source["tokens"],
        "seconds": time.monotonic() - begin,
    }
    write_atomically(args.out / "pareto.json", json.dumps(asdict(result) | {"study": said}, indent=2))


if __name__ == "__main__":
    main()
