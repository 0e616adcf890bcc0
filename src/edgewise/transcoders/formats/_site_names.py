"""Sites by other tools' names: TransformerLens' hooks, Hugging Face modules' paths, and folders named after layers."""

import re
from dataclasses import replace
from pathlib import Path

from edgewise._errors import InputError
from edgewise.transcoders import Site
from edgewise.transcoders.formats._format import Sites

HOOKS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_mlp_in": "resid_mid",  # TransformerLens copies it off before the norm
    "ln2.hook_normalized": "hook_normalized",
    "mlp.hook_in": "mlp_in",
    "hook_mlp_out": "mlp_out",
    "mlp.hook_out": "mlp_out",  # before a post-norm, see `hook_site`
    "hook_resid_post": "resid_post",
}
"""TransformerLens' names within a block, and the sites that they are (of a model whose norms are not folded)."""
_NAMES = {kind: hook for hook, kind in HOOKS.items() if hook not in ("hook_mlp_in", "mlp.hook_out")}
NAMED = tuple(_NAMES)
"""The kinds of sites that have such a name."""
_FOLDED = {"hook_normalized": "mlp_normalized", "mlp_in": "mlp_normalized"}
"""What those sites are where TransformerLens has folded the norm's gain and bias into the MLP's weights."""
_LAYER = re.compile(r"(?:^|[._/-])(?:(?:layers?|blocks?|resid_post_layer)[._-]?|h[._-])(\d+)(?=$|[._/-])")
_STEMS = {"resid": "", "resid_out": "hook_resid_post", "mlp_out": "mlp.hook_out", "mlp_in": "mlp.hook_in"}
"""Names that dictionary_learning's users put before the layer (`mlp_out_layer3`), by those that stand after it."""
NAME_THEM = "name the sites, such as reads=Site('mlp_in', 8) or `convert --reads 8.mlp_in --writes 8.mlp_out`"


def hook_name(site: Site, *, folded: bool = False) -> str:
    """TransformerLens' name of a site, of a model as it is or of one whose norms are folded."""
    kind = "hook_normalized" if folded and site.kind == "mlp_normalized" else site.kind
    return f"blocks.{site.layer}.{'mlp.hook_out' if site.before_post_norm else _NAMES[kind]}"


def hook_site(hook: str, layer: int) -> Site:
    """The site of a hook within a block, a key of `HOOKS`."""
    return Site(HOOKS[hook], layer, before_post_norm=hook == "mlp.hook_out")


def folded(site: Site) -> Site:
    """The site that a hook of a model is whose norms TransformerLens has folded into the weights after them."""
    return replace(site, kind=_FOLDED.get(site.kind, site.kind))


def site_of(name: str, *, output: bool = False) -> Site | None:
    """The site of a TransformerLens hook, of a Hugging Face module's path (its input, or its output; a whole layer's is
    the stream before it, or after it) or of a name such as `mlp_layer_3`; None if it is none of these.
    """
    found = _LAYER.search(name)
    if found is None:
        return None
    layer, rest = int(found[1]), name[found.end() :].lstrip(".")
    if (
        rest == "" and found[0][0] in "_-"
    ):  # `mlp_layer_3`: the module's name stands before the layer, not after it as in a path
        stem = re.split("[./]", name[: found.start()])[-1]
        rest = _STEMS.get(stem, stem)
    if rest in HOOKS:
        return hook_site(rest, layer)
    if rest in ("mlp", "feed_forward"):
        return Site("mlp_out", layer, before_post_norm=True) if output else Site("mlp_in", layer)
    return Site("resid_post" if output else "resid_pre", layer) if rest == "" else None


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


def sites_for(path: Path, reads: str, writes: str, given: Sites) -> tuple[Site, Site]:
    """The two sites of a transcoder whose format fixes their kinds and tells the layer by its name at most: by that of
    the file, or of the innermost folder that has one.

    Raises:
        InputError: the layer is nowhere to be found.
    """
    if given.reads is not None and given.writes is not None:
        return given.reads, given.writes
    layer = next((site.layer for site in (given.reads, given.writes) if site), _told(path))
    if layer is None:
        raise InputError(f"{path}: the file does not say of which layer it is; {NAME_THEM}")
    return given.reads or Site(reads, layer), given.writes or Site(writes, layer)


def check_told(path: Path, layer: int) -> None:
    """Refuse to write a file whose layer is told by its name alone where that is another one. Raises `InputError`."""
    told = _told(path)
    if told not in (None, layer):
        raise InputError(f"{path}: by its name of layer {told}, and the transcoder is of layer {layer}; name it so")


def _told(path: Path) -> int | None:
    """The layer by the name of a file, or of the innermost folder that has one."""
    return next((each for each in map(layer_of, reversed(path.parts)) if each is not None), None)


def autoencoder_site(path: Path, site: Site | None) -> Site:
    """The one site of an autoencoder. Raises `InputError` if there is none: no guess would be better than another."""
    if site is None:
        raise InputError(f"{path}: an autoencoder, and the file does not say of which site; {NAME_THEM}")
    return site


def sites_named(
    path: Path,
    given: Sites,
    reads: object,
    writes: object = None,
    *,
    autoencoder: bool = False,
    of_modules: bool = False,
) -> tuple[Site, Site]:
    """The two sites of a file that may name them; a transcoder that does not reads `mlp_in`, of the layer in its name.

    Args:
        path: the file.
        given: what the user names, which counts before what the file says.
        reads: the name of what is read, if the file has one.
        writes: likewise.
        autoencoder: whether both are one and the same.
        of_modules: whether a module's name is that of its output for what is read too.

    Raises:
        InputError: a name is not known here, or the layer (of an autoencoder: the site) is nowhere to be found.
    """
    read = given.reads or named_site(path, reads, output=autoencoder or of_modules)
    if autoencoder:
        site = autoencoder_site(path, read)
        return site, site
    written = given.writes or named_site(path, writes, output=True)
    return sites_for(path, "mlp_in", "mlp_out", Sites(read, written))
