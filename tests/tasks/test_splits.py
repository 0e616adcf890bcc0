"""The splits of the built-in tasks share nothing: no template, no word, no shape."""

import re
from collections.abc import Callable
from itertools import chain, combinations

import pytest

from edgewise.tasks import TASKS
from edgewise.tasks import _arithmetic as arithmetic_
from edgewise.tasks import _capitals as capitals_
from edgewise.tasks import _colors as colors_
from edgewise.tasks import _docstring as docstring_
from edgewise.tasks import _greater_than as greater_
from edgewise.tasks import _induction as induction_
from edgewise.tasks import _pronoun as pronoun_
from edgewise.tasks import _words as words_
from edgewise.tasks._ioi import IOI_TEMPLATES
from edgewise.tasks._splits import SPLITS, Split, split_of, words_of

from .vocabularies import TOKENIZERS


def pattern(template: str) -> str:
    """A regular expression for a template, a blank that comes again matching the same word."""
    seen: set[str] = set()

    def blank(match: re.Match) -> str:
        name = match[1]
        again = name in seen
        seen.add(name)
        return f"(?P={name})" if again else rf"(?P<{name}>\w+)"

    return re.sub(r"\\{(\w+)\\}", blank, re.escape(template))


def entities(name: str, text: str, split) -> set[tuple[str, str]]:
    """(kind, what) of everything that may be in one split only; the text must fit one template of its split."""
    if name in ("greater-than", "gendered-pronoun", "docstring"):
        templates = {"greater-than": greater_, "gendered-pronoun": pronoun_, "docstring": docstring_}[name]._TEMPLATES
        (found,) = [(each, match) for each in templates[split] if (match := re.fullmatch(pattern(each), text))]
        blanks = {kind: word for kind, word in found[1].groupdict().items() if kind not in ("century", "f")}
        if "start" in blanks:
            blanks["start"] = blanks["start"][2:]
        # Words are words, whatever blank they fill: none may be a noun in one split and a parameter in another.
        return {("template", found[0])} | {("word", word) for word in blanks.values()}
    if name == "induction":
        (head,) = [each for each in induction_._HEADS[split] if text.startswith(each)]
        return {("template", head)} | {("word", word) for word in text.removeprefix(head).split()}
    if name == "capital-country":
        found = []
        for each in capitals_._TEMPLATES[split]:
            once, again = (pattern(each).replace("<country>", f"<{kind}>") for kind in ("example", "country"))
            if match := re.fullmatch(rf"{once} (?P<capital>\w+)\. {again}", text):
                found.append((each, match))
        ((template, match),) = found
        return {("template", template), *(("place", word) for word in match.groupdict().values())}
    if name == "copy-colors":
        question, *choices = text.splitlines(keepends=True)
        matches = [(each, re.fullmatch(pattern(each), question)) for each in colors_._TEMPLATES[split]]
        ((template, match),) = [(each, match) for each, match in matches if match]
        assert choices[-1] == "Answer:"
        words = *match.groupdict().values(), *(each[3:-1] for each in choices[:-1])
        return {("template", template), *(("word", word) for word in words)}
    if name == "boolean-expressions":
        expression = text.splitlines()[-1].removesuffix(" is")
        return {("shape", re.sub("True|False", "x", re.sub("and|or", "*", expression)))}
    assert name == "arithmetic"
    templates = [pattern(each) for each in arithmetic_._TEMPLATES["addition"][split]]
    (found,) = [match for each in templates if (match := re.fullmatch(each, text.rstrip()))]
    return {("template", found.re.pattern), ("numbers", str(sorted(map(int, found.groups()))))}


@pytest.mark.parametrize("name", [name for name in TASKS if name not in ("ioi", "ioi-t1")])
def test_no_template_or_entity_is_in_two_splits_even_across_seeds(name):
    tokenizer = TOKENIZERS["smollm2"]()
    one, other = (TASKS[name](tokenizer, 150, 60, 60, seed=seed) for seed in (1, 2))
    used = [
        {
            split: set().union(*(
                entities(name, text, split)
                for pair in task.split(split) for text in (pair.clean_text, pair.corrupted_text)
            ))
            for split in SPLITS
        }
        for task in (one, other)
    ]  # fmt: skip
    for a, b in combinations(SPLITS, 2):
        assert used[0][a] and used[1][b] and not used[0][a] & used[1][b]
        assert not used[0][a] & used[0][b]


IOI_WORDS = (words_.FEMALE_NAMES, words_.MALE_NAMES, words_.OBJECTS, words_.PLACES)
CAPITALS = {
    split: [name for pair in words_of(capitals_.CAPITALS, split) for name in pair.split("/")] for split in SPLITS
}
WORDS_OF: dict[str, Callable[[Split], list[str]]] = {
    "ioi": lambda split: [word for words in IOI_WORDS for word in words_of(words, split)],
    "greater-than": lambda split: [*words_of(greater_.NOUNS, split)],
    "docstring": lambda split: [*words_of(docstring_.PARAMETERS, split), *docstring_._nouns(split)],
    "capital-country": CAPITALS.__getitem__,
    "copy-colors": lambda split: [*words_of(colors_.COLORS, split), *words_of(words_.OBJECTS, split)],
}  # what fills the blanks; gendered-pronoun and induction take lists of ioi's


@pytest.mark.parametrize("name", WORDS_OF)
def test_no_word_of_one_split_is_in_any_list_of_another_nor_in_two_lists(name):
    words = {split: WORDS_OF[name](split) for split in SPLITS}
    assert len({*chain(*words.values())}) == sum(map(len, words.values()))


@pytest.mark.parametrize(
    ("name", "templates"),
    [
        ("ioi", IOI_TEMPLATES),
        ("ioi", pronoun_._TEMPLATES),
        ("ioi", induction_._HEADS),
        ("greater-than", greater_._TEMPLATES),
        ("docstring", docstring_._TEMPLATES),
        ("capital-country", capitals_._TEMPLATES),
        ("copy-colors", colors_._TEMPLATES),
    ],
)
def test_no_template_holds_a_word_that_fills_blanks(name, templates):
    fixed = set(re.findall(r"\w+", re.sub(r"{\w+}", " ", " ".join(chain(*templates.values())))))
    assert fixed and not fixed & {word for split in SPLITS for word in WORDS_OF[name](split)}


@pytest.mark.parametrize(
    "words", [greater_.NOUNS, docstring_.PARAMETERS, colors_.COLORS, capitals_.CAPITALS, greater_._YEARS]
)
def test_lists_repeat_nothing_and_every_split_has_some(words):
    assert len(set(words)) == len(words)
    assert all(len(words_of(words, split)) >= 5 for split in SPLITS)


def test_no_capital_or_country_stands_in_two_pairs():
    names = [name for pair in capitals_.CAPITALS for name in pair.split("/")]
    assert len(set(names)) == len(names)


def test_what_stands_in_no_list_is_dealt_out_for_good():
    dealt = [split_of("boolean-expressions", f"x*{'-' * n}x") for n in range(10)]
    assert dealt == [split_of("boolean-expressions", f"x*{'-' * n}x") for n in range(10)]
    counts = [sum(split_of("numbers", n) == split for n in range(5000)) for split in SPLITS]
    assert all(abs(count / 5000 - share) < 0.03 for count, share in zip(counts, (0.6, 0.2, 0.2), strict=True))
