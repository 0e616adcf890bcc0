"""Transcoders, their features and texts for them, as commands are given them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

from typer import Argument, Option

import edgewise as ew
from edgewise.cli._common import own_device
from edgewise.runs import record_of

Sources = Annotated[
    list[str] | None,
    Option(
        "--transcoders",
        help="Take MLPs apart into features: a transcoder's file, a folder of them, or a hub id; may be repeated.",
    ),
]
Files = Annotated[list[str], Argument(help="Files or folders of any format, or hub ids; one for each layer.")]
OwnModel = Annotated[str | None, Option("--model", help="The model. Default: the transcoders' own.")]
TEXTS = "builtin, generated[:SEED], a .txt, .md or .jsonl file, a folder, a .npy of tokens, or hf:NAME[:CONFIG[:SPLIT]]"
Text = Annotated[list[str], Option("--text", help=f"The text: {TEXTS}; may be repeated.")]
Context = Annotated[int, Option("--context", help="Tokens per row of the text.")]
Limit = Annotated[int | None, Option("--limit", help="Read at most so many tokens of the text.", min=1)]
ExcludeSpecial = Annotated[
    bool | None,
    Option(
        "--exclude-special/--include-special",
        help="Turn features off at special tokens and at the first token of each prompt, or count them there too. "
        "If unset, their files decide; where these say nothing, features count.",
    ),
]


Neurons = Annotated[
    int,
    Option(
        help="Take MLPs apart into so many neurons each, those with the largest effects, and the rest of the MLP; with "
        "--transcoders, those that have none. 0: leave them whole."
    ),
]
ErrorPolicy = Annotated[
    ew.graph.ErrorPolicy,
    Option(
        "--error",
        help="With --transcoders: what the features leave of an MLP is a writer with edges, is always kept clean, or "
        "always ablated.",
    ),
]


_PER_LAYER = 32


class Apart(NamedTuple):
    """How MLPs are to be taken apart."""

    sources: list[str] | None
    per_layer: int | None
    """Features of each transcoder; 32 if None."""
    neurons: int
    """Of each MLP without one."""
    error: ew.graph.ErrorPolicy

    def check(self, method: ew.Method, config: ew.discovery.MethodConfig, ablation: str) -> None:
        """Refuse what does not go with them, before anything is loaded. Raises `InputError`."""
        for option, value in (("--features-per-layer", self.per_layer), ("--neurons", self.neurons)):
            if value is not None and value < 0:
                raise ew.InputError(f"{option} {value}: use at least 0")
        if self.per_layer is not None and not self.sources:
            raise ew.InputError("--features-per-layer: of --transcoders, and none are given; leave it out")
        if self.error != "scored" and not self.sources:
            raise ew.InputError(f"--error {self.error}: of --transcoders, and none are given; leave it out")
        for option, given in (("--transcoders", self.sources), ("--neurons", self.neurons)):
            if not given:
                continue
            ew.discovery.check_able(method, config, "features", option)
            if ablation not in ("interchange", "zero"):
                raise ew.InputError(f"{option}: takes --ablation interchange or zero, not {ablation}")

    def choose(
        self, model: ew.Model, task: ew.tasks.Task, transcoders: list[ew.transcoders.Transcoder], ablation: str
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Arguments for `model.graph`, and what a result says of the choice; both empty where MLPs stay whole."""
        chosen, records = dict[str, Any](), dict[str, Any]()
        how = ew.Ablation("zero" if ablation == "zero" else "interchange")
        if transcoders:
            n = _PER_LAYER if self.per_layer is None else self.per_layer
            features = ew.choose_features(model, task, transcoders, n, ablation=how)
            chosen |= {"features": features, "error": self.error}
            chosen["cross_layer"] = ew.transcoders.cross_layer(transcoders)
            records["features"] = features.record | {"transcoders": self.sources}
        left = [layer for layer in range(len(model.parts.layers)) if layer not in chosen.get("features", {})]
        if self.neurons and left:
            neurons = ew.choose_neurons(model, task, self.neurons, left, ablation=how)
            chosen["neurons"], records["neurons"] = neurons, neurons.record
        return chosen, records


