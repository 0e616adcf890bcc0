"""Reading a checkpoint out of a GGUF file, llama.cpp's one-file format, as float32.

`transformers` reads most of them. It does not know the `smollm` pre-tokenizer, which splits numbers into single digits;
such files are read here, and the format's own `gguf` package does the hard part.
"""

from collections import Counter
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, TokenType, dequantize
from jaxtyping import Float
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import LlamaConfig, PreTrainedTokenizerFast

from edgewise._errors import InputError
from edgewise.models import _gguf_keys
from edgewise.models._configuration import check_stated_depth

_KIND = {"general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"}

# GGUF's names (gguf.constants.TENSOR_NAMES) and what `LlamaForCausalLM` calls the same tensors.
_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


_KNOWN_SPLITS = "gpt-2 qwen2 llama3 llama-v3 llama-bpe falcon3 tekken gpt-4o dbrx smaug-bpe".split()  # noqa: SIM905
"""How byte-level tokenizers cut texts first (`tokenizer.ggml.pre`), of those that `transformers` does as llama.cpp."""


class Checkpoint(NamedTuple):
    """What a causal language model is made of."""

    config: Any
    """Its `transformers` configuration."""
    weights: dict[str, Tensor]
    """Float32, under the module's own names; without `lm_head.weight` where the embeddings are tied."""
    tokenizer: Any
    note: str = ""
    """How the weights were stored."""


def read(path: Path) -> Checkpoint:
    """Read configuration, weights and tokenizer of any model that `transformers` can read from a GGUF file.

    Raises:
        InputError: the file cannot be read, or only in part: weights or scaling that the module would not have, a
            tokenizer that would cut texts otherwise.
    """
    fields, n_tensors, stored = _header(path)
    note = f"GGUF file of {', '.join(kind for kind, _ in stored.most_common())} weights"
    architecture, kind, split = (fields.get(key) for key in _KIND)
    if (architecture, kind, split) == tuple(_KIND.values()):
        found = read_llama(path)
        _gguf_keys.check(path, str(architecture), fields, found.config)
        return found._replace(note=note)
    if kind == "gpt2" and split not in _KNOWN_SPLITS:
        raise InputError(f"{path}: nobody here cuts texts as its tokenizer.ggml.pre {split!r} says")
    try:
        found = _by_transformers(path, n_tensors)
    except Exception as error:  # transformers raises many kinds; the user needs one line
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: transformers cannot read this GGUF file ({reason[:160]})") from error
    _gguf_keys.check(path, str(architecture), fields, found.config)
    if (here := sum(x.numel() for x in found.weights.values())) != stored.total():
        raise InputError(
            f"{path}: it holds {stored.total():,} weights, of which transformers' {found.config.model_type} takes "
            f"{here:,}; give the model's own folder or hub id"
        )
    return found._replace(note=note)


def unpacked_bytes(path: Path) -> int:
    """What `read` makes of a file. Raises `InputError` as `read` does."""
    return _header(path)[2].total() * torch.float32.itemsize


def _header(path: Path) -> tuple[dict[str, Any], int, "Counter[str]"]:
    """A file's fields, its number of tensors, and how many weights are stored in each type."""
    if find_spec("transformers.integrations.gguf") is None:  # those before do not cut texts as the file says
        raise InputError(f"{path}: this needs a newer transformers; pip install --upgrade transformers")
    from transformers.integrations.gguf import reader

    try:  # in no time, where the format's own package takes 16 s for a vocabulary of 150,000
        mapped = reader._mapped(str(path))
        fields, n_tensors, after = reader._read_metadata(mapped, str(path))
        tensors, _ = reader._read_tensor_table(mapped, n_tensors, after)
        stored = Counter[str]()
        for _, shape, kind, _ in tensors:
            stored[GGMLQuantizationType(kind).name] += prod(shape)
    except Exception as error:  # whatever a damaged file leads to
        raise InputError(f"{path}: not a readable GGUF file ({error})") from error
    return fields, n_tensors, stored


def _by_transformers(path: Path, n_tensors: int) -> Checkpoint:
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    values = load_gguf_checkpoint(path)["config"]
    check_stated_depth("its configuration", values)
    if (n_layers := values.get("num_hidden_layers", 0)) > n_tensors:  # for whose names transformers would take minutes
        raise InputError(f"it says that it has {n_layers} layers, and has {n_tensors} tensors")
    config = AutoConfig.for_model(**values)
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    config.architectures, config.dtype = [type(module).__name__], torch.float32
    if config.model_type == "gemma2" and config.num_hidden_layers == 46:  # of the 27B alone, and not in the file
        config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads
    read = load_gguf_checkpoint(path, return_tensors=True, model_to_load=module)
    weights = {name: weight.float().contiguous() for name, weight in read["tensors"].items()}
    # AutoTokenizer would read all of the file's fields once more to find the class.
    tokenizer: Any = tokenizer_class_from_name(str(TOKENIZER_MAPPING_NAMES[config.model_type]))
    return Checkpoint(config, weights, tokenizer.from_pretrained(path.parent, gguf_file=path.name))


