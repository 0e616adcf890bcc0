"""The same attribution graph by edgewise and by circuit-tracer: differences, seconds, memory, and each other's files.

    python benchmarks/beside_circuit_tracer.py --theirs ~/circuit-tracer/bin/python [--sizes tiny small smollm2]

circuit-tracer needs older packages than edgewise; so it has an environment of its own, and the two meet in a folder:

    python3.11 -m venv ~/circuit-tracer
    ~/circuit-tracer/bin/pip install circuit-tracer==0.5.0 transformer-lens==2.17.0 pyarrow==21.0.0 \\
        torch==2.13.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu

The models are random, of Llama's kind, which has no biases: circuit-tracer has no nodes for them. Its other conventions
are chosen here: features and errors are off at the first token, the roots are the likely tokens' logits minus the
mean of all. Encoders' and decoders' biases, which only edgewise accounts for, are not compared.

The difference is the largest over all targets of a target's largest difference over its largest edge. Seconds are the
processor's, which other work on the machine does not lengthen; MB are of the whole process. Features that reach no root
get no rows in edgewise, so circuit-tracer's graph of all features has more.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _measure import processor_seconds, rss_bytes, rss_now
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import edgewise as ew
from edgewise.attribution import AttributionGraph, export, import_graph, influence, prune, scores
from edgewise.transcoders import Activation, Site, Transcoder, TranscoderSpec
from edgewise.transcoders.formats import read, write

KINDS = ("relu", "jumprelu", "cross-layer")


class Size(NamedTuple):
    """Of a model, its transcoders and a prompt."""

    layers: int
    width: int
    heads: int
    shared: int
    mlp: int
    vocabulary: int
    features: int
    bias: float
    """A feature is active where a number of about the standard normal distribution is above this."""
    tokens: int
    max_nodes: int = 0
    """How many features get rows; 0: all, and then all edges are kept."""
    batch: int = 64
    """Rows of one backward pass there."""


SIZES = {
    "tiny": Size(3, 32, 4, 2, 48, 50, 64, 1.0, 8),
    "small": Size(6, 128, 4, 2, 256, 500, 512, 2.0, 24),
    "smollm2": Size(30, 576, 9, 3, 1536, 49152, 4608, 2.5, 64, max_nodes=256),
}


def prepare(folder: Path, size: Size, kind: str) -> None:
    """Write a model, transcoders and a prompt."""
    torch.manual_seed(0)
    shape = dict(zip(("hidden_size", "intermediate_size"), (size.width, size.mlp), strict=True))
    heads = {"num_attention_heads": size.heads, "num_key_value_heads": size.shared}
    special = {"bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": 2 * size.tokens}
    config: dict[str, Any] = {
        "num_hidden_layers": size.layers,
        "vocab_size": size.vocabulary,
        **shape,
        **heads,
        **special,
    }
    model = LlamaForCausalLM(LlamaConfig(**config))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = 1.0 if "embed" in name else weight.shape[-1] ** -0.5
            weight.copy_(torch.randn_like(weight) * spread if weight.ndim > 1 else 1 + torch.randn_like(weight) / 5)
    model.save_pretrained(folder / "model")
    write([_transcoder(size, kind, layer) for layer in range(size.layers)], folder / "transcoders", "circuit-tracer")
    ids = [0, *torch.randint(1, size.vocabulary, (size.tokens - 1,)).tolist()]
    (folder / "ids.json").write_text(json.dumps(ids))


def _transcoder(size: Size, kind: str, layer: int) -> Transcoder:
    last = size.layers if kind == "cross-layer" else layer + 1
    writes = tuple(Site("mlp_out", written) for written in range(layer, last))
    activation = Activation("jumprelu" if kind == "jumprelu" else "relu")
    spec = TranscoderSpec(size.width, size.width, size.features, activation, Site("mlp_in", layer), writes)
    made = Transcoder(spec)
    with torch.no_grad():
        for weight in (made.W_enc, made.W_dec, made.b_dec):
            weight.copy_(torch.randn_like(weight) / size.width**0.5)
        (made.b_enc if activation.kind == "relu" else made.threshold).fill_(size.bias)
        made.b_enc.mul_(-1)
    return made


def ours(folder: Path, size: Size) -> dict[str, Any]:
    """Attribute in this process and write `ours.pt` and `ours.safetensors`."""
    model = ew.load_model(AutoModelForCausalLM.from_pretrained(folder / "model"))
    transcoders = read(folder / "transcoders")
    for each in transcoders:
        each.spec = dataclasses.replace(each.spec, exclude_special=True)
    ids = json.loads((folder / "ids.json").read_text())
    config = ew.AttributionConfig(max_nodes=size.max_nodes or 10**6, batch=4 * size.batch)
    if not size.max_nodes:
        config = dataclasses.replace(config, keep=1.0, most_edges=10**6)
    options, before = ew.RunOptions(progress=False), rss_now()
    took, graph = processor_seconds(lambda: ew.attribute(model, ids, transcoders, config=config, options=options))
    memory = {"before": before, "peak": rss_bytes()}
    graph = graph.subgraph(~(graph.nodes.is_kind("error") & (graph.nodes.position == 0)))
    graph.save(folder / "ours.safetensors")
    export(graph, folder / "ours.pt", scan="random", model=model)
    return {"seconds": took, **memory, "residual": graph.ledger.worst, "torch": torch.__version__}


def compared(ours: AttributionGraph, theirs: AttributionGraph, *, whole: bool) -> dict[str, Any]:
    """Two graphs, node by node of the same name.

    Args:
        ours: one.
        theirs: the other.
        whole: whether the first has all its edges; otherwise only those that it has are compared.
    """
    place = {name: i for i, name in enumerate(theirs.names)}
    common = [(i, place[name]) for i, name in enumerate(ours.names) if name in place]
    mine, other = (np.array(each) for each in zip(*common, strict=True))
    a, b = ours.matrix[mine][:, mine], theirs.matrix[other][:, other]
    largest = abs(b).max(axis=1).toarray().ravel()
    off = abs(a - b) if whole else abs(a - b.multiply(a != 0))
    relative = off.max(axis=1).toarray().ravel() / np.where(largest > 0, largest, 1)
    values = ours.nodes.value[mine], theirs.nodes.value[other]
    inner = ours.nodes.is_kind("feature")[mine]
    activations = (values[0] - values[1]).abs()[inner].max() / values[1].abs()[inner].max()
    features = [{graph.names[i] for i in graph.nodes.is_kind("feature").nonzero()[:, 0]} for graph in (ours, theirs)]
    reached = influence(theirs).numpy()
    unreached = [reached[place[name]] for name in features[1] - features[0]]
    return {
        "features": len(features[0]),
        "features_theirs": len(features[1]),
        "features_of_both": len(features[0] & features[1]),
        "influence_of_others": float(sum(unreached) / reached.sum()),
        "same_roots": ours.roots == theirs.roots,
        "edges": a.nnz,
        "difference": float(relative.max()),
        "left_out": 1 - float(abs(a).sum() / abs(b).sum()),
        "activations": float(activations),
    }


def judged(graph: AttributionGraph) -> dict[str, Any]:
    """What edgewise says of a graph."""
    return {**scores(graph)._asdict(), "kept_nodes": int((~prune(graph).nodes.is_kind(*_BIASES)).sum())}


_BIASES = ("attention bias", "MLP bias", "reading bias")


def beside(theirs: str, name: str, kind: str, threads: int) -> dict[str, Any]:
    """One size and kind by both, each in a process of its own."""
    size = SIZES[name]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        prepare(folder, size, kind)
        own = _last_line([sys.executable, __file__, "--one", made, name, str(threads)])
        script = str(Path(__file__).with_name("_circuit_tracer.py"))
        other = _last_line([theirs, "-E", script, made, *map(str, (size.max_nodes, size.batch, threads))])
        graphs = AttributionGraph.load(folder / "ours.safetensors"), import_graph(folder / "theirs.pt")
        found = compared(*graphs, whole=not size.max_nodes)
        files = {which: (folder / f"{which}.{end}").stat().st_size for which, end in _FILES}
        said = {"ours": judged(graphs[0]), "theirs": judged(graphs[1])}
    return {"size": name, "kind": kind, **found, "ours": own, "theirs": other, "files": files, "judged": said}


_FILES = (("ours", "safetensors"), ("theirs", "pt"))


def _last_line(command: list[str]) -> dict[str, Any]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    return json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout.splitlines()[-1]
    )


def tables(all_found: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "| model | transcoders | features | circuit-tracer's | of both | edges compared | difference | left out |",
        "|---" * 8 + "|",
    ]
    for found in all_found:
        lines.append(
            f"| {found['size']} | {found['kind']} | {found['features']:,} | {found['features_theirs']:,} | "
            f"{found['features_of_both']:,} | "
            f"{found['edges']:,} | {found['difference']:.1e} | {max(found['left_out'], 0):.1%} |"
        )
    lines += ["", "| model | transcoders | by | processor s | MB before | MB peak | file, MB |", "|---" * 7 + "|"]
    for found in all_found:
        for by, whose in (("edgewise", "ours"), ("circuit-tracer", "theirs")):
            one = found[whose]
            mb = [f"{each / 1e6:,.0f}" for each in (one["before"], one["peak"])]
            of_file = f"{found['files'][whose] / 1e6:,.1f}"
            lines.append(
                f"| {found['size']} | {found['kind']} | {by} | {one['seconds']:.2f} | {' | '.join(mb)} | {of_file} |"
            )
    head = "| model | transcoders | graph of | judged by | replacement | completeness | nodes after pruning |"
    lines += ["", head, "|---" * 7 + "|"]
    for found in all_found:
        for of in ("ours", "theirs"):
            for by, said in (("edgewise", found["judged"][of]), ("circuit-tracer", found["theirs"][of])):
                numbers = f"{said['replacement']:.5f} | {said['completeness']:.5f} | {said['kept_nodes']:,} |"
                of_name = "edgewise" if of == "ours" else "circuit-tracer"
                lines.append(f"| {found['size']} | {found['kind']} | {of_name} | {by} | {numbers}")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theirs", help="the Python of the environment that has circuit-tracer")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["relu"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one line of JSON for each instead of tables")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        folder, name, threads = args.one
        torch.set_num_threads(int(threads))
        print(json.dumps(ours(Path(folder), SIZES[name])))
        return
    if args.theirs is None:
        parser.error("--theirs: give the Python of the environment that has circuit-tracer (see above)")
    found = []
    for name in args.sizes:
        for kind in args.kinds:
            found.append(beside(args.theirs, name, kind, args.threads))
            if args.json:
                print(json.dumps(found[-1]), flush=True)
    if not args.json:
        print(tables(found))
        print(json.dumps(found[-1]["theirs"]["versions"]))


if __name__ == "__main__":
    main()
