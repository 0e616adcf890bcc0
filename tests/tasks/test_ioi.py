import hashlib
import re
from itertools import combinations

import pytest

from edgewise._errors import InputError
from edgewise.tasks import Task, from_provenance, ioi, ioi_t1
from edgewise.tasks._draw import choice, generator, sample
from edgewise.tasks._ioi import IOI_T1_TEMPLATE, IOI_TEMPLATES
from edgewise.tasks._splits import SPLITS, words_of
from edgewise.tasks._words import FEMALE_NAMES, MALE_NAMES, OBJECTS, PLACES

from .conftest import word_tokenizer

# Of the texts of ioi(20, 10, 10, seed=7) where every word is usable.
GOLDEN = "b8b19801219fded60d932d37e5cb09505142b9d084595d50f03f64479e90478a"
NAMES = FEMALE_NAMES + MALE_NAMES
LISTS = {"name": NAMES, "object": OBJECTS, "place": PLACES}


def words_in(text: str, words: tuple[str, ...]) -> list[str]:
    return [word for word in re.findall(r"\w+", text) if word in words]


def all_pairs(task: Task):
    return [pair for split in SPLITS for pair in task.split(split)]


def template_of(text: str, split) -> str:
    """The one template that the text was made of."""

    def pattern(template: str) -> str:
        return re.sub(r"\\{(\w+)\\}", r"\\w+", re.escape(template))

    (found,) = [each for each in IOI_TEMPLATES[split] if re.fullmatch(pattern(each), text)]
    return found


# The lists


def test_word_lists_are_large_disjoint_and_without_repeats():
    assert len(FEMALE_NAMES) >= 150 and len(MALE_NAMES) >= 150 and len(OBJECTS) >= 100 and len(PLACES) >= 60
    everything = [*NAMES, *OBJECTS, *PLACES]
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize("words", LISTS.values(), ids=LISTS)
def test_splits_share_no_word_and_leave_none_out(words):
    dealt = [set(words_of(words, split)) for split in SPLITS]
    assert set.union(*dealt) == set(words)
    assert all(not a & b for a, b in combinations(dealt, 2))


def test_templates_are_many_different_and_well_formed():
    templates = [template for split in SPLITS for template in IOI_TEMPLATES[split]]
    assert len(set(templates)) == len(templates) >= 36
    for template in [*templates, IOI_T1_TEMPLATE]:
        places = [template.index("{" + name + "}") for name in "ABS"]
        assert places == sorted(places) and places[0] > 0 and template.endswith(" to")
        assert all(template.count("{" + name + "}") == 1 for name in "ABS")
        assert not set(re.findall(r"\w+", template.replace("{A}", "").replace("{B}", ""))) & set(NAMES)


def test_a_template_keeps_its_split_for_good():
    counts = {split: len(IOI_TEMPLATES[split]) for split in SPLITS}
    assert counts == {"train": 28, "validation": 8, "test": 8}


# The pairs


@pytest.mark.parametrize("build", [ioi, ioi_t1])
@pytest.mark.parametrize("counterfactual", ["abc", "s2-flip"])
def test_pairs_are_aligned_and_answered_by_one_token(tokenizer, build, counterfactual):
    task = build(tokenizer, train=30, validation=20, test=20, seed=3, counterfactual=counterfactual)
    assert [len(task.split(split)) for split in SPLITS] == [30, 20, 20]
    for pair in all_pairs(task):
        changed = [position for position, (a, b) in enumerate(zip(pair.clean, pair.corrupted, strict=True)) if a != b]
        assert len(changed) == (3 if counterfactual == "abc" else 1)
        subject, other = indirect_object_and_subject(pair.clean_text)[::-1]
        (target,) = pair.targets
        assert target.position == len(pair.clean) - 1
        for name, token in ((other, target.answers), (subject, target.wrong)):
            plain = tokenizer(f"{pair.clean_text} {name}", add_special_tokens=False)["input_ids"]
            bare = tokenizer(pair.clean_text, add_special_tokens=False)["input_ids"]
            assert plain == [*bare, *token]
            assert list(pair.clean[-len(bare) :]) == bare
            assert tokenizer.decode(list(token)).strip() == name


def indirect_object_and_subject(text: str) -> tuple[str, str]:
    first, second, subject = words_in(text, NAMES)
    assert subject in (first, second) and first != second
    return (second if subject == first else first), subject


def test_bos_is_kept_and_eos_is_not(unigram):
    pair = ioi(unigram, 1, 1, 1).train[0]
    assert pair.clean[0] == pair.corrupted[0] == unigram.bos_token_id
    assert unigram.eos_token_id not in pair.clean


def test_abc_replaces_every_name_by_another_of_the_same_split(words):
    task = ioi(words, 60, 30, 30)
    for split in SPLITS:
        pool = {name for each in (FEMALE_NAMES, MALE_NAMES) for name in words_of(each, split)}
        for pair in task.split(split):
            clean, corrupted = words_in(pair.clean_text, NAMES), words_in(pair.corrupted_text, NAMES)
            assert len(set(corrupted)) == 3 and not set(corrupted) & set(clean)
            assert {*clean, *corrupted} <= pool


def test_s2_flip_swaps_the_answers(words):
    for pair in all_pairs(ioi(words, 20, 10, 10, counterfactual="s2-flip")):
        clean, corrupted = map(indirect_object_and_subject, (pair.clean_text, pair.corrupted_text))
        assert clean == corrupted[::-1]


def test_counterfactuals_share_their_clean_prompts(words):
    tasks = [ioi(words, 10, 10, 10, counterfactual=each) for each in ("abc", "s2-flip")]
    assert all(a.clean_text == b.clean_text for a, b in zip(*map(all_pairs, tasks), strict=True))


