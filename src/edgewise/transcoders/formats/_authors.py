"""The `.pt` files of the paper's authors (Dunefsky, Chlenski & Nanda 2024): a pickled configuration and a state dict.

Their `b_dec` is what is taken off the *input*, and `b_dec_out` what is added to the output; an autoencoder has one
`b_dec` for both. The models were processed by TransformerLens, so outputs are centred.
"""

import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from edgewise._errors import InputError
from edgewise.runs import Keys, Only, atomic_path, read_pickle, record_of
from edgewise.transcoders import Activation, Site, Transcoder
from edgewise.transcoders.formats import _files as files
from edgewise.transcoders.formats._format import Format, Sites
from edgewise.transcoders.formats._site_names import (
    NAME_THEM,
    autoencoder_site,
    folded,
    hook_name,
    named_site,
    sites_for,
)

KEYS = Keys(
    "The paper's authors: `cfg` of a `.pt`",
    honoured={
        "hook_point": "the site read, of a model whose norms are folded: `ln2.hook_normalized` is before gain and bias",
        "out_hook_point": "the site that a transcoder writes; MLP outputs are without their mean",
    },
    refused={
        "hook_point_head_index": Only((), "it is of one head alone, which no site here is"),
        "is_sparse_connection": Only((False,), "it joins two transcoders, which is not read"),
    },
    irrelevant={
        "the tensors tell": (
            *("d_in", "d_out", "d_sae", "expansion_factor", "is_transcoder", "dtype", "hook_point_layer"),
            "out_hook_point_layer",
        ),
        "the model that it is for, kept with it": ("model_name",),
        "of the training alone": (
            *("l1_coefficient", "lr", "lr_scheduler_name", "lr_warm_up_steps", "train_batch_size", "context_size"),
            *("total_training_tokens", "n_batches_in_buffer", "store_batch_size", "feature_sampling_method"),
            *("feature_sampling_window", "feature_reinit_scale", "dead_feature_threshold", "dead_feature_window"),
            *("dead_feature_estimation_method", "resample_batches", "use_ghost_grads", "b_dec_init_method", "seed"),
            *("sparse_connection_sae_path", "sparse_connection_l1_coeff", "sparse_connection_use_W_enc", "run_name"),
            *("is_dataset_tokenized", "dataset_path", "use_cached_activations", "cached_activations_path", "device"),
            *("log_to_wandb", "wandb_project", "wandb_entity", "wandb_log_frequency", "n_checkpoints"),
            *("checkpoint_path", "from_pretrained_path", "tokens_per_buffer"),
        ),
    },
)
_MODULE, _CLASS = "sae_training.config", "LanguageModelSAERunnerConfig"


class _Settings:
    """Stands for the authors' configuration class: a bag of attributes, with none of its code."""


def read(path: Path, sites: Sites) -> list[Transcoder]:
    """Read a `.pt` file. Nothing is unpickled but tensors and the one configuration class, as plain attributes."""
    found = read_pickle(path, [(_Settings, f"{_MODULE}.{_CLASS}")])
    if not isinstance(found, dict) or not {"cfg", "state_dict"} <= found.keys():
        raise InputError(f"{path}: not a file of the authors' transcoders, which hold cfg and state_dict")
    settings, state = vars(found["cfg"]), dict(found["state_dict"])
    KEYS.check(path, settings)
    tensors, is_transcoder = files.weights_in(state, path, turned=["W_enc"], also=["b_dec_out"]), "b_dec_out" in state
    tensors |= {"b_in": tensors["b_dec"], "b_dec": state["b_dec_out"] if is_transcoder else tensors["b_dec"]}
    reads, writes = _sites(path, settings, is_transcoder, sites)
    plain = {name: x for name, x in settings.items() if isinstance(x, int | float | str | bool | None)}
    return [files.built(path, tensors, Activation("relu"), reads, [writes], format="authors", settings=plain)]


