"""Every built-in task on three tokenizers: aligned pairs, one token judged, the same from the same seed."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from edgewise._errors import InputError
from edgewise.tasks import TASKS, Pair, Task, from_provenance, ioi, ioi_t1
from edgewise.tasks import _boolean as boolean_
from edgewise.tasks import _capitals as capitals_
from edgewise.tasks import _generate as generate_
from edgewise.tasks import _pronoun as pronoun_
from edgewise.tasks import _words as words_
from edgewise.tasks._splits import SPLITS, words_of
from edgewise.tasks._store import IN_MEMORY

from .conftest import word_tokenizer
from .vocabularies import TOKENIZERS

VARIANTS = [
    *((name, {}) for name in TASKS),
    *(("boolean-expressions", {"form": form}) for form in ("instruction", "zero-shot")),
    ("boolean-expressions", {"form": "instruction", "chat": False}),
    ("arithmetic", {"operation": "subtraction"}),
    ("ioi", {"counterfactual": "s2-flip"}),
]
IDS = [" ".join([name, *map(str, options.values())]) for name, options in VARIANTS]
# Of (20, 10, 10) pairs with seed 5 under smollm2-135m's tokenizer: the same on any machine, for good.
HASHES = {
    "ioi": "c5d03487dd6be51822d64000ac33591c3887e74c9d21306f7c566a0ab3efd776",
    "ioi-t1": "b95eaec355f79626bb725a313a41aa165695b4ca7aabaaab2db35f8fe9f8c291",
    "greater-than": "afc511e9ce84fcf530d7349d0212a2941bb1e2364a4e96f4199d5f612d964a32",
    "gendered-pronoun": "2e01d5cc15eaaddee2169d4494e837c29fdec452a87159407508b36e24af7ce9",
    "boolean-expressions": "da8cc953769ea95212f3994923bdbd5d2ac2bd40ce500591926e2e0a25ed5c88",
    "docstring": "2039b037bf344aa0b5a04cb9c9cb63a83d2eae89fa5c43454cfe3c9bf114badb",
    "induction": "364b8c3ac68bfd882cd4fec30c2e756b83e6753a086a95ed931d88d3c2b10e71",
    "capital-country": "906dfe412eead609d9a44aeb99abfd40baa7b3407e4e594c49bba8278312d54b",
    "arithmetic": "52e901055888dd7f81587625d20c2b3c528ec2de6d281076ce5573c54af0278f",
    "copy-colors": "7b1d7ea14076ee1d0f4c0e2df02ebd02b4d07c5aaeedfe59819799ad6a0cbd7c",
    "boolean-expressions instruction": "2ee1665808069594935eee3392bc2085a14582ec35eef551afaa0c8c3f8941da",
    "boolean-expressions zero-shot": "4e1ee68d376170cb9378ebb61bfb422ecd6c2074706bb3b13ee13ea70e99fdd5",
    "boolean-expressions instruction False": "5708ed324cdbaf290f1364e6f516cab27b7148660c81b71bbcca0b6f16735e45",
    "arithmetic subtraction": "157844b6b03bcc87ff67faf49ac5e6b2dfbd2c612dd0c8152facfbd17d0a68ff",
    "ioi s2-flip": "73890d7657fd5ff989ed5fbc4954700903906467ad8f6b4c1406ee98535c7950",
}
# Of the default sizes; (task, seed, counterfactual).
IOI_HASHES: dict[tuple[Any, int, str], str] = {
    (ioi, 0, "abc"): "790101616a5ce2b12b7e06e22bac0d4bfec5d090c86b453f730f23f1172d3b27",
    (ioi, 3, "s2-flip"): "23841fe1de6b138a439ea872602da95fdeab408f4fb42237768bf44f298bbc78",
    (ioi_t1, 0, "abc"): "f3405ebc9baf4f79843c3d2b0213e7c9f3409ad2571277cfef64fb2faa0ba48c",
    (ioi_t1, 3, "s2-flip"): "cf62d4d81f668109aa56ee08a3f1316f156f7a5995697fd268f430aa6e78b11e",
}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def made(name: str, tokenizer, sizes=(24, 12, 12), seed: int = 3, **options) -> Task:
    return TASKS[name](tokenizer, *sizes, seed=seed, **options)


def pairs_of(task: Task) -> Iterator[Pair]:
    return (pair for split in SPLITS for pair in task.split(split))


# Alignment and answers


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_pairs_are_aligned_and_judged_at_one_token(tokenizer, name, options):
    task = made(name, tokenizer, **options)
    assert [len(task.split(split)) for split in SPLITS] == [24, 12, 12]
    assert len({(pair.clean_text, pair.corrupted_text) for pair in pairs_of(task)}) == 48
    for pair in pairs_of(task):
        assert len(pair.clean) == len(pair.corrupted) and pair.clean != pair.corrupted and pair.align is None
        (target,) = pair.targets
        assert target.position == len(pair.clean) - 1 and target.answers and target.wrong
        assert len({*target.answers, *target.wrong}) == len(target.answers) + len(target.wrong)
        assert not {*target.answers, *target.wrong} & set(tokenizer.all_special_ids)
        # Where the two differ, and there alone, their texts differ: between changes the tokens are the same.
        assert spelled(tokenizer, pair.clean) == spelled(tokenizer, tokenizer(pair.clean_text).input_ids)
        for text, ids in ((pair.clean_text, pair.clean), (pair.corrupted_text, pair.corrupted)):
            bare = tokenizer(text, add_special_tokens=False).input_ids
            assert list(ids[len(ids) - len(bare) :]) == bare


def spelled(tokenizer, ids) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", [name for name in TASKS if name not in ("ioi", "ioi-t1")])
def test_changed_tokens_stand_at_changed_words(name):
    """Cut into words, clean and corrupted prompts have the same shape, and a word's tokens change only with it."""
    tokenizer = TOKENIZERS["smollm2"]()
    for pair in pairs_of(made(name, tokenizer)):
        places = [tokenizer(text, return_offsets_mapping=True, add_special_tokens=False).offset_mapping
                  for text in (pair.clean_text, pair.corrupted_text)]  # fmt: skip
        for before, after, (start, stop), (other_start, other_stop) in zip(
            pair.clean, pair.corrupted, *places, strict=True
        ):
            assert (before == after) == (pair.clean_text[start:stop] == pair.corrupted_text[other_start:other_stop])


