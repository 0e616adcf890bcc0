"""circuit-tracer's transcoders: per-layer files and a `config.yaml`, or a cross-layer set's encoders and decoders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from edgewise._errors import InputError
from edgewise.runs import Keys, Only, names_in, read_yaml, record_of, whole_number, write_atomically
from edgewise.transcoders import Activation, Transcoder
from edgewise.transcoders.formats import _files as files
from edgewise.transcoders.formats import _gemma_scope
from edgewise.transcoders.formats._format import Format, Sites
from edgewise.transcoders.formats._site_names import HOOKS, NAMED, check_told, hook_name, hook_site, sites_for
from edgewise.transcoders.formats._source import local

_CONFIG = "config.yaml"
KEYS = Keys(
    "circuit-tracer: `config.yaml`",
    honoured={
        "feature_input_hook": "the site read; absent: `mlp.hook_in`, of cross-layer sets `hook_resid_mid`, as "
        "circuit-tracer's loaders have it. `ln2.hook_normalized` is after gain and bias in models with layer norms, "
        "before the gain in those with RMS norms",
        "feature_output_hook": "the site written; absent: `hook_mlp_out`. `mlp.hook_out` is refused at use in a model "
        "with a norm after the MLP",
        "activation": "`topk` (values of any sign), or what the tensors tell; anything else is refused",
        "k": "of `topk`",
        "transcoders": "the files, one a layer",
    },
    refused={"model_kind": Only(("transcoder_set", "cross_layer_transcoder"), "only those are read")},
    irrelevant={
        "the model that it is for, kept with it": ("model_name",),
        "where it lies, for people": ("repo_id", "revision", "subfolder", "scan", "scan_name", "dtype"),
    },
)
_NAMES = {"threshold": "activation_function.threshold"}
_FILE, _ENCODER, _DECODER = "layer_{}.safetensors", "W_enc_{}.safetensors", "W_dec_{}.safetensors"


def read(path: Path, sites: Sites) -> list[Transcoder]:
    """Read one layer's file, or a folder with a set of them or with a cross-layer set. What a set's `config.yaml` says
    holds for each of its files, also for one that is read alone.
    """
    if path.is_file():
        config = _config(path.parent)
        layer = sites_for(path, "mlp_in", "mlp_out", sites)[0].layer
        return [_read_layer(path, _sites(config, layer, sites), config)]
    config = _config(path)
    if (path / _ENCODER.format(0)).is_file():
        return _read_cross_layer(path, config, sites)
    if "transcoders" in config:
        files = [_resolved(path, str(each)) for each in config["transcoders"]]
    else:
        n = len(list(path.glob(_FILE.format("*"))))
        files = [path / _FILE.format(layer) for layer in range(n)]
    if not files:
        raise InputError(f"{path}: holds neither layer_0.safetensors nor {_ENCODER.format(0)}")
    named = [_sites(config, layer, sites.in_set(layer, len(files))) for layer in range(len(files))]
    return [_read_layer(file, each, config) for file, each in zip(files, named, strict=True)]


def _config(path: Path) -> dict[str, Any]:
    if not (path / _CONFIG).is_file():
        return {}
    found = read_yaml(path / _CONFIG)
    if not isinstance(found, dict):
        raise InputError(f"{path / _CONFIG}: not a mapping")
    KEYS.check(path / _CONFIG, found)
    return found


def _resolved(path: Path, name: str) -> Path:
    if name.startswith("hf://"):
        return local(name)
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{path / _CONFIG}: {name[:80]!r} lies outside the folder; give a file in it, or hf://…")
    return path / name


def _sites(config: dict[str, Any], layer: int, given: Sites) -> Sites:
    names = [config.get(key, default) for key, default in _DEFAULT_HOOKS.items()]
    for name in names:
        if name not in HOOKS:
            raise InputError(f"{_CONFIG}: hook {name!r} is not known; known are {', '.join(HOOKS)}")
    reads, writes = (hook_site(name, layer) for name in names)
    return Sites(given.reads or reads, given.writes or writes)


_DEFAULT_HOOKS = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}


def _activation(config: dict[str, Any], tensors: dict[str, Tensor], thresholds: bool) -> Activation:
    named = config.get("activation")
    if named not in (None, "jumprelu" if thresholds else "relu") and (thresholds or named != "topk"):
        raise InputError(f"{_CONFIG}: activation is {str(named)[:40]!r}, and its weights are not of one")
    if thresholds:
        return Activation("jumprelu")
    if named == "topk" or "k" in tensors:
        k = files.scalar(tensors.get("k", config.get("k")))
        return Activation("topk", whole_number(_CONFIG, "k", k), rectified=False)
    return Activation("relu")


def _read_layer(path: Path, sites: Sites, config: dict[str, Any]) -> Transcoder:
    if path.suffix == ".npz":  # a set may point to files of Gemma Scope
        return _gemma_scope.read_npz(path, sites)[0]
    tensors = files.tensors_of(path)
    if "w_enc" in tensors:
        return _gemma_scope.read(path, sites)[0]
    found = files.weights_in(tensors, path, _NAMES, also=["k"])
    found["W_dec"] = files.rows_of(found["W_dec"], len(found["b_enc"]))
    assert sites.reads is not None and sites.writes is not None
    activation = _activation(config, tensors, "threshold" in found)
    return files.built(path, found, activation, sites.reads, [sites.writes], format="circuit-tracer", config=config)


def _read_cross_layer(path: Path, config: dict[str, Any], given: Sites) -> list[Transcoder]:
    n_layers = len(list(path.glob(_ENCODER.format("*"))))
    hooks = {"feature_input_hook": "hook_resid_mid"} | config
    sites = [_sites(hooks, layer, given.in_set(layer, n_layers)) for layer in range(n_layers)]
    return [_read_part(path, config, layer, sites) for layer in range(n_layers)]


def _names_in_set(layer: int) -> dict[str, str]:
    return {name: f"{name}_{layer}" for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}


def _read_part(path: Path, config: dict[str, Any], layer: int, sites: Sequence[Sites]) -> Transcoder:
    file = path / _ENCODER.format(layer)
    decoder_file = path / _DECODER.format(layer)
    tensors = files.tensors_of(file) | files.tensors_of(decoder_file)
    found = files.weights_in(tensors, file, _names_in_set(layer))
    decoder = found["W_dec"]  # (F, L − l, D)
    if decoder.ndim != 3 or decoder.shape[1] != len(sites) - layer:
        raise InputError(f"{decoder_file}: {list(decoder.shape)}, wanted [F, {len(sites) - layer}, D]")
    found["W_dec"] = decoder.flatten(1)
    reads, writes = sites[layer].reads, [each.writes for each in sites[layer:] if each.writes is not None]
    assert reads is not None
    activation = _activation(config, {}, "threshold" in found)
    return files.built(file, found, activation, reads, writes, format="circuit-tracer", config=config)


def write(transcoders: Sequence[Transcoder], path: Path) -> None:
    """Write one layer's file (a path that ends in `.safetensors`) or a folder with all layers from 0 on."""
    ordered = sorted(transcoders, key=lambda each: each.spec.reads.layer)
    is_cross = any(len(each.spec.writes) > 1 for each in ordered)
    for each in ordered:
        _require(each, is_cross)
    if path.suffix == ".safetensors" and len(ordered) == 1 and not is_cross:
        _require(ordered[0], is_cross, ["mlp_in"])  # a file alone does not say what it reads
        check_told(path, ordered[0].spec.reads.layer)
        if (path.parent / _CONFIG).exists():
            raise InputError(
                f"{path}: beside it lies a set's {_CONFIG}, by which it would be read; choose another folder"
            )
        _write_layer(path, ordered[0])
        return
    if [each.spec.reads.layer for each in ordered] != list(range(len(ordered))):
        raise InputError("circuit-tracer: a set must have every layer from 0 on; write single layers to a .safetensors")
    first = _kinds(ordered[0])
    if other := next((each for each in ordered if _kinds(each) != first), None):
        raise InputError(
            f"circuit-tracer: {_CONFIG} says sites and activation once for a whole set, and layer 0 has "
            f"{', '.join(first)}, layer {other.spec.reads.layer} {', '.join(_kinds(other))}; write another format, "
            "such as edgewise"
        )
    for layer, each in enumerate(ordered):  # before any is written
        if is_cross and len(each.spec.writes) != len(ordered) - layer:
            raise InputError(f"circuit-tracer: layer {layer} must write to every later layer of the set")
    config: dict[str, Any] = {
        "model_name": record_of(ordered[0].provenance, "model").get("id", ""),
        "model_kind": "cross_layer_transcoder" if is_cross else "transcoder_set",
        "feature_input_hook": first[0],
        "feature_output_hook": first[1],
    }
    activation = ordered[0].activation
    if activation.kind == "topk":
        config |= {"activation": "topk", "k": activation.k}
    write_atomically(path / _CONFIG, yaml.safe_dump(config))  # before what would be read as another site without it
    for layer, each in enumerate(ordered):
        if is_cross:
            _write_part(path, layer, each)
        else:
            _write_layer(path / _FILE.format(layer), each)


