"""A GGUF file written by the format's own package from a module in memory, read back."""

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from edgewise._errors import InputError
from edgewise.models import _default, _gguf, load, load_tokenizer
from edgewise.models._gguf import read, read_llama

_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_MERGES = [("Ġ", "Ġ"), ("t", "h"), ("th", "e"), ("Ġ", "the")]
_TOKENS = [*_SPECIAL, *sorted(bytes_to_unicode().values()), *("".join(merge) for merge in _MERGES)]
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True)
class _Recipe:
    """What to write: a model's shape, how its matrices are stored, and what is to be wrong with the file."""

    kv_heads: int = 2
    tied: bool = True
    stored_as: GGMLQuantizationType = GGMLQuantizationType.F32
    architecture: str = "llama"
    pre: str = "smollm"
    extra_tensor: str = ""
    scaling: str = ""
    window: int | None = None
    bos: bool = False


def _module(recipe: _Recipe) -> LlamaForCausalLM:
    qwen2 = recipe.architecture == "qwen2"
    config = (Qwen2Config if qwen2 else LlamaConfig)(
        vocab_size=len(_TOKENS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=recipe.kv_heads,
        rms_norm_eps=2.0**-14,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        tie_word_embeddings=recipe.tied,
    )
    module: Any = (Qwen2ForCausalLM if qwen2 else LlamaForCausalLM)(config).eval()  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for parameter in module.parameters():  # norms that are not all ones, and weights that matter
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1))
    return module


