"""Bug reports of other tools, tried here: what came of each stands in docs/public-reports.md."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import processors
from torch import Tensor

import edgewise as ew
from edgewise import InputError
from edgewise.attribution import token_ids
from edgewise.exchange import read_mib
from edgewise.models import load
from edgewise.tasks import from_records
from edgewise.transcoders import Site, Transcoder
from edgewise.transcoders.formats import read
from tests.models.test_load import _saved, _tokenizer
from tests.tiny import VOCABULARY, random_model
from tests.transcoders.files import F, X, weights
from tests.transcoders.test_file_sites import rows

PAGE = (Path(__file__).parents[1] / "docs" / "public-reports.md").read_text("utf-8")


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------------------------------------------------- transcoders


def _sparsify(folder: Path, config: dict[str, Any], **more: Tensor) -> Path:
    folder.mkdir(parents=True)
    save_file(rows(weights()) | more, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"k": 5, "d_in": X.shape[1], **config}))
    return folder


def _by_hand(transcoder: Transcoder, off: Tensor, skip: Tensor | None = None) -> None:
    state = weights()
    pre = ((X - off) @ state["W_enc"] + state["b_enc"]).relu()
    best = pre.topk(5)
    z = torch.zeros_like(pre).scatter(1, best.indices, best.values)
    expected = z @ state["W_dec"] + state["b_dec"] + (0 if skip is None else X @ skip.T)
    torch.testing.assert_close(transcoder(X).detach(), expected, rtol=1e-4, atol=1e-4)


def test_sparsifys_transcoders_took_their_decoder_bias_off_the_input(tmp_path: Path):
    """sparsify #49: before version 1.0, which also wrote `transcode` into the file."""
    off, nothing = weights()["b_dec"], torch.zeros(())
    (new,) = read(_sparsify(tmp_path / "new" / "layers.3.mlp", {"activation": "topk", "transcode": True}))
    _by_hand(new, nothing)
    skip = torch.randn(X.shape[1], X.shape[1])
    old = _sparsify(tmp_path / "skip" / "layers.3.mlp", {"skip_connection": True}, W_skip=skip)
    (made,) = read(old)
    assert made.spec.reads == Site("mlp_in", 3) and made.spec.writes[0].kind == "mlp_out"
    _by_hand(made, off, skip)
    unsaid = _sparsify(tmp_path / "old" / "layers.3.mlp", {})
    with pytest.raises(InputError, match="does not say whether it is a transcoder or an autoencoder") as caught:
        read(unsaid)
    assert "--reads" in one_line(caught)
    (made,) = read(unsaid, reads=Site("mlp_in", 3), writes=Site("mlp_out", 3))
    _by_hand(made, off)
    assert not made.spec.is_autoencoder
    (made,) = read(unsaid, reads=Site("mlp_out", 3), writes=Site("mlp_out", 3))
    _by_hand(made, off)
    assert made.spec.is_autoencoder


def test_the_first_autoencoders_of_sparsify_are_read(tmp_path: Path):
    """sparsify #115: files that its newest version refuses."""
    place = tmp_path / "layers.10"
    first = {"expansion_factor": 2, "normalize_decoder": True, "num_latents": F}
    (made,) = read(_sparsify(place, first))
    assert made.spec.is_autoencoder and made.spec.reads == Site("resid_post", 10)
    _by_hand(made, weights()["b_dec"])


def test_a_null_model_of_n_grams_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="gram_lookup is True") as caught:
        read(_sparsify(tmp_path / "layers.3.mlp", {"transcode": True, "gram_lookup": True}))
    one_line(caught)


