"""Attribution methods on plain hooks, for the methods under test to be held against.

Nothing of the engine or of the adapters is used here; only `by_hooks` looks at an engine, for its module and names.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.engine import Engine
from edgewise.tasks import Task
from tests.discovery.hooks import (
    LAYOUTS,
    Layout,
    columns,
    products,
    reader_gradients,
    removed,
    write_differences,
)
from tests.discovery.toys import logit_diff

FAMILIES = [("gpt2", "gpt2"), ("llama-gqa", "llama"), ("neox-parallel", "neox"), ("twisted", "twisted")]
"""A tiny model of each, and its layout."""


def by_hooks(
    engine: Engine, family: str, task: Task, method: Callable, *more: Any, of: Callable = logit_diff
) -> Float[Tensor, " E"]:
    """The mean over the examples of what a method below says of the graph's edges; `of` gives a pair's metric."""
    graph = engine.graph
    names = [tuple(n.split(" -> ")) for n in graph.edge_names(torch.arange(graph.n_edges))]
    total = torch.zeros(len(names), dtype=torch.float64)
    for pair in task.train:
        corrupted = torch.tensor(pair.corrupted) if engine.ablation.kind == "interchange" else None
        found = method(engine.model.module, LAYOUTS[family], torch.tensor(pair.clean), corrupted, of(pair), *more)
        assert {w for w, _ in found} <= set(graph.writer_names) and {r for _, r in found} == set(graph.reader_names)
        total += torch.tensor([found[name] for name in names], dtype=torch.float64)
    return total / len(task.train)


def eap_scores(
    module: Any, layout: Layout, clean: Tensor, corrupted: Tensor | None, metric: Callable[[Tensor], Tensor]
) -> dict[tuple[str, str], float]:
    """⟨∂metric/∂x_r, z_w − z̃_w⟩ for every writer w and reader r, also those where r comes first and there is no edge.

    Args:
        module: the user's model.
        layout: where its pieces are.
        clean: a prompt's tokens, `[S]`.
        corrupted: its twin's; None for zero ablation.
        metric: of the logits `[S, V]`.
    """
    differences = write_differences(module, layout, clean, corrupted)
    return products(differences, reader_gradients(module, layout, clean, metric))


def eap_ig_inputs_scores(
    module: Any,
    layout: Layout,
    clean: Tensor,
    corrupted: Tensor,
    metric: Callable[[Tensor], Tensor],
    points: list[tuple[float, float]],
) -> dict[tuple[str, str], float]:
    """The same with the gradients' weighted mean over embeddings between the corrupted prompt's and the clean one's."""
    differences = write_differences(module, layout, clean, corrupted)
    total: dict[str, Tensor] = {}
    for alpha, weight in points:
        moved = _between(module, layout, clean, corrupted, alpha)
        for reader, gradient in reader_gradients(module, layout, clean, metric, moved).items():
            total[reader] = total.get(reader, 0) + weight * gradient
    return products(differences, total)


def eap_ig_activations_scores(
    module: Any,
    layout: Layout,
    clean: Tensor,
    corrupted: Tensor | None,
    metric: Callable[[Tensor], Tensor],
    points: list[tuple[float, float]],
) -> dict[tuple[str, str], float]:
    """The same for one component's writers at a time, on the path of that component's own output."""
    differences = write_differences(module, layout, clean, corrupted)
    components: dict[str, list[str]] = {}
    for writer in differences:
        components.setdefault(writer.split(".")[0], []).append(writer)
    scores: dict[tuple[str, str], float] = {}
    for component, writers in components.items():
        total: dict[str, Tensor] = {}
        for alpha, weight in points:
            lacking = -(1 - alpha) * torch.stack([differences[writer] for writer in writers]).sum(0)
            moved = _adding(module, layout, component, lacking)
            for reader, gradient in reader_gradients(module, layout, clean, metric, moved).items():
                total[reader] = total.get(reader, 0) + weight * gradient
        scores |= products({writer: differences[writer] for writer in writers}, total)
    return scores


def relevance_scores(
    module: Any, layout: Layout, clean: Tensor, corrupted: Tensor, metric: Callable[[Tensor], Tensor]
) -> dict[tuple[str, str], float]:
    """EAP with frozen norms and attention patterns, secant activations and halved gates."""
    differences = write_differences(module, layout, clean, corrupted)
    return products(differences, reader_gradients(module, layout, clean, metric, rules=True))


