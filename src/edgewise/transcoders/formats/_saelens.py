"""SAELens directories (version 6): `cfg.json` and `sae_weights.safetensors`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgewise._errors import InputError
from edgewise.runs import Keys, Only, record_of, whole_number, yes_or_no
from edgewise.transcoders import Activation, Site, Transcoder, TranscoderSpec
from edgewise.transcoders.formats import _files as files
from edgewise.transcoders.formats._format import Format, Sites
from edgewise.transcoders.formats._site_names import NAME_THEM, folded, hook_name, sites_named

_CONFIG, _WEIGHTS = "cfg.json", "sae_weights.safetensors"
_AUTOENCODERS = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu"}
_TRANSCODERS = {"transcoder": "relu", "jumprelu_transcoder": "jumprelu"}
_TRANSCODERS |= {"skip_transcoder": "relu", "jumprelu_skip_transcoder": "jumprelu"}
_CENTRED = ("mlp_out", "resid_pre", "resid_mid", "resid_post")
"""What `center_writing_weights` takes the mean off."""

METADATA = Keys(
    "SAELens: `metadata` of `cfg.json` (before version 6 beside the other keys)",
    honoured={
        "hook_name": "the site read. `ln2.hook_normalized` is after gain and bias in models with layer norms, before "
        "the gain in those with RMS norms, as TransformerLens has it; a module's path is its output",
        "hook_name_out": "the site that a transcoder writes; one that names none is refused until it is named",
        "model_class_name": "whether hooks are TransformerLens' (`HookedTransformer`, or absent) or modules' outputs "
        "(`AutoModelForCausalLM`); with any other both sites must be named",
        "model_from_pretrained_kwargs": "see the next table",
        "exclude_special_tokens": "true: its features are off at special tokens, and here at the first of each row "
        "too; a list of ids is refused until `exclude_special` is given",
    },
    refused={
        "hook_head_index": Only((-1,), "it is of one head alone, which no site here is"),
        "seqpos_slice": Only(([None], [None, None]), "it was made for some positions alone, which no site here says"),
    },
    irrelevant={
        "the model that it is for, kept with it": ("model_name", "hf_hook_name", "tlens_hook_name"),
        "how the text of its training was laid out; prompts here begin as their task says (`--bos`)": (
            *("prepend_bos", "context_size", "dataset_path", "dataset_trust_remote_code", "hook_layer"),
            *("sequence_separator_token", "disable_concat_sequences", "is_dataset_tokenized", "use_chat_formatting"),
        ),
        "for people": (
            *("sae_lens_version", "sae_lens_training_version", "neuronpedia_id", "tags", "training_tokens"),
            *("repo_id", "folder_name", "hook_eval", "hook_layer_out", "hook_head_index_out", "config"),
        ),
    },
)
LOADING = Keys(
    "SAELens: `model_from_pretrained_kwargs`",
    honoured={
        "fold_ln": "true: `ln2.hook_normalized` and `mlp.hook_in` are before gain and bias",
        "center_writing_weights": "true: sites of the residual stream and of MLP outputs are without their mean",
    },
    irrelevant={
        "they change nothing at an MLP's sites": (
            "center_unembed",
            "fold_value_biases",
            "refactor_factored_attn_matrices",
        ),
        "which weights of the model and how they are loaded; you load the model": (
            *("revision", "checkpoint_index", "checkpoint_value", "hf_model", "tokenizer", "trust_remote_code"),
            *("dtype", "torch_dtype", "device", "device_map", "n_devices", "move_to_device", "cache_dir"),
            *("default_prepend_bos", "default_padding_side", "attn_implementation", "local_files_only", "token"),
        ),
    },
)
_OLD = "of an old SAELens; load and save it with version 6"
KEYS = Keys(
    "SAELens: `cfg.json`",
    honoured={
        "architecture": "the kind; those not read (gated, batchtopk training files, …) are refused",
        "k": "of topk",
        "apply_b_dec_to_input": "whether an autoencoder takes `b_dec` off its input (absent: yes)",
        "metadata": "see the next table",
    },
    refused={
        "normalize_activations": Only(("none",), "only 'none' is read (fold it in with SAELens first)"),
        "reshape_activations": Only(("none",), "only 'none' is read"),
        "activation_fn_str": Only(("relu",), _OLD),
        "activation_fn": Only(("relu",), _OLD),
        "finetuning_scaling_factor": Only((False,), _OLD),
        "rescale_acts_by_decoder_norm": Only((False,), "fold it in with SAELens' fold_W_dec_norm first"),
    },
    irrelevant={
        "the tensors tell": ("d_in", "d_sae", "d_out", "dtype", "expansion_factor"),
        "of the training alone": (
            *("activation_fn_kwargs", "noise_std", "mse_loss_normalization", "decoder_init_norm", "l1_coefficient"),
            *("lp_norm", "l1_warm_up_steps", "l0_coefficient", "l0_warm_up_steps", "aux_loss_coefficient"),
            *("jumprelu_init_threshold", "jumprelu_bandwidth", "jumprelu_sparsity_loss_mode", "jumprelu_tanh_scale"),
            *("pre_act_loss_coefficient", "topk_threshold_lr", "use_sparse_activations", "decoder_heuristic_init"),
        ),
        "where it was computed": ("device", "sae_lens_version"),
    },
)


def read(path: Path, sites: Sites) -> list[Transcoder]:
    """Read a directory."""
    config = files.read_json(path / _CONFIG)
    architecture = str(config.get("architecture", "standard"))
    kinds = _AUTOENCODERS | _TRANSCODERS
    if architecture not in kinds:
        raise InputError(f"{path}: architecture {architecture!r} is not read; {', '.join(kinds)} are")
    said = _said(path, config)
    is_transcoder = architecture in _TRANSCODERS
    tensors = files.tensors_of(path / _WEIGHTS)
    found = files.weights_in(tensors, path, turned=["W_enc"])
    if not is_transcoder and yes_or_no(path, "apply_b_dec_to_input", config.get("apply_b_dec_to_input", True)):
        found["b_in"] = found["b_dec"].clone()
    reads, writes = _sites(path, said, is_transcoder, sites)
    activation = Activation(
        kinds[architecture], whole_number(path, "k", config["k"]) if architecture == "topk" else None
    )
    excludes = _exclude_special(path, said, sites)
    return [files.built(path, found, activation, reads, [writes], excludes, format="saelens", metadata=said)]


def _said(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What a file says of the model, its sites and its tokens, once every key is seen to be known."""
    metadata = config.get("metadata") or {}
    known = {*METADATA.honoured, *METADATA.refused, *(key for keys in METADATA.irrelevant.values() for key in keys)}
    beside = {key: value for key, value in config.items() if key in known - {"sae_lens_version"}}
    KEYS.check(path, {key: value for key, value in config.items() if key not in beside})
    METADATA.check(path, beside | metadata)
    loading = (beside | metadata).get("model_from_pretrained_kwargs") or {}
    LOADING.check(path, loading)
    for key in LOADING.honoured:
        yes_or_no(path, key, loading.get(key) or False)
    return beside | metadata


