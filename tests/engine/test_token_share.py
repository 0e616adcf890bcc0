"""Several processes that share a run's tokens give what one gives, and each holds its share of the stacks."""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgewise import InputError
from edgewise.discovery import RankingConfig, edge_pruning, learn_ranking
from edgewise.engine import Engine
from edgewise.engine._packing import pack
from edgewise.runs import ONE_PROCESS, OneProcess, Ranks, processes
from tests.discovery.toys import PRESETS, quiet, random_task
from tests.engine.featured import featured
from tests.engines import assert_close, engine, outcome, random_masks
from tests.processes import side_by_side
from tests.tiny import ONE_OF_EACH, collate, draw_prompts, tiny

BATCH = collate(draw_prompts((6, 3, 5)))
SHORT = collate(draw_prompts((3,)))
"""Of fewer tokens than there may be processes."""


def _runs(ranks: Ranks) -> Iterator[tuple[str, Engine, Tensor, dict[str, Any]]]:
    """Every way that the engine's code goes, with one mask."""
    shared = {"ranks": ranks, "share": "tokens"}
    for turn, name in enumerate((*ONE_OF_EACH, "gemma2", "olmo2", "mixtral")):
        model, memory = tiny(name), ("default", "lean")[turn % 2]
        kinds = random_masks(model.graph())
        for kind in ("circuits-and-groups", "sparse") if turn < 2 else ("circuits-and-groups",):
            options = {"gradients": ("fractional", "all")[turn // 2 % 2]}
            yield f"{name} {kind}", engine(model, None, memory=memory, **shared), kinds[kind], options
    learned = engine(tiny("llama-gqa"), None, "learned", **shared)
    yield "learned", learned, random_masks(learned.graph)["mixed"], {}
    with_features = featured(tiny("gpt2"), **shared)
    yield "features", with_features, random_masks(with_features.graph)["mixed"], {}


def outcomes(ranks: Ranks) -> dict[str, Tensor]:
    """Logits and gradients of all of these."""
    found = {}
    for name, own, mask, options in _runs(ranks):
        for length, batch in (("", BATCH), (" short", SHORT)):
            logits, masks, constants = outcome(own, batch, mask, **options)
            found |= {f"{name}{length} {part}": x for part, x in (("logits", logits), ("mask", masks))}
            found |= {f"{name}{length} constant {i}": x for i, x in enumerate(constants)}
    return found


def learned(out: Path, ranks: Ranks) -> dict[str, Tensor]:
    """Some steps of learned methods, checkpoints too."""
    own, task = Engine(tiny("gpt2"), ranks=ranks, share="tokens"), random_task()
    ranking = learn_ranking(own, task, RankingConfig(steps=4, batch_size=5), options=quiet(out / "ranking"))
    pruned = edge_pruning(own, task, PRESETS["ours"], options=quiet(out / "pruning"))
    assert pruned.scores is not None
    return {"ranking": ranking.values, "pruning": pruned.scores}


def shared_out(out: Path) -> None:
    """What each of several processes does; each writes what it has."""
    with processes(torch.device("cpu")) as ranks:
        save_file(outcomes(ranks) | learned(out, ranks), out / f"{ranks.rank}.safetensors")


@cache
def by_one(out: Path) -> dict[str, Tensor]:
    return outcomes(ONE_PROCESS) | learned(out, ONE_PROCESS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one")


@pytest.mark.parametrize("n", [2, 4])
def test_processes_that_share_tokens_give_what_one_gives(n: int, folder: Path, tmp_path: Path):
    side_by_side(n, shared_out, tmp_path)
    expected = by_one(folder)
    for rank in range(n):
        found = load_file(tmp_path / f"{rank}.safetensors")
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert_close(tensor, expected[name], 1e-6 if name in ("ranking", "pruning") else 1e-9)


class _Third(OneProcess):
    """The second of three processes, of which the others are not there: what they would add is nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.rank, self.size = 1, 3

    def gather(self, tensor: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(tensor), tensor, torch.zeros_like(tensor)])


@pytest.mark.parametrize("memory", ["default", "lean"])
def test_each_holds_the_stacks_of_its_own_tokens_alone(memory: str):
    model, batch = tiny("gpt2"), collate(draw_prompts((6, 6, 6)))
    mask = random_masks(model.graph())["fractional"]
    whole, third = (Engine(model, memory=memory, ranks=r, share="tokens") for r in (ONE_PROCESS, _Third()))
    sizes = []
    for own in (whole, third):
        outcome(own, batch, mask)
        spare = own._arranged.workspace.spare
        sizes.append({name: len(spare[name]) for name in ("values", "gradients", "group")})
    assert sizes[0] == {name: 3 * n for name, n in sizes[1].items()}


def test_parts_of_a_packing_are_all_of_it():
    whole = pack(BATCH.clean, 2, BATCH.span_id, 2)
    cuts = [0, 4, 5, 5, 19, whole.n_tokens]
    parts = [whole.part(start, stop) for start, stop in pairwise(cuts)]
    for name in ("cell", "example_token"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert torch.equal(torch.cat([part.rows() for part in parts]), whole.rows())
    places = torch.stack([part.where(BATCH.row, BATCH.position) for part in parts])
    where = torch.where(places < 0, -1, places + torch.tensor(cuts[:-1])[:, None]).amax(0)
    assert torch.equal(where, whole.where(BATCH.row, BATCH.position))


def test_what_does_not_go_together_is_refused_in_a_line():
    refused: list[tuple[dict[str, Any], str]] = [
        ({"share": "writers"}, "choose 'examples'"),
        ({"share": "tokens", "path": "reference"}, "all"),
    ]
    for choices, said in refused:
        with pytest.raises(InputError, match=said):
            Engine(tiny("gpt2"), **choices)
