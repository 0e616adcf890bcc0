"""`edgewise attribute`: attribution graphs of one prompt or many."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from typer import Argument, Exit, Option

import edgewise as ew
from edgewise._errors import InputError
from edgewise.cli import _options as options
from edgewise.cli import _transcoder_inputs as inputs
from edgewise.cli._common import load, ranks_of
from edgewise.cli._configuration import configurable
from edgewise.cli._print import line, stopped, stopping, table
from edgewise.runs import check_writable, parse_settings

GRAPH, PRUNED, MERGED = "graph.safetensors", "pruned.safetensors", "merged.safetensors"
REASONS, VALIDATION = "reasons.safetensors", "validation.json"
N_SHOWN = 10
"""Edges into the first root that are printed."""


class _Asked(NamedTuple):
    """One prompt, and what of it is to be explained."""

    prompt: str
    target: Any
    contrast: bool
    where: str = ""
    """The file and the line that it stands in, for what is wrong with it."""


@configurable(lambda settings, max_nodes, bos, **_: _settings(settings, max_nodes=max_nodes, bos=bos))
def attribute(
    prompts: Annotated[
        str,
        Argument(help="A prompt, or a file of them: .txt, one a line, or .jsonl with `prompt` and maybe `target`."),
    ],
    model: options.ModelName = "smollm2-135m",
    nodes: Annotated[
        Literal["neurons"], Option(help="The nodes: neurons, which every model has. For features give --transcoders.")
    ] = ("neurons"),
    transcoders: inputs.Sources = None,
    exclude_special: inputs.ExcludeSpecial = None,
    bos: options.Bos = None,
    target: Annotated[
        list[str] | None,
        Option(
            "--target",
            help="What to explain: a token with its leading space, which may be repeated, or one node such as "
            "m12.f410@7.",
        ),
    ] = None,
    contrast: Annotated[
        tuple[str, str] | None,
        Option("--contrast", help="Explain a difference: the first token's logit minus the second's."),
    ] = None,
    out: options.Out = Path("runs/attribution"),
    max_nodes: Annotated[
        int | None, Option(help="At most so many neurons or features get rows. Default: 5,000.")
    ] = None,
    settings: Annotated[list[str] | None, options.of_config("AttributionConfig")] = None,
    node_threshold: Annotated[
        float, Option(help="Keep nodes in the pruned graph until they have this share of the influence.")
    ] = 0.8,
    edge_threshold: Annotated[float, Option(help="The same for its edges.")] = 0.98,
    validate: Annotated[
        bool,
        Option("--validate", help="Also ablate nodes in the model itself, and compare with the graph's predictions."),
    ] = False,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    offload: options.Offload = None,
    force: Annotated[bool, Option("--force", help="Start anew, in the place of what another run left in OUT.")] = False,
) -> None:
    """Find what flows from the tokens to the prediction. Writes OUT/graph.safetensors and OUT/pruned.safetensors. Under
    torchrun, on all its processes.
    """
    config = _settings(settings, max_nodes=max_nodes, bos=bos)
    for name, share in (("--node-threshold", node_threshold), ("--edge-threshold", edge_threshold)):
        if not 0 <= share <= 1:
            raise InputError(f"{name} {share}: a share of the influence; give 0 to 1")
    asked = _read(prompts, target, contrast)
    folders = [out if len(asked) == 1 else out / f"{number:04d}" for number in range(len(asked))]
    other = _of_another_run(out, len(asked), force)
    check_writable(out)
    kinds = inputs.read(transcoders, exclude_special, device) or nodes
    ranks = ranks_of(device)
    loaded = load(model, device, dtype, offload)
    for each in asked:
        with _told(each.where):
            ew.attribution.check_asked(loaded, each.prompt, each.target, each.contrast, config.bos)
    graphs, pruned = list[ew.AttributionGraph](), list[ew.AttributionGraph]()
    for each, folder in zip(asked, folders, strict=True):
        with _told(each.where):
            graph = ew.attribute(
                loaded,
                each.prompt,
                kinds,
                target=each.target,
                contrast=each.contrast,
                config=config,
                options=ew.RunOptions(out=folder, resume=not force),
                ranks=ranks,
            )
        graphs.append(graph)
        nodes_kept, edges_kept = ew.attribution.kept(graph, node_threshold, edge_threshold)
        settings_kept = graph.settings | {"node_threshold": node_threshold, "edge_threshold": edge_threshold}
        pruned.append(replace(graph.subgraph(nodes_kept, edges_kept), settings=settings_kept))
        if ranks.rank == 0:
            if force or not (folder / GRAPH).is_file():
                for name in (*other, MERGED, VALIDATION):  # made of other graphs than these
                    (out / name).unlink(missing_ok=True)
            graph.save(folder / GRAPH)
            pruned[-1].save(folder / PRUNED)
        _show(each.prompt, graph, pruned[-1], graph.with_errors(nodes_kept), folder)
        if reason := graph.provenance["run"].get("stopped"):
            stopped(reason)
            raise Exit(130)
    if ranks.rank:
        return  # the rest is not shared out
    if validate:
        how = ew.attribution.ValidationConfig(nodes=node_threshold, edges=edge_threshold)
        found = ew.attribution.validate(graphs, how)
        found.save(out / VALIDATION)
        line(str(found))
    if len(asked) > 1:
        _merge(graphs, pruned, out)


def _merge(graphs: list[ew.AttributionGraph], pruned: list[ew.AttributionGraph], out: Path) -> None:
    """Write what the prompts' pruned graphs have in common, if they explain as many things."""
    if len({len(graph.roots) for graph in graphs}) > 1:
        line("not merged: the prompts have different numbers of roots; give --target or --contrast to merge them")
        return
    merged = ew.attribution.merge(pruned)
    merged.save(out / MERGED)
    line(f"{merged!r}, written to {out / MERGED}")


