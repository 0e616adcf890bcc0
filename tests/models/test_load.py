"""Loading: from a folder, from memory, and what is refused, in one line and at once."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from edgewise._errors import InputError
from edgewise.models import PlainTransformer, from_config, load, load_tokenizer
from edgewise.models._load import _FAMILIES, wrap
from tests.engines import assert_close, engine
from tests.tiny import VOCABULARY, collate, draw_prompts, own_logits, random_model

PROMPTS = draw_prompts((6, 3))


def _tokenizer(n_tokens: int = VOCABULARY) -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(n_tokens)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w1", pad_token="w1")


def _saved(folder: Path, name: str = "llama-gqa", tokenizer: bool = True) -> Any:
    module: Any = random_model(name, torch.float32).module
    module.save_pretrained(folder)
    if tokenizer:
        _tokenizer().save_pretrained(folder)
    return module


def _one_line(error: InputError) -> str:
    assert "\n" not in str(error)
    return str(error)


# -------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize(
    "name", ["gpt2", "gpt2-untied", "llama-gqa", "llama-mqa", "mistral-window", "qwen2", "qwen3", "neox-parallel"]
)
def test_a_saved_model_comes_back(tmp_path: Path, name: str):
    module = _saved(tmp_path, name)
    model = load(tmp_path)
    assert not model.module.training
    assert model.dtype == torch.float32
    assert len(model.tokenizer) == VOCABULARY
    expected = load(module)
    assert model.family == expected.family and model.graph() == expected.graph()
    assert torch.equal(own_logits(model, PROMPTS), own_logits(expected, PROMPTS))
    logits = engine(model).run(collate(PROMPTS), torch.ones(model.graph().n_edges))
    assert_close(logits, own_logits(expected, PROMPTS), 1e-5)
    assert model.identity == {
        "id": str(tmp_path),
        "revision": "",
        "weights_hash": expected.identity["weights_hash"],
        "dtype": "float32",
        "note": "",
    }


@pytest.mark.parametrize("spelling", ["absolute", "relative", "dotted", "home", "Path"])
def test_a_folder_may_be_spelled_in_many_ways(tmp_path: Path, spelling: str, monkeypatch: pytest.MonkeyPatch):
    _saved(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    name = {
        "absolute": str(tmp_path / "tiny"),
        "relative": "tiny",
        "dotted": "./tiny",
        "home": "~/tiny",
        "Path": Path("tiny"),
    }[spelling]
    model = load(name)
    assert model.family == "llama"
    assert model.tokenizer("w3 w7")["input_ids"] == [3, 7]


def test_type_and_tokenizer_may_be_chosen(tmp_path: Path):
    _saved(tmp_path)
    tokenizer = _tokenizer(20)
    model = load(tmp_path, tokenizer, dtype=torch.float64, device="cpu")
    assert model.dtype == torch.float64
    assert model.tokenizer is tokenizer
    assert model.identity["dtype"] == "float64"


def test_a_folder_without_a_tokenizer(tmp_path: Path):
    _saved(tmp_path, tokenizer=False)
    tokenizer = _tokenizer()
    assert load(tmp_path, tokenizer).tokenizer is tokenizer
    with pytest.raises(InputError, match="tokenizer") as caught:
        load(tmp_path)
    assert str(tmp_path) in _one_line(caught.value)


# --------------------------------------------------------------------------------------------------------------- memory


def test_a_module_in_memory_is_taken_as_it_is():
    module = random_model("gpt2", torch.float32).module
    tokenizer = _tokenizer()
    model = load(module, tokenizer)
    assert model.module is module and model.tokenizer is tokenizer
    assert model.identity["id"] == "GPT2LMHeadModel"
    module.config._name_or_path = "someone/gpt2"  # pyright: ignore
    assert load(module).identity["id"] == "someone/gpt2"
    assert load(module).tokenizer is None


def test_where_it_came_from_is_kept():
    module = random_model("gpt2").module
    source = {"id": "mine", "revision": "abc", "note": "4-bit", "weights_hash": "f00"}
    assert wrap(module, None, source).identity == source | {"dtype": "float64"}


def test_the_weights_hash_is_the_weights():
    first, second = random_model("gpt2"), random_model("gpt2")
    assert first.identity["weights_hash"] == second.identity["weights_hash"]
    assert len(first.identity["weights_hash"]) == 64
    third = random_model("gpt2")
    with torch.no_grad():
        list(third.module.parameters())[-1][-1] += 1e-12
    assert third.identity["weights_hash"] != first.identity["weights_hash"]
    assert random_model("gpt2", torch.float32).identity["weights_hash"] != first.identity["weights_hash"]
    assert random_model("gpt2", torch.bfloat16).identity["dtype"] == "bfloat16"


@pytest.mark.parametrize("n_tokens", [VOCABULARY - 1, VOCABULARY])
def test_a_tokenizer_may_be_smaller_than_the_model(n_tokens: int):
    assert load(random_model("gpt2").module, _tokenizer(n_tokens)).tokenizer is not None


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "neox-parallel", "plain"])
def test_a_tokenizer_larger_than_the_model_is_refused(name: str):
    with pytest.raises(
        InputError, match="tokenizer: it has 51 tokens and the model 50; pass the tokenizer that"
    ) as caught:
        load(random_model(name).module, _tokenizer(VOCABULARY + 1))
    _one_line(caught.value)


def test_added_tokens_that_the_model_has_not_are_no_reason_to_refuse():
    tokenizer = _tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert len(tokenizer) == VOCABULARY + 1
    assert load(random_model("gpt2").module, tokenizer).tokenizer is tokenizer


@pytest.mark.parametrize("model", ["module", "smollm2-135m", "tracr:reverse", "/nowhere"])
def test_what_is_no_tokenizer_is_refused(model: str):
    with pytest.raises(InputError, match="tokenizer: a str is no tokenizer; pass one loaded with") as caught:
        load(random_model("gpt2").module if model == "module" else model, "gpt2")
    _one_line(caught.value)


@pytest.mark.parametrize("name", ["smollm2-135m", "tracr:reverse", "some.gguf", "folder"])
def test_a_revision_of_what_has_none_is_refused(tmp_path: Path, name: str):
    for read in (load, load_tokenizer):
        place = name if ":" in name or name == "smollm2-135m" else str(tmp_path / name)
        with pytest.raises(InputError, match="revision='v1' is for models of the hub; leave it out") as caught:
            read(place, revision="v1")
        assert place in _one_line(caught.value)


def test_choices_that_a_module_in_memory_cannot_follow_are_refused():
    module = random_model("gpt2", torch.float32).module
    choices: list[dict[str, Any]] = [{"dtype": torch.float64}, {"device": "meta"}, {"revision": "main"}]
    for choice in choices:
        with pytest.raises(InputError, match=next(iter(choice))):
            load(module, **choice)
    assert isinstance(load(random_model("plain").module).module, PlainTransformer)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "../nowhere"])
def test_a_folder_that_is_not_there(name: str):
    with pytest.raises(
        InputError, match="no directory with a config.json there; give a directory written by save_pr"
    ) as caught:
        load(name)
    assert repr(name) in _one_line(caught.value)


def test_a_folder_without_a_config(tmp_path: Path):
    with pytest.raises(InputError, match="no directory with a config.json there"):
        load(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    with pytest.raises(InputError, match="no directory with a config.json there"):
        load(file)


@pytest.mark.parametrize("name", ["someone/no-such-model", "no-such-model", "not a name at all", "a/b/c"])
def test_a_hub_that_cannot_be_reached_is_told_at_once(name: str):
    start = time.perf_counter()
    with pytest.raises(
        InputError, match=r"could not be loaded \(.*\); give smollm2-135m, a hub id that .* or a local"
    ) as caught:
        load(name)
    assert repr(name) in _one_line(caught.value) and len(str(caught.value)) < 400
    assert time.perf_counter() - start < 5


def test_a_folder_without_some_weights_is_refused(tmp_path: Path):
    _saved(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = {name: x for name, x in load_file(path).items() if ".layers.1.mlp." not in name}
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(InputError, match=r"lack weights \(model.layers.1.mlp.down_proj.weight, .*would be random"):
        load(tmp_path)
    save_file({f"_orig_mod.{name}": x for name, x in weights.items()}, path, {"format": "pt"})
    with pytest.raises(InputError, match=r"lack weights \(lm_head.weight, .* and \d+ more\)"):
        load(tmp_path)


def test_an_adapter_is_named(tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="a PEFT adapter alone there"):
        load(tmp_path)
    module: Any = random_model("llama-gqa").module
    lora = type("Linear", (torch.nn.Linear,), {"__module__": "peft.tuners.lora.layer"})  # as PEFT puts it in
    module.model.layers[1].self_attn.q_proj = lora(32, 32, bias=False).eval()
    with pytest.raises(InputError, match=r"it has a PEFT adapter.*merge_and_unload\(\)$"):
        load(module)


@pytest.mark.parametrize("content", ["[1]", "3", "null", '"llama"'])
def test_a_configuration_that_is_no_object_is_one_line(tmp_path: Path, content: str):
    _saved(tmp_path)
    (tmp_path / "config.json").write_text(content)
    for read in (load, from_config):
        with pytest.raises(InputError) as caught:
            read(tmp_path)
        assert str(tmp_path) in _one_line(caught.value)


@pytest.mark.parametrize("damage", ["config", "weights", "no weights", "other family"])
def test_a_damaged_folder_is_one_line(tmp_path: Path, damage: str):
    _saved(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    if damage == "config":
        config.write_text("{")
    elif damage == "weights":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "no weights":
        weights.unlink()
    else:
        config.write_text(config.read_text().replace('"model_type": "llama"', '"model_type": "nonesuch"'))
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert str(tmp_path) in _one_line(caught.value)


@pytest.mark.parametrize(
    ("family", "key"), [("gpt2", "n_layer"), ("llama-gqa", "num_hidden_layers"), ("qwen2", "num_hidden_layers")]
)
def test_more_layers_than_any_model_has_are_refused_before_any_is_made(tmp_path: Path, family: str, key: str):
    module: Any = random_model(family, torch.float32).module
    module.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert key in config
    (tmp_path / "config.json").write_text(json.dumps(config | {key: 10**8}))
    for read in (load, from_config):
        begun = time.process_time()
        with pytest.raises(InputError, match="100,000,000 layers; give a model of at most 1,000") as caught:
            read(tmp_path)
        assert str(tmp_path) in _one_line(caught.value)
        assert time.process_time() - begun < 5


@pytest.mark.parametrize(("key", "name"), [("n_head", "num_attention_heads"), ("n_embd", "hidden_size")])
def test_sizes_that_no_model_has_are_refused(tmp_path: Path, key: str, name: str):
    module: Any = random_model("gpt2", torch.float32).module
    module.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: -2}))
    for read in (load, from_config):
        with pytest.raises(InputError, match=f"{name} is -2") as caught:
            read(tmp_path)
        assert str(tmp_path) in _one_line(caught.value)


# ----------------------------------------------------------------------------------------------------------------- docs


def test_the_page_of_models_names_every_family():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    rows = dict[str, str]()
    for kinds, family in re.findall(r"^\| (.*) \| `(\w+)` \|$", page, re.MULTILINE):
        rows |= dict.fromkeys(re.findall(r"`(\w+)`", kinds), family)
    assert rows == {kind: family for kind, (family, _) in _FAMILIES.items() if kind != "twisted"}
