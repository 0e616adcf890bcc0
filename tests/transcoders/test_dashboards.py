"""Dashboards of features equal a plain computation over all tokens, however the text is cut, and after a kill."""

import gzip
import json
import struct
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from edgewise.models import Model
from edgewise.runs import CHECKPOINT, RunOptions, random_keys
from edgewise.transcoders import (
    Activation,
    Site,
    TokenRows,
    TokenTexts,
    Transcoder,
    VirtualTable,
    capture,
    describe,
    real_tokens,
    virtual_weights,
)
from edgewise.transcoders.dashboards import (
    DashboardConfig,
    FeatureSet,
    Seen,
    _gather,
    bin_edges,
    from_weights,
    gather,
    make_dashboards,
    quantile_bins,
    top_examples,
    write_feature_details,
    write_neuronpedia,
)
from edgewise.viewer import read_dashboards
from edgewise.viewer._feature_sets import ShownSet, pack_sets
from edgewise.viewer._pack import Packer
from tests.tiny import VOCABULARY, refused, tiny
from tests.transcoders.test_analysis import made
from tests.transcoders.toys import differing, text

CONTEXT, SAMPLE, TOP = 12, 15, 6
QUIET = RunOptions(progress=False)


def config(**changes: Any) -> DashboardConfig:
    settings: dict[str, Any] = {
        "batch_tokens": 100,
        "sample": SAMPLE,
        "top": TOP,
        "before": 3,
        "after": 2,
        "quantiles": 4,
        "examples": 2,
        "precision": "float32",
    }
    return DashboardConfig(**(settings | changes))


@cache
def parts() -> tuple[Model, tuple[Transcoder, ...], TokenRows]:
    model = tiny("gpt2", torch.float32)
    transcoders = tuple(made(model, layer, n=7).float() for layer in (0, 1, 2))
    with torch.no_grad():
        transcoders[1].b_enc[2] = -100.0  # never on
        transcoders[1].b_enc[3] = 100.0  # always on
    return model, transcoders, text(40, context=CONTEXT)


@cache
def activations(layer: int) -> tuple[Tensor, Tensor]:
    """Of all tokens, and which of them count."""
    model, transcoders, rows = parts()
    site = transcoders[layer].spec.reads
    keep = real_tokens(model, rows.ids, exclude_special=True)
    x = capture(model, [site], rows.ids)[site]
    return torch.where(keep[:, :, None], transcoders[layer].encode(x).detach(), 0.0).flatten(0, 1), keep.flatten()


@cache
def seen(layer: int = 1) -> Seen:
    model, transcoders, rows = parts()
    return gather(model, [transcoders[layer]], rows, config(), QUIET).seen[0]


@cache
def sets() -> tuple[FeatureSet, ...]:
    model, transcoders, rows = parts()
    return make_dashboards(model, transcoders, rows, config(), options=QUIET)


def test_counts_are_those_of_all_tokens_at_once():
    z, keep = activations(1)
    found = seen()
    on = z > 0
    assert found.n_tokens == int(keep.sum()) and found.on.equal(on.sum(0))
    assert not found.on[2] and found.on[3] == found.n_tokens
    torch.testing.assert_close(found.sum, z.double().sum(0), rtol=1e-5, atol=1e-6)
    edges = bin_edges()
    for feature in range(z.shape[1]):
        own = z[on[:, feature], feature].double()
        plain = torch.histogram(own, edges).hist.long()
        assert found.histogram[feature].equal(plain)
        at = on[:, feature].nonzero().flatten() % CONTEXT
        assert found.positions[feature].equal(at.bincount(minlength=CONTEXT))


def test_the_bins_are_eight_between_powers_of_two():
    edges = bin_edges()
    assert (edges.diff() > 0).all() and (edges[8:] / edges[:-8] == 2).all() and 1.0 in edges


