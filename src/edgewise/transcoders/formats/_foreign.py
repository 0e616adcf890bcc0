"""What the readers and writers of other tools' files share: names of sites, whole files, and what a format can hold."""

import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edgewise._errors import InputError
from edgewise.transcoders._sites import Site
from edgewise.transcoders._transcoder import Transcoder, TranscoderSpec

HOOKS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_mlp_in": "resid_mid",  # TransformerLens copies it off before the norm
    "ln2.hook_normalized": "mlp_normalized",
    "mlp.hook_in": "mlp_in",
    "hook_mlp_out": "mlp_out",
    "mlp.hook_out": "mlp_out",
    "hook_resid_post": "resid_post",
}
"""TransformerLens' names within a block, and the sites that they are (of a model whose norms are not folded)."""
_NAMES = {kind: hook for hook, kind in HOOKS.items() if hook not in ("hook_mlp_in", "mlp.hook_out")}
NAMED = tuple(_NAMES)
"""The kinds of sites that have such a name."""
_LAYER = re.compile(r"(?:^|[._/-])(?:layers?|blocks?|h|resid_post_layer)[._-]?(\d+)(?=$|[._/-])")


NAME_THEM = "name the sites, such as reads=Site('mlp_in', 8) or `convert --reads 8.mlp_in --writes 8.mlp_out`"


@dataclass(frozen=True)
class Sites:
    """Sites that the user names, where a file does not (or wrongly)."""

    reads: Site | None = None
    writes: Site | None = None


def hook_name(site: Site) -> str:
    """TransformerLens' name of a site."""
    return f"blocks.{site.layer}.{_NAMES[site.kind]}"


def site_of(name: str, *, output: bool = False) -> Site | None:
    """The site of a TransformerLens hook or of a Hugging Face module's path (its input, or its output); None if it is
    neither.
    """
    layer = layer_of(name)
    if layer is None:
        return None
    rest = name[_LAYER.search(name).end() :].lstrip(".")  # pyright: ignore[reportOptionalMemberAccess] (it has a layer)
    if rest in HOOKS:
        return Site(HOOKS[rest], layer)
    if rest in ("mlp", "feed_forward"):
        return Site("mlp_out" if output else "mlp_in", layer)
    return Site("resid_post", layer) if rest == "" else None


def layer_of(name: str) -> int | None:
    """The layer that a name such as `layers.8.mlp` or `layer_8` tells."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def named_site(path: Path, name: object, *, output: bool = False) -> Site | None:
    """The site that a file names; None if it names none. Raises `InputError` for one that is not known here."""
    if not name:
        return None
    site = site_of(str(name), output=output)
    if site is None:
        raise InputError(f"{path}: it is of {name!r}, which is no site that is known here; {NAME_THEM}")
    return site


def sites_for(path: Path, reads: str, writes: str, given: Sites, layer: int | None = None) -> tuple[Site, Site]:
    """The two sites of a transcoder whose format fixes their kinds and tells the layer by its name at most: by that of
    the file, or of the innermost folder that has one.

    Raises:
        InputError: the layer is nowhere to be found.
    """
    if given.reads is not None and given.writes is not None:
        return given.reads, given.writes
    told = (layer, *(site.layer for site in (given.reads, given.writes) if site), *map(layer_of, reversed(path.parts)))
    layer = next((each for each in told if each is not None), None)
    if layer is None:
        raise InputError(f"{path}: the file does not say of which layer it is; {NAME_THEM}")
    return given.reads or Site(reads, layer), given.writes or Site(writes, layer)


def autoencoder_site(path: Path, site: Site | None) -> Site:
    """The one site of an autoencoder. Raises `InputError` if there is none: no guess would be better than another."""
    if site is None:
        raise InputError(f"{path}: an autoencoder, and the file does not say of which site; {NAME_THEM}")
    return site


def tensors_of(path: Path) -> dict[str, Tensor]:
    """All tensors of a `.safetensors` file. Raises `InputError` if it is missing, cut short or something else."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a whole .safetensors file ({reason[:120]})") from error


def unpickled(path: Path, allowed: Sequence[tuple[type, str]] = ()) -> Any:
    """What `torch.save` wrote: tensors and plain containers, and objects of the allowed classes (with the names under
    which they were pickled). Raises `InputError` for anything else, which is not run.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("missing, cut short, or not what torch.save writes")
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())[:120]})") from error


def take(tensors: dict[str, Tensor], name: str, path: Path) -> Tensor:
    """A tensor by its name. Raises `InputError` if there is none."""
    if name not in tensors:
        raise InputError(f"{path}: holds no {name}; it holds {', '.join(sorted(tensors)) or 'nothing'}")
    return tensors[name]


def rows_of(W_dec: Tensor, n_features: int) -> Tensor:
    """A decoder with a row per feature, whichever way it was stored."""
    return W_dec if W_dec.shape[0] == n_features else W_dec.T.contiguous()


def require(
    transcoder: Transcoder,
    name: str,
    activations: Sequence[str],
    *,
    rectified: bool = True,
    skip: bool = False,
    cross_layer: bool = False,
    autoencoder: bool = True,
    transcoders: bool = True,
    reads: Sequence[str] = NAMED,
    centred: Sequence[str] = (),
) -> TranscoderSpec:
    """Refuse to write what a format cannot hold, or would hold as something else. Raises `InputError`.

    Args:
        transcoder: what is to be written.
        name: the format's.
        activations: the kinds it has.
        rectified: whether its activations are never negative.
        skip: whether it has skip connections.
        cross_layer: whether it has them.
        autoencoder: whether it has them.
        transcoders: whether it has them.
        reads: the kinds of sites it can say are read.
        centred: the kinds of sites that are centred in it; all others are not.
    """
    spec = transcoder.spec
    lacks = None
    if spec.activation.kind not in activations or spec.activation.rectified != rectified:
        known = ", ".join(activations) + (" of positive values only" if rectified else " of values of any sign")
        lacks = f"{spec.activation} activation{'' if spec.activation.rectified else ' of any sign'} (it has {known})"
    elif spec.skip and not skip:
        lacks = "skip connection"
    elif len(spec.writes) > 1 and not cross_layer:
        lacks = "cross-layer decoder"
    elif spec.is_autoencoder and not autoencoder:
        lacks = "autoencoder"
    elif not spec.is_autoencoder and not transcoders:
        lacks = "transcoder"
    elif spec.reads.kind not in reads:
        lacks = f"name for {spec.reads} (it reads {', '.join(reads)})"
    elif wrong := next((s for s in (spec.reads, *spec.writes) if s.centred != (s.kind in centred)), None):
        lacks = f"name for {wrong}: it would say {replace(wrong, centred=not wrong.centred)}"
    if lacks:
        raise InputError(f"{name}: the format has no {lacks}; write another format, such as edgewise")
    return spec


def one(transcoders: Sequence[Transcoder], name: str) -> Transcoder:
    """The only one. Raises `InputError` if there are more."""
    if len(transcoders) != 1:
        raise InputError(f"{name}: a place holds one transcoder, and there are {len(transcoders)}; write one at a time")
    return transcoders[0]


def stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as files want them: on the CPU, contiguous, sharing nothing."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
