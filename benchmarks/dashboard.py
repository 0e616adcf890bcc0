"""How long a dashboard takes beside its floor: the language model up to the layer, and the encoder's product.

python benchmarks/dashboard.py runs/transcoders/layer12.transcoder.topk32.safetensors --text builtin --tokens 40000
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import edgewise as ew
from edgewise.runs import fastest_precision
from edgewise.transcoders import capture
from edgewise.transcoders.dashboards import DashboardConfig, gather
from edgewise.viewer import write_dashboards


def timed(what: str, run: Callable[[], object], tokens: int | None) -> float:
    """Print wall and processor seconds, and what they come to for two million tokens."""
    wall, used = time.perf_counter(), time.process_time()
    run()
    wall, used = time.perf_counter() - wall, time.process_time() - used
    scaled = "" if tokens is None else f"; for 2,000,000 tokens {used / tokens * 2e6 / 60:.1f} processor minutes"
    print(f"{what:34} {wall:7.1f} s, processor {used:7.1f} s{scaled}", flush=True)
    return used


def main() -> None:
    """Measure one transcoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("transcoder")
    parser.add_argument("--text", action="append", required=True)
    parser.add_argument("--tokens", type=int, default=40_000)
    parser.add_argument("--out", type=Path, default=Path("runs/dashboard-benchmark"))
    given = parser.parse_args()
    (transcoder,) = ew.transcoders.read(given.transcoder)
    model = ew.load_model(str(transcoder.provenance["model"]["id"]))
    rows = ew.transcoders.read_tokens(given.text, model.tokenizer, limit=given.tokens)
    bf16, n = fastest_precision(model.device) == "bfloat16", rows.n_tokens
    print(f"{n:,} tokens, {torch.get_num_threads()} threads, {'bfloat16' if bf16 else 'float32'}")
    parts = rows.ids.split(16)
    site, kept = transcoder.spec.reads, list[torch.Tensor]()

    def floor() -> None:
        for ids in parts:
            kept.append(capture(model, [site], ids, bf16=bf16)[site].flatten(0, 1))

    timed("floor: the model up to the layer", floor, n)
    timed("floor: the encoder", lambda: [transcoder.codes(x, bf16=bf16) for x in kept], n)
    options = ew.RunOptions(given.out, progress=False)
    timed("the run, floor included", lambda: gather(model, [transcoder], rows, DashboardConfig(), options), n)
    sets = list[ew.transcoders.FeatureSet]()
    make = partial(ew.transcoders.make_dashboards, model, [transcoder], rows, options=options)
    timed("weights alone, and samples", lambda: sets.extend(make()), None)
    paths = list[Path]()
    timed("the page", lambda: paths.extend(write_dashboards(sets, given.out)), None)
    print(f"{paths[0]}: {paths[0].stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
