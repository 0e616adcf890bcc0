"""The parts of `independent.py`: each computes figures of a page by `tests/independent/`, beside what is published."""

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import edgewise as ew  # noqa: E402
from edgewise.attribution import AttributionConfig  # noqa: E402
from edgewise.runs import RunOptions  # noqa: E402
from edgewise.tracr import LIBRARY, compile_library  # noqa: E402
from tests.discovery.hooks import LAYOUTS  # noqa: E402
from tests.discovery.toys import logit_diff  # noqa: E402
from tests.independent.circuits import (  # noqa: E402
    Edge,
    File,
    all_edges,
    circuit_logits,
    idle_dropped,
    own_logits,
    written,
)
from tests.independent.ledger import FrozenByHooks, replacement_and_completeness  # noqa: E402
from tests.independent.metrics import highest, means, of_pair  # noqa: E402
from tests.independent.programs import necessary  # noqa: E402
from tests.independent.scores import eap_scores  # noqa: E402

RESULTS = ROOT / "docs" / "results"
LLAMA = LAYOUTS["llama"]
WITHIN = 0.01


class Figure(NamedTuple):
    """One number, and what stands beside it."""

    page: str
    what: str
    published: str
    """What the page says; of a few pairs, what the library says of the same ones."""
    independent: float
    pairs: int | None = None
    """How many; None: all that the page is of."""

    @property
    def agrees(self) -> bool:
        """To 1 %, or to what is printed."""
        said = float(self.published.replace(",", ""))
        digits = len(self.published.partition(".")[2])
        return abs(self.independent - said) <= max(WITHIN * abs(said), 0.5000001 * 10**-digits)

    @property
    def ratio(self) -> str:
        said = float(self.published.replace(",", ""))
        return f"{self.independent / said:.4f}" if said else ("1" if self.independent == 0 else "–")


class Study:
    """The model, and how its prompts are judged."""

    def __init__(self, examples: int | None) -> None:
        self.examples = examples
        self.model = ew.load_model("smollm2-135m")
        self.module: Any = self.model.module
        self.edges = all_edges(self.module, LLAMA)

    def task(self, name: str, **arguments: Any) -> Any:
        """A built-in task with its pairs, of which the first so many are judged."""
        task = ew.tasks.TASKS[name](self.model.tokenizer, **arguments)
        return replace(task, test=task.test[: self.examples])

    def circuits(self, task: Any, circuits: dict[str, set[Edge]]) -> dict[str, dict[str, float]]:
        """The means of circuits' metrics over a task's test pairs, and the full model's (`full`)."""
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in [*circuits, "full"]}
        for pair in task.test:
            ids, other = (torch.tensor([each]) for each in (pair.clean, pair.corrupted))
            full, ablated = own_logits(self.module, ids)[0], written(self.module, LLAMA, other)
            rows["full"].append(of_pair(pair, full, full))
            for name, kept in circuits.items():
                said = circuit_logits(self.module, LLAMA, ids, self.edges, kept, ablated)[0]
                rows[name].append(of_pair(pair, said, full))
        return {name: means(each) for name, each in rows.items()}

    def library(self, task: Any, kept: set[Edge], metric: str) -> str:
        """What the library says of a circuit on the same few examples."""
        chosen = torch.tensor([edge in kept for edge in self.edges])
        circuit = ew.Circuit(self.model.graph(), chosen)
        found = ew.evaluation.judge(ew.Engine(self.model), {"c": circuit}, task, "test")["c"][metric]
        return f"{float(found.mean()):.6f}"

    def beside(self, page: str, pattern: str, task: Any, kept: set[Edge], metric: str = "kl") -> str:
        """The published figure; of a few examples, the library's."""
        return published(page, pattern) if self.examples is None else self.library(task, kept, metric)

    def ability(self, task: Any) -> dict[str, Any] | None:
        """Of a few examples, what the library says of how well the model does them; of all of them the page says it."""
        return None if self.examples is None else ew.evaluation.score(self.model, task).metrics

    def difference(self, task: Any, page: str, pattern: str) -> str:
        """The published difference of the answers' mean logits; of a few examples, the library's."""
        if self.examples is None:
            return published(page, pattern)
        engine = ew.Engine(self.model)
        said = [engine.full(task.batch("test", [number]))[0] for number in range(len(task.test))]
        return f"{sum(map(_difference, task.test, said)) / len(said):.6f}"

    def at_size(self, scores: list[float], size: int, absolute: bool) -> set[Edge]:
        """The circuit of the highest scores with at most so many edges that can carry signal, by bisection."""
        spec = self.module.config
        low, high = size, len(scores)
        while low < high:
            middle = (low + high + 1) // 2
            chosen = {self.edges[i] for i in highest(scores, middle, absolute)}
            alive = len(idle_dropped(chosen, spec.num_attention_heads, spec.num_key_value_heads, True))
            low, high = (middle, high) if alive <= size else (low, middle - 1)
        chosen = {self.edges[i] for i in highest(scores, low, absolute)}
        return idle_dropped(chosen, spec.num_attention_heads, spec.num_key_value_heads, True)


