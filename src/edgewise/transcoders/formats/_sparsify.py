"""sparsify directories: per module `cfg.json` and `sae.safetensors`, alone or in a folder by the modules' names.

Its transcoders take nothing off the input; its autoencoders take off `b_dec`. Before version 1.0 (February 2025)
transcoders took it off too, and the file did not say which of the two it is: it has no `transcode`.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from edgewise._errors import InputError
from edgewise.runs import Keys, Only, whole_number, yes_or_no
from edgewise.transcoders import Activation, Site, Transcoder
from edgewise.transcoders.formats import _files as files
from edgewise.transcoders.formats._format import Format, Sites
from edgewise.transcoders.formats._site_names import NAME_THEM, layer_of, site_of, sites_named

_CONFIG, _WEIGHTS = "cfg.json", "sae.safetensors"
_RUN = "config.json"  # of the training, beside the modules' folders
_NAMES = {"W_enc": "encoder.weight", "b_enc": "encoder.bias"}


KEYS = Keys(
    "sparsify: `cfg.json`",
    honoured={
        "k": "how many features are on",
        "transcode": "whether it is a transcoder (module's input to module's output) or an autoencoder of the output. "
        "Absent (before version 1.0): with a skip connection a transcoder, of a whole layer an autoencoder, and else "
        "refused until the sites are named; `b_dec` is taken off the input",
        "skip_connection": "must agree with the tensors",
    },
    refused={
        "activation": Only(("topk",), "topk is read"),
        "signed": Only((False,), "signed activations are not read"),
        "n_targets": Only((0,), "sets of several targets are not read"),
        "n_sources": Only((0,), "sets of several sources are not read"),
        "embed_skip": Only((False,), "a skip connection from the embedding is not read"),
        "gram_lookup": Only((False,), "means over n-grams, which it takes off, are not read"),
        "normalize_io": Only((False,), "of a fork; the scales of input and output are not read"),
        "architecture": Only(("topk",), "of a fork, whose other kinds are not read"),
    },
    irrelevant={
        "the tensors tell": ("num_latents", "expansion_factor", "d_in"),
        "of the training alone": ("multi_topk", "normalize_decoder"),
        "of `gram_lookup`": ("lookup_max_order", "gram_table_hash"),
    },
)


def _found_in(path: Path) -> list[Path]:
    """The folder itself, or those in it, that hold a sparse coder."""
    if (path / _WEIGHTS).is_file():
        return [path]
    return sorted((each.parent for each in path.glob(f"*/{_WEIGHTS}")), key=lambda each: (len(each.name), each.name))


def read(path: Path, sites: Sites) -> list[Transcoder]:
    """Read a directory, or all the directories in a folder."""
    folders = _found_in(path)
    if not folders:
        raise InputError(f"{path}: holds no {_WEIGHTS}, nor does a folder in it")
    return [_read(folder, _named(folder, sites, len(folders))) for folder in folders]


def _named(path: Path, given: Sites, n: int) -> Sites:
    """The sites that the user names, for one of `n` directories. Raises `InputError` where its layer is not known."""
    if n == 1 or (given.reads is None and given.writes is None):
        return given
    layer = layer_of(_folder(path).name)
    if layer is None:
        raise InputError(f"{path}: one of {n}, and its name does not say of which layer; read it by itself")
    return given.in_set(layer, n)


def _read(path: Path, sites: Sites) -> Transcoder:
    config, tensors = files.read_json(path / _CONFIG), files.tensors_of(path / _WEIGHTS)
    KEYS.check(path, config)
    if config.get("skip_connection", "W_skip" in tensors) != ("W_skip" in tensors):
        raise InputError(f"{path}: skip_connection is {config['skip_connection']}, and its tensors say otherwise")
    _check_tokens(path, sites)
    name = _folder(path).name
    module = name if layer_of(name) is not None else None
    if (said := config.get("transcode")) is None:
        said = _was_transcoder(path, module, tensors, sites)
    is_transcoder = yes_or_no(path, "transcode", said)
    found = files.weights_in(tensors, path, _NAMES)
    if not is_transcoder or config.get("transcode") is None:
        found["b_in"] = found["b_dec"].clone()
    reads, writes = sites_named(path, sites, module, module, autoencoder=not is_transcoder)
    if module is None and sites.writes is None:  # of a module, whatever its folder is called
        writes = replace(writes, before_post_norm=writes.kind == "mlp_out")
    return files.built(
        path,
        found,
        Activation("topk", whole_number(path, "k", config["k"])),
        reads,
        [writes],
        format="sparsify",
        config=config,
    )


def _folder(path: Path) -> Path:
    """The directory named after a module: a coder's own, or of one seed of several, the one that it lies in."""
    return path.parent if re.fullmatch(r"seed\d+", path.name) else path


