"""The study of prompting on a tiny model: what it asks, what it compares, and that it goes on where it stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from edgewise import InputError
from edgewise.circuit import Circuit
from edgewise.tasks import CAPITALS
from examples.prompting import FORMS, capital_records, main, prompting_page, study_prompting
from tests.tiny import save_gpt2, word_tokenizer

pytest.importorskip("pyarrow")
QUESTION = "What is the capital of ? Answer with one word . The : Answer"


def tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """Of whole words, without a chat template."""
    return word_tokenizer([*QUESTION.split(), *words])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    words = tokenizer([word for pair in CAPITALS for word in pair.split("/")])
    save_gpt2(folder, words, n_positions=32)
    return folder


def test_both_forms_ask_the_same_and_no_country_is_in_two_splits():
    capitals = dict(pair.split("/") for pair in CAPITALS)
    found = capital_records(tokenizer([*capitals, *capitals.values()]), (30, 10, 10), seed=0)
    assert [len(found[form]) for form in FORMS] == [50, 50]
    seen: dict[str, set[str]] = {}
    for one, other in zip(found["instruction"], found["few-shot"], strict=True):
        assert (one["answer"], one["wrong_answer"], one["split"]) == (
            other["answer"],
            other["wrong_answer"],
            other["split"],
        )
        country = other["clean"].splitlines()[-1].removesuffix(":")
        assert f" {capitals[country]}" == one["answer"] and f"capital of {country}?" in one["clean"]
        assert other["clean"].splitlines()[:-1] == other["corrupted"].splitlines()[:-1], "the examples are the same"
        assert one["answer"] not in other["clean"] and one["clean"] != one["corrupted"]
        seen.setdefault(one["split"], set()).add(country)
    assert not seen["train"] & seen["test"] and not seen["validation"] & (seen["train"] | seen["test"])


def test_the_study_judges_both_circuits_on_both_forms_and_goes_on(model: Path, tmp_path: Path):
    method = {"method": "ranking", "steps": 4, "batch_size": 4}
    run: dict[str, Any] = {"sparsities": (0.5, 0.7), "seeds": (0, 1), "method": method, "sizes": (12, 6, 6)}
    run["say"] = lambda _: None
    found = study_prompting(str(model), tmp_path, **run)
    assert list(found.comparisons) == ["0.5", "0.7"] and set(found.ability) == set(FORMS)
    for size, seeds in found.comparisons.items():
        files = sorted(tmp_path.rglob(f"chosen {size}.safetensors"))
        paths = {(path.parents[1].parent.name, path.parent.name): Circuit.load(path) for path in files}
        for (form, _), circuit in paths.items():
            assert circuit.provenance["task"]["name"] == form
        assert paths.keys() == {(form, f"seed-{seed}") for form in FORMS for seed in (0, 1)}
        for seed, comparison in enumerate(seeds):
            circuits = [paths[form, f"seed-{seed}"] for form in FORMS]
            assert comparison.pairs[0].iou == pytest.approx(circuits[0].iou(circuits[1]))
            for form in FORMS:
                assert set(comparison.judged[form]) == {"full", *FORMS, "intersection", "union"}
                assert comparison.n[form] == 6
        for form in FORMS:
            assert found.seeds_iou[size][form] == pytest.approx(paths[form, "seed-0"].iou(paths[form, "seed-1"]))
    paths = sorted(tmp_path.rglob("chosen 0.5.safetensors"))
    before = [path.stat().st_mtime_ns for path in paths]
    again = study_prompting(str(model), tmp_path, **run)
    assert [path.stat().st_mtime_ns for path in paths] == before and again.to_json() == found.to_json()
    assert json.loads((tmp_path / "study.json").read_text())["comparisons"].keys() == {"0.5", "0.7"}
    page = prompting_page(found, command="the command")
    assert sum("| intersection | " in line for line in page.splitlines()) == 4
    assert f"{found.seeds_iou['0.7']['few-shot']:.3f} |" in page
    kl = [each.judged["few-shot"]["union"]["kl"].value for each in found.comparisons["0.5"]]
    assert f"| {sum(kl) / 2:.3f}" in page


def test_the_command_writes_a_page(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out, page = tmp_path / "out", tmp_path / "page.md"
    sizes = ("--train", 8, "--validation", 4, "--test", 4)
    arguments = (
        "--model",
        model,
        "--out",
        out,
        "--method",
        "eap",
        "--sparsities",
        0.5,
        "--seeds",
        0,
        1,
        *sizes,
        "--write",
        page,
    )
    monkeypatch.setattr("sys.argv", ["prompting.py", *map(str, arguments)])
    main()
    assert "| few-shot |" in page.read_text() and "| 50 % |" in page.read_text() and (out / "study.json").is_file()
    assert "two seeds" not in page.read_text()


def test_what_a_tokenizer_cannot_ask_is_refused(model: Path, tmp_path: Path):
    with pytest.raises(InputError, match="choose boolean-expressions"):
        capital_records(tokenizer(["France", "Paris"]), (10, 10, 10), 0)
    with pytest.raises(InputError, match="choose capitals or boolean-expressions"):
        study_prompting(str(model), tmp_path, behaviour="beauty")
