"""Batches: every token once a pass, shuffled across sequences, the same for any division into processes and from any
step.
"""

import json
from itertools import chain

import pytest
import torch
from torch import Tensor

from edgewise.transcoders import Site
from edgewise.transcoders.training import CachedActivations, write_cache
from edgewise.transcoders.training._activations import ActivationStream, LiveActivations
from tests.tiny import refused, tiny
from tests.transcoders.toys import CONTEXT, text

SITES = (Site("mlp_in", 0), Site("mlp_out", 1))


class Numbered:
    """Vectors that say where they come from."""

    sites = SITES

    def __init__(self, n_rows: int) -> None:
        self.ids = torch.zeros(n_rows, CONTEXT, dtype=torch.long)

    def rows(self, index: Tensor) -> dict[Site, Tensor]:
        number = index[:, None] * CONTEXT + torch.arange(CONTEXT)
        return {site: (number + i / 2)[..., None].double() for i, site in enumerate(SITES)}


class Rank:
    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.shares = rank, size, size

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    gather = sum


def stream(n_rows: int = 40, keep: Tensor | None = None, ranks: Rank | None = None, **changes) -> ActivationStream:
    settings = {"batch_tokens": 16, "pool_tokens": 64, "lanes": 4, "seed": 1} | changes
    source = Numbered(n_rows)
    keep = torch.ones_like(source.ids, dtype=torch.bool) if keep is None else keep
    return ActivationStream(source, keep, **settings, ranks=ranks or Rank(0, 1))  # pyright: ignore[reportArgumentType] (they are integers)


def numbers(found: dict[Site, Tensor]) -> list[int]:
    assert torch.equal(found[SITES[0]] + 0.5, found[SITES[1]])  # input and output are of the same token
    return found[SITES[0]].flatten().long().tolist()


def test_a_pass_sees_every_token_once_and_the_next_pass_another_order():
    batches = stream()
    first = [numbers(batches.batch(step)) for step in range(20)]
    second = [numbers(batches.batch(step)) for step in range(20, 40)]
    assert sorted(chain(*first)) == list(range(40 * CONTEXT)) == sorted(chain(*second))
    assert first != second


def test_a_batch_mixes_sequences():
    rows = [len({n // CONTEXT for n in numbers(stream(pool_tokens=320).batch(step))}) for step in range(20)]
    assert min(rows) > 8  # 16 tokens in a row would be of two or three sequences


def test_a_batch_depends_on_the_step_alone():
    whole = stream()
    ahead = [whole.batch(step) for step in range(30)]
    for step in (29, 3, 11):
        assert torch.equal(stream().batch(step)[SITES[0]], ahead[step][SITES[0]])


@pytest.mark.parametrize("size", [2, 4])
def test_processes_share_the_same_batches(size: int):
    keep = torch.rand(40, CONTEXT) < 0.8
    one = stream(keep=keep)
    parts = [stream(keep=keep, ranks=Rank(rank, size)) for rank in range(size)]
    for step in range(25):
        together = list(chain(*(numbers(part.batch(step)) for part in parts)))
        assert together == numbers(one.batch(step))


def test_tokens_that_do_not_count_are_never_seen():
    keep = torch.rand(40, CONTEXT) < 0.6
    wanted = set(keep.flatten().nonzero().flatten().tolist())
    batches = stream(keep=keep)
    assert {n for step in range(60) for n in numbers(batches.batch(step))} <= wanted


def test_the_first_batches_are_those_of_the_first_pool_that_has_one():
    keep = torch.ones(40, CONTEXT, dtype=torch.bool)
    keep[stream()._pool_rows(0).flatten()] = False
    batches = stream(keep=keep)
    assert batches.n_batches(0) == 0 and batches.n_batches(1) == 4
    first = batches.first(SITES[0], 99).flatten().long().tolist()
    assert sorted(first) == sorted(chain(*(numbers(batches.batch(step)) for step in range(4))))


def test_what_cannot_be_divided_or_filled_is_refused():
    assert "lanes" in refused(lambda: stream(batch_tokens=18))
    assert "processes" in refused(lambda: stream(ranks=Rank(0, 3)))
    assert "too few" in refused(lambda: stream(n_rows=3))
    assert "too few" in refused(lambda: stream(keep=torch.zeros(40, CONTEXT, dtype=torch.bool)))


# ------------------------------------------------------------------------------------------------------------ the cache


def test_a_cache_gives_the_models_own_bits(tmp_path):
    model, rows = tiny("llama-gqa", torch.float32), text(70)
    cached = write_cache(model, rows, SITES, tmp_path / "cache")
    live = LiveActivations(model, rows.ids, SITES)
    index = torch.arange(64).view(2, 32)[1]
    for site, x in live.rows(index).items():
        assert torch.equal(cached.rows(index)[site], x)
    again = CachedActivations(tmp_path / "cache", SITES[:1])
    assert torch.equal(again.ids, rows.ids) and list(again.rows(index)) == [SITES[0]]
    assert json.loads((tmp_path / "cache" / "activations.json").read_text())["tokens"] == rows.source


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_rounded_cache_is_close(tmp_path, dtype: str):
    model, rows = tiny("gpt2", torch.float32), text(33)
    cached = write_cache(model, rows, SITES, tmp_path / "cache", dtype=dtype)
    live = LiveActivations(model, rows.ids, SITES).rows(torch.arange(33))
    for site, x in cached.rows(torch.arange(33)).items():
        torch.testing.assert_close(x, live[site], rtol=1e-2, atol=1e-2)


def test_a_cache_that_is_no_whole_one_is_refused(tmp_path):
    model, rows, folder = tiny("gpt2", torch.float32), text(8), tmp_path / "cache"
    assert "not a cache" in refused(lambda: CachedActivations(folder))
    write_cache(model, rows, SITES, folder)
    assert "exists already" in refused(lambda: write_cache(model, rows, SITES, folder))
    assert "does not hold layer 2 mlp_in" in refused(lambda: CachedActivations(folder, [Site("mlp_in", 2)]))
    file = folder / "0.mlp_in.bin"
    file.write_bytes(file.read_bytes()[:-4])
    assert "cut short" in refused(lambda: CachedActivations(folder))
    assert "no such" not in refused(lambda: write_cache(model, rows, [Site("mlp_in", 9)], tmp_path / "other"))
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
