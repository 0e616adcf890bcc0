"""How long attribution graphs take, and how much memory: SmolLM2-135M, each in a process of its own.

    python benchmarks/attribution.py [--tokens 64] [--max-nodes 5000] [--nodes neurons neurons-128 transcoders]
    python benchmarks/attribution.py --growth          # tables over tokens and over nodes instead

`neurons-128` are the 128 neurons of a layer that write most at each token (`neurons_per_token`). The prompt is of the
built-in text. The transcoders are random ones of 4,608 features, 32 of them active at each token: what is measured does
not depend on what they learned. `GB` is the process's peak, the model and PyTorch included (some 1.2 GB).
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import torch
from _measure import rss_bytes

import edgewise as ew
from edgewise.transcoders import Activation, Site, Transcoder, TranscoderSpec, read_tokens

FEATURES, ACTIVE = 4608, 32
FEW = 128
NODES = ("neurons", f"neurons-{FEW}", "transcoders")


def random_transcoders(model: ew.Model) -> list[Transcoder]:
    """One for each layer."""
    width, generator, found = model.parts.d_model, torch.Generator().manual_seed(0), []
    for layer in range(len(model.parts.layers)):
        site = Site("mlp_in", layer), (Site("mlp_out", layer),)
        made = Transcoder(TranscoderSpec(width, width, FEATURES, Activation.parse(f"topk:{ACTIVE}"), *site))
        with torch.no_grad():
            for weight in (made.W_enc, made.W_dec):
                weight.copy_(torch.randn(weight.shape, generator=generator) / width**0.5)
        found.append(made)
    return found


def measured(nodes: str, tokens: int, max_nodes: int) -> dict[str, Any]:
    """One graph, pruned."""
    model = ew.load_model("smollm2-135m")
    ids = read_tokens("builtin", model.tokenizer, context=tokens, limit=4 * tokens).ids[1]
    kinds = random_transcoders(model) if nodes == "transcoders" else "neurons"
    start = time.perf_counter()
    config = ew.AttributionConfig(max_nodes=max_nodes, neurons_per_token=FEW if nodes == f"neurons-{FEW}" else 0)
    graph = ew.attribute(model, ids, kinds, config=config, options=ew.RunOptions(progress=False))
    made = time.perf_counter() - start
    small = ew.attribution.prune(graph)
    return {
        "nodes": nodes,
        "tokens": len(ids),
        "rows": int(graph.nodes.is_kind("neuron", "feature").sum()),
        "edges": graph.n_edges,
        "pruned": small.n_edges,
        "outside": graph.ledger.share_outside,
        "residual": graph.ledger.worst,
        "seconds": made,
        "pruning": time.perf_counter() - start - made,
        "GB": rss_bytes() / 1e9,
    }


def alone(*case: Any) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", *map(str, case)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", nargs="+", choices=NODES, default=list(NODES))
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--max-nodes", type=int, default=5000)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.one[0], int(args.one[1]), int(args.one[2]))))
        return
    cases = [(nodes, args.tokens, args.max_nodes) for nodes in args.nodes]
    if args.growth:
        cases = [(nodes, tokens, 1000) for nodes in args.nodes for tokens in (16, 32, 64, 128, 256)]
        cases += [(nodes, 64, rows) for nodes in args.nodes for rows in (500, 1000, 2000, 4000)]
    print("| nodes | tokens | rows | edges | pruned | outside | residual | seconds | pruning, s | GB |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for case in cases:
        found = alone(*case)
        print(
            f"| {found['nodes']} | {found['tokens']} | {found['rows']:,} | {found['edges']:,} | {found['pruned']:,} | "
            f"{found['outside']:.1%} | {found['residual']:.0e} | {found['seconds']:.1f} | {found['pruning']:.1f} | "
            f"{found['GB']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