def _sites(path: Path, said: dict[str, Any], is_transcoder: bool, given: Sites) -> tuple[Site, Site]:
    """The two sites, as the model is that they were taken from."""
    if given.reads is not None and (given.writes is not None or not is_transcoder):
        return sites_named(path, given, None, None, autoencoder=not is_transcoder)
    of_modules = said.get("model_class_name") == "AutoModelForCausalLM"
    if not of_modules and said.get("model_class_name") not in (None, "HookedTransformer"):
        raise InputError(
            f"{path}: its sites are of a {said['model_class_name']}, whose hooks are not known; {NAME_THEM}"
        )
    for key, named in (("hook_name", given.reads), ("hook_name_out", given.writes)):
        if is_transcoder and named is None and not said.get(key):
            raise InputError(f"{path}: it does not say its {key}; {NAME_THEM}")
    names = said.get("hook_name"), said.get("hook_name_out")
    loading = said.get("model_from_pretrained_kwargs") or {}
    found = sites_named(path, given, *names, autoencoder=not is_transcoder, of_modules=of_modules)
    reads, writes = (
        own or _as_loaded(site, loading) for own, site in zip((given.reads, given.writes), found, strict=True)
    )
    return reads, writes if is_transcoder else reads


def _as_loaded(site: Site, loading: dict[str, Any]) -> Site:
    """A hook's site in a model that TransformerLens has loaded so."""
    site = folded(site) if loading.get("fold_ln") else site
    return replace(site, centred=True) if loading.get("center_writing_weights") and site.kind in _CENTRED else site