def published(page: str, pattern: str) -> str:
    """A figure of a page: the one group of a pattern that is found in it."""
    found = re.search(pattern, (RESULTS / page).read_text(), re.S)
    if found is None:
        raise SystemExit(f"{page}: {pattern!r} is not in it; mend the pattern")
    return found[1]


def circuits(study: Study) -> Iterator[Figure]:
    """The checked-in circuits on the examples of their study, and its empty circuit."""
    files = {name: File.read(RESULTS / "circuits" / f"ioi-{name}.safetensors") for name in ("ranking", "polished")}
    arguments = files["ranking"].header["provenance"]["task"]["arguments"]
    task = study.task("ioi", **{name: arguments[name] for name in ("train", "validation", "test", "seed")})
    judged = {name: file.edges(study.edges) for name, file in files.items()}
    scores = files["ranking"].scores
    assert scores is not None
    judged["at 1,293"] = study.at_size(scores, 1293, absolute=False)
    judged["empty"] = set()
    found = study.circuits(task, judged)
    where = {
        "ranking": ("quality.md", r"`ranking`, seed 0, 1,413 edges, KL ([\d.]+?);"),
        "polished": ("quality.md", r"`ranking \+ polish`, seed 0, 1,413 edges, KL ([\d.]+)\.\s"),
        "at 1,293": ("quality-paper.md", r"the ranking at that size \| 7,200 \| 1,293 \| ([\d.]+)"),
        "empty": ("quality-paper.md", r"no edge at all \| 0 \| 0 \| ([\d.]+)"),
    }
    for name, (page, pattern) in where.items():
        beside = study.beside(page, pattern, task, judged[name])
        yield Figure(page, f"KL on `ioi`: {name}", beside, found[name]["kl"])
    for name, size in (("ranking", r"`ranking`, seed 0, ([\d,]+)"), ("polished", r"polish`, seed 0, ([\d,]+)")):
        alive = idle_dropped(judged[name], 9, 3, True)
        yield Figure("quality.md", f"actual edges: {name}", published("quality.md", size), len(alive))


def edge_pruning(study: Study) -> Iterator[Figure]:
    """Edge Pruning's checked-in circuits, on the pairs that their page judges them by."""
    page = "quality-paper.md"
    rows = {"greater-than": "published settings, 1,413 edges asked for", "ioi": "Edge Pruning, the second seed"}
    for name, row in rows.items():
        file = File.read(RESULTS / "circuits" / f"{name}-edge-pruning.safetensors")
        task = study.task(name, **file.header["provenance"]["task"]["arguments"])
        kept = file.edges(study.edges)
        size, alive = published(page, rf"{row} \| ([\d,]+)"), len(idle_dropped(kept, 9, 3, True))
        yield Figure(page, f"actual edges: Edge Pruning on `{name}`", size, alive)
        said = study.beside(page, rf"{row} \| [\d,]+ \| ([\d.]+) \[", task, kept)
        yield Figure(page, f"KL of Edge Pruning on `{name}`", said, study.circuits(task, {name: kept})[name]["kl"])