def read(
    sources: Sequence[str] | None, exclude_special: bool | None = None, device: str = "cpu"
) -> list[ew.transcoders.Transcoder]:
    """The transcoders at these places, on the device. Raises `InputError`, also for a device that is not there."""
    if exclude_special is not None and not sources:
        raise ew.InputError("--exclude-special: of --transcoders, and none are given; leave it out")
    if not sources:
        return []
    where = ew.models.usable_device(own_device(device))
    return [each.to(where) for x in sources for each in ew.transcoders.read(x, exclude_special=exclude_special)]


def parse(name: str) -> tuple[int, int] | None:
    """The layer and number of a feature such as m12.f410; None for anything else."""
    found = re.fullmatch(r"m(\d+)\.f(\d+)", name)
    return None if found is None else (int(found[1]), int(found[2]))


def model_of(transcoders: Sequence[ew.transcoders.Transcoder], given: str | None) -> str:
    """The model given, or the transcoders' own. Raises `InputError` where they do not say it."""
    name = given or str(record_of(transcoders[0].provenance, "model").get("id", ""))
    if not name:
        raise ew.InputError(f"{transcoders[0].spec.reads}: does not say which model it is for; give --model")
    return name


def text_rows(model: Any, text: list[str], context: int, limit: int | None) -> ew.transcoders.TokenRows:
    """Text as rows of the model's tokens; or its own samples, as `generated` or `generated:SEED`."""
    own = [each for each in text if each.partition(":")[0] == "generated"]
    if not own:
        vocabulary = int(model.module.config.vocab_size)
        return ew.transcoders.read_tokens(text, model.tokenizer, context=context, limit=limit, vocabulary=vocabulary)
    seed = own[0].partition(":")[2] or "0"
    if len(text) > 1 or limit is None or not seed.isdecimal():
        raise ew.InputError(
            f"text {', '.join(text)}: give generated, or generated:SEED with a number, alone, and how many tokens "
            "with --limit"
        )
    with ew.runs.progress("sampling rows") as shown:
        return ew.transcoders.generated_tokens(
            model,
            limit,
            context=context,
            seed=int(seed),
            cache=ew.models.cache_folder() / "generated",
            progress=lambda done, total: shown.update(done, total=total),
        )


def for_circuit(circuit: ew.Circuit, sources: list[str] | None) -> list[ew.transcoders.Transcoder]:
    """The transcoders for a circuit's graph, see `for_circuits`."""
    return for_circuits([circuit], sources)


def for_circuits(circuits: Sequence[ew.Circuit], sources: list[str] | None) -> list[ew.transcoders.Transcoder]:
    """The transcoders for the graphs of circuits: those given or, where none are, those that the circuits say that they
    were found with, the first of each layer. Raises `InputError` where a circuit with features does not say it.
    """
    featured = [circuit for circuit in circuits if circuit.graph.spec.features]
    if sources and not featured:
        raise ew.InputError("--transcoders: the circuit has no features; leave them out")
    found = read(sources or list(dict.fromkeys(source for circuit in featured for source in _own_sources(circuit))))
    if not sources:
        found = list({each.spec.reads.layer: each for each in reversed(found)}.values())
    for circuit in featured:
        as_recorded(found, circuit.provenance.get("transcoders"))
    return found


def _own_sources(circuit: ew.Circuit) -> list[str]:
    """Where a circuit says that its transcoders were, if they still are: nothing is fetched because a file says so."""
    said = record_of(record_of(circuit.provenance, "candidates"), "features").get("transcoders")
    if not isinstance(said, list) or not said:
        layers = ", ".join(str(layer) for layer, _ in circuit.graph.spec.features)
        raise ew.InputError(f"circuit: it has features of layers {layers}; give their transcoders with --transcoders")
    if gone := [str(each) for each in said if not ew.runs.user_path(str(each)).exists()]:
        raise ew.InputError(f"circuit: its transcoders were at {gone[0]}; give them with --transcoders")
    return [str(each) for each in said]


def as_recorded(transcoders: list[ew.transcoders.Transcoder], records: Any) -> list[ew.transcoders.Transcoder]:
    """The same, leaving out special tokens where those of a result did, by the sites that they read."""
    each_record = list(records.values()) if isinstance(records, dict) else records or []
    said = {each.get("reads"): each.get("exclude_special") for each in each_record if isinstance(each, dict)}
    for each in transcoders:
        excludes = said.get(str(each.spec.reads))
        if isinstance(excludes, bool):
            each.spec = replace(each.spec, exclude_special=excludes)
    return transcoders