def node_scores(
    module: Any,
    layout: Layout,
    clean: Tensor,
    corrupted: Tensor | None,
    metric: Callable[[Tensor], Tensor],
    points: list[tuple[float, float]] | None = None,
    dropped: int | None = None,
) -> dict[str, float]:
    """⟨∂metric/∂(what a component writes), z_w − z̃_w⟩ for every writer.

    Args:
        module: the user's model.
        layout: where its pieces are.
        clean: a prompt's tokens, `[S]`.
        corrupted: its twin's; None for zero ablation.
        metric: of the logits `[S, V]`.
        points: of the input path; None for the clean prompt alone.
        dropped: a layer through whose components no gradient goes back.
    """
    total: dict[str, Tensor] = {}

    def watch(component: str, weight: float):
        def hook(_module, _inputs, output):
            output = output[0] if isinstance(output, tuple) else output
            if output.requires_grad:
                if component[1:] == str(dropped):
                    output.register_hook(torch.zeros_like)
                output.register_hook(lambda g: add(component, weight * g))

        return hook

    def add(component: str, gradient: Tensor) -> None:
        total[component] = total.get(component, 0) + gradient.reshape(len(clean), -1)

    for alpha, weight in points or [(1.0, 1.0)]:
        handles = []
        if points:
            assert corrupted is not None
            handles = _between(module, layout, clean, corrupted, alpha, lambda g, w=weight: add("embed", w * g))
        else:  # each embedding's output is added to the stream, so the gradient at the first says it for all
            handles = [module.get_submodule(layout.embeddings[0]).register_forward_hook(watch("embed", weight))]
        for index, layer in enumerate(module.get_submodule(layout.layers)):
            for kind, name in zip("am", layout.added, strict=True):
                handles += [layer.get_submodule(name).register_forward_hook(watch(f"{kind}{index}", weight))]
        with removed(handles):
            metric(module(input_ids=clean[None]).logits[0]).backward()
    module.zero_grad()
    differences = write_differences(module, layout, clean, corrupted)
    return {writer: float((total[writer.split(".")[0]] * d).sum()) for writer, d in differences.items()}


def patched_softmax_scores(
    module: Any, layout: Layout, clean: Tensor, corrupted: Tensor, metric: Callable[[Tensor], Tensor], apart: bool
) -> dict[str, float]:
    """What patching each head's query, key or value with the corrupted prompt's does to the head's own output, times
    the metric's gradient there.

    Args:
        module: the user's model.
        layout: where its pieces are.
        clean: a prompt's tokens, `[S]`.
        corrupted: its twin's.
        metric: of the logits `[S, V]`.
        apart: patch keys one position at a time, and sum.
    """
    scores: dict[str, float] = {}
    for index, layer in enumerate(module.get_submodule(layout.layers)):
        output = layer.get_submodule(layout.output)
        mixed, gradients = _at_input(module, output, clean, metric)
        for name, kinds in layout.projections.items():
            projection, readers = layer.get_submodule(name), columns(module.config, kinds, layout.by_head)
            other = _output_of(module, projection, corrupted)
            for i, reader in enumerate(readers):
                single = apart and reader.endswith(".k")
                score = 0.0
                for positions in [[j] for j in range(len(clean))] if single else [list(range(len(clean)))]:

                    def patch(_module, _inputs, out, i=i, at=positions, other=other, n=readers):
                        patched = out.clone()
                        pieces = [(other if j == i else out).chunk(len(n), -1)[j] for j in range(len(n))]
                        patched[:, at] = torch.cat(pieces, -1)[:, at]
                        return patched

                    with removed([projection.register_forward_hook(patch)]):
                        patched, _ = _at_input(module, output, clean, None)
                    score += float((gradients * (mixed - patched)).sum())
                scores[f"a{index}.{reader}"] = score
    return scores


def _at_input(module: Any, part: Any, ids: Tensor, metric: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Any]:
    """What a part of the model is given, and the metric's gradient there."""
    seen: list[Tensor] = []
    with removed([part.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))]):
        logits = module(input_ids=ids[None]).logits[0]
    gradient = None if metric is None else torch.autograd.grad(metric(logits), seen)[0]
    return seen[0].detach(), gradient


@torch.no_grad()
def _output_of(module: Any, part: Any, ids: Tensor) -> Tensor:
    seen: list[Tensor] = []
    with removed([part.register_forward_hook(lambda _m, _i, out: seen.append(out))]):
        module(input_ids=ids[None])
    return seen[0]


def _between(
    module: Any,
    layout: Layout,
    clean: Tensor,
    corrupted: Tensor,
    alpha: float,
    watch: Callable[[Tensor], None] | None = None,
) -> list[Any]:
    """Hooks that put every embedding between the corrupted prompt's and the clean one's; `watch` gets the gradient."""
    handles = []
    for name in layout.embeddings:
        embedding = module.get_submodule(name)
        seen: list[Tensor] = []
        handle = embedding.register_forward_hook(lambda _m, _i, output, seen=seen: seen.append(output.detach()))
        with removed([handle]), torch.no_grad():
            for ids in (clean, corrupted):
                module(input_ids=ids[None])
        mixed = (alpha * seen[0] + (1 - alpha) * seen[1]).requires_grad_()
        if watch is not None and not handles:
            mixed.register_hook(watch)
        handles.append(embedding.register_forward_hook(lambda _m, _i, _o, mixed=mixed: mixed))
    return handles


def _adding(module: Any, layout: Layout, component: str, addend: Tensor) -> list[Any]:
    """A hook that adds to what a component (`embed`, `a0`, `m0`) writes."""
    if component == "embed":
        part = module.get_submodule(layout.embeddings[0])
    else:
        layer = module.get_submodule(layout.layers)[int(component[1:])]
        part = layer.get_submodule(layout.added[component.startswith("m")])
    return [part.register_forward_hook(lambda _m, _i, output: output + addend)]