def test_examples_are_the_largest_and_a_sample_and_stand_in_their_context():
    z, _ = activations(1)
    found = seen()
    n = z.shape[1]
    for feature in range(n):
        at = (z[:, feature] > 0).nonzero().flatten()
        value = z[at, feature]
        best = at[(-value).argsort(stable=True)[:TOP]]
        drawn = at[random_keys(at * n + feature, 0).argsort()[:SAMPLE]]
        drawn = drawn[(-z[drawn, feature]).argsort(stable=True)]
        for chosen, kept in ((best, found.top), (drawn, found.sample)):
            tokens = kept.token[feature][kept.token[feature] >= 0]
            assert tokens.sort().values.equal(chosen.sort().values)
            torch.testing.assert_close(kept.value[feature, : len(tokens)], z[tokens, feature])
            for token, window in zip(tokens.tolist(), kept.window[feature], strict=False):
                for offset, said in zip(range(-3, 3), window.tolist(), strict=True):
                    other = token + offset
                    inside = 0 <= other < len(z) and other // CONTEXT == token // CONTEXT
                    assert said == pytest.approx(float(z[other, feature]) if inside else 0.0, rel=5e-3)


def test_quantiles_are_parts_of_equal_share_from_the_largest_down():
    found = seen()
    for feature in range(len(found.on)):
        bins = quantile_bins(found, feature, config())
        drawn = found.sample.value[feature][found.sample.token[feature] >= 0]
        assert len(bins) == min(4, -(-len(drawn) // 2))
        assert sum(each.share for each in bins) == pytest.approx(1 if len(drawn) else 0)
        for each in bins:
            inside = ((drawn >= each.low) & (drawn <= each.high)).sum()
            assert int(inside) / len(drawn) == pytest.approx(each.share) and abs(each.share * len(bins) - 1) < 0.3
            assert all(each.low <= example.value <= each.high for example in each.examples)
            assert len(each.examples) == min(2, int(inside))
        lows = [each.low for each in bins]
        assert lows == sorted(lows, reverse=True)


def test_of_neighbours_the_largest_alone_is_shown():
    shown = top_examples(seen(), 3, config(), CONTEXT)
    assert shown[0].token == int(seen().top.token[3, 0])
    tokens = sorted(each.token for each in shown)
    assert all(b // CONTEXT != a // CONTEXT or b - a > 2 for a, b in pairwise(tokens))


@pytest.mark.parametrize("batch", [1, CONTEXT * 7, 10**6])
def test_it_does_not_matter_how_the_text_is_cut(batch: int):
    model, transcoders, rows = parts()
    other = gather(model, [transcoders[1]], rows, config(batch_tokens=batch), QUIET).seen[0]
    assert other.on.equal(seen().on) and other.sample.token.equal(seen().sample.token)
    assert other.top.token[:, 0].equal(seen().top.token[:, 0]) and other.positions.equal(seen().positions)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, transcoders, rows = parts()
    run = lambda out: gather(model, transcoders, rows, config(), RunOptions(out, 0.0, progress=False))  # noqa: E731
    run(tmp_path / "whole")
    own = _gather._Stream.step
    for at in (1, 3):
        with monkeypatch.context() as patch:

            def step(self: Any, number: int, at: int = at) -> Any:
                if number == at:
                    raise MemoryError
                return own(self, number)

            patch.setattr(_gather._Stream, "step", step)
            with pytest.raises(MemoryError):
                run(tmp_path / str(at))
        assert run(tmp_path / str(at)).report.steps == 5
        assert differing(load_file(tmp_path / str(at) / CHECKPOINT), load_file(tmp_path / "whole" / CHECKPOINT)) == []
    with pytest.raises(Exception, match=r"other settings \(seed\)"):
        gather(model, transcoders, rows, config(seed=1), RunOptions(tmp_path / "whole", progress=False))


def test_the_same_weights_at_another_site_and_another_text_are_other_runs(tmp_path: Path):
    model, transcoders, rows = parts()
    options, own = RunOptions(tmp_path, progress=False), TokenRows(rows.ids)
    gather(model, transcoders[:1], own, config(), options)
    assert "(text)" in refused(lambda: gather(model, transcoders[:1], TokenRows(rows.ids.flip(0)), config(), options))
    longer = TokenRows(rows.ids.view(-1, 2 * CONTEXT))  # the same tokens, in other rows
    assert "(text)" in refused(lambda: gather(model, transcoders[:1], longer, config(), options))
    spec = transcoders[0].spec
    for changed in (
        replace(spec, reads=Site("resid_mid", 0)),
        replace(spec, reads=Site("mlp_in", 0, centred=True)),
        replace(spec, activation=Activation("topk", 2)),
        replace(spec, exclude_special=True),
    ):
        other = Transcoder(changed)
        other.load_state_dict(transcoders[0].state_dict())
        assert "(transcoders)" in refused(lambda other=other: gather(model, [other], own, config(), options))
    assert gather(model, transcoders[:1], TokenRows(rows.ids.clone()), config(), options).seen[0].on.any()


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "neox-parallel"])
def test_the_weights_say_of_all_features_what_describe_says_of_one(name: str):
    model = tiny(name)
    transcoders = [made(model, layer) for layer in (0, 1, 2)]
    found = from_weights(model, transcoders[1], transcoders, most=4)
    for feature in (0, 8):
        one = describe(model, transcoders, 1, feature, most=4, n_heads=1)
        assert float(found.bias[feature]) == pytest.approx(one.bias)
        for side in ("raising", "lowering", "promoted", "suppressed"):
            ranked = getattr(found, side)
            said = [(str(t), w) for t, w in zip(*(x[feature].tolist() for x in ranked), strict=True)]
            assert [t for t, _ in said] == [each.name for each in getattr(one, side)]
            assert [w for _, w in said] == pytest.approx([each.weight for each in getattr(one, side)])
        for others, named in ((found.upstream, one.features), (found.downstream, one.readers)):
            layers, features, weights = (x[feature].tolist() for x in others)
            assert [f"m{a}.f{b}" for a, b in zip(layers, features, strict=True)] == [each.name for each in named]
            assert weights == pytest.approx([each.weight for each in named], rel=1e-5)
        head, (layer, number) = one.heads[0], (int(x[feature, 0]) for x in found.heads[:2])
        assert f"a{layer}.h{number}" == head.name and float(found.lengths[feature].max()) == pytest.approx(head.length)
        tokens = found.heads.tokens[0]
        assert [str(each) for each in tokens.token[feature, :4].tolist()] == [each.name for each in head.raising]
        features = [
            f"m{a}.f{b}" for a, b in zip(*(x[feature, :4].tolist() for x in found.heads.features[0][:2]), strict=True)
        ]
        assert [each for each in features if each != "m-1.f-1"] == [each.name for each in head.features]
    assert set(found.logits.sum(1).tolist()) == {VOCABULARY}


def test_tokens_at_and_after_are_those_of_the_sample():
    _, _, rows = parts()
    found, flat = sets()[1], rows.ids.flatten().tolist()
    for feature in (0, 3):
        tokens = [each for each in found.seen.sample.token[feature].tolist() if each >= 0]
        at, after = Counter(flat[t] for t in tokens), Counter(flat[t + 1] for t in tokens if (t + 1) % CONTEXT)
        for said, plain in ((found.fires_on[feature], at), (found.before[feature], after)):
            assert said.share == pytest.approx([n / plain.total() for _, n in plain.most_common(7)])
            assert all(plain[token] / plain.total() == pytest.approx(share) for token, share in zip(*said, strict=True))


def test_other_tools_files_say_the_same(tmp_path: Path):
    first, second = sets()[:2]
    write_neuronpedia(second, tmp_path / "np")
    read = read_dashboards(tmp_path / "np")
    assert len(read) == 7 and read[1, 3]["density"] == 1.0
    top = top_examples(second.seen, 3, second.config, CONTEXT)[0]
    assert read[1, 3]["contexts"][0]["values"][read[1, 3]["contexts"][0]["at"]] == pytest.approx(top.value, rel=1e-3)
    (batch,) = (tmp_path / "np" / "1").iterdir()
    feature = json.loads(batch.read_text())["features"][3]
    assert sum(feature["freq_hist_data_bar_heights"]) == second.seen.n_tokens
    index = json.loads(gzip.decompress(write_feature_details([first, second], tmp_path / "ct").read_bytes()))
    record = index["1"]
    raw = (tmp_path / "ct" / record["filename"]).read_bytes()
    start, end = record["offsets"][3:5]
    (length,) = struct.unpack("<I", raw[start : start + 4])
    assert start + 4 + length == end and len(record["offsets"]) == 8
    detail = json.loads(gzip.decompress(raw[start + 4 : end]))
    example = detail["examples_quantiles"][0]["examples"][0]
    assert example["tokens_acts_list"][example["train_token_ind"]] == pytest.approx(top.value, rel=1e-3)
    row, flat = top.token // CONTEXT * CONTEXT, parts()[2].ids.flatten().tolist()
    shown = flat[max(row, top.token - 3) : min(row + CONTEXT, top.token + 3)]
    assert example["tokens"] == [str(each) for each in shown] and detail["activation_frequency"] == 1.0


class Pieces:
    """A tokenizer of these pieces, which decodes them as given."""

    def __init__(self, *pieces: tuple[str, str]) -> None:
        self.pieces = pieces

    def decode(self, ids: list[int]) -> str:
        return self.pieces[ids[0]][1]

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.pieces[token][0]


def test_tokens_are_texts_with_their_blanks_or_the_bytes_that_they_are():
    texts = TokenTexts(
        Pieces(("Ġthe", " the"), ("▁the", "the"), ("<0xE2>", "\ufffd"), ("âĢ", "\ufffd"), ("?\u0904", "\ufffd"))
    )
    assert [texts[i] for i in range(5)] == [" the", " the", b"\xe2", b"\xe2\x80", "\ufffd"]
    assert texts.shown(3) == r"\xe2\x80" and TokenTexts(None)[7] == "7"


def test_what_is_wrong_is_said_in_one_line():
    model, transcoders, rows = parts()
    assert "two read layer 0" in refused(lambda: make_dashboards(model, [transcoders[0]] * 2, rows))
    assert "at least one transcoder" in refused(lambda: gather(model, [], rows))
    assert "sample 0; give at least 1" in refused(lambda: DashboardConfig(sample=0))
    empty = TokenRows(torch.zeros(0, 4, dtype=torch.long))
    assert "one row of text" in refused(lambda: gather(model, transcoders, empty))


def test_virtual_weights_of_others_are_refused_before_the_text_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, transcoders, rows = parts()
    table = virtual_weights(model, transcoders[:2], rows, options=QUIET)
    table.save(tmp_path / "v.safetensors")
    read = VirtualTable.load(tmp_path / "v.safetensors")

    def shown(table: VirtualTable, model: Model = model, *given: Transcoder, others: Any = transcoders) -> Any:
        return make_dashboards(model, given or transcoders[:2], rows, config(), others=others, virtual=table,
                               options=QUIET)  # fmt: skip

    sets = shown(read, others=[transcoders[2], made(model, 0, n=5).float()])
    assert all(each.inputs is not None or each.outputs is not None for each in sets)
    assert sets[0].conditions["precision"] == "float32"
    own = from_weights(model, transcoders[1], transcoders, config().listed)
    assert sets[1].weights.upstream.feature.equal(own.upstream.feature)  # those given, not others of their layer
    monkeypatch.setattr("edgewise.transcoders.dashboards._feature_set.gather", lambda *_: pytest.fail("was run"))
    other = made(model, 1, n=7).float()  # of the same sizes at the same site
    with torch.no_grad():
        other.W_enc.add_(1)
    for wrong in (table, read):
        assert "not of this transcoder of layer 1" in refused(lambda wrong=wrong: shown(wrong, model, other))
        assert "not of this transcoder of layer 1" in refused(
            lambda wrong=wrong: shown(wrong, model, transcoders[0], others=[other])
        )
    assert "not of this transcoder of layer 2" in refused(lambda: shown(read, model, transcoders[2]))
    moved = tiny("gpt2", torch.float64)
    assert "of another model" in refused(lambda: shown(read, moved))
    for conditions in ({}, {"text": {}}, {"transcoders": "mine", "text": {}}):
        assert "do not say" in refused(lambda c=conditions: shown(replace(read, conditions=c)))
    assert "two read layer 1" in refused(lambda: shown(read, others=[*transcoders, other]))


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("by hand", None),
        ({"tokens": 1000, "batch_tokens": 300, "steps": 2, "stop": "interrupted"}, "600 tokens, stopped early"),
    ],
)
def test_a_page_says_how_many_tokens_were_seen(method: Any, says: str | None):
    transcoder = made(parts()[0], 1, n=7).float()
    transcoder.provenance = {"method": method}
    packed = pack_sets([ShownSet(replace(sets()[1], transcoder=transcoder))], Packer())
    assert dict(packed["features"][0]["about"]).get("trained on") == says
