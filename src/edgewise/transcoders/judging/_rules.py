"""What a reader says of a feature, as a rule that each token of a text obeys or not, judged on text not read before."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from edgewise._errors import InputError
from edgewise.models import Model
from edgewise.runs import INTERVAL, Interval, SavedAsJson, resampled_means
from edgewise.transcoders import (
    Codes,
    Site,
    TokenRows,
    Transcoder,
    capture,
    check_length,
    check_transcoder,
    real_tokens,
    transcoder_record,
)
from edgewise.transcoders.judging._misses import Misses, Parting

OTHERS = 10
"""On at how many judged tokens, and off at how many, another feature must be for a rule to be tried on it."""
BEST = 10
"""Of the other features for which a rule is better than for its own, so many are named."""
_TOKENS = 2048  # of one forward
_FEATURE = re.compile(r"m(\d+)\.f(\d+)")


class OtherFeature(NamedTuple):
    """Another feature of the same transcoder."""

    feature: str
    """Its name."""
    balanced: float
    """The rule's balanced accuracy for it."""


@dataclass(frozen=True)
class RuleScore:
    """How well a rule says where a feature is on."""

    feature: str
    rule: str
    on: int
    """Tokens at which the feature is on,"""
    named: int
    """tokens that the rule names,"""
    both: int
    """and tokens that are both."""
    balanced: Interval | None
    """Balanced accuracy, the mean of recall and of the share of other tokens that the rule does not name: 0.5 by
    chance, however often the feature is on. It is also the area under the ROC curve of a rule. None if the feature is
    on at no token or at all."""
    recall: Interval | None
    """The share of the tokens at which the feature is on that the rule names; None if there are none."""
    precision: Interval | None
    """The share of the named tokens at which the feature is on; None if the rule names none."""
    activation: float | None
    """The share of all of the feature's activation that is at named tokens."""
    others: Interval | None
    """The same rule's balanced accuracy for the transcoder's other features: the median, and between which two lie 95 %
    of them. None if there are none that are on often enough."""
    better: int
    """For how many of them the rule is better than for its own feature,"""
    n_others: int
    """and how many they are."""
    best: tuple[OtherFeature, ...] = ()
    """The ten of those for which it is best, the best first; fewer where it is better for fewer."""
    missed: tuple[Misses, ...] = ()
    """The tokens at which the feature is on and that the rule does not name, by their text; empty unless asked for."""
    named_wrongly: tuple[Misses, ...] = ()
    """Likewise those that it names and at which the feature is off."""


@dataclass(frozen=True)
class RuleScores(SavedAsJson):
    """Rules, judged on one text."""

    scores: tuple[RuleScore, ...]
    tokens: int
    """Judged."""
    conditions: dict[str, Any] = field(default_factory=dict)


class _Rule(NamedTuple):
    name: str
    layer: int
    feature: int
    text: str
    pattern: re.Pattern[str]