def _sites(path: Path, settings: dict[str, Any], is_transcoder: bool, given: Sites) -> tuple[Site, Site]:
    def named(name: str, *, output: bool) -> Site | None:
        site = named_site(path, settings.get(name), output=output)
        return site if site is None else replace(folded(site), centred=site.kind == "mlp_out")

    reads = given.reads or named("hook_point", output=not is_transcoder)
    if not is_transcoder:
        site = autoencoder_site(path, reads)
        return site, site
    writes = given.writes or named("out_hook_point", output=True)
    if writes is None:
        raise InputError(f"{path}: the file does not say what it writes; {NAME_THEM}")
    return sites_for(path, "mlp_normalized", "mlp_out", Sites(reads, writes))


def write(transcoders: Sequence[Transcoder], path: Path) -> None:
    """Write a `.pt` file as the authors' code saves it."""
    transcoder = files.one(transcoders, "authors")
    reads = ["resid_pre", "resid_mid", "mlp_normalized", "mlp_out", "resid_post"]
    spec = files.require(transcoder, "authors", ["relu"], reads=reads, centred=["mlp_out"])
    if path.suffix != ".pt":  # by which they are told
        raise InputError(f"{path}: the authors' files end in .pt; name it so")
    if spec.is_autoencoder:
        transcoder = transcoder.folded(transcoder.b_dec)  # one bias for input and output
        extra: dict[str, Tensor] = {}
    else:
        if transcoder.b_in is None:
            transcoder = transcoder.folded(transcoder.W_enc.new_zeros(spec.d_in))
        extra = {"b_dec_out": transcoder.b_dec}
    assert transcoder.b_in is not None
    state = files.stored(files.weights_of(transcoder, turned=["W_enc"]) | {"b_dec": transcoder.b_in} | extra)
    with _their_class() as settings_class, atomic_path(path) as temporary:
        settings = settings_class()
        vars(settings).update(_settings(transcoder))
        torch.save({"cfg": settings, "state_dict": OrderedDict(state)}, temporary)


def _settings(transcoder: Transcoder) -> dict[str, Any]:
    """What their code reads of a configuration, and what it was trained with where that is known."""
    spec = transcoder.spec
    known = record_of(transcoder.provenance, "settings")
    return known | {
        "model_name": known.get("model_name") or record_of(transcoder.provenance, "model").get("id", ""),
        "hook_point": hook_name(spec.reads, folded=True),
        "hook_point_layer": spec.reads.layer,
        "hook_point_head_index": None,
        "is_transcoder": not spec.is_autoencoder,
        "out_hook_point": hook_name(spec.writes[0]),
        "out_hook_point_layer": spec.writes[0].layer,
        "d_in": spec.d_in,
        "d_out": spec.d_out,
        "d_sae": spec.n_features,
        "expansion_factor": spec.n_features // spec.d_in,
        "b_dec_init_method": known.get("b_dec_init_method", "mean"),
        "l1_coefficient": known.get("l1_coefficient", 0.0),
        "use_ghost_grads": False,
        "is_sparse_connection": False,
        "dtype": transcoder.W_enc.dtype,
        "device": torch.device("cpu"),
        "seed": known.get("seed", 42),
    }


@contextmanager
def _their_class() -> Iterator[type]:
    """The authors' class, if installed; otherwise an empty one under its name, for as long as a file is written."""
    if _MODULE in sys.modules:
        yield getattr(sys.modules[_MODULE], _CLASS)
        return
    package, _, _ = _MODULE.partition(".")
    stand_in = type(_CLASS, (), {"__module__": _MODULE})
    stubs = {name: ModuleType(name) for name in (package, _MODULE) if name not in sys.modules}
    setattr(stubs[_MODULE], _CLASS, stand_in)
    sys.modules |= stubs
    try:
        yield stand_in
    finally:
        for name in stubs:
            del sys.modules[name]


FORMAT = Format("authors", "the paper's authors' .pt: relu", lambda path: path.suffix == ".pt", read, write)