def _exclude_special(path: Path, said: dict[str, Any], given: Sites) -> bool:
    if given.exclude_special is not None:
        return given.exclude_special
    value = said.get("exclude_special_tokens") or False
    if not isinstance(value, bool):
        raise InputError(
            f"{path}: exclude_special_tokens is {str(value)[:40]}, tokens of its own; give exclude_special=True (all "
            "of the tokenizer's special tokens) or False"
        )
    return value


def write(transcoders: Sequence[Transcoder], path: Path) -> None:
    """Write a directory that SAELens loads. `batch_topk` becomes `jumprelu`, as SAELens itself does it."""
    transcoder = files.one(transcoders, "saelens")
    spec = transcoder.spec
    kinds = ["relu", "jumprelu", "batch_topk"] + (["topk"] if spec.is_autoencoder else [])
    centred = _CENTRED if spec.writes[0].centred else ()
    reads = ["resid_pre", "resid_mid", "hook_normalized", "mlp_out", "resid_post"]
    reads += ["mlp_normalized"] if spec.reads.kind == "mlp_normalized" else ["mlp_in"]
    files.require(transcoder, "saelens", kinds, skip=not spec.is_autoencoder, reads=reads, centred=centred)
    tied = transcoder.b_in is not None and spec.is_autoencoder and torch.equal(transcoder.b_in, transcoder.b_dec)
    form = transcoder if tied else files.without_input_bias(transcoder)
    config: dict[str, Any] = {
        "architecture": _architecture(spec),
        "d_in": spec.d_in,
        "d_sae": spec.n_features,
        "dtype": str(form.W_enc.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": tied,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": _metadata(transcoder),
    }
    if not spec.is_autoencoder:
        config["d_out"] = spec.d_out
    if spec.activation.kind == "topk":
        config |= {"k": spec.activation.k, "rescale_acts_by_decoder_norm": False}
    files.write_weights(path / _WEIGHTS, files.weights_of(form, turned=["W_enc"]))
    files.write_json(path / _CONFIG, config)


def _architecture(spec: TranscoderSpec) -> str:
    kind = "jumprelu" if spec.activation.thresholded else spec.activation.kind
    if spec.is_autoencoder:
        return {kind: name for name, kind in _AUTOENCODERS.items()}[kind]
    return ("jumprelu_" if kind == "jumprelu" else "") + ("skip_" if spec.skip else "") + "transcoder"


def _metadata(transcoder: Transcoder) -> dict[str, Any]:
    """SAELens' own keys. Without a version of 6 or later it would take the file for an old one and rewrite it."""
    spec, provenance = transcoder.spec, transcoder.provenance
    known = record_of(provenance, "metadata")
    settings = record_of(provenance, "method")
    own = {
        "sae_lens_version": "6.54.12",
        "sae_lens_training_version": None,
        "model_name": record_of(provenance, "model").get("id"),
        "context_size": record_of(settings, "text").get("context"),
        "prepend_bos": True,
        "dataset_path": None,
    }
    # Before the norm's gain and bias is where TransformerLens has that hook in a model whose norms it has folded.
    loading = {"fold_ln": True} if spec.reads.kind == "mlp_normalized" else {}
    loading |= {"center_writing_weights": True} if spec.writes[0].centred else {}
    decides = {
        "model_class_name": "HookedTransformer",
        "model_from_pretrained_kwargs": loading,
        "hook_name": hook_name(spec.reads, folded=True),
        "hook_name_out": None if spec.is_autoencoder else hook_name(spec.writes[0]),
        "hook_head_index": None,
        "exclude_special_tokens": spec.exclude_special,
    }
    return own | known | decides


def _is_theirs(path: Path) -> bool:
    return (path / _WEIGHTS).is_file()


FORMAT = Format(
    "saelens", "SAELens 6 folder: relu, jumprelu (batch_topk); autoencoders also topk", _is_theirs, read, write
)
