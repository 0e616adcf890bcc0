"""All that is shown of one transcoder's features, and the one call that makes it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgewise._errors import InputError
from edgewise.models import Model
from edgewise.runs import RunOptions, fastest_precision, record_of, software
from edgewise.transcoders import TokenRows, TokenTexts, Transcoder, check_transcoder, transcoder_record
from edgewise.transcoders.analysis import VirtualTable, VirtualWeights, by_layer
from edgewise.transcoders.dashboards._config import DashboardConfig
from edgewise.transcoders.dashboards._examples import Shares, tokens_at
from edgewise.transcoders.dashboards._gather import gather
from edgewise.transcoders.dashboards._seen import Seen
from edgewise.transcoders.dashboards._weights import FromWeights, from_weights


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """One transcoder's features: what a text shows of them, and what their weights say."""

    name: str
    """The transcoder's file, or what it reads."""
    transcoder: Transcoder
    seen: Seen
    weights: FromWeights
    fires_on: tuple[Shares, ...]
    """Of each feature: the tokens at which it is on, by their share of its sample;"""
    before: tuple[Shares, ...]
    """and the tokens of the text that come next."""
    rows: TokenRows
    """The text."""
    texts: TokenTexts
    config: DashboardConfig
    inputs: VirtualWeights | None = None
    """Of each feature the strongest connections from lower layers by TWERA, where they were computed;"""
    outputs: VirtualWeights | None = None
    """and those to later layers."""
    conditions: Mapping[str, Any] = field(default_factory=dict)
    """The model, the text, which tokens count, precision, versions."""

    @property
    def layer(self) -> int:
        """The layer that it reads."""
        return self.transcoder.spec.reads.layer

    def names(self) -> list[str]:
        """Of the features, such as `m12.f410`."""
        return [f"m{self.layer}.f{i}" for i in range(self.transcoder.n_features)]


def make_dashboards(
    model: Model,
    transcoders: Sequence[Transcoder],
    tokens: TokenRows,
    config: DashboardConfig | None = None,
    *,
    others: Sequence[Transcoder] = (),
    virtual: VirtualTable | None = None,
    options: RunOptions | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[FeatureSet, ...]:
    """Run a text once, and put what it shows of all features beside what their weights say.

    Args:
        model: the model; run up to the last layer that a transcoder reads.
        transcoders: whose features; one a layer.
        tokens: the text.
        config: what is kept and shown.
        others: transcoders of other layers, whose features are named among what a feature reads, and what reads it;
            of a layer that one of `transcoders` is of, that one counts.
        virtual: which of their features are on together (see `virtual_weights`); None: left out.
        options: checkpoints and progress of the run; with `out` it goes on where it was cut short.
        progress: of what follows the run: called with the features done and all.

    Raises:
        InputError: two transcoders are of one layer, one is not the model's or an autoencoder, `virtual` is of another
            model or other transcoders, there is no text, or the folder holds another run's checkpoint.
        KeyboardInterrupt: the run was cut short; the same call goes on from its checkpoint.
    """
    config = config or DashboardConfig()
    known = by_layer(others) | by_layer(transcoders)
    for each in known.values():
        check_transcoder(model, each)
    if virtual is not None:
        _check_table(virtual, model, transcoders, known.values())
    seen, report = gather(model, transcoders, tokens, config, options)
    if report.interrupted or report.stopped:
        raise KeyboardInterrupt(report.message)
    conditions = {
        "model": model.identity,
        "text": tokens.source,
        "tokens": seen[0].n_tokens,
        "exclude_special": config.exclude_special,
        "precision": config.precision or fastest_precision(model.device),
        "seconds": round(report.seconds, 1),
        "connections": {} if virtual is None else {"tokens": virtual.n_tokens, "text": virtual.conditions["text"]},
        "software": software(),
    }
    total = sum(each.n_features for each in transcoders)
    found, done, texts = list[FeatureSet](), 0, TokenTexts(model.tokenizer)
    for transcoder, own in zip(transcoders, seen, strict=True):
        before = done

        def said(n: int, _of: int, before: int = before) -> None:
            progress(before + n, total)

        weights = from_weights(model, transcoder, list(known.values()), config.listed, said)
        done += transcoder.n_features
        found.append(
            FeatureSet(
                transcoder.name or f"layer{transcoder.spec.reads.layer}",
                transcoder,
                own,
                weights,
                tokens_at(own, tokens.ids, config.listed),
                tokens_at(own, tokens.ids, config.listed, ahead=1),
                tokens,
                texts,
                config,
                _first(virtual and virtual.inputs.get(transcoder.spec.reads.layer), config.listed),
                _first(virtual and virtual.outputs.get(transcoder.spec.reads.layer), config.listed),
                conditions,
            )
        )
    return tuple(found)


def _check_table(
    virtual: VirtualTable, model: Model, transcoders: Sequence[Transcoder], known: Iterable[Transcoder]
) -> None:
    """Refuse virtual weights of another model or other transcoders, whose features have the same names. Those of
    `known` that are not among `transcoders` need not be in the table.

    Raises:
        InputError: they are, or the table does not say what it is of.
    """
    said = virtual.conditions
    if not isinstance(said.get("transcoders"), list) or not isinstance(said.get("text"), dict):
        raise InputError("virtual weights: they do not say of which transcoders they are; compute them anew")
    if record_of(said, "model").get("weights_hash") != model.identity["weights_hash"]:
        raise InputError("virtual weights: of another model; compute them with this one")
    table = {record_of(each, "reads").get("layer"): each for each in said["transcoders"] if isinstance(each, dict)}
    for each in known:
        layer = each.spec.reads.layer
        if (layer in table or each in transcoders) and table.get(layer) != transcoder_record(each):
            raise InputError(f"virtual weights: not of this transcoder of {each.spec.reads}; compute them with it")


def _first(table: VirtualWeights | None, n: int) -> VirtualWeights | None:
    return None if table is None else VirtualWeights(*(column[:, :n] for column in table))