def _kinds(transcoder: Transcoder) -> tuple[str, ...]:
    """The hooks that it reads and writes, and k of top-k: all that a set says once. Thresholds tell JumpReLU."""
    spec = transcoder.spec
    reads, *writes = (hook_name(site).split(".", 2)[2] for site in (spec.reads, *spec.writes))
    activation = str(spec.activation) if spec.activation.kind == "topk" else "no top-k"
    return reads, *dict.fromkeys(writes), activation


def _require(transcoder: Transcoder, is_cross: bool, reads: Sequence[str] = NAMED) -> None:
    site = transcoder.spec.reads
    if site.kind == "mlp_normalized":
        raise InputError(
            f"circuit-tracer: the format has no name for {site}; in models with RMS norms it is the site "
            f"{site.layer}.hook_normalized, so name that where you read it"
        )
    kinds = ["relu", "jumprelu", "batch_topk"]
    signed = transcoder.spec.activation.kind == "topk" and not is_cross  # its topk keeps negative activations
    files.require(
        transcoder,
        "circuit-tracer",
        [*kinds, "topk"] if signed else kinds,
        rectified=not signed,
        skip=not is_cross,
        cross_layer=True,
        autoencoder=False,
        reads=reads,
    )


def _write_layer(path: Path, transcoder: Transcoder) -> None:
    files.write_weights(path, files.weights_of(files.without_input_bias(transcoder), _NAMES))