def eap(study: Study) -> Iterator[Figure]:
    """EAP's circuits of the bench on `ioi`: scored, chosen and judged once more."""
    yield from _attributed(study, "eap", None, (0.9, 0.95, 0.98, 0.99))


def eap_ig(study: Study) -> Iterator[Figure]:
    """EAP-IG's, at five points of Gauss and Legendre."""
    t = [0.0, 0.538469310105683, 0.906179845938664]
    w = [0.568888888888889, 0.478628670499366, 0.236926885056189]
    points = [((1 + s * x) / 2, v / 2) for x, v in zip(t, w, strict=True) for s in ((1,) if x == 0 else (1, -1))]
    yield from _attributed(study, "eap-ig", points, (0.9, 0.95, 0.98, 0.99, 0.995))


def _attributed(study: Study, name: str, points: Any, sparsities: tuple[float, ...]) -> Iterator[Figure]:
    task = study.task("ioi", train=1000, validation=100, test=200, seed=0)
    scores = _summed(study, task.train[: study.examples or 200], points)
    sizes = {s: int((1 - s) * len(study.edges) + 1e-6) for s in sparsities}
    judged = {str(s): study.at_size(scores, size, absolute=True) for s, size in sizes.items()}
    found = study.circuits(task, judged)
    for place, s in enumerate(sparsities):
        row = r"\| " + re.escape(name) + r" \(1\)" + r" \| [^|]*" * place + r" \| ([\d.]+) \["
        beside = study.beside("bench.md", row, task, judged[str(s)])
        yield Figure("bench.md", f"KL of {name} on `ioi` at {s:.1%}", beside, found[str(s)]["kl"])


def _summed(study: Study, pairs: Any, points: Any) -> list[float]:
    """The mean over pairs of EAP's score of each edge, as a file has it."""
    total = torch.zeros(len(study.edges), dtype=torch.float64)
    for pair in pairs:
        total += eap_scores(study.module, LLAMA, pair, logit_diff(pair), study.edges, points)
    return (total / len(pairs)).float().tolist()


def empty(study: Study) -> Iterator[Figure]:
    """The bench's empty circuits: nothing but the corrupted prompt's own logits."""
    for name in ("ioi", "ioi-t1", "greater-than", "gendered-pronoun"):
        task = study.task(name, train=1000, validation=100, test=200, seed=0)
        rows = []
        for pair in task.test:
            said, full = (own_logits(study.module, torch.tensor([ids]))[0] for ids in (pair.corrupted, pair.clean))
            rows.append(of_pair(pair, said, full))
        pattern = rf"## `{name}` in .*?the empty circuit has ([\d.]+?)\.\s"
        beside = study.beside("bench.md", pattern, task, set())
        yield Figure("bench.md", f"KL of no edge on `{name}`", beside, means(rows)["kl"])