def test_answers_are_what_the_prompts_ask_for():
    tokenizer = TOKENIZERS["smollm2"]()

    def answers(name: str, **options) -> Iterator[tuple[str, str, list[str], list[str]]]:
        for pair in pairs_of(made(name, tokenizer, **options)):
            (target,) = pair.targets
            right, wrong = (
                [str(tokenizer.decode([token])) for token in each] for each in (target.answers, target.wrong)
            )
            yield pair.clean_text, pair.corrupted_text, right, wrong

    capitals = dict(pair.split("/") for pair in capitals_.CAPITALS)
    for clean, corrupted, (right,), (wrong,) in answers("capital-country"):
        asked = [max((text.rfind(country), country) for country in capitals)[1] for text in (clean, corrupted)]
        assert f" {capitals[asked[0]]}".startswith(right) and f" {capitals[asked[1]]}".startswith(wrong)
    for operation, sign in (("addition", 1), ("subtraction", -1)):
        for clean, corrupted, (right,), (wrong,) in answers("arithmetic", operation=operation):
            numbers = [sorted(map(int, re.findall(r"\d+", text)), reverse=True) for text in (clean, corrupted)]
            assert not {*numbers[0]} & {*numbers[1]}
            assert [str(a + sign * b)[0] for a, b in numbers] == [right, wrong]
    for clean, _, right, wrong in answers("greater-than"):
        start, century = re.findall(r"\d+", clean)
        assert start[:2] == century
        can = {str(year // 10 % 10) for year in range(int(start) + 1, int(century) * 100 + 100)}
        assert set(right) == can and set(wrong) == set("0123456789") - can
        assert right == sorted(right) and wrong == sorted(wrong, reverse=True)  # nearest first
    for clean, corrupted, (right,), (wrong,) in answers("boolean-expressions", form="zero-shot"):
        assert [str(eval(text.removesuffix(" is"))) for text in (clean, corrupted)] == [right.strip(), wrong.strip()]
        assert sum(a != b for a, b in zip(clean.split(), corrupted.split(), strict=True)) == 1
    for clean, corrupted, (right,), (wrong,) in answers("gendered-pronoun"):
        for text, pronoun in ((clean, right), (corrupted, wrong)):
            names = {" she": pronoun_.FEMALE_NAMES, " he": pronoun_.MALE_NAMES}[pronoun]
            assert set(re.findall(r"\w+", text)) & set(names)
    for clean, corrupted, (right,), (wrong,) in answers("induction"):
        for text, answer in ((clean, right), (corrupted, wrong)):
            *listed, last = text.split()
            assert listed[listed.index(last) + 1] == answer.strip()
        assert Counter(clean.split()) == Counter(corrupted.split())  # nothing tells them apart but the order
        assert wrong.strip() in clean.split()
    for clean, _, (right,), wrong in answers("docstring"):
        signature = re.findall(r"\w+", clean[clean.index("(") : clean.index(")")])[-4:]
        assert right.strip() == signature[2] and {each.strip() for each in wrong} == {*signature} - {signature[2]}
    for clean, corrupted, (right,), wrong in answers("copy-colors"):
        choices, others = (re.findall(r"^(\w)\. (\w+)$", text, re.MULTILINE) for text in (clean, corrupted))
        question = clean.partition("\n")[0]
        assert [letter for letter, color in choices if re.search(rf"\b{color}\b", question)] == [right.strip()]
        assert sorted([right, *wrong]) == [" A", " B", " C", " D"]
        assert not {letter for letter, _ in choices} & {letter for letter, _ in others}
        assert [color for _, color in choices] == [color for _, color in others]


def test_an_expression_is_none_of_the_worked_examples():
    shots = boolean_._SHOTS.splitlines()
    shapes = [re.sub("True|False", "x", re.sub(" and | or ", "*", each.replace("not ", "-"))) for each in shots]
    assert [each.removesuffix(" is x") for each in shapes] == list(boolean_._SHOWN_SHAPES)
    asked = pairs_of(made("boolean-expressions", TOKENIZERS["unigram"](), (400, 150, 150)))
    for pair in asked:
        *shown, expression = pair.clean_text.splitlines()
        assert shown == shots and not any(each.startswith(expression) for each in shots)
        found = re.sub("True|False", "x", re.sub(" and | or ", "*", expression.replace("not ", "-")))
        assert found.removesuffix(" is") not in boolean_._SHOWN_SHAPES
    for form in ("few-shot", "instruction", "zero-shot"):
        task = made("boolean-expressions", TOKENIZERS["unigram"](), (400, 150, 150), form=form)
        assert len({pair.clean_text for pair in pairs_of(task)}) == 700


def test_two_digit_tokens_are_split_at_the_start_year():
    tokenizer = TOKENIZERS["bpe"]()
    for pair in pairs_of(made("greater-than", tokenizer)):
        year = int(re.findall(r"\d+", pair.clean_text)[0]) % 100
        (target,) = pair.targets
        right, wrong = (
            [int(str(tokenizer.decode([token]))) for token in each] for each in (target.answers, target.wrong)
        )
        assert right == list(range(year + 1, 100)) and wrong == list(range(year, -1, -1))


def test_guessing_is_right_half_the_time_where_answers_take_turns():
    for name in ("gendered-pronoun", "boolean-expressions"):
        answers = [pair.targets[0].answers for pair in made(name, TOKENIZERS["smollm2"](), (60, 0, 40)).train]
        assert all(25 <= answers.count(answer) <= 35 for answer in answers)  # some draws are not aligned


def test_expressions_are_valued_as_python_values_them():
    from edgewise.tasks._draw import generator

    random = generator("expressions")
    for _ in range(300):
        node = boolean_._expression(random, 3)
        assert boolean_._value(node.words) == eval(" ".join(node.words))


# The seed


def test_ioi_is_as_it_was():
    tokenizer = TOKENIZERS["smollm2"]()
    for (build, seed, counterfactual), expected in IOI_HASHES.items():
        assert build(tokenizer, seed=seed, counterfactual=counterfactual).provenance["sha256"] == expected


def test_the_same_seed_gives_the_same_bytes_on_any_machine():
    tokenizer = TOKENIZERS["smollm2"]()
    found = {
        id_: made(name, tokenizer, (20, 10, 10), 5, **options).provenance["sha256"]
        for id_, (name, options) in zip(IDS, VARIANTS, strict=True)
    }
    assert found == HASHES


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_a_task_is_made_again_from_its_provenance(name, options):
    tokenizer = TOKENIZERS["unigram"]()
    task = made(name, tokenizer, (8, 4, 4), **options)
    again = from_provenance(task.provenance, tokenizer)
    assert again == task and again.provenance == task.provenance


@pytest.mark.parametrize("name", TASKS)
def test_seeds_differ_and_sizes_extend(name):
    tokenizer = TOKENIZERS["unigram"]()
    assert made(name, tokenizer, (10, 2, 2), 0).train != made(name, tokenizer, (10, 2, 2), 1).train
    assert made(name, tokenizer, (20, 2, 2)).train[:10] == made(name, tokenizer, (10, 2, 2)).train


# Many pairs


def test_impossible_sizes_are_refused_soon(monkeypatch):
    tokenizer = TOKENIZERS["unigram"]()
    monkeypatch.setattr(generate_, "_AT_ONCE", 64)
    monkeypatch.setattr(generate_, "_WINDOW", 256)
    with pytest.raises(InputError, match="ioi: 2000000 pairs in a split are too many; ask for at most 1000000"):
        made("ioi", tokenizer, (1, 1, 2_000_000))
    with pytest.raises(InputError, match="gendered-pronoun: test: only .* different pairs found"):
        made("gendered-pronoun", word_tokenizer(pronoun_words()), (0, 0, 900_000))


def pronoun_words() -> list[str]:
    """The words of its test split, of a few names and places."""
    lists = (words_.FEMALE_NAMES, words_.MALE_NAMES, words_.OBJECTS, words_.PLACES)
    some = [word for words in lists for word in words_of(words, "test")[:1]]
    return [*some, "she", "he", "'", *" ".join(pronoun_._TEMPLATES["test"]).replace("'", " ' ").split()]


def test_many_pairs_are_kept_on_disk_and_read_the_same():
    tokenizer = TOKENIZERS["unigram"]()
    few, many = (made("induction", tokenizer, (n, 0, 0)).train for n in (50, IN_MEMORY + 50))
    assert isinstance(few, tuple) and not isinstance(many, tuple)
    assert len(many) == IN_MEMORY + 50 and many[:50] == few and tuple(many[3:9:2]) == few[3:9:2]
    assert many[-1] == list(many)[-1] and len(many[10:]) == IN_MEMORY + 40
    with pytest.raises(IndexError):
        many[len(many)]


# Chat


def test_chat_puts_the_question_where_a_user_speaks():
    tokenizer = TOKENIZERS["smollm2"]()
    for pair in made("boolean-expressions", tokenizer, (4, 0, 0), form="instruction").train:
        assert pair.clean_text.count("<|im_start|>user") == 1 and pair.clean_text.endswith("<|im_start|>assistant\n")
        assert tokenizer.convert_tokens_to_ids("<|im_start|>") in pair.clean
        assert tokenizer.decode(list(pair.targets[0].answers)) in ("True", "False")
    for pair in made("copy-colors", tokenizer, (4, 0, 0), chat=True).train:
        assert pair.clean_text.endswith("<|im_start|>assistant\nAnswer:")


def test_a_beginning_of_text_that_the_template_writes_is_not_doubled():
    from copy import deepcopy

    tokenizer = deepcopy(TOKENIZERS["unigram"]())
    tokenizer.chat_template = "<s>{% for m in messages %}U: {{ m.content }}\n{% endfor %}A:"
    (pair,) = made("boolean-expressions", tokenizer, (1, 0, 0), form="instruction").train
    assert pair.clean.count(tokenizer.bos_token_id) == 1 and pair.clean[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "nothing of it", "{{ messages[0].content * 2 }}"])
def test_chat_templates_that_cannot_be_used_are_refused(template):
    from copy import deepcopy

    tokenizer = deepcopy(TOKENIZERS["unigram"]())
    tokenizer.chat_template = template
    with pytest.raises(InputError, match="chat=True: the chat template"):
        made("copy-colors", tokenizer, chat=True)


# Refusals


@pytest.mark.parametrize("name", [name for name in TASKS if name not in ("ioi", "ioi-t1")])
def test_tokenizers_without_the_words_and_impossible_sizes_are_refused(name):
    tokenizer = TOKENIZERS["unigram"]()
    with pytest.raises(InputError, match=f"^{name}: train=-1 must be a whole number, 0 or more$"):
        made(name, tokenizer, (-1, 1, 1))
    with pytest.raises(InputError, match=f"^{name}: ") as refusal:
        made(name, word_tokenizer(["the", "is"]))
    assert len(str(refusal.value).splitlines()) == 1 and "use another tokenizer" in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("boolean-expressions", {"form": "long"}, "there is no form 'long'; use few-shot, instruction, zero-shot"),
        ("arithmetic", {"operation": "division"}, "there is no operation 'division'; use addition or subtraction"),
        ("copy-colors", {"chat": True}, "chat=True: this tokenizer has no chat template; use chat=False"),
        ("copy-colors", {"chat": "no"}, "copy-colors: chat='no' is neither True nor False; give one"),
        ("copy-colors", {"chat": None}, "chat=None is neither True nor False"),
        ("boolean-expressions", {"form": "instruction", "chat": True}, "chat=True: this tokenizer has no"),
        ("boolean-expressions", {"form": "instruction", "chat": 1}, "chat=1 is neither True nor False"),
        ("boolean-expressions", {"chat": True}, "chat=True is for form='instruction'; leave it out with 'few-shot'"),
        ("boolean-expressions", {"form": "zero-shot", "chat": True}, "leave it out with 'zero-shot'"),
    ],
)  # fmt: skip
@pytest.mark.unchecked
def test_impossible_options_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        made(name, TOKENIZERS["unigram"](), **options)