def _write_part(path: Path, layer: int, transcoder: Transcoder) -> None:
    form = files.without_input_bias(transcoder)
    tensors = files.weights_of(form, _names_in_set(layer))
    decoder = tensors.pop(f"W_dec_{layer}").unflatten(1, (len(form.spec.writes), -1))
    files.write_weights(path / _ENCODER.format(layer), tensors)
    files.write_weights(path / _DECODER.format(layer), {f"W_dec_{layer}": decoder})


def _left(transcoders: Sequence[Transcoder], path: Path) -> list[Path]:
    is_cross = any(len(each.spec.writes) > 1 for each in transcoders)
    names = (_ENCODER, _DECODER) if is_cross else (_FILE,)
    written = {name.format(each.spec.reads.layer) for each in transcoders for name in names}
    lie = (file for name in (_FILE, _ENCODER, _DECODER) for file in path.glob(name.format("*")))
    return [file for file in lie if file.name not in written]


def _is_theirs(path: Path) -> bool:
    if path.is_dir():
        return any((path / name).is_file() for name in (_CONFIG, "layer_0.safetensors", _ENCODER.format(0)))
    return path.suffix == ".safetensors" and {"W_enc", "W_dec", "b_enc", "b_dec"} <= names_in(path)


FORMAT = Format(
    "circuit-tracer",
    "circuit-tracer file or folder, per layer or cross-layer: relu, jumprelu, its topk",
    _is_theirs,
    read,
    write,
    _left,
)