def test_both_orders_are_equally_many(words):
    task = ioi(words, 200, 0, 100)
    for pairs in (task.train, task.test):
        first_is_subject = [names[0] == names[2] for names in (words_in(pair.clean_text, NAMES) for pair in pairs)]
        assert sum(first_is_subject) == len(pairs) / 2


@pytest.mark.parametrize("seeds", [(0, 0), (1, 2)])
def test_splits_leak_nothing_even_across_seeds(words, seeds):
    one, other = (ioi(words, 150, 80, 80, seed=seed) for seed in seeds)
    for a, b in combinations(SPLITS, 2):
        for kind in ("object", "place"):  # the templates themselves hold none of these words
            used = [
                {word for pair in task.split(split) for word in words_in(pair.clean_text, LISTS[kind])}
                for task, split in ((one, a), (other, b))
            ]
            assert used[0] and used[1] and not used[0] & used[1]
        names = [
            {name for pair in task.split(split) for text in (pair.clean_text, pair.corrupted_text)
             for name in words_in(text, NAMES)}
            for task, split in ((one, a), (other, b))
        ]  # fmt: skip
        assert not names[0] & names[1]
        assert not {template_of(pair.clean_text, a) for pair in one.split(a)} & {
            template_of(pair.clean_text, b) for pair in other.split(b)
        }


def test_t1_has_one_template_and_unseen_names(words):
    task = ioi_t1(words, 50, 50, 50)
    names = [{name for pair in task.split(split) for name in words_in(pair.clean_text, NAMES)} for split in SPLITS]
    assert all(not a & b for a, b in combinations(names, 2))
    assert len({re.sub(rf"\b({'|'.join(NAMES)})\b", "_", pair.clean_text) for pair in all_pairs(task)}) == 1


def test_prompts_of_a_split_differ(words):
    texts = [pair.clean_text for pair in ioi_t1(words, 2000, 0, 0).train]
    assert len(set(texts)) == 2000


# The seed


def test_the_same_seed_gives_the_same_bytes_on_any_machine(words):
    """The tokenizer knows every word, so the texts depend on the lists, the templates and the seed alone."""
    text = "\n".join(f"{pair.clean_text}|{pair.corrupted_text}" for pair in all_pairs(ioi(words, 20, 10, 10, seed=7)))
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN


def test_random_choices_are_fixed():
    random = generator("test", 1)
    assert [choice(random, "abcdefgh") for _ in range(8)] == list("bfcfechf")
    assert sample(random, range(10), 4) == [5, 3, 7, 2]
    assert sorted(sample(random, range(100), 100)) == list(range(100))


def test_seeds_differ_and_sizes_extend(words):
    assert ioi(words, 20, 5, 5, seed=0).train != ioi(words, 20, 5, 5, seed=1).train
    assert ioi(words, 40, 5, 5).train[:20] == ioi(words, 20, 5, 5).train


@pytest.mark.parametrize("build", [ioi, ioi_t1])
def test_a_task_is_made_again_from_its_provenance(tokenizer, build):
    task = build(tokenizer, 12, 3, 5, seed=4, counterfactual="s2-flip")
    again = from_provenance(task.provenance, tokenizer)
    assert again == task and again.provenance == task.provenance


def test_another_tokenizer_is_noticed(words, byte_bpe):
    with pytest.raises(InputError, match="ioi: these are not the pairs that were recorded, as the tokenizer"):
        from_provenance(ioi(words, 2, 2, 2).provenance, byte_bpe)


@pytest.mark.parametrize(
    "provenance",
    [
        {},
        {"task": "ioi"},
        {"task": "ioi", "arguments": {"colour": 3}},
        {"task": "ioi", "arguments": {"seed": "x"}},
        {"task": "unheard-of", "arguments": {}},
        {"task": ["ioi"], "arguments": {}},
        {"task": "records", "arguments": {}},
    ],
    ids=str,
)
def test_bad_provenance_is_refused(words, provenance):
    with pytest.raises(InputError) as refusal:
        from_provenance(provenance, words)
    assert "\n" not in str(refusal.value)


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": -1}, "ioi: train=-1 must be a whole number"),
        ({"test": 2.0}, "ioi: test=2.0 must be a whole number"),
        ({"seed": None}, "ioi: seed=None must be a whole number"),
        ({"validation": True}, "ioi: validation=True must be a whole number"),
        ({"counterfactual": "random"}, "ioi: there is no counterfactual 'random'; use abc or s2-flip"),
    ],
    ids=str,
)
def test_impossible_arguments_are_refused(words, arguments, message):
    with pytest.raises(InputError, match=message):
        ioi(words, **arguments)


def test_too_few_single_token_words_are_refused():
    known = " ".join(IOI_TEMPLATES["train"]).split()
    with pytest.raises(InputError, match=r"^ioi: of our \d+ train objects this tokenizer has 0 as single tokens and 1"):
        ioi(word_tokenizer(known))
    with pytest.raises(InputError, match=r"^ioi-t1: of our \d+ train names this tokenizer has 4 .* 5 are needed"):
        ioi_t1(word_tokenizer([*known, *words_of(FEMALE_NAMES, "train")[:4]]))


def test_more_prompts_than_there_are_is_refused():
    known = [name for split in SPLITS for name in words_of(FEMALE_NAMES, split)[:5]] + IOI_T1_TEMPLATE.split()
    with pytest.raises(InputError, match=r"^ioi-t1: train: only 40 different pairs found .* ask for fewer$"):
        ioi_t1(word_tokenizer(known), train=41, validation=1, test=1)


def test_no_tokenizer_is_refused():
    with pytest.raises(InputError, match="tokenizer: NoneType is not a Hugging Face tokenizer"):
        ioi(None)  # pyright: ignore[reportArgumentType]
