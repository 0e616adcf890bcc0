"""Three tokenizers that know the built-in tasks' words, each cutting texts in its own way."""

import string
from collections.abc import Sequence
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from edgewise.models import load_tokenizer
from edgewise.tasks import _boolean, _capitals, _colors, _docstring, _greater_than, _words

_LISTS = (
    *(_words.FEMALE_NAMES, _words.MALE_NAMES, _words.OBJECTS, _words.PLACES),
    *(_greater_than.NOUNS, _colors.COLORS, _docstring.PARAMETERS),
)
WORDS = [
    *(word for words in _LISTS for word in words),
    *(part for pair in _capitals.CAPITALS for part in pair.split("/")),
    *("he she she True False and or not " + _boolean._INSTRUCTION).split(),
    *string.ascii_uppercase,
]


@cache
def smollm2() -> PreTrainedTokenizerFast:
    """Byte-level BPE; numbers are digits; has a chat template."""
    return load_tokenizer("smollm2-135m")


@cache
def pairwise_bpe() -> PreTrainedTokenizerFast:
    """Byte-level BPE as GPT-2's, but numbers are cut into twos; nothing is put around a text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[0-9]{2}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=6000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    numbers = [f"{number:02d}" for number in range(100)]
    backend.train_from_iterator([f"the {word} the {word}" for word in WORDS] + numbers * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@cache
def unigram() -> PreTrainedTokenizerFast:
    """As sentencepiece's, with single digits."""
    # Some words must be several tokens.
    spelled = {pair.split("/")[1] for pair in _capitals.CAPITALS}
    pieces = [word for word in dict.fromkeys(WORDS) if word not in spelled]
    return unigram_tokenizer(pieces, ["▁", "\n", *string.printable[:94]])


def unigram_tokenizer(words: Sequence[str], letters: Sequence[str]) -> PreTrainedTokenizerFast:
    """Words after a space, letters for all else; a visible mark for a space, `<s>` before a text, `</s>` after it."""
    vocabulary = [(special, 0.0) for special in ("<unk>", "<s>", "</s>")]
    vocabulary += [(f"▁{word}", -8.0) for word in words] + [(letter, -12.0) for letter in letters]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[("<s>", backend.token_to_id("<s>")), ("</s>", backend.token_to_id("</s>"))],
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


TOKENIZERS = {"smollm2": smollm2, "bpe": pairwise_bpe, "unigram": unigram}
