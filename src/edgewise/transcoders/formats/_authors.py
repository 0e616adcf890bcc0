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
from edgewise.runs import atomic_path
from edgewise.transcoders import Activation, Site, Transcoder
from edgewise.transcoders.formats import _files as files
from edgewise.transcoders.formats._format import Format, Sites
from edgewise.transcoders.formats._site_names import NAME_THEM, autoencoder_site, hook_name, named_site, sites_for

_MODULE, _CLASS = "sae_training.config", "LanguageModelSAERunnerConfig"


class _Settings:
    """Stands for the authors' configuration class: a bag of attributes, with none of its code."""


def read(path: Path, sites: Sites) -> list[Transcoder]:
    """Read a `.pt` file. Nothing is unpickled but tensors and the one configuration class, as plain attributes."""
    found = files.unpickled(path, [(_Settings, f"{_MODULE}.{_CLASS}")])
    if not isinstance(found, dict) or not {"cfg", "state_dict"} <= found.keys():
        raise InputError(f"{path}: not a file of the authors' transcoders, which hold cfg and state_dict")
    settings, state = vars(found["cfg"]), dict(found["state_dict"])
    tensors, is_transcoder = files.weights_in(state, path, turned=["W_enc"]), "b_dec_out" in state
    tensors |= {"b_in": tensors["b_dec"], "b_dec": state["b_dec_out"] if is_transcoder else tensors["b_dec"]}
    reads, writes = _sites(path, settings, is_transcoder, sites)
    plain = {name: x for name, x in settings.items() if isinstance(x, int | float | str | bool | None)}
    return [files.built(path, tensors, Activation("relu"), reads, [writes], format="authors", settings=plain)]


def _sites(path: Path, settings: dict[str, Any], is_transcoder: bool, given: Sites) -> tuple[Site, Site]:
    def named(name: str, *, output: bool) -> Site | None:
        site = named_site(path, settings.get(name), output=output)
        return site if site is None or site.kind != "mlp_out" else replace(site, centred=True)

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
    spec = files.require(transcoder, "authors", ["relu"], centred=["mlp_out"])
    if spec.is_autoencoder:
        transcoder = transcoder.folded(transcoder.b_dec)  # one bias for input and output
        extra: dict[str, Tensor] = {}
    else:
        transcoder = transcoder if transcoder.b_in is not None else transcoder.folded(torch.zeros(spec.d_in))
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
    known = dict(transcoder.provenance.get("settings", {}))
    return known | {
        "model_name": known.get("model_name") or transcoder.provenance.get("model", {}).get("id", ""),
        "hook_point": hook_name(spec.reads),
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