def tasks(study: Study) -> Iterator[Figure]:
    """How well the model does each task: every mean of the page."""
    lines = (RESULTS / "tasks.md").read_text().splitlines()
    for line in (line for line in lines if line.endswith(("| yes |", "| no |"))):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name, *form = cells[0].split()
        task = study.task(name, **({_FORM[name]: form[0]} if form else {}), train=1, validation=1, test=256, seed=0)
        rows: dict[str, list[dict[str, float]]] = {"clean": [], "corrupted": []}
        for pair in task.test:
            for kind, ids in (("clean", pair.clean), ("corrupted", pair.corrupted)):
                said = own_logits(study.module, torch.tensor([ids]))[0]
                rows[kind].append(of_pair(pair, said, said))
        clean, corrupted = (means(each) for each in rows.values())
        columns = {2: ("accuracy", clean), 3: ("choice", clean), 4: ("choice", corrupted), 6: ("logit_diff", clean)}
        columns |= {7: ("logit_diff", corrupted), 9: ("prob_diff", clean), 10: ("prob_diff", corrupted)}
        ability = study.ability(task)
        for place, (metric, found) in columns.items():
            beside = cells[place].split()[0]
            if ability is not None:
                both = ability[metric]
                beside = f"{both.value if found is clean else both.corrupted:.6f}"
            kind = "clean" if found is clean else "corrupted"
            yield Figure("tasks.md", f"{cells[0]}: {metric}, {kind}", beside, found[metric])


_FORM = {"boolean-expressions": "form", "arithmetic": "operation"}


def models(study: Study) -> Iterator[Figure]:
    """The small model's rows of the page of real models: how well it does each task, and EAP's circuit of `ioi`."""
    page = (RESULTS / "models.md").read_text()
    rows = re.findall(r"^\| smollm2-135m \| ([a-z0-9-]+) \| ([\d.]+) \| ([\d.]+) \| (-?[\d.]+) \| \d+ \|$", page, re.M)
    for name, *said in rows:
        task, found = study.task(name, train=0, validation=0, test=32), []
        for pair in task.test:
            logits = own_logits(study.module, torch.tensor([pair.clean]))[0]
            found.append(of_pair(pair, logits, logits))
        ability = study.ability(task)
        for metric, value in zip(("accuracy", "choice", "logit_diff"), said, strict=True):
            beside = value if ability is None else f"{ability[metric].value:.6f}"
            yield Figure("models.md", f"{name}: {metric}", beside, means(found)[metric])
    task = study.task("ioi", train=32, validation=16, test=32)
    scores = _summed(study, task.train[: study.examples], None)
    kept = study.at_size(scores, 1413, absolute=True)
    found = study.circuits(task, {"eap": kept})["eap"]
    columns = {"kl": r"([\d.]+)", "logit_diff": r"[\d.]+ \| ([\d.]+)", "accuracy": r"[\d.]+ \| [\d.]+ \| ([\d.]+)"}
    for metric, column in columns.items():
        row = rf"\| smollm2-135m \| eap \| 1,413 \| 1,413 \| {column} \|"
        yield Figure(
            "models.md", f"eap on `ioi`: {metric}", study.beside("models.md", row, task, kept, metric), found[metric]
        )


def attribution(study: Study) -> Iterator[Figure]:
    """What the attribution graphs of real prompts explain: the difference of the answers' mean logits."""
    for name in ("capital-country", "greater-than", "induction", "ioi"):
        task, found = study.task(name, train=1, validation=1, test=3, seed=0), []
        for pair in task.test:
            logits = own_logits(study.module, torch.tensor([pair.clean]))[0]
            found.append(_difference(pair, logits[pair.targets[0].position]))
        row = rf"\| {name} \| neurons \| 3 \| (-?[\d.]+) \["
        said = study.difference(task, "attribution.md", row)
        yield Figure("attribution.md", f"difference on `{name}`", said, sum(found) / len(found))


def _difference(pair: Any, logits: torch.Tensor) -> float:
    """The mean logit of a pair's right answers minus that of its wrong ones, from the logits at its first target."""
    here = pair.targets[0]
    return float(logits[list(here.answers)].mean() - logits[list(here.wrong)].mean())