def _of_another_run(out: Path, n_prompts: int, force: bool) -> tuple[str, ...]:
    """The files of a run of one prompt where several are asked for, and the other way round: one folder shows either.
    Raises `InputError` where there are some, unless they are to be replaced.
    """
    files, what = ((MERGED,), "several prompts") if n_prompts == 1 else ((GRAPH, PRUNED, REASONS), "one prompt")
    if not force and (out / files[0]).exists():
        raise InputError(f"{out / files[0]}: is of a run of {what}; choose another --out, or --force to replace it")
    return files


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Of a line of a file say which one is wrong; at Ctrl-C that the same command goes on."""
    with stopping():
        try:
            yield
        except InputError as error:
            raise InputError(f"{where}{error}") from error


def _settings(texts: list[str] | None, **given: Any) -> ew.AttributionConfig:
    """The settings, as texts and options give them. Raises `InputError`."""
    config = replace(ew.AttributionConfig(), **parse_settings("--set", ew.AttributionConfig, texts or ()))
    return replace(config, **{name: value for name, value in given.items() if value is not None})


def _read(prompts: str, target: list[str] | None, contrast: tuple[str, str] | None) -> list[_Asked]:
    """The prompts. Raises `InputError` for a file that is missing, has none, or lines that are no prompts."""
    if target and contrast:
        raise InputError("--contrast: a graph explains targets or a contrast; leave --target out")
    asked = _Asked("", list(contrast) if contrast else _targets(target), contrast is not None)
    path = Path(prompts)
    if path.suffix not in (".txt", ".jsonl"):
        return [asked._replace(prompt=prompts)]
    if not path.is_file():
        raise InputError(f"{prompts}: no such file; give a prompt, or a .txt or .jsonl of prompts")
    try:
        whole = path.read_text("utf-8-sig")  # some editors begin a file with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{prompts}: cannot be read as UTF-8 ({error}); give a .txt or .jsonl of prompts") from error
    lines = [(f"{prompts}, line {n}: ", text) for n, text in enumerate(whole.split("\n"), 1) if text.strip()]
    if not lines:
        raise InputError(f"{prompts}: it has no prompts; give one a line")
    if path.suffix == ".txt":
        return [asked._replace(prompt=text, where=where) for where, text in lines]
    return [_row(where, text, asked)._replace(where=where) for where, text in lines]


def _row(where: str, text: str, asked: _Asked) -> _Asked:
    """One line of a .jsonl file."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{where}not JSON ({error}); write {{"prompt": …}}') from error
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise InputError(f'{where}no prompt; write {{"prompt": "…"}}, and maybe "target" or "contrast"')
    names = ("prompt", "target", "contrast")
    if odd := next(
        (key for key in row if key not in names and get_close_matches(str(key).lower(), names, 1, 0.8)), None
    ):
        raise InputError(f"{where}there is no key {str(odd)[:40]!r}; write prompt, target or contrast")
    own = {name: row.get(name) for name in ("target", "contrast")}
    if any(value is not None and not _texts(value) for value in own.values()):
        raise InputError(f"{where}target and contrast are a text or a list of texts")
    if None not in own.values():
        raise InputError(f"{where}both target and contrast; a graph explains one of them, so leave one out")
    if own["contrast"] is not None:
        return _Asked(row["prompt"], own["contrast"], True)
    if own["target"] is not None:
        return _Asked(row["prompt"], own["target"], False)
    return asked._replace(prompt=row["prompt"])


def _texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))


def _targets(given: list[str] | None) -> Any:
    """A single one may be a node."""
    return None if not given else given[0] if len(given) == 1 else given


def _show(
    prompt: str, graph: ew.AttributionGraph, small: ew.AttributionGraph, moved: ew.AttributionGraph, out: Path
) -> None:
    """Sizes, scores and ledger of a graph, and what flows into its first root; a pruned one is scored by `moved`, where
    removed nodes are errors.
    """
    line(f"prompt   {prompt}")
    scored = {"graph": (graph, graph), "pruned": (small, moved)}
    for name, (each, counted) in scored.items():
        score = ew.attribution.scores(counted)
        line(
            f"{name:8} {each.n_nodes:,} nodes, {each.n_edges:,} edges, {each.ledger.share_outside:.1%} of all by size "
            f"outside; replacement {score.replacement:.3f}, completeness {score.completeness:.3f}"
        )
    line(f"ledger   residual {graph.ledger.worst:.0e}: of a target's value and its edges, by the sum of their sizes")
    root = int(small.nodes.is_kind("root").nonzero()[0])  # of two roots of one text neither has it for a name
    rows = [(name, f"{weight:+.3f}") for name, weight in small.incoming(root)[:N_SHOWN]]
    table(f"into {small.names[root]} ({float(small.nodes.value[root]):.3f})", ("from", "weight"), rows)
    line(f"written to {out / GRAPH} and {out / PRUNED}")
