"""Every reader of files, with right files of its formats, and what must hold of whatever it accepts."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import edgewise as ew
from edgewise.attribution import AttributionConfig, AttributionGraph, MergedGraph, export, import_graph, merge
from edgewise.bench import BenchConfig, BenchTable
from edgewise.evaluation import SizeCurve
from edgewise.exchange import read_edges, read_mib, write_edges, write_mib
from edgewise.models import load_compiled
from edgewise.runs import RunOptions
from edgewise.tasks import from_file
from edgewise.tracr import Truth
from edgewise.transcoders import read_tokens
from edgewise.transcoders.formats import read as read_transcoders
from edgewise.transcoders.formats import write as write_transcoders
from edgewise.viewer import read_dashboards, view
from tests.discovery.toys import random_task
from tests.tasks.conftest import ROWS, WORDS, word_tokenizer
from tests.tiny import tiny
from tests.transcoders.files import CASES

ROOT = Path(__file__).parents[1]
OLD = ROOT / "files-0.1"
QUIET = RunOptions(progress=False)


@dataclass(frozen=True)
class Target:
    """One reader."""

    name: str
    samples: tuple[tuple[str, dict[str, bytes]], ...]
    """What it is given (a file's name, or a folder's), and the files."""
    read: Callable[[Path], Any]
    check: Callable[[Any, Path], None] = lambda found, work: None
    """Raises `AssertionError` where what was read is not what reading it again gives."""
    weight: int = 10


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """To the bit, NaN like NaN."""
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def check_circuit(found: ew.Circuit, work: Path) -> None:
    found.save(work / "again.safetensors")
    again = ew.Circuit.load(work / "again.safetensors")
    assert again.graph == found.graph and torch.equal(again.kept, found.kept)
    assert (again.scores is None) == (found.scores is None)
    assert found.scores is None or (again.scores is not None and same(again.scores, found.scores))
    assert 0 <= found.n_actual <= found.n_edges <= found.graph.n_edges
    assert len(found.edge_names()) == found.n_edges


def check_scores(found: ew.Scores, work: Path) -> None:
    found.save(work / "again.safetensors")
    assert same(ew.Scores.load(work / "again.safetensors").values, found.values)
    assert found.top(min(5, found.graph.n_edges)).n_edges == min(5, found.graph.n_edges)


def check_transcoders(found: list[Any], work: Path) -> None:
    for number, each in enumerate(found):
        path = work / f"{number}.safetensors"
        write_transcoders(each, path)
        (again,) = read_transcoders(path)
        assert again.spec == each.spec
        theirs = again.state_dict()
        assert all(same(tensor, theirs[name]) for name, tensor in each.state_dict().items())
        width = each.spec.d_in
        assert bool(each.encode(torch.zeros(2, width, dtype=each.W_enc.dtype)).isfinite().all())


def check_graph(found: Any, work: Path) -> None:
    found.save(work / "again.safetensors")
    again = type(found).load(work / "again.safetensors")
    assert again.names == found.names
    if isinstance(found, AttributionGraph):
        assert same(again.weight, found.weight) and again.n_edges == found.n_edges
        found.prune()
        found.scores()


def check_task(found: ew.tasks.Task, work: Path) -> None:
    for split in ("train", "validation", "test"):
        for pair in found.split(split):
            ids = [*pair.clean, *pair.corrupted, *(i for t in pair.targets for i in (*t.answers, *t.wrong))]
            assert all(0 <= i < len(TOKENIZER) for i in ids) and pair.clean != pair.corrupted


def check_json(found: Any, work: Path) -> None:
    found.save(work / "again.json")
    assert type(found).load(work / "again.json").to_json() == found.to_json()


def check_truth(found: Truth, work: Path) -> None:
    found.save(work / "again.json")
    assert Truth.load(work / "again.json").to_dict() == found.to_dict()


TOKENIZER = word_tokenizer(WORDS.split())


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def made(write: Callable[[Path], Any], name: str) -> tuple[str, dict[str, bytes]]:
    """What a call writes at a path of that name, as a sample."""
    folder = Path(tempfile.mkdtemp())
    try:
        write(folder / name)
        return name, files_below(folder)
    finally:
        shutil.rmtree(folder)


def file_sample(name: str, content: str | bytes) -> tuple[str, dict[str, bytes]]:
    """One file."""
    return name, {name: content.encode() if isinstance(content, str) else content}


def targets() -> list[Target]:
    """All of them."""
    return [*_circuits(), *_graphs(), *_transcoders(), *_pairs_and_text(), *_records(), *_models()]


def _circuits() -> Iterator[Target]:
    model = tiny("llama-gqa", torch.float32)
    graph, wide = model.graph(), model.graph("joint", "expanded")
    scores = ew.eap(ew.Engine(model), random_task(4))
    circuit = scores.at(0.7)
    old = file_sample("circuit.safetensors", (OLD / "circuit.safetensors").read_bytes())
    own = [made(circuit.save, "c.safetensors"), old]
    yield Target("circuit", tuple(own), ew.Circuit.load, check_circuit, 20)
    yield Target("scores", (made(scores.save, "s.safetensors"), own[0]), ew.Scores.load, check_scores)
    theirs = ew.exchange.convert(circuit, wide)
    mib = (
        made(lambda path: write_mib(theirs, path, 32), "m.json"),
        made(lambda path: write_mib(theirs, path, 32), "m.pt"),
    )
    yield Target("mib", mib, lambda path: read_mib(path, 2), check_circuit, 15)
    edges = made(lambda path: write_edges(circuit, path), "edges.json")
    yield Target("edges.json", (edges,), lambda path: read_edges(path, graph), check_circuit)
    constants = file_sample("c.safetensors", (OLD / "constants.safetensors").read_bytes())
    small = tiny("gpt2", torch.float32)
    yield Target("constants", (constants,), lambda path: ew.load_constants(small, path), weight=5)


def _graphs() -> Iterator[Target]:
    model = tiny("llama-gqa", torch.float32)
    config = AttributionConfig(max_nodes=40, neurons_per_token=6)
    graph = ew.attribute(model, [3, 17, 4, 25], config=config, options=QUIET)
    other = ew.attribute(model, [5, 17, 4, 2], config=config, options=QUIET)
    samples = [made(lambda path: export(graph, path), f"g{suffix}") for suffix in (".json", ".pt", ".safetensors")]
    yield Target("graph", tuple(samples), import_graph, check_graph, 30)
    merged = made(merge([graph, other]).save, "m.safetensors")
    yield Target("merged graph", (merged,), MergedGraph.load, check_graph, 5)
    circuit = "run", {"run/circuit.safetensors": (OLD / "circuit.safetensors").read_bytes()}
    for beside in ("curve.json", "evaluation.json"):
        circuit[1][f"run/{beside}"] = (OLD / beside).read_bytes()

    def viewed(path: Path) -> Path:
        return view(path, out=path.parent / "page.html", show=False)

    yield Target("view", (circuit, samples[0], samples[2]), viewed, _check_page, 10)
    dashboards = {
        "top_logits": ["a", "b"],
        "bottom_logits": ["c"],
        "frac_nonzero": 0.25,
        "activations": [{"tokens": ["a", " b"], "values": [0.0, 1.5]}],
    }
    rows = {"features": [dashboards | {"feature_index": 3}]}
    sample = "d", {"d/m1.f2.json": json.dumps(dashboards).encode(), "d/4/batch.json": json.dumps(rows).encode()}
    yield Target("dashboards", (sample,), read_dashboards, weight=5)


def _check_page(found: Path, work: Path) -> None:
    assert "<img src=x onerror" not in found.read_text("utf-8", errors="replace")


def _transcoders() -> Iterator[Target]:
    for case, (form, place, make) in CASES.items():
        sample = made(lambda path, form=form, make=make: write_transcoders(make(), path, form), place)
        yield Target(f"transcoder: {case}", (sample,), read_transcoders, check_transcoders, 3)


def _pairs_and_text() -> Iterator[Target]:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    header = ",".join(ROWS[0]) + "\n"
    table = header + "".join(",".join(f'"{cell}"' for cell in row.values()) + "\n" for row in ROWS)
    foreign = [
        {"clean": "a cat", "corrupt": "a dog", "answers": [" sat"], "wrong_answers": [" ran"]},
        {"clean_prefix": "a cat", "patch_prefix": "a dog", "clean_answer": " sat", "patch_answer": " ran"},
    ]
    samples = [
        file_sample("p.jsonl", lines),
        file_sample("p.csv", table),
        file_sample("p.json", json.dumps(ROWS)),
        file_sample("p.json", json.dumps({"prompts": foreign[:1]})),
        file_sample("p.jsonl", json.dumps(foreign[1]) + "\n"),
    ]
    yield Target("pairs", tuple(samples), lambda path: from_file(str(path), TOKENIZER), check_task, 30)
    tokenizer = word_tokenizer(WORDS.split())
    array = made(lambda path: np.save(path, np.arange(40, dtype=np.int32) % 20), "t.npy")
    texts = [
        file_sample("t.txt", "a cat sat on the mat " * 8),
        file_sample("t.jsonl", json.dumps({"text": "a dog ran to the rug " * 8}) + "\n"),
        array,
    ]

    def rows(path: Path) -> Any:
        return read_tokens(path, tokenizer, context=8, vocabulary=len(tokenizer))

    def check(found: Any, work: Path) -> None:
        assert int(found.ids.min()) >= 0 and int(found.ids.max()) < len(tokenizer) and found.ids.shape[1] == 8

    yield Target("text", tuple(texts), rows, check)
    from edgewise.cli._attribute import _read

    prompts = [
        file_sample("p.txt", "a cat sat\nthe dog ran\n"),
        file_sample(
            "p.jsonl", '{"prompt": "a cat", "target": " sat"}\n{"prompt": "a dog", "contrast": [" a", " b"]}\n'
        ),
    ]
    yield Target("prompts", tuple(prompts), lambda path: _read(str(path), None, None), weight=5)


def _records() -> Iterator[Target]:
    curve = file_sample("curve.json", (OLD / "curve.json").read_text())
    yield Target("curve", (curve,), SizeCurve.load, check_json, 8)
    evaluation = file_sample("evaluation.json", (OLD / "evaluation.json").read_text())
    from edgewise.viewer._read import read_evaluation

    yield Target("evaluation", (evaluation,), read_evaluation, weight=5)
    bench = file_sample("b.yaml", (OLD / "bench.yaml").read_text())
    large = file_sample("b.yaml", (ROOT.parent / "benchmarks" / "bench-smollm2.yaml").read_text())
    yield Target("bench", (bench, large), BenchConfig.load, weight=15)
    table = next(iter(sorted((OLD / "bench").rglob("*.parquet"))), None)
    if table is not None:
        yield Target("table", (file_sample("t.parquet", table.read_bytes()),), BenchTable.load, weight=4)
    program = ROOT.parent / "src" / "edgewise" / "models" / "programs" / "xproportion.safetensors"
    yield Target("program", (file_sample("p.safetensors", program.read_bytes()),), load_compiled, weight=5)
    graph = ew.Graph(ew.GraphSpec(1, 1, 1))
    truth = Truth("t", graph, "zero", "decoded", *_edge_sets(graph), inputs=3, circuits=4, exhaustive=True)
    yield Target("truth", (made(truth.save, "t.json"),), Truth.load, check_truth, 4)


def _edge_sets(graph: ew.Graph) -> tuple[Any, Any, Any]:
    kept = torch.zeros(graph.n_edges, dtype=torch.bool)
    kept[0] = True
    return kept, (kept,), kept


def _models() -> Iterator[Target]:
    from edgewise.models import _gguf
    from tests.models.test_gguf import _module, _Recipe, _write_gguf

    torch.manual_seed(0)
    recipes = [_Recipe(), replace(_Recipe(), architecture="qwen2", pre="qwen2")]
    samples = [made(lambda path, r=r: _write_gguf(path, _module(r), r), "m.gguf") for r in recipes]
    yield Target("gguf", tuple(samples), _gguf.read, weight=6)
    folder = made(_model_folder, "model")

    def loaded(path: Path) -> Any:
        return ew.load_model(str(path))

    yield Target("model folder", (folder,), loaded, weight=4)


def _model_folder(path: Path) -> None:
    """A tiny model and its tokenizer, as `save_pretrained` leaves them."""
    from transformers import GPT2Config, GPT2LMHeadModel

    word_tokenizer(WORDS.split()).save_pretrained(path)
    shape: dict[str, Any] = {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(vocab_size=32, bos_token_id=0, eos_token_id=0, **shape)).save_pretrained(path)