@pytest.mark.parametrize("factor", [None, 3.5])
def test_checkpoints_of_scaled_activations_are_refused(tmp_path: Path, factor: float | None):
    """SAELens #381: only at the end of a training is the scale folded in; dictionary_learning's backups say theirs."""
    state = weights()
    theirs = {"bias": state["b_dec"], "encoder.weight": state["W_enc"].T, "encoder.bias": state["b_enc"]}
    theirs["decoder.weight"] = state["W_dec"].T
    torch.save({"step": 7, "ae": theirs, "norm_factor": factor}, tmp_path / "ae.pt")
    config = {"trainer": {"dict_class": "AutoEncoder", "submodule_name": "layers.2.mlp"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if factor is None:
        assert len(read(tmp_path)) == 1
        return
    with pytest.raises(InputError, match="divided by its norm_factor") as caught:
        read(tmp_path)
    one_line(caught)


@pytest.mark.parametrize("said", [None, True, False])
@pytest.mark.parametrize("there", [True, False])
def test_a_skip_connection_that_is_said_is_there(tmp_path: Path, said: bool | None, there: bool):
    """SAELens #624: all transcoders of Gemma Scope 2 were taken to have one."""
    place = tmp_path / "layer_7_width_16k"
    place.mkdir()
    state = {name.replace("W", "w"): x.contiguous() for name, x in weights().items()}
    state["threshold"] = torch.full((F,), 0.4)
    if there:
        state["affine_skip_connection"] = torch.eye(X.shape[1])
    save_file(state, place / "params.safetensors")
    (place / "config.json").write_text(json.dumps({} if said is None else {"affine_connection": said}))
    if said in (None, there):
        assert read(place)[0].spec.skip == there
        return
    with pytest.raises(InputError, match=f"affine_connection is {said}, and its tensors say otherwise") as caught:
        read(place)
    one_line(caught)


# --------------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("lost", ["model.embed_tokens.weight", "lm_head.weight", "both"])
@pytest.mark.parametrize("tied", [True, False])
def test_no_weight_of_a_tied_pair_is_made_up(tmp_path: Path, tied: bool, lost: str):
    """transformers #38870: the weight that is left out is the one that the other was to be taken from."""
    module: Any = random_model("llama-mqa" if tied else "llama-gqa", torch.float32).module
    _saved(tmp_path, "llama-mqa" if tied else "llama-gqa")
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    state["lm_head.weight"] = module.lm_head.weight.detach().clone()
    gone = ["model.embed_tokens.weight", "lm_head.weight"] if lost == "both" else [lost]
    save_file({name: x for name, x in state.items() if name not in gone}, path, metadata={"format": "pt"})
    found, said = _loaded(tmp_path)
    if found is None:
        assert "lack weights" in said and "\n" not in said and (lost != "lm_head.weight" or not tied)
    else:
        assert tied and lost != "both"
        assert all(torch.equal(x, y) for x, y in zip(found.parameters(), module.parameters(), strict=True))


def _loaded(folder: Path) -> tuple[Any, str]:
    """The module, or what is said of it."""
    try:
        return load(folder).module, ""
    except InputError as error:
        return None, str(error)


def test_a_missing_part_of_a_model_is_named(tmp_path: Path):
    """sglang #32279: a download that was broken off, whose index is whole."""
    module: Any = random_model("llama-gqa", torch.float32).module
    module.save_pretrained(tmp_path, max_shard_size="10KB")
    _tokenizer().save_pretrained(tmp_path)
    load(tmp_path)
    lost = sorted(tmp_path.glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(InputError, match=lost.name) as caught:
        load(tmp_path)
    one_line(caught)


# ---------------------------------------------------------------------------------------------------------------- texts


def _around(left: bool = False) -> Any:
    """A tokenizer that puts tokens on both sides of a text, and pads on the left if so asked."""
    tokenizer: Any = _tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="w2 $A w1", special_tokens=[("w2", 2), ("w1", 1)]
    )
    tokenizer.padding_side = "left" if left else "right"
    return tokenizer


def test_what_a_tokenizer_puts_after_a_text_is_not_what_is_asked_after():
    """transformers #23833: `add_eos_token`, with which the last token is no longer the prompt's."""
    module = random_model("llama-gqa").module
    assert _around()("w7 w8")["input_ids"] == [2, 7, 8, 1]
    model = load(module, _around())
    assert token_ids(model, "w7 w8").tolist() == [2, 7, 8]
    pairs = [
        {"clean": f"w{i} w8", "corrupted": f"w{i} w9", "answer": " w5", "wrong_answer": " w6"} for i in range(30, 36)
    ]
    task = from_records(pairs, model.tokenizer)
    pair = task.train[0]
    assert pair.clean[0] == 2 and pair.clean[-1] == 8 and pair.targets[0].position == 2


def test_the_side_of_padding_changes_no_number():
    """TransformerLens #1609: prompts padded on the left were placed as if the padding were text."""
    module = random_model("gpt2").module  # whose positions are learned
    pairs = [
        {"clean": " ".join(f"w{20 + (i * k) % 30}" for k in range(1, 3 + i)), "corrupted": " ".join(["w4"] * (2 + i)),
         "answer": " w5", "wrong_answer": " w6", "split": ("train", "validation", "test")[i % 3]}
        for i in range(9)
    ]  # fmt: skip
    found = []
    for left in (False, True):
        model = load(module, _around(left))
        task = from_records(pairs, model.tokenizer)
        found.append(ew.evaluation.score(model, task).metrics)
        alone = []
        for pair in task.test:
            with torch.no_grad():
                logits = model.module(torch.tensor([pair.clean])).logits[0, -1]
            alone.append(float(logits[5] - logits[6]))
        assert found[-1]["logit_diff"].value == pytest.approx(sum(alone) / len(alone), rel=1e-6)
    assert found[0] == found[1]
    assert VOCABULARY > 45


# ------------------------------------------------------------------------------------------------------------- circuits


class _Gadget:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize("name", ["edges.pkl", "scores.pickle", "circuit.pt", "graph.pth"])
def test_acdcs_and_auto_circuits_pickles_are_refused_in_one_line(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(pickle.dumps([((("blocks.1.hook_q", 0), ("blocks.0.hook_mlp_out", None)), 0.3), _Gadget()]))
    with pytest.raises(InputError, match=f"^{name}: ") as caught:
        read_mib(name)
    said = one_line(caught)
    assert not Path("ran").exists()
    if name.endswith((".pkl", ".pickle", ".pth")):
        assert "from_edge_table" in said and "edges.json" in said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_layers", float("inf")),
        ("n_heads", 2.5),
        ("n_heads", "2"),
        ("n_layers", True),
        ("parallel_attn_mlp", "false"),
    ],
)
def test_sizes_of_a_circuits_graph_are_not_guessed(tmp_path: Path, key: str, value: Any):
    """What coverage-guided inputs led to: an infinite number of layers was a traceback, and 2.5 heads were 2."""
    graph = ew.Graph(ew.GraphSpec(1, 2, 2))
    ew.exchange.write_mib(ew.Circuit(graph, torch.ones(graph.n_edges, dtype=torch.bool)), tmp_path / "c.json", 8)
    content = json.loads((tmp_path / "c.json").read_text())
    content["cfg"][key] = value
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"{key} is .*; it must be ") as caught:
        read_mib(tmp_path / "c.json")
    one_line(caught)


# ------------------------------------------------------------------------------------------------------------- the page


def test_every_report_that_is_tried_here_stands_on_the_page():
    tried = re.findall(r'^    """([\w.]+) #(\d+): ', Path(__file__).read_text("utf-8"), re.MULTILINE)
    assert len(tried) >= 6
    for tool, number in tried:
        assert re.search(rf"\[{tool} #{number}\]\(https://github.com/\S+/(issues|pull)/{number}\)", PAGE), (
            tool,
            number,
        )