def _check_tokens(path: Path, given: Sites) -> None:
    """Refuse a coder whose training left out tokens, which only the run's own `config.json` says. Raises
    `InputError`.
    """
    place = _folder(path).parent / _RUN
    if given.exclude_special is not None or not place.is_file():
        return
    try:
        tokens = files.read_json(place).get("exclude_tokens")
    except InputError:  # somebody else's, of something else
        return
    if tokens:
        raise InputError(
            f"{path}: by {place} trained without tokens of its own, {str(tokens)[:40]}; give exclude_special=True "
            "(all special tokens and each row's first) or False"
        )


def _was_transcoder(path: Path, module: str | None, tensors: dict[str, Tensor], given: Sites) -> bool:
    """Whether a file from before version 1.0 is a transcoder's. Raises `InputError` where nothing tells."""
    if given.reads is not None and given.writes is not None:
        return given.reads != given.writes
    if "W_skip" in tensors:
        return True
    site = None if module is None else site_of(module, output=True)
    if site is None or site.kind != "resid_post":
        raise InputError(
            f"{path}: it does not say whether it is a transcoder or an autoencoder (sparsify before 1.0); {NAME_THEM} "
            "(the same twice: an autoencoder)"
        )
    return False


def write(transcoders: Sequence[Transcoder], path: Path) -> None:
    """Write one directory named after its module, such as `layers.8.mlp`, or a folder of them: only their names say of
    what they are.
    """
    for each in transcoders:
        kind = "mlp_out" if each.spec.is_autoencoder else "mlp_in"
        files.require(each, "sparsify", ["topk"], skip=True, reads=[kind])
    for each, folder in zip(transcoders, _folders(transcoders, path), strict=True):
        _write(each, folder)


def _folders(transcoders: Sequence[Transcoder], path: Path) -> list[Path]:
    layers = [each.spec.reads.layer for each in transcoders]
    if [site_of(path.name, output=True)] == [Site("mlp_out", layer) for layer in layers]:
        return [path]
    return [path / f"layers.{layer}.mlp" for layer in layers]


def _left(transcoders: Sequence[Transcoder], path: Path) -> list[Path]:
    written = _folders(transcoders, path)  # one that is the folder itself is read without those in it
    lie = [] if path in written else [path / _WEIGHTS, *path.glob(f"*/{_WEIGHTS}")]
    return [file for file in lie if file.is_file() and file.parent not in written]


def _write(transcoder: Transcoder, path: Path) -> None:
    spec = transcoder.spec
    form = transcoder.folded(transcoder.b_dec) if spec.is_autoencoder else files.without_input_bias(transcoder)
    norms = form.W_dec.norm(dim=1)
    config = {
        "activation": "topk",
        "expansion_factor": max(1, spec.n_features // spec.d_in),
        "normalize_decoder": bool(torch.allclose(norms, torch.ones_like(norms), atol=1e-3)),
        "num_latents": spec.n_features,
        "k": spec.activation.k,
        "multi_topk": False,
        "skip_connection": spec.skip,
        "transcode": not spec.is_autoencoder,
        "d_in": spec.d_in,
    }
    files.write_weights(path / _WEIGHTS, files.weights_of(form, _NAMES))
    files.write_json(path / _CONFIG, config)


FORMAT = Format("sparsify", "sparsify folder: topk", lambda path: bool(_found_in(path)), read, write, _left)
