"""Indirect object identification: after "When Mary and John met, John gave a drink to" comes " Mary".

The behaviour that Wang et al. 2022 (arXiv 2211.00593) found in GPT-2 small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from string import Formatter
from typing import Literal, TypeAlias, get_args

from edgewise._errors import InputError
from edgewise.tasks._draw import choice, sample
from edgewise.tasks._encode import Encoder
from edgewise.tasks._generate import Draft, Draws, built_in, contrasted, filled, single_tokens
from edgewise.tasks._splits import SPLITS, Split, words_of
from edgewise.tasks._words import FEMALE_NAMES, MALE_NAMES, OBJECTS, PLACES, templates

Counterfactual: TypeAlias = Literal["abc", "s2-flip"]

IOI_TEMPLATES = templates("ioi")
# One fixed template, in the spirit of the single-template set of Conmy et al. 2023 (arXiv 2304.14997).
IOI_T1_TEMPLATE = "At the old station {A} and {B} shared a bench, and {S} handed a mango to"
_NAMES_NEEDED = 5  # two in the clean prompt and three others in the corrupted one
_FILLERS = {"object": OBJECTS, "place": PLACES}


@built_in("ioi", identity=lambda pair: pair.clean_text)
def ioi(encoder: Encoder, counterfactual: Counterfactual = "abc") -> Draws:
    """Indirect object identification with 44 templates, each in both orders of the two names.

    No template, name, object or place is in two splits, whatever the seed. The answer is the indirect object's name,
    the wrong answer the subject's, each a single token after a space. All prompts of a split differ.

    Args:
        encoder: the tokenizer's.
        counterfactual: "abc" puts three other, different names of the same split in the places of the names (Bhaskar et
            al. 2024, arXiv 2406.16778); "s2-flip" changes only the subject's second mention, into the indirect object,
            so that the answers swap.
    """
    return _draws("ioi", IOI_TEMPLATES, encoder, counterfactual)


@built_in("ioi-t1", identity=lambda pair: pair.clean_text)
def ioi_t1(encoder: Encoder, counterfactual: Counterfactual = "abc") -> Draws:
    """Indirect object identification with one fixed template (the paper's set has 50 of each); else as `ioi`.

    The names of a split are in no other.

    Args:
        encoder: the tokenizer's.
        counterfactual: see `ioi`.
    """
    return _draws("ioi-t1", dict.fromkeys(SPLITS, (IOI_T1_TEMPLATE,)), encoder, counterfactual)


def _draws(
    name: str, templates: Mapping[Split, tuple[str, ...]], encoder: Encoder, counterfactual: Counterfactual
) -> Draws:
    if counterfactual not in (known := get_args(Counterfactual)):
        raise InputError(f"{name}: there is no counterfactual {counterfactual!r}; use {' or '.join(known)}")

    def draws(split: Split, random: Random) -> Iterator[Draft]:
        def usable(kind: str, words: tuple[str, ...], needed: int) -> dict[str, int]:
            return single_tokens(name, f"{split} {kind}", words, encoder, needed)

        blanks = {field for template in templates[split] for _, field, _, _ in Formatter().parse(template)}
        fillers = {kind: tuple(usable(kind, words_of(_FILLERS[kind], split), 1)) for kind in _FILLERS if kind in blanks}
        names = usable("name", words_of(FEMALE_NAMES, split) + words_of(MALE_NAMES, split), _NAMES_NEEDED)
        indirect_object_first = True  # ABBA and BABA in turn
        while True:
            template = choice(random, templates[split])
            wording = {blank: choice(random, words) for blank, words in fillers.items()}
            answer, subject, *others = sample(random, tuple(names), _NAMES_NEEDED)
            first, second = (answer, subject) if indirect_object_first else (subject, answer)
            clean = {**wording, "A": first, "B": second, "S": subject}
            changed = {"S": answer} if counterfactual == "s2-flip" else dict(zip("ABS", others, strict=True))
            yield contrasted(filled(template, clean, {**clean, **changed}), names, answer, subject)
            indirect_object_first = not indirect_object_first

    return draws