def _as_llama_cpp(name: str, weight: torch.Tensor, config: LlamaConfig) -> np.ndarray:
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(name)
    rows = weight.numpy()
    if heads is None or config.model_type == "qwen2":
        return rows
    # What llama.cpp's converter does to the rows of q and k (convert_hf_to_gguf.py, LlamaModel.permute).
    return rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def _write_gguf(path: Path, module: LlamaForCausalLM, recipe: _Recipe) -> Path:
    config = module.config
    writer = GGUFWriter(path, recipe.architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(128)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(recipe.kv_heads)
    writer.add_rope_freq_base(500.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if recipe.scaling:
        writer.add_string(f"{recipe.architecture}.rope.scaling.type", recipe.scaling)
    if recipe.window is not None:
        writer.add_sliding_window(recipe.window)
    if recipe.bos:
        writer.add_add_bos_token(True)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(recipe.pre)
    writer.add_token_list(_TOKENS)
    special, normal = [TokenType.CONTROL] * len(_SPECIAL), [TokenType.NORMAL] * (len(_TOKENS) - len(_SPECIAL))
    writer.add_token_types(special + normal)
    writer.add_token_merges([" ".join(merge) for merge in _MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    tensors = {"token_embd": module.model.embed_tokens.weight, "output_norm": module.model.norm.weight}
    if not recipe.tied:
        tensors["output"] = module.lm_head.weight
    for index, layer in enumerate(module.model.layers):
        tensors |= {f"blk.{index}.{ours}": layer.get_submodule(name).weight for name, ours in _NAMES.items()}
        if recipe.architecture == "qwen2":
            for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
                bias = layer.get_parameter(f"{name}.bias").detach().numpy()
                writer.add_tensor(f"blk.{index}.{_NAMES[name]}.bias", bias, raw_dtype=GGMLQuantizationType.F32)
    for name, weight in tensors.items():
        rows = _as_llama_cpp(name.split(".")[-1], weight.detach(), config)
        kind = recipe.stored_as if rows.ndim == 2 else GGMLQuantizationType.F32
        writer.add_tensor(f"{name}.weight", quantize(rows, kind), raw_dtype=kind)
    if recipe.extra_tensor:
        writer.add_tensor(recipe.extra_tensor, np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("tied", [True, False])
def test_a_module_written_and_read_back_computes_the_same(tmp_path: Path, kv_heads: int, tied: bool):
    recipe = _Recipe(kv_heads=kv_heads, tied=tied)
    module = _module(recipe)
    checkpoint = read_llama(_write_gguf(tmp_path / "m.gguf", module, recipe))
    again = LlamaForCausalLM(checkpoint.config).eval()
    missing, unexpected = again.load_state_dict(checkpoint.weights, strict=False)
    assert unexpected == [] and missing == (["lm_head.weight"] if tied else [])
    ids = torch.randint(len(_TOKENS), (3, 17))
    with torch.no_grad():
        assert torch.equal(again(ids).logits, module(ids).logits)


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0])
def test_quantised_weights_are_what_the_format_says(tmp_path: Path, kind: GGMLQuantizationType):
    recipe = _Recipe(stored_as=kind)
    module = _module(recipe)
    checkpoint = read_llama(_write_gguf(tmp_path / "m.gguf", module, recipe))
    assert {weight.dtype for weight in checkpoint.weights.values()} == {torch.float32}
    for name in ("model.embed_tokens", "model.layers.1.mlp.down_proj", "model.layers.0.self_attn.v_proj"):
        stored = quantize(module.get_parameter(f"{name}.weight").detach().numpy(), kind)
        np.testing.assert_array_equal(checkpoint.weights[f"{name}.weight"].numpy(), _decode(stored, kind))


def _decode(stored: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Blocks of 32 weights: Q8_0 a 16-bit scale and bytes, Q4_1 a scale, a minimum and half-bytes (ggml-quants.c)."""
    blocks = stored.reshape(-1, 20 if kind == GGMLQuantizationType.Q4_1 else 34)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    if kind == GGMLQuantizationType.Q8_0:
        return (scale * blocks[:, 2:].view(np.int8).astype(np.float32)).reshape(len(stored), -1)
    minimum = blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
    quants = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1).astype(np.float32)
    return (scale * quants + minimum).reshape(len(stored), -1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    recipe = _Recipe()
    path = _write_gguf(tmp_path_factory.mktemp("gguf") / "m.gguf", _module(recipe), recipe)
    return read_llama(path).tokenizer


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (" the the", ["Ġthe", "Ġthe"]),
        ("1732", ["1", "7", "3", "2"]),
        ("the  5", ["the", "ĠĠ", "5"]),  # GPT-2's pattern alone would leave one space to the number
        ("½²", ["Â", "½", "Â", "²"]),
        ("<|im_start|>the<|im_end|>", ["<|im_start|>", "the", "<|im_end|>"]),
    ],
)
def test_tokens(tokenizer: PreTrainedTokenizerFast, text: str, tokens: list[str]):
    assert tokenizer.tokenize(text) == tokens


@settings(max_examples=50)
@given(text=st.text())
def test_any_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_tokenizer_settings(tokenizer: PreTrainedTokenizerFast):
    assert set(tokenizer("the")) == {"input_ids", "attention_mask"}
    assert [getattr(tokenizer, f"{role}_token_id") for role in ("unk", "bos", "eos", "pad")] == [0, 1, 2, 2]
    assert tokenizer("the").input_ids == tokenizer.convert_tokens_to_ids(["the"])  # nothing put in front
    assert tokenizer.decode([1, *tokenizer("the").input_ids, 2], skip_special_tokens=True) == "the"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "the"}], tokenize=False) == "the"
    assert tokenizer.model_max_length == 128 and len(tokenizer) == len(_TOKENS)


@pytest.mark.parametrize(
    ("recipe", "complaint"),
    [
        (_Recipe(architecture="gemma"), "general.architecture is 'gemma'; only 'llama'"),
        (_Recipe(pre="qwen2"), "tokenizer.ggml.pre is 'qwen2'; only 'smollm'"),
        (_Recipe(extra_tensor="blk.0.attn_q.bias"), "tensor blk.0.attn_q.bias has no place"),
        (_Recipe(extra_tensor="rope_freqs.weight"), "tensor rope_freqs.weight has no place"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, recipe: _Recipe, complaint: str):
    path = _write_gguf(tmp_path / "m.gguf", _module(recipe), recipe)
    with pytest.raises(InputError, match=complaint) as caught:
        read_llama(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 3, 100, 3000, -1000])
def test_a_damaged_file_is_refused(tmp_path: Path, keep: int):
    whole = _write_gguf(tmp_path / "whole.gguf", _module(_Recipe()), _Recipe()).read_bytes()
    path = tmp_path / "damaged.gguf"
    path.write_bytes(whole[:keep] if keep else b"not a model at all")
    with pytest.raises(InputError, match="not a readable GGUF file"):
        read_llama(path)


def test_weights_of_a_kind_that_nobody_knows_are_refused(tmp_path: Path):
    name, path = b"token_embd.weight", tmp_path / "m.gguf"
    data = bytearray(_write_gguf(path, _module(_Recipe()), _Recipe()).read_bytes())
    at = data.index(name) + len(name)  # then the number of its dimensions, the dimensions, and the kind
    kind = at + 4 + 8 * int.from_bytes(data[at : at + 4], "little")
    data[kind : kind + 4] = (9999).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(InputError, match="not a readable GGUF file"):
        read(path)


# --------------------------------------------------------------------------------------- what transformers itself reads

_QWEN2 = _Recipe(architecture="qwen2", pre="qwen2", tied=False, stored_as=GGMLQuantizationType.Q8_0)


def test_a_file_is_a_model_and_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    recipe = replace(_QWEN2, stored_as=GGMLQuantizationType.F32)
    own = _module(recipe)
    _write_gguf(Path("mine.gguf"), own, recipe)
    model = load("mine.gguf")
    assert model.identity["note"] == "GGUF file of F32 weights" and model.identity["id"] == "mine.gguf"
    assert model.family == "llama" and model.dtype == torch.float32
    ids = torch.randint(len(_TOKENS), (3, 17))
    with torch.no_grad():
        torch.testing.assert_close(model.module(input_ids=ids).logits, own(ids).logits, rtol=1e-4, atol=1e-4)
    assert model.tokenizer("the the 1732").input_ids == load_tokenizer("mine.gguf")("the the 1732").input_ids
    assert model.tokenizer.decode(model.tokenizer("the <|im_start|>5").input_ids) == "the <|im_start|>5"
    monkeypatch.setattr(_gguf, "read", None)  # not read again
    again = load("mine.gguf", dtype=torch.float64)
    assert again.dtype == torch.float64 and again.identity["weights_hash"] == model.identity["weights_hash"]


def test_a_llama_with_our_pre_tokenizer_is_read_as_the_default_model_is(tmp_path: Path):
    recipe = _Recipe(stored_as=GGMLQuantizationType.Q4_1)
    path = _write_gguf(tmp_path / "m.gguf", _module(recipe), recipe)
    found, expected = _gguf.read(path), read_llama(path)
    assert all(torch.equal(x, expected.weights[name]) for name, x in found.weights.items())
    assert found.note == "GGUF file of Q4_1, F32 weights" and found.tokenizer.tokenize("1732") == ["1", "7", "3", "2"]


def test_a_bos_that_the_file_asks_for_stands_first(tmp_path: Path):
    recipe = _Recipe(bos=True)
    found = read_llama(_write_gguf(tmp_path / "m.gguf", _module(recipe), recipe)).tokenizer
    assert found("the").input_ids == [1, *found("the", add_special_tokens=False).input_ids]


@pytest.mark.parametrize("recipe", [_Recipe(), _QWEN2], ids=["llama", "qwen2"])
def test_what_a_configuration_would_lose_is_refused(tmp_path: Path, recipe: _Recipe):
    """llama.cpp #8676: what the file says of the arithmetic, and no reader's table has."""
    for number, harmless in enumerate((replace(recipe, scaling="none"), replace(recipe, window=0))):
        _gguf.read(_write_gguf(tmp_path / f"{number}.gguf", _module(recipe), harmless))
    for key, changes in (("rope.scaling.type", {"scaling": "yarn"}), ("attention.sliding_window", {"window": 3})):
        path = _write_gguf(tmp_path / f"{key}.gguf", _module(recipe), replace(recipe, **changes))
        with pytest.raises(InputError, match=rf"its {recipe.architecture}.{key} \(\w+\) would be lost") as caught:
            _gguf.read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "complaint"),
    [
        (replace(_QWEN2, pre="nobody's"), r"nobody here cuts texts as its tokenizer.ggml.pre \"nobody's\" says"),
        (
            replace(_QWEN2, extra_tensor="rope_freqs.weight"),
            r"it holds [\d,]+ weights, of which transformers' qwen2 takes",
        ),
        (replace(_QWEN2, architecture="nonesuch"), r"transformers cannot read this GGUF file \(.*nonesuch"),
    ],
)
def test_what_would_be_read_in_part_is_refused(tmp_path: Path, recipe: _Recipe, complaint: str):
    path = _write_gguf(tmp_path / "m.gguf", _module(replace(recipe, architecture="qwen2")), recipe)
    with pytest.raises(InputError, match=complaint) as caught:
        _gguf.read(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such file; give a GGUF file"):
        load(tmp_path / "other.gguf")


@pytest.mark.parametrize(("n", "said"), [(10**8, "100,000,000 layers"), (900, "says that it has 900 layers")])
def test_more_layers_than_there_are_are_refused_at_once(tmp_path: Path, n: int, said: str):
    key, path = b"qwen2.block_count", tmp_path / "m.gguf"
    data = bytearray(_write_gguf(path, _module(_QWEN2), _QWEN2).read_bytes())
    at = data.index(key) + len(key) + 4  # after its type
    data[at : at + 4] = n.to_bytes(4, "little")
    path.write_bytes(data)
    begun = time.process_time()
    with pytest.raises(InputError, match=said):
        read(path)
    assert time.process_time() - begun < 5


def test_space_is_asked_for_as_much_as_the_weights_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = replace(_QWEN2, stored_as=GGMLQuantizationType.F32)
    _write_gguf(tmp_path / "mine.gguf", module := _module(recipe), recipe)
    needed = 4 * sum(x.numel() for x in module.parameters())
    assert _gguf.unpacked_bytes(tmp_path / "mine.gguf") == needed
    for free, enough in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(_default.shutil, "disk_usage", lambda _, n=free: SimpleNamespace(free=n))
        with nullcontext() if enough else pytest.raises(InputError, match="are free; set EDGEWISE_CACHE"):
            _default._require_space(tmp_path, tmp_path / "mine.gguf", "read")
