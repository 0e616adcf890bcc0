"""Virtual weights between all features of all layers, weighed by a text: of each feature the strongest in and out.

There is a number for every pair of features of two layers: 9 billion for 30 layers of 4,608. So they are made pair of
layers after pair of layers, a part of the targets at a time, and only the strongest are kept. The text is run once; its
activations lie on disk, which makes a product over two layers' activations at the same tokens cheap:

1. Run the text, chunk after chunk, and write every layer's active features to `codes/`.
2. For each pair of layers, add up `a_i` where j is on, and `a_i a_j`, over all tokens (see `_on_text.py`, also for
   what "on" is).
3. Times the connections, that is ERA and TWERA; of each target and of each source the largest TWERA by size are kept.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor

from edgewise._errors import InputError
from edgewise.models import Model
from edgewise.runs import (
    Count,
    Learner,
    Positive,
    RunOptions,
    check_settings,
    check_suffix,
    reading_tensors,
    run_steps,
    software,
    write_tensors,
)
from edgewise.transcoders import (
    Codes,
    TokenRows,
    Transcoder,
    capture,
    check_length,
    check_transcoder,
    real_tokens,
    run_inputs,
)
from edgewise.transcoders.analysis._connections import pullback
from edgewise.transcoders.analysis._on_text import VirtualWeights
from edgewise.transcoders.analysis._reader import Reader, by_layer, reader

SCHEMA = 1
_PAIRS = 1 << 21  # of active features that are added up at once


@dataclass(frozen=True)
class VirtualConfig:
    """What is kept of the virtual weights between all features."""

    kept: Count = 32
    """Of each feature so many connections in, and so many out."""
    batch_tokens: Count = 1024
    """Of one forward."""
    chunk_tokens: Count = 16_384
    """Whose activations lie in one file."""
    gib: Positive = 1.0
    """Memory for the sums of pairs, at most."""
    exclude_special: bool = True
    """Leave special tokens and each row's first out."""
    precision: Literal["bfloat16", "float32"] = "float32"
    """Of the language model's products."""

    def __post_init__(self) -> None:
        """Check the values. Raises `InputError`."""
        check_settings("virtual weights", self)


