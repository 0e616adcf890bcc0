"""A submission to MIB's circuit track: folders and files as the track reads them, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise import InputError
from edgewise.circuit import Circuit
from edgewise.exchange import MIB_CELLS, from_edge_table, read_mib, write_mib_submission
from edgewise.graph import Ablation, Graph, GraphSpec

GPT2 = {"n_layers": 12, "n_heads": 12, "n_kv_heads": 12}
QWEN = {"n_layers": 24, "n_heads": 14, "n_kv_heads": 2}
GEMMA = {"n_layers": 26, "n_heads": 8, "n_kv_heads": 4}


def circuit(shape: dict[str, int], **spec: Any) -> Circuit:
    graph = Graph(GraphSpec(**shape, **spec))
    scores = torch.randn(graph.n_edges, generator=torch.Generator().manual_seed(0))
    return Circuit(graph, scores > 1, scores, ablation=Ablation())


@pytest.mark.parametrize("suffix", [".json", ".pt"])
def test_a_submission_has_a_folder_for_each_cell_and_every_edges_score(tmp_path: Path, suffix: Any):
    given = {"ioi_gpt2": circuit(GPT2, embeddings="split"), "mcqa_qwen2.5": circuit(QWEN, kv="expanded")}
    notes = write_mib_submission(given, tmp_path / "s", suffix=suffix)
    assert [note.split(":")[0] for note in notes] == ["ioi_gpt2"] and "embeddings split to joint" in notes[0]
    written = sorted(str(path.relative_to(tmp_path / "s")) for path in (tmp_path / "s").rglob("*.*") if path.is_file())
    assert written == [f"ioi_gpt2/importances{suffix}", f"mcqa_qwen2.5/importances{suffix}"]
    read = read_mib(tmp_path / "s" / written[1], n_kv_heads=2)
    expected = given["mcqa_qwen2.5"].scores
    assert read.scores is not None and expected is not None and torch.equal(read.scores, expected)
    assert read_mib(tmp_path / "s" / written[0]).graph.n_edges == 32_491  # as MIB counts GPT-2's
    assert {cell.split("_")[1] for cell in MIB_CELLS} == {"gpt2", "qwen2.5", "gemma2", "llama3"} and len(
        MIB_CELLS
    ) == 12


def test_a_rankings_scores_have_its_order_by_size_too(tmp_path: Path):
    """The track's CMD goes by size, and a ranking's lowest scores are the most negative."""
    plain = circuit(QWEN, kv="expanded")
    assert plain.scores is not None and plain.scores.min() < 0
    plain.scores[0], plain.scores[1] = torch.nan, -torch.inf  # neither has a score: as they come
    in_order = plain.scores.masked_fill(plain.scores.isnan(), -torch.inf)
    given = {
        "ioi_gpt2": replace(circuit(GPT2), provenance={"method": {"name": "eap"}}),
        "mcqa_qwen2.5": replace(plain, provenance={"method": {"name": "ranking"}}),
    }
    (note,) = write_mib_submission(given, tmp_path / "s")
    assert note.startswith("mcqa_qwen2.5: scores: ranking's became their ranks")
    read = read_mib(tmp_path / "s" / "mcqa_qwen2.5" / "importances.json", n_kv_heads=2).scores
    assert read is not None and torch.equal(read.abs().argsort(), in_order.argsort(stable=True))
    as_they_were = read_mib(tmp_path / "s" / "ioi_gpt2" / "importances.json").scores
    assert as_they_were is not None and as_they_were.min() < 0


@pytest.mark.parametrize("suffix", [".json", ".pt"])
def test_an_edge_without_a_score_is_last_by_size_and_by_sign(tmp_path: Path, suffix: Any):
    plain = circuit(QWEN, kv="expanded")
    assert plain.scores is not None
    names = plain.graph.edge_name(3).split(" -> "), plain.graph.edge_name(7).split(" -> ")
    table = {"writer": [each[0] for each in names], "reader": [each[1] for each in names], "score": [0.2, 0.1]}
    given = {
        "ioi_gpt2": circuit(GPT2),
        "mcqa_qwen2.5": replace(from_edge_table(table, plain.graph), ablation=Ablation()),
    }
    (note,) = write_mib_submission(given, tmp_path / "s", suffix=suffix)
    assert note == "mcqa_qwen2.5: scores: NaN and −∞ became 0, the least by sign and by size"
    read = read_mib(tmp_path / "s" / "mcqa_qwen2.5" / f"importances{suffix}", n_kv_heads=2).scores
    assert read is not None
    for order in (read, read.abs()):
        assert order.topk(2).indices.tolist() == [3, 7] and (order > 0).sum() == 2


def test_what_the_track_would_not_take_is_refused_before_anything_is_written(tmp_path: Path):
    good, other = circuit(GPT2), circuit(QWEN)
    assert good.scores is not None
    pair = {"ioi_gpt2": good, "mcqa_qwen2.5": other}
    wrong = {
        "no cell": {"ioi_gpt3": good, "mcqa_qwen2.5": other},
        "no scores": pair | {"ioi_gpt2": replace(good, scores=None)},
        "to rank edges by": pair | {"ioi_gpt2": replace(good, scores=torch.ones(good.graph.n_edges))},
        "zero ablation": pair | {"ioi_gpt2": replace(good, ablation=Ablation("zero"))},
        "n_layers=24; gpt2 has 12": pair | {"ioi_gpt2": other},
        "parallel=True; gpt2": pair | {"ioi_gpt2": circuit(GPT2, parallel=True)},
        "n_kv_heads=14; qwen2.5 has 2": pair | {"mcqa_qwen2.5": circuit(QWEN | {"n_kv_heads": 14})},
        "no scores to rank": pair
        | {"ioi_gpt2": replace(good, scores=torch.full_like(good.kept, torch.nan, dtype=torch.float))},
        "1 of its edges have no score and others a negative one": pair
        | {"ioi_gpt2": replace(good, scores=good.scores.index_fill(0, torch.tensor(5), torch.nan))},
        "one model, qwen2.5": {"ioi_qwen2.5": other, "mcqa_qwen2.5": other},
        "one task, ioi": {"ioi_gpt2": good, "ioi_qwen2.5": other},
        "neurons": pair | {"ioi_gpt2": circuit(GPT2, neurons=((0, ((1,),)),))},
    }
    for message, given in wrong.items():
        with pytest.raises(InputError, match=message):
            write_mib_submission(given, tmp_path / "s")
    with pytest.raises(InputError, match="these are of none"):
        write_mib_submission({}, tmp_path / "s")
    with pytest.raises(InputError, match="suffix: 'json'"):
        write_mib_submission(pair, tmp_path / "s", suffix="json")  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "s").exists()


def test_nothing_of_another_submission_stays_in_the_folder(tmp_path: Path):
    pair = {"ioi_gpt2": circuit(GPT2), "mcqa_qwen2.5": circuit(QWEN)}
    write_mib_submission(pair, tmp_path, suffix=".pt")
    write_mib_submission(pair, tmp_path, suffix=".pt")  # the same files, written anew
    with pytest.raises(InputError, match=r"importances\.pt: is of another submission"):
        write_mib_submission(pair, tmp_path, suffix=".json")
    with pytest.raises(InputError, match="mcqa_qwen2.5.*another submission"):
        write_mib_submission({"ioi_gpt2": pair["ioi_gpt2"], "mcqa_gemma2": circuit(GEMMA)}, tmp_path, suffix=".pt")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "ioi_gpt2").write_text("a file in a folder's place")
    with pytest.raises(InputError, match="ioi_gpt2"):
        write_mib_submission(pair, tmp_path / "t", suffix=".pt")
