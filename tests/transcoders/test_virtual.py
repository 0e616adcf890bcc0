"""Virtual weights between all features equal a dense computation, however it is cut, and after a kill."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise.models import Model
from edgewise.runs import RunOptions
from edgewise.transcoders import (
    Activation,
    Site,
    TokenRows,
    Transcoder,
    capture,
    on_text,
    pullback,
    reader,
    real_tokens,
)
from edgewise.transcoders.analysis import VirtualConfig, VirtualTable, _virtual, virtual_weights
from tests.tiny import refused, tiny
from tests.transcoders.test_analysis import made
from tests.transcoders.toys import text

LAYERS, N, KEPT = (0, 1, 2), 9, 4
QUIET = RunOptions(progress=False)


@cache
def parts() -> tuple[Model, tuple[Transcoder, ...], TokenRows]:
    return tiny("llama-gqa"), tuple(made(tiny("llama-gqa"), layer) for layer in LAYERS), text(30)


@cache
def dense() -> dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Of each pair of layers: connections, ERA and TWERA, `[targets, sources]`."""
    model, transcoders, rows = parts()
    keep = real_tokens(model, rows.ids, exclude_special=True)
    z = [
        each.encode(capture(model, [each.spec.reads], rows.ids)[each.spec.reads][keep]).detach() for each in transcoders
    ]
    found = {}
    for high in LAYERS:
        for low in range(high):
            weight = pullback(reader(model, transcoders[high]), transcoders[low])
            era = (z[high] > 0).double().T @ z[low] / len(z[low]) * weight
            total = z[high].sum(0)[:, None]
            found[low, high] = weight, era, torch.where(total > 0, z[high].T @ z[low] / total, 0.0) * weight
    return found


def run(out: Path | None = None, **changes: Any) -> VirtualTable:
    options = RunOptions(out, 0.0, progress=False)
    settings: dict[str, Any] = {"kept": KEPT, "batch_tokens": 16, "chunk_tokens": 64} | changes
    return virtual_weights(*parts(), VirtualConfig(**settings), options=options)


@pytest.mark.parametrize("gib", [1.0, 3 * N * 40 / 2**30], ids=["whole", "three targets at a time"])
def test_the_strongest_in_and_out_are_kept(gib: float):
    table = run(gib=gib)
    for layer in LAYERS:
        into = [(low, *dense()[low, layer]) for low in range(layer)]
        out_of = [(high, *(x.T for x in dense()[layer, high])) for high in range(layer + 1, 3)]
        for side, others in ((table.inputs, into), (table.outputs, out_of)):
            assert (layer in side) == bool(others)
            for feature in range(N if others else 0):
                plain = [(at, i, *(float(x[feature, i]) for x in xs)) for at, *xs in others for i in range(N)]
                plain = sorted((each for each in plain if each[4]), key=lambda each: -abs(each[4]))[:KEPT]
                own = list(zip(*(column[feature].tolist() for column in side[layer]), strict=True))
                own = [each for each in own if each[0] >= 0]
                assert [each[:2] for each in own] == [each[:2] for each in plain]
                for one, other in zip(own, plain, strict=True):
                    assert one[2:] == pytest.approx(other[2:], rel=1e-5)


def test_they_are_those_of_one_layers_features_on_a_text():
    model, transcoders, rows = parts()
    one, table = on_text(model, transcoders, 2, None, rows, most=(KEPT, 1)), run()
    assert table.n_tokens == one.n_tokens
    torch.testing.assert_close(table.inputs[2].twera.double(), one.virtual.twera, rtol=1e-5, atol=1e-7)


def test_activations_below_0_count_in_neither():
    model, _, rows = parts()
    transcoders = [made(model, layer) for layer in LAYERS]
    for each in transcoders:
        each.spec = replace(each.spec, activation=Activation("topk", 7, rectified=False))
    one = on_text(model, transcoders, 2, None, rows, most=(KEPT, 1))
    table = virtual_weights(model, transcoders, rows, VirtualConfig(kept=KEPT), options=QUIET)
    for name in ("era", "twera"):
        own, other = getattr(table.inputs[2], name).double(), getattr(one.virtual, name)
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-7)


def test_files_of_others_in_the_folder_stay(tmp_path: Path):
    (tmp_path / "codes").mkdir()
    (tmp_path / "codes" / "mine.txt").write_text("x")
    run(tmp_path)
    assert [path.name for path in (tmp_path / "codes").iterdir()] == ["mine.txt"]
    run(tmp_path / "other")
    assert not (tmp_path / "other" / "codes").exists()


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = run(tmp_path / "whole")
    own = _virtual._Pairs.step
    for at in (1, 5):
        with monkeypatch.context() as patch:

            def step(self: Any, number: int, at: int = at) -> Any:
                if number == at:
                    raise MemoryError
                return own(self, number)

            patch.setattr(_virtual._Pairs, "step", step)
            with pytest.raises(MemoryError):
                run(tmp_path / str(at))
        again = run(tmp_path / str(at))
        assert all(
            a.equal(b)
            for side in ("inputs", "outputs")
            for layer, table in getattr(whole, side).items()
            for a, b in zip(table, getattr(again, side)[layer], strict=True)
        )
    whole.save(tmp_path / "virtual.safetensors")
    read = VirtualTable.load(tmp_path / "virtual.safetensors")
    assert read.inputs[2].twera.equal(whole.inputs[2].twera) and read.outputs[0].layer.equal(whole.outputs[0].layer)
    assert read.conditions["text"].items() >= parts()[2].source.items()


def test_the_same_weights_at_another_site_and_another_text_are_other_runs(tmp_path: Path):
    model, transcoders, rows = parts()
    run(tmp_path)
    settings, options = VirtualConfig(kept=KEPT, batch_tokens=16, chunk_tokens=64), RunOptions(tmp_path, progress=False)
    other = Transcoder(replace(transcoders[1].spec, reads=Site("resid_mid", 1)), dtype=torch.float64)
    other.load_state_dict(transcoders[1].state_dict())
    moved = [transcoders[0], other, transcoders[2]]
    assert "(transcoders)" in refused(lambda: virtual_weights(model, moved, rows, settings, options=options))
    turned = TokenRows(rows.ids.flip(0), rows.source)
    assert "(text)" in refused(lambda: virtual_weights(model, transcoders, turned, settings, options=options))


def test_only_connections_of_the_layers_asked_for():
    table = virtual_weights(*parts(), VirtualConfig(kept=KEPT), layers=[0], options=QUIET)
    assert (
        set(table.inputs) == {1, 2}
        and set(table.outputs) == {0}
        and set(table.inputs[2].layer.unique().tolist()) <= {0, -1}
    )


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path):
    model, transcoders, rows = parts()
    assert "two layers at least" in refused(lambda: virtual_weights(model, transcoders[:1], rows))
    encoder = made(model, 1)
    encoder.spec = type(encoder.spec)(**{**encoder.spec.__dict__, "reads": Site("mlp_out", 1)})
    assert "do not stand for an MLP" in refused(lambda: virtual_weights(model, [transcoders[0], encoder], rows))
    for layers in ([99], []):
        said = refused(lambda layers=layers: virtual_weights(model, transcoders, rows, layers=layers))
        assert f"layers {layers}: give some of those that transcoders are of, [0, 1, 2]" in said
    assert "saved as .safetensors" in refused(lambda: run().save(tmp_path / "x.pt"))