def tracr(study: Study | None) -> Iterator[Figure]:
    """Compiled programs: how many edges, and how many of them are necessary, by removing each alone."""
    for name in LIBRARY:
        if find_spec("tracr") is None and f"tracr:{name}" not in ew.models.SHIPPED:
            print(f"{name}: left out, Tracr is not installed")
            continue
        module: Any = ew.load_model(f"tracr:{name}").module if f"tracr:{name}" in ew.models.SHIPPED else None
        module = module or compile_library(name)
        edges = all_edges(module, LAYOUTS["plain"])
        total = published("tracr.md", rf"\n\| {name} \|[^\n]*?\| ([\d,]+) / [\d,]+ \|")
        yield Figure("tracr.md", f"edges of `{name}`", total, len(edges))
        for ablation in ("zero", "interchange"):
            said = published("tracr.md", rf"\n\| {name} \| {ablation} \| \d+ \| (\d+) \|")
            if len(edges) > _MOST[ablation]:
                continue  # hours of removing edges one by one
            found = len(necessary(module, edges, ablation == "interchange"))
            yield Figure("tracr.md", f"necessary edges of `{name}`, {ablation}", said, found)


_MOST = {"zero": 400, "interchange": 50}
"""Edges of the largest program whose edges are removed one by one: under interchange inputs go by pairs."""


def ledger(study: Study) -> Iterator[Figure]:
    """An attribution graph of `ioi`: each target's edges against autograd on the frozen module, and its scores."""
    pair = study.task("ioi", train=1, validation=1, test=1, seed=0).test[0]
    here = pair.targets[0]
    ids = torch.tensor(pair.clean[: here.position + 1])
    target = [here.answers[0], here.wrong[0]]
    config = AttributionConfig(max_nodes=24, batch=24, neurons_per_token=128, keep=1.0, most_edges=10**6)
    graph = ew.attribute(
        study.model, ids, target=target, contrast=True, config=config, options=RunOptions(progress=False)
    )
    frozen = FrozenByHooks(study.module, LLAMA, ids)
    dense = graph.matrix.toarray()
    rows = [row for row in range(graph.n_nodes) if dense[row].any()]
    for row in rows[-1:] + rows[:-1:4]:
        name = graph.names[row]
        if row == rows[-1]:
            value = frozen.logits[-1, target[0]] - frozen.logits[-1, target[1]]
        else:
            layer, neuron, position = (int(part) for part in name[1:].replace("@", ".n").split(".n"))
            value = frozen.targets[layer][position, neuron]
        tokens, neurons = frozen.edges(value)
        total = float(tokens.sum() + sum(each.sum() for each in neurons))
        yield Figure(
            "ledger", f"value of `{name}`: sum of its edges (both of the second)", f"{float(value.detach()):.6g}", total
        )
        here = f"{float(graph.nodes.value[row]):.6g}"
        yield Figure("ledger", f"the library's value of `{name}`", here, float(value.detach()))
        named = [each for each in graph.incoming(row) if ".error@" not in each[0]]  # those stand for many neurons
        for source, weight in sorted(named, key=lambda each: -abs(each[1]))[:2]:
            yield Figure("ledger", f"`{source}` to `{name}`", f"{weight:.6g}", _edge(source, tokens, neurons))
    weights = torch.from_numpy(dense)
    roots = torch.zeros(graph.n_nodes, dtype=torch.float64)
    roots[graph.nodes.is_kind("root")] = graph.root_weights.double()
    weights[:, graph.nodes.is_kind("attention bias", "MLP bias", "reading bias")] = 0
    found = replacement_and_completeness(weights, roots, graph.nodes.is_kind("token"), graph.nodes.is_kind("error"))
    for name, ours, other in zip(("replacement", "completeness"), graph.scores(), found, strict=True):
        yield Figure("ledger", f"{name} of the graph", f"{ours:.6g}", other)


def _edge(source: str, tokens: torch.Tensor, neurons: list[torch.Tensor]) -> float:
    kind, position = source.split("@")
    if kind == "token":
        return float(tokens[int(position)])
    layer, rest = kind[1:].split(".")
    return float(neurons[int(layer)][int(position), int(rest[1:])])
