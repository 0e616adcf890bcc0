"""A killed run goes on to the same bits, from a checkpoint that is its own and whole."""

import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgewise.discovery import edge_pruning, engine_under, learn_ranking
from edgewise.engine import Ablation
from edgewise.runs import CHECKPOINT
from tests.discovery.toys import (
    LEARNED,
    PRESETS,
    RANKING,
    Killed,
    differing,
    find,
    quiet,
    random_task,
    scores_of,
    stop,
    toy_engine,
)
from tests.processes import killed_once_there_is
from tests.tiny import refused, tiny


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("gpt2", torch.float32),
        ("gpt2", torch.float64),
        ("llama-gqa", torch.float64),
        ("neox-parallel", torch.float32),
    ],
    ids=str,
)
@pytest.mark.parametrize("preset", LEARNED)
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch, preset: str, name: str, dtype: torch.dtype):
    config, out = LEARNED[preset], tmp_path / "killed"
    whole = find(tmp_path / "whole", config, name, dtype)
    for at in (1, 3, 6):  # one run, killed three times
        with monkeypatch.context() as patch:
            stop(patch, at, Killed())
            with pytest.raises(Killed):
                find(out, config, name, dtype)
    resumed = find(out, config, name, dtype)
    assert differing(load_file(out / CHECKPOINT), load_file(tmp_path / "whole" / CHECKPOINT)) == []
    assert torch.equal(resumed.kept, whole.kept)
    assert differing({"": scores_of(resumed)}, {"": scores_of(whole)}) == []
    assert [path.name for path in out.iterdir()] == [CHECKPOINT]  # nothing half-written is left


def test_a_process_that_is_really_killed_goes_on_to_the_same_bits(tmp_path):
    asked: Any = {"config": PRESETS["ours"], "dtype": torch.float64, "steps": 30}
    out = tmp_path / "killed"
    assert killed_once_there_is(out / CHECKPOINT, find, out, **asked) == -signal.SIGKILL
    for name in ("killed", "whole"):
        find(tmp_path / name, **asked)
    killed, whole = (load_file(tmp_path / name / CHECKPOINT) for name in ("killed", "whole"))
    assert differing(killed, whole) == []


@pytest.mark.parametrize("cache_bytes", [0, 60_000, 1 << 30])
@pytest.mark.parametrize("preset", LEARNED)
def test_the_same_bits_however_much_is_kept(tmp_path, monkeypatch, preset: str, cache_bytes: int):
    # Less and more than there are pairs: each with every method, and with every size of the cache.
    batch_size = (5, 20)[(list(LEARNED).index(preset) + cache_bytes % 7) % 2]

    def learn(out: Path) -> dict[str, Tensor]:
        find(out, LEARNED[preset], engine=toy_engine("llama-gqa", cache_bytes=cache_bytes), batch_size=batch_size)
        return load_file(out / CHECKPOINT)

    with monkeypatch.context() as patch:
        stop(patch, 5, Killed())
        with pytest.raises(Killed):
            learn(tmp_path / "killed")
    assert differing(learn(tmp_path / "killed"), learn(tmp_path / "whole")) == []


def test_a_checkpoint_holds_all_of_the_state(tmp_path):
    find(tmp_path, PRESETS["paper"])
    tensors = load_file(tmp_path / CHECKPOINT)
    state = {f"optimizer.{i}.{name}" for i in range(3) for name in ("step", "exp_avg", "exp_avg_sq")}
    assert set(tensors) == {"edges", "nodes", "multipliers"} | state
    assert tensors["optimizer.0.step"] == 8


def test_a_kill_before_the_first_periodic_checkpoint_goes_on_from_the_start(tmp_path, monkeypatch):
    options = quiet(tmp_path, checkpoint_seconds=1e9)
    with monkeypatch.context() as patch:
        stop(patch, 5, Killed())
        with pytest.raises(Killed):
            edge_pruning(toy_engine(), random_task(), PRESETS["ours"], options=options)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    assert torch.equal(find(tmp_path, PRESETS["ours"]).kept, find(None, PRESETS["ours"]).kept)


def test_a_warm_start_is_not_added_twice(tmp_path, monkeypatch):
    warm = replace(PRESETS["ours"], warm_start=0.7)
    with monkeypatch.context() as patch:
        stop(patch, 0, KeyboardInterrupt())
        find(tmp_path, warm, dtype=torch.float64)
    found, expected = (find(out, warm, dtype=torch.float64) for out in (tmp_path, None))
    assert differing({"": scores_of(found)}, {"": scores_of(expected)}) == []


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    first = find(tmp_path, PRESETS["ours"])
    stop(monkeypatch, 0, Killed())
    again = find(tmp_path, PRESETS["ours"])
    assert torch.equal(again.kept, first.kept)
    assert again.provenance["method"]["steps"] == 8