@dataclass(frozen=True, eq=False)
class VirtualTable:
    """Of every feature its strongest virtual weights by TWERA, the largest first; layer −1 where there are fewer."""

    inputs: Mapping[int, VirtualWeights]
    """By layer: what each of its features reads."""
    outputs: Mapping[int, VirtualWeights]
    """By layer: what reads each of its features; `layer` and `feature` are the target's."""
    n_tokens: int
    """How many count."""
    conditions: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write one `.safetensors` file with a JSON header, whole or not at all. Raises `InputError`."""
        check_suffix(path, "virtual weights are")
        header = {"schema": SCHEMA, "kind": "virtual weights", "n_tokens": self.n_tokens, "conditions": self.conditions}
        write_tensors(path, _named({"inputs": self.inputs, "outputs": self.outputs}), header)

    @staticmethod
    def load(path: str | Path) -> "VirtualTable":
        """Read what `save` wrote. Raises `InputError` for another file."""
        what, instead = "virtual weights", "give what `VirtualTable.save` wrote"
        with reading_tensors(path, what, instead, schema=SCHEMA) as (header, tensors):
            found = _tables(tensors)
            return VirtualTable(found["inputs"], found["outputs"], header["n_tokens"], header["conditions"])


def virtual_weights(
    model: Model,
    transcoders: Sequence[Transcoder],
    tokens: TokenRows,
    config: VirtualConfig | None = None,
    *,
    layers: Sequence[int] | None = None,
    options: RunOptions | None = None,
) -> VirtualTable:
    """Virtual weights between all features of transcoders of different layers, with ERA and TWERA on a text.

    Args:
        model: the model.
        transcoders: one a layer.
        tokens: the text.
        config: what is kept.
        layers: only connections into or out of these; None: all.
        options: checkpoints and progress; with `out`, activations and checkpoint lie there, and it goes on where it was
            cut short. Otherwise activations lie in a temporary folder.

    Raises:
        InputError: there are fewer than two transcoders, two of one layer, none of a layer asked for, one is not the
            model's or an autoencoder, there is no text, or the folder holds another run's checkpoint.
        KeyboardInterrupt: it was cut short.
    """
    config, options = config or VirtualConfig(), options or RunOptions(checkpoint_seconds=60.0)
    sets = _checked(model, transcoders, tokens)
    wanted = set(sets) if layers is None else set(layers)
    if not wanted or wanted - set(sets):
        raise InputError(f"layers {sorted(wanted)}: give some of those that transcoders are of, {sorted(sets)}")
    pairs = [(low, high) for low, high in combinations(sets, 2) if low in wanted or high in wanted]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) if options.out is None else options.out
        learner = _Pairs(model, sets, tokens, config, pairs, folder / "codes")
        settings = {
            "method": "virtual weights",
            **run_inputs(model, tokens, list(sets.values())),
            "pairs": pairs,
            **asdict(config),
        }
        report = run_steps(learner, learner.n_steps, settings, options, "virtual weights")
        if report.interrupted or report.stopped:
            raise KeyboardInterrupt(report.message)
        learner.clear()
    if not learner.n:
        raise InputError("text: none of its tokens count; give longer rows, or exclude_special=False")
    conditions = {key: settings[key] for key in ("model", "text", "transcoders", "exclude_special", "precision")}
    tables = {side: dict(own) for side, own in learner.tables.items()}
    return VirtualTable(tables["inputs"], tables["outputs"], int(learner.n), conditions | {"software": software()})


def _checked(model: Model, transcoders: Sequence[Transcoder], tokens: TokenRows) -> dict[int, Transcoder]:
    sets = by_layer(transcoders)
    if len(sets) < 2:
        raise InputError("virtual weights: give transcoders of two layers at least, one for each")
    if not len(tokens):
        raise InputError("text: no row of tokens; give one at least")
    check_length(model, tokens.ids)
    for each in sets.values():
        check_transcoder(model, each)
    return sets


class _Pairs(Learner):
    """First a step for each chunk of the text, then one for each pair of layers."""

    on_interrupt = "finish"  # the state is large

    def __init__(
        self,
        model: Model,
        sets: dict[int, Transcoder],
        tokens: TokenRows,
        config: VirtualConfig,
        pairs: list[tuple[int, int]],
        folder: Path,
    ) -> None:
        self.model, self.sets, self.ids, self.config = model, sets, tokens.ids, config
        self.pairs, self.folder = pairs, folder
        self.rows = max(1, config.chunk_tokens // tokens.ids.shape[1])
        self.n_chunks = -(-len(tokens) // self.rows)
        self.n_steps = self.n_chunks + len(pairs)
        self.n = torch.zeros(1, dtype=torch.int64)
        self.sum = {at: torch.zeros(each.n_features, dtype=torch.float64) for at, each in sets.items()}
        ends = {"inputs": {high for _, high in pairs}, "outputs": {low for low, _ in pairs}}
        self.tables = {
            side: {at: _empty(sets[at].n_features, config.kept) for at in sorted(layers)}
            for side, layers in ends.items()
        }

    @torch.no_grad()
    def step(self, step: int) -> dict[str, Tensor | float]:
        if step < self.n_chunks:
            self._run(step)
        else:
            self._connect(*self.pairs[step - self.n_chunks])
        return {"tokens": float(self.n)}

    def _run(self, chunk: int) -> None:
        """Write the active features of a chunk's tokens, layer by layer."""
        config, bf16 = self.config, self.config.precision == "bfloat16"
        rows = self.ids[chunk * self.rows : (chunk + 1) * self.rows]
        parts = {at: list[Codes]() for at in self.sets}
        for ids in rows.split(max(1, config.batch_tokens // rows.shape[1])):
            keep = real_tokens(self.model, ids, exclude_special=config.exclude_special)
            found = capture(self.model, [each.spec.reads for each in self.sets.values()], ids, bf16=bf16)
            self.n += int(keep.sum())
            for at, each in self.sets.items():
                codes = each.codes(found[each.spec.reads][keep.to(self.model.device)].to(each.W_enc), bf16=bf16)
                parts[at].append(_on(codes))
                self.sum[at] += parts[at][-1].feature.bincount(parts[at][-1].value.double(), each.n_features)
        tensors = {f"{at}.{name}": x for at, own in parts.items() for name, x in _joined(own)._asdict().items()}
        write_tensors(self._file(chunk), tensors, {"chunk": chunk})

    def _file(self, chunk: int) -> Path:
        return self.folder / f"{chunk:06}.safetensors"

    def clear(self) -> None:
        """Remove the chunks' files, and their folder if it is empty then: the checkpoint has all that came of them."""
        for chunk in range(self.n_chunks):
            self._file(chunk).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _codes(self, layer: int) -> Iterator[Codes]:
        """Those of each chunk."""
        for chunk in range(self.n_chunks):
            with safe_open(self._file(chunk), framework="pt") as file:
                yield Codes(*(file.get_tensor(f"{layer}.{name}") for name in Codes._fields))

    def _connect(self, low: int, high: int) -> None:
        """All connections from one layer to another, a part of the targets at a time."""
        source, target = self.sets[low], self.sets[high]
        read = reader(self.model, target)
        size = max(1, int(self.config.gib * 2**30) // (source.n_features * 5 * 8))  # two sums, weights, ERA, TWERA
        for start in range(0, target.n_features, size):
            part = slice(start, min(start + size, target.n_features))
            sums = torch.zeros((part.stop - part.start) * source.n_features, 2, dtype=torch.float64)
            for one, other in zip(self._codes(low), self._codes(high), strict=True):
                _add_pairs(sums, one, other, part, source.n_features)
            with_target, by_target = sums.view(-1, source.n_features, 2).unbind(2)
            weight = pullback(Reader(read.covector[part], read.layer, read.between), source).cpu().double()
            total = self.sum[high][part]
            total = torch.where(total == 0, torch.inf, total)  # of one that is never on TWERA is 0
            era, twera = with_target / float(self.n) * weight, by_target / total[:, None] * weight
            self._keep("inputs", high, part, low, 0, weight, era, twera)
            self._keep("outputs", low, slice(None), high, start, weight.T, era.T, twera.T)

    def _keep(
        self,
        side: str,
        at: int,
        rows: slice,
        other: int,
        first: int,
        weight: Float[Tensor, "n m"],
        era: Float[Tensor, "n m"],
        twera: Float[Tensor, "n m"],
    ) -> None:
        """Merge connections of a layer's features with another's into what was kept."""
        best = twera.abs().topk(min(self.config.kept, twera.shape[1]), dim=1).indices
        columns = [torch.full_like(best, other), best + first, *(x.gather(1, best) for x in (weight, era, twera))]
        none = columns[4] == 0
        columns = [columns[0].masked_fill(none, -1), columns[1].masked_fill(none, -1), *columns[2:]]
        table = self.tables[side][at]
        both = [torch.cat([old[rows], new.to(old)], 1) for old, new in zip(table, columns, strict=True)]
        order = both[4].abs().argsort(dim=1, descending=True, stable=True)[:, : self.config.kept]
        for old, new in zip(table, both, strict=True):
            old[rows] = new.gather(1, order)

    def tensors(self) -> dict[str, Tensor]:
        return {"n": self.n} | {f"sum.{at}": x for at, x in self.sum.items()} | _named(self.tables)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.n = tensors["n"]
        self.sum = {at: tensors[f"sum.{at}"] for at in self.sum}
        found = _tables({name: x for name, x in tensors.items() if name.count(".") == 2})
        self.tables = {side: found.get(side, {}) for side in self.tables}


def _add_pairs(sums: Float[Tensor, "P 2"], source: Codes, target: Codes, part: slice, n_sources: int) -> None:
    """Add `a_i` and `a_i a_j` of all pairs of features that are on at one token, targets j of a part alone."""
    own = (target.feature >= part.start) & (target.feature < part.stop)
    token, feature, value = target.tokens[own], target.feature[own].long() - part.start, target.value[own].double()
    counts, first = source.offsets.diff()[token], source.offsets[:-1][token]
    for some in _cut(counts):
        n = counts[some]
        entry = torch.repeat_interleave(n)  # which of the targets' entries each pair belongs to
        place = torch.arange(len(entry)) - (n.cumsum(0) - n)[entry] + first[some][entry]
        active = source.value[place].double()
        index = feature[some][entry] * n_sources + source.feature[place].long()
        sums.index_add_(0, index, torch.stack([active, active * value[some][entry]], 1))


def _cut(counts: Int[Tensor, " A"]) -> Iterator[slice]:
    """Stretches of entries that have some two million pairs together."""
    ends = (counts.cumsum(0) // _PAIRS).unique_consecutive(return_counts=True)[1].cumsum(0).tolist()
    yield from (slice(start, end) for start, end in zip([0, *ends], ends, strict=False))


def _on(codes: Codes) -> Codes:
    """The entries above 0, as small as they can be stored."""
    on = codes.value > 0
    counts = codes.tokens[on].bincount(minlength=len(codes.offsets) - 1).cpu()
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return Codes(offsets, codes.feature[on].int().cpu(), codes.value[on].float().cpu())


def _joined(parts: Sequence[Codes]) -> Codes:
    lengths = torch.cat([each.offsets.diff() for each in parts])
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    return Codes(offsets, torch.cat([each.feature for each in parts]), torch.cat([each.value for each in parts]))


def _empty(n: int, kept: int) -> VirtualWeights:
    none = torch.full((n, kept), -1)
    numbers = (torch.zeros(n, kept, dtype=torch.float32) for _ in range(3))
    return VirtualWeights(none.to(torch.int16), none.to(torch.int32), *numbers)


def _named(tables: Mapping[str, Mapping[int, VirtualWeights]]) -> dict[str, Tensor]:
    return {
        f"{side}.{at}.{name}": column
        for side, own in tables.items()
        for at, table in own.items()
        for name, column in table._asdict().items()
    }


def _tables(tensors: Mapping[str, Tensor]) -> dict[str, dict[int, VirtualWeights]]:
    """The inverse of `_named`."""
    found: dict[str, dict[int, VirtualWeights]] = {"inputs": {}, "outputs": {}}
    for side, at in sorted({(side, int(at)) for side, at, _ in (name.split(".") for name in tensors)}):
        found[side][at] = VirtualWeights(*(tensors[f"{side}.{at}.{name}"] for name in VirtualWeights._fields))
    return found