@torch.no_grad()
def score_rules(
    model: Model,
    transcoders: Sequence[Transcoder],
    rules: Mapping[str, str],
    tokens: TokenRows,
    *,
    misses: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RuleScores:
    """Judge rules that say where features are on.

    A rule is a regular expression. It names a token if it matches a piece of text, of any length, that ends with it: of
    the row's text up to that token, which is all that a feature sees. `.` also stands for a line break.

    Args:
        model: the model.
        transcoders: one for each layer that a rule is of.
        rules: by the features' names, such as `{"m12.f410": r" (Mon|Tues|Fri)day"}`.
        tokens: the text, which the rules were not made from.
        misses: of how many tokens' texts to say how often the rule missed them, and how often it named them wrongly,
            each with a few examples in context. Whoever mends a rule by them should judge it on other text.
        progress: called with the rows done and all rows.

    Raises:
        InputError: there are no rules, one is no regular expression or of no feature of these transcoders, the model
            has no tokenizer, or none of the tokens count.
    """
    found = _checked(model, transcoders, rules)
    check_length(model, tokens.ids)
    by_layer = {each.spec.reads.layer: each for each in transcoders}
    layers = sorted({rule.layer for rule in found})
    counts = {rule.name: _Counts(by_layer[rule.layer].n_features) for rule in found}
    parting = {rule.name: Parting() for rule in found}
    sites, n, done = [by_layer[layer].spec.reads for layer in layers], 0, 0
    for ids in tokens.ids.split(max(1, _TOKENS // tokens.ids.shape[1])):
        keep = real_tokens(model, ids, exclude_special=True).cpu()
        codes = _codes(by_layer, capture(model, sites, ids), keep, layers)
        place = keep.nonzero()
        named = _named(model.tokenizer, ids, keep, found)
        for rule in found:
            value = _activations(codes[rule.layer], rule.feature, len(place))
            counts[rule.name].add(codes[rule.layer], value, named[rule.name], place[:, 0], len(ids))
            if misses:
                where = place + torch.tensor([done, 0])
                parting[rule.name].add(ids.cpu()[keep], where, value, named[rule.name])
        n, done = n + len(place), done + len(ids)
        progress(done, len(tokens))
    if not n:
        raise InputError("score: none of the text's tokens count; give longer rows")
    scores = list[RuleScore]()
    for rule in found:
        both = (parting[rule.name].missed, parting[rule.name].wrong)
        missed, wrong = (each.worst(tokens.ids, model.tokenizer, misses) for each in both)
        scores.append(replace(counts[rule.name].score(rule), missed=missed, named_wrongly=wrong))
    return RuleScores(
        tuple(scores),
        n,
        {
            "model": model.identity,
            "text": tokens.source,
            "transcoders": [transcoder_record(by_layer[layer]) for layer in layers],
            "positions": "all but special tokens and each row's first",
            "interval": INTERVAL.replace("examples", "rows"),
            "others": f"the transcoder's other features that are on, and off, at {OTHERS} of these tokens or more",
            "on": "an activation above 0",
        },
    )


def _checked(model: Model, transcoders: Sequence[Transcoder], rules: Mapping[str, str]) -> list[_Rule]:
    """The rules, ready to run. Raises `InputError`."""
    if not rules:
        raise InputError("score: no rules; give some, by features' names such as m12.f410")
    if model.tokenizer is None:
        raise InputError("score: the model has no tokenizer, so there is no text; load one with the model")
    for each in transcoders:
        check_transcoder(model, each)
    layers = [each.spec.reads.layer for each in transcoders]
    if len(set(layers)) < len(layers):
        raise InputError("score: two transcoders are of one layer; give one for each")
    sizes, found = {each.spec.reads.layer: each.n_features for each in transcoders}, []
    for name, text in rules.items():
        match = _FEATURE.fullmatch(name)
        layer, feature = (int(match[1]), int(match[2])) if match else (-1, -1)
        if not 0 <= feature < sizes.get(layer, 0):
            have = ", ".join(f"m{layer}.f0 to m{layer}.f{n - 1}" for layer, n in sorted(sizes.items()))
            raise InputError(f"rule of {name!r}: no such feature; there are {have}")
        flags = re.match(r"(\(\?[imsx]+\))?", text)
        assert flags is not None  # of the whole expression, which must stand before all else
        try:
            pattern = re.compile(rf"{flags[0]}(?:{text[flags.end() :]})\Z", re.DOTALL)
        except (re.error, RecursionError, OverflowError) as error:
            raise InputError(f"rule of {name}: {text!r:.60} is no regular expression ({error})") from error
        found.append(_Rule(name, layer, feature, text, pattern))
    return found


def _codes(
    by_layer: Mapping[int, Transcoder], seen: Mapping[Site, Tensor], keep: Bool[Tensor, "B S"], layers: Sequence[int]
) -> dict[int, Codes]:
    """The active features of the tokens that count, by layer."""
    transcoders = {layer: by_layer[layer] for layer in layers}
    return {
        layer: each.codes(seen[each.spec.reads][keep.to(each.W_enc.device)].to(each.W_enc))
        for layer, each in transcoders.items()
    }


def _named(
    tokenizer: Any, ids: Int[Tensor, "B S"], keep: Bool[Tensor, "B S"], rules: Sequence[_Rule]
) -> dict[str, Bool[Tensor, " n"]]:
    """By rule: which of the tokens that count it names."""
    texts = list(_texts(tokenizer, ids, keep))
    return {rule.name: torch.tensor([rule.pattern.search(text) is not None for text in texts]) for rule in rules}


def _texts(tokenizer: Any, ids: Int[Tensor, "B S"], keep: Bool[Tensor, "B S"]) -> Iterator[str]:
    """The text of each token that counts: of its row up to and with it."""
    for row, counts in zip(ids.tolist(), keep.tolist(), strict=True):
        for position, count in enumerate(counts):
            if count:
                yield tokenizer.decode(
                    row[: position + 1], skip_special_tokens=True, clean_up_tokenization_spaces=False
                )


def _activations(codes: Codes, feature: int, n: int) -> Float[Tensor, " n"]:
    """One feature's activation at each of the `n` tokens; 0 where it is off."""
    own = (codes.feature == feature) & (codes.value > 0)
    return torch.zeros(n, dtype=torch.float64).index_put((codes.tokens[own].cpu(),), codes.value[own].cpu().double())


class _Counts:
    """Where one rule and all features of a transcoder meet."""

    def __init__(self, n_features: int) -> None:
        self.rows: list[NDArray[np.float64]] = []  # of each row: tokens, on, named, both
        self.on = torch.zeros(n_features, dtype=torch.long)
        self.both = torch.zeros(n_features, dtype=torch.long)
        self.activation = np.zeros(2)  # of the feature: at all tokens, and at those named

    def add(
        self,
        codes: Codes,
        value: Float[Tensor, " n"],
        named: Bool[Tensor, " n"],
        row: Int[Tensor, " n"],
        n_rows: int,
    ) -> None:
        """Count the tokens of a batch of rows; `value`: the rule's own feature's activations."""
        active = codes.value > 0
        which, token = codes.feature[active].cpu(), codes.tokens[active].cpu()
        self.on += which.bincount(minlength=len(self.on))
        self.both += which[named[token]].bincount(minlength=len(self.on))
        on = value > 0
        self.activation += [float(value.sum()), float(value[named].sum())]
        columns = (torch.ones_like(on), on, named, on & named)
        summed = torch.stack([row.bincount(each.double(), minlength=n_rows) for each in columns], 1)
        self.rows += list(summed.numpy())

    def score(self, rule: _Rule) -> RuleScore:
        """The rule's numbers."""
        rows = np.array(self.rows)
        total, on, named, both = rows.sum(0)
        drawn = (resampled_means(rows) if len(rows) > 1 else rows).T
        others = _balanced(total, self.on.double().numpy(), named, self.both.double().numpy())
        less = np.minimum(self.on.numpy(), total - self.on.numpy())
        often = (less >= OTHERS) & (np.arange(len(self.on)) != rule.feature)
        own, which, others = _balanced(total, on, named, both), np.flatnonzero(often), others[often]
        better = np.flatnonzero(others > own)
        best = better[np.argsort(-others[better], kind="stable")][:BEST]
        spread = np.quantile(others, [0.5, 0.025, 0.975]) if len(others) else ()
        whole, at_named = self.activation
        return RuleScore(
            rule.name,
            rule.text,
            int(on),
            int(named),
            int(both),
            _interval(own, _balanced(*drawn)),
            _interval(_share(both, on), _share(drawn[3], drawn[1])),
            _interval(_share(both, named), _share(drawn[3], drawn[2])),
            at_named / whole if whole else None,
            Interval(*map(float, spread)) if len(spread) else None,
            len(better),
            len(others),
            tuple(OtherFeature(f"m{rule.layer}.f{which[i]}", float(others[i])) for i in best),
        )


def _share(part: Any, whole: Any) -> Any:
    """Part / whole, NaN where there is nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(part) / np.asarray(whole)


def _balanced(total: Any, on: Any, named: Any, both: Any) -> Any:
    """(recall + share of the other tokens that are not named) / 2."""
    return (_share(both, on) + 1 - _share(named - both, total - on)) / 2


def _interval(value: Any, drawn: NDArray[np.floating]) -> Interval | None:
    """A number and its interval over resamples, without those in which there is nothing to count."""
    if np.isnan(value):
        return None
    if len(drawn) == 1:  # of one row there is none
        return Interval(float(value), None, None)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))