def test_a_resumed_run_counts_all_its_steps_and_time(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop(patch, 5, KeyboardInterrupt())
        before = find(tmp_path, PRESETS["ours"]).provenance["method"]
    after = find(tmp_path, PRESETS["ours"]).provenance["method"]
    assert (before["steps"], after["steps"]) == (5, 8)
    assert after["seconds"] >= before["seconds"]


def test_without_resume_a_run_starts_anew(tmp_path):
    find(tmp_path, PRESETS["ours"])
    options = quiet(tmp_path, resume=False)
    other = edge_pruning(toy_engine(), random_task(), PRESETS["ours"], options=options, seed=3)  # not even refused
    assert differing({"": scores_of(other)}, {"": scores_of(find(None, PRESETS["ours"], seed=3))}) == []
    assert find(tmp_path, PRESETS["ours"], seed=3).provenance["method"]["steps"] == 8  # and has left its own checkpoint


# ------------------------------------------------------------------------------------------------ somebody else's files


@pytest.mark.parametrize(
    ("field", "changed"),
    [("seed", {"seed": 1}), ("sparsity", {"sparsity": 0.7}), ("steps", {"steps": 9}), ("initial", {"initial": 1.0})],
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, good: Path, field: str, changed: dict[str, Any]):
    shutil.copy(good, tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    message = refused(lambda: find(tmp_path, PRESETS["ours"], **changed))
    assert str(tmp_path) in message and f"({field})" in message and "another folder" in message
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_checkpoint_of_another_model_task_or_ablation_is_refused(tmp_path):
    config, task = PRESETS["ours"], random_task()
    find(tmp_path, config)
    assert "model" in refused(lambda: find(tmp_path, config, "llama-gqa"))
    assert "(task)" in refused(lambda: find(tmp_path, config, task=replace(task, name="other")))
    assert "(task)" in refused(lambda: find(tmp_path, config, task=replace(task, loss="cross_entropy")))
    zero = toy_engine(ablation=Ablation("zero"))
    assert "(ablation" in refused(lambda: find(tmp_path, config, task=task, engine=zero))


def test_a_checkpoint_of_another_graph_is_refused(tmp_path):
    engine = toy_engine()
    split = toy_engine(graph=engine.model.graph("split"))
    find(tmp_path, PRESETS["ours"], engine=split)
    assert "(graph)" in refused(lambda: find(tmp_path, PRESETS["ours"]))


def test_a_checkpoint_of_other_pairs_is_refused(tmp_path):
    find(tmp_path, PRESETS["ours"])
    refused(lambda: find(tmp_path, PRESETS["ours"], task=random_task(11)))


def test_a_checkpoint_says_which_method_it_is_of(tmp_path):

    find(tmp_path, PRESETS["ours"])
    with safe_open(tmp_path / CHECKPOINT, framework="pt") as file:
        assert '"method": "edge-pruning"' in file.metadata()["edgewise"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is whole."""
    folder = tmp_path_factory.mktemp("good")
    find(folder, PRESETS["ours"])
    return folder / CHECKPOINT


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def _scribble(path: Path) -> None:
    path.write_bytes(b"\xff" * 500)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _plain(path: Path) -> None:
    save_file({"edges": torch.zeros(3)}, path)


def _metadata_that_is_no_json(path: Path) -> None:
    save_file({"edges": torch.zeros(3)}, path, metadata={"edgewise": "{"})


def _metadata_that_is_a_list(path: Path) -> None:
    save_file({"edges": torch.zeros(3)}, path, metadata={"edgewise": "[1]"})


def _circuit(path: Path) -> None:
    find(None, PRESETS["ours"]).save(path)


def _one_tensor_less(path: Path) -> None:
    _rewrite(path, lambda tensors: tensors.pop("edges"))


def _another_size(path: Path) -> None:
    _rewrite(path, lambda tensors: tensors.update(edges=torch.zeros(5)))


def _no_moments(path: Path) -> None:
    _rewrite(path, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("optimizer")])


def _rewrite(path: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:

    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    change(tensors)
    save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize(
    "spoil",
    [
        *(_truncate, _cut_in_the_header, _scribble, _empty, _plain, _metadata_that_is_no_json),
        _metadata_that_is_a_list,
        _circuit,
        _one_tensor_less,
        _another_size,
        _no_moments,
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, good: Path, spoil: Callable[[Path], None]):
    shutil.copy(good, tmp_path)
    spoil(tmp_path / CHECKPOINT)
    message = refused(lambda: find(tmp_path, PRESETS["ours"]))
    assert str(tmp_path / CHECKPOINT) in message and "remove it" in message


@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_a_bfloat16_model_is_learned_on_under_constants(tmp_path: Path, kind: str):
    task = random_task()
    engine = engine_under(tiny("gpt2", torch.bfloat16), task, kind)
    found = learn_ranking(engine, task, RANKING, options=quiet(tmp_path))
    again = learn_ranking(engine, task, RANKING, options=quiet(tmp_path))
    assert torch.equal(found.values, again.values)