def read_llama(path: str | Path) -> Checkpoint:
    """Read a GGUF file of architecture `llama` with a `gpt2` tokenizer and the `smollm` pre-tokenizer.

    Every weight is dequantised to float32 exactly as stored. Raises `InputError` for a file that is no GGUF file, is
    damaged, or holds another kind of model or tokenizer.
    """
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError) as error:  # the second where a file ends too early
        raise InputError(f"{path}: not a readable GGUF file ({error})") from error
    try:
        for key, value in _KIND.items():
            if (found := _field(reader, key)) != value:
                raise InputError(f"{path}: {key} is {found!r}; only {value!r} can be read")
        config = _config(reader)
        return Checkpoint(config, _weights(reader, config, path), _tokenizer(reader, config))
    except InputError:
        raise
    except Exception as error:  # whatever damaged fields lead to
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a whole GGUF file ({type(error).__name__}: {reason[:120]})") from error


def _field(reader: GGUFReader, key: str, default: Any = None) -> Any:
    field = reader.get_field(key)
    return default if field is None else field.contents()


def _config(reader: GGUFReader) -> LlamaConfig:
    heads = _field(reader, "llama.attention.head_count")
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        vocab_size=len(reader.fields["tokenizer.ggml.tokens"].data),
        hidden_size=_field(reader, "llama.embedding_length"),
        intermediate_size=_field(reader, "llama.feed_forward_length"),
        num_hidden_layers=_field(reader, "llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=_field(reader, "llama.attention.head_count_kv", heads),
        max_position_embeddings=_field(reader, "llama.context_length"),
        rms_norm_eps=_field(reader, "llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": _field(reader, "llama.rope.freq_base", 10000.0)},
        tie_word_embeddings=all(tensor.name != "output.weight" for tensor in reader.tensors),
        bos_token_id=_field(reader, "tokenizer.ggml.bos_token_id"),
        eos_token_id=_field(reader, "tokenizer.ggml.eos_token_id"),
        pad_token_id=_field(reader, "tokenizer.ggml.padding_token_id"),
    )


def _weights(reader: GGUFReader, config: LlamaConfig, path: str | Path) -> dict[str, Tensor]:
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        *layer, name, kind = tensor.name.split(".")
        known = _LAYER_TENSORS if layer else _TENSORS
        if name not in known or kind != "weight":
            raise InputError(f"{path}: tensor {tensor.name} has no place in a Llama without biases")
        if name in heads:
            weight = _interleaved_to_halves(weight, heads[name])
        prefix = f"model.layers.{layer[1]}." if layer else ""
        weights[f"{prefix}{known[name]}.weight"] = weight
    return weights


def _interleaved_to_halves(weight: Float[Tensor, "HK D"], heads: int) -> Float[Tensor, "HK D"]:
    # llama.cpp rotates neighbouring pairs of a head's dimensions, transformers dimension i with i + K/2; llama.cpp's
    # converter (convert_hf_to_gguf.py, LlamaModel.permute) reorders the rows of q and k for that, and this undoes it.
    rows, width = weight.shape
    return weight.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def _tokenizer(reader: GGUFReader, config: LlamaConfig) -> PreTrainedTokenizerFast:
    tokens: list[str] = _field(reader, "tokenizer.ggml.tokens")
    kinds: list[int] = _field(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in _field(reader, "tokenizer.ggml.merges")]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    # llama.cpp's `smollm`: each digit alone first, then GPT-2's pattern (llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM).
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    if _field(reader, "tokenizer.ggml.add_bos_token"):
        first = _field(reader, "tokenizer.ggml.bos_token_id")
        backend.post_processor = processors.TemplateProcessing(
            single=f"{tokens[first]} $A", special_tokens=[(tokens[first], first)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{
            f"{role}_token": tokens[number]
            for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
            if (number := _field(reader, f"tokenizer.ggml.{key}_token_id")) is not None
        },
        chat_template=_field(reader, "tokenizer.chat_template"),
        model_max_length=config.max_position_embeddings,
        # Without this a batch would carry `token_type_ids`, which no Llama takes.
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
