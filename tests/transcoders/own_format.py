"""A file format of one's own, as docs/extending.md shows it: a folder with weights and a note of where they belong."""

from collections.abc import Sequence
from pathlib import Path

from edgewise.transcoders import Activation, Format, Transcoder, formats, register_format

NAMES = {"W_enc": "encoder", "b_enc": "encoder_bias", "W_dec": "decoder", "b_dec": "decoder_bias"}


def finds(path: Path) -> bool:
    return (path / "lab.json").is_file()


def read(path: Path, sites: formats.Sites) -> list[Transcoder]:
    about, stored = formats.read_json(path / "lab.json"), formats.tensors_of(path / "lab.safetensors")
    tensors = {ours: formats.take(stored, theirs, path) for ours, theirs in NAMES.items()}
    reads, writes = formats.sites_named(path, sites, about.get("hook_in"), about.get("hook_out"))
    return [formats.built(path, tensors, Activation("relu"), reads, [writes], format="lab")]


def write(transcoders: Sequence[Transcoder], path: Path) -> None:
    transcoder = formats.one(transcoders, "lab")
    spec = formats.require(transcoder, "lab", ["relu"], autoencoder=False)
    state = formats.without_input_bias(transcoder).state_dict()
    formats.write_weights(path / "lab.safetensors", {theirs: state[ours] for ours, theirs in NAMES.items()})
    hooks = {"hook_in": formats.hook_name(spec.reads), "hook_out": formats.hook_name(spec.writes[0])}
    formats.write_json(path / "lab.json", hooks)


register_format(Format("lab", "our lab's folder: relu", finds, read, write))
