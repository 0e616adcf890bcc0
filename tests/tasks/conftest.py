"""Tokenizers of three kinds, small enough to make for each run, and records in the toy one's words."""

import json
import random
import string
from collections.abc import Sequence

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from edgewise.tasks._ioi import IOI_T1_TEMPLATE, IOI_TEMPLATES
from edgewise.tasks._splits import SPLITS, words_of
from edgewise.tasks._words import FEMALE_NAMES, MALE_NAMES, OBJECTS, PLACES
from tests import tiny

from .vocabularies import unigram_tokenizer

TEMPLATES = [IOI_T1_TEMPLATE, *(template for split in SPLITS for template in IOI_TEMPLATES[split])]
WORDS = "a cat dog ran sat on the to mat rug Mary Ann Lee Sue John 1 2 3 4 5 6"
CAT = {"clean": "a cat sat on the", "corrupted": "a dog sat on the", "answer": " mat", "split": "train"}
_KEYS = ("clean", "corrupted", "answer", "wrong_answer", "split")
ROWS: list[dict[str, str]] = [
    dict(zip(_KEYS, values, strict=True))
    for values in (
        ("a cat ran to", "a dog ran to", " Mary", " John", "train"),
        ("a cat sat on the", "a dog sat on the", " mat", " rug", "test"),
        ("a cat, a dog", "a dog, a dog", " sat", " ran", "validation"),
    )
]
KINDS = ["words", "byte-bpe", "unigram"]


@pytest.fixture(scope="session")
def words() -> PreTrainedTokenizerFast:
    return word_tokenizer([*FEMALE_NAMES, *MALE_NAMES, *OBJECTS, *PLACES, *" ".join(TEMPLATES).split()])


@pytest.fixture(scope="session")
def byte_bpe() -> PreTrainedTokenizerFast:
    """As GPT-2's: a space is part of the word it stands before, and nothing is put around a text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(_sentences(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.fixture(scope="session")
def unigram() -> PreTrainedTokenizerFast:
    pieces = sorted({word for line in _sentences() for word in line.split()})
    return unigram_tokenizer(pieces, ["▁", *string.printable.split()[0]])


@pytest.fixture(scope="session")
def toy():
    """Every word and digit is a token, so that tokens can be counted by eye."""
    return word_tokenizer(WORDS.split())


@pytest.fixture
def write(tmp_path):
    def written(data: str | bytes, name: str = "pairs.jsonl") -> str:
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return str(path)

    return written


@pytest.fixture(params=KINDS)
def tokenizer(request) -> PreTrainedTokenizerFast:
    return request.getfixturevalue(request.param.replace("-", "_"))


def word_tokenizer(known: Sequence[str]) -> PreTrainedTokenizerFast:
    """A closed vocabulary of whole words and signs."""
    return tiny.word_tokenizer([*known, *".,;+="])


def records(count: int) -> list[dict[str, str]]:
    names = ["Mary", "Ann", "Lee", "Sue", "John"]
    prompts = [f"{a} {b} ran to {c}" for a in names for b in names for c in names]
    return [
        {"clean": each, "corrupted": f"the {each[each.index(' ') + 1 :]}", "answer": " the"} for each in prompts[:count]
    ]


def text(tokenizer, ids) -> str:
    """Its tokens, a space between them."""
    return " ".join(tokenizer.convert_ids_to_tokens(list(ids)))


def lines(*records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def _sentences() -> list[str]:
    """Text in which a few of each split's words are frequent, so that these become single tokens and others do not."""
    draw = random.Random(0)
    lines = ["1 + 2 = 3", "2 + 4 = 5", "a cat sat on the mat. The cat ran to the Paris of the north"] * 20
    for split in SPLITS:
        lists = [list(words_of(each, split))[:12] for each in (FEMALE_NAMES, MALE_NAMES, OBJECTS, PLACES)]
        for template in IOI_TEMPLATES[split] * 12:
            women, men, things, places = map(draw.choice, lists)
            lines.append(template.format(A=women, B=men, S=women, object=things, place=places) + f" {men}")
    return lines
