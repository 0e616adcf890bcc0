"""Files of others run nothing, lead nowhere else and cannot ask for more than they hold."""

import os
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgewise import Circuit, Graph, GraphSpec, InputError
from edgewise.attribution import import_graph
from edgewise.bench import BenchConfig
from edgewise.bench._config import folder_name
from edgewise.exchange import read_mib
from edgewise.models import _gguf
from edgewise.runs import read_pickle, read_yaml, write_atomically
from edgewise.transcoders import read_tokens
from edgewise.transcoders.formats import read
from tests.security.hostile import (
    gadgets,
    packed,
    packed_array,
    plain_pickle,
    repeated,
    torch_file,
    within_limits,
)

SOURCES = Path(__file__).parents[2] / "src" / "edgewise"
PICKLES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "circuit of EAP-IG": ("c.pt", read_mib),
    "graph of circuit-tracer": ("g.pt", import_graph),
    "transcoder of the authors": ("t.pt", lambda path: read(path, "authors")),
    "autoencoder of dictionary_learning": ("d/ae.pt", lambda path: read(path.parent, "dictionary-learning")),
    "transcoder of a format to be found out": ("x.pt", read),
}
"""Every reader of pickles."""


@pytest.mark.parametrize("reader", PICKLES)
def test_no_gadget_runs(reader: str, tmp_path: Path):
    marker = tmp_path / "ran"
    name, call = PICKLES[reader]
    for gadget, content in gadgets(marker).items():
        for write in (torch_file, plain_pickle):
            path = write(tmp_path / name, content)
            (path.parent / "config.json").write_text('{"trainer": {"dict_class": "AutoEncoder"}}')
            with pytest.raises(InputError) as refusal:
                call(path)
            assert "\n" not in str(refusal.value)
            assert not marker.exists(), gadget


def test_arrays_of_objects_are_not_unpickled(tmp_path: Path):
    marker = tmp_path / "ran"
    objects = np.array([gadgets(marker)["os.system"]], dtype=object)
    np.save(tmp_path / "t.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "layer_3.npz", W_enc=objects)
    for call in (lambda: read_tokens(tmp_path / "t.npy", None, context=8), lambda: read(tmp_path / "layer_3.npz")):
        with pytest.raises(InputError):
            call()
        assert not marker.exists()


def test_yaml_makes_no_objects(tmp_path: Path):
    path = tmp_path / "b.yaml"
    path.write_text(f"models: !!python/object/apply:os.system ['touch {tmp_path / 'ran'}']\n")
    with pytest.raises(InputError):
        BenchConfig.load(path)
    assert not (tmp_path / "ran").exists()


def test_the_sources_have_no_other_way_to_run_what_a_file_says():
    """But for plugins and RASP programs, which the user names to have them run. (`_Texts` reads texts alone.)"""
    risky = re.compile(
        r"pickle\.loads?\(|allow_pickle=True|weights_only=False|yaml\.load\((?!.*, _Texts\))|trust_remote_code=True"
        r"|\beval\(\w|\bexec\(|os\.system|shell=True|\bjoblib\b|\bdill\b|extractall"
    )
    found = [
        f"{path.name}: {line.strip()}"
        for path in SOURCES.rglob("*.py")
        for line in path.read_text().splitlines()
        if risky.search(line) and not line.strip().startswith("#")
    ]
    assert found == []
    loading = [path.name for path in SOURCES.rglob("*.py") if "torch.load(" in path.read_text()]
    assert loading == ["_pickles.py"]


# -------------------------------------------------------------------------------------------------------------- limits


def test_a_packed_archive_is_refused_before_it_is_unpacked(tmp_path: Path):
    path = packed(tmp_path / "c.pt", 256 << 20)
    assert path.stat().st_size < 1 << 20
    assert "packed" in within_limits(lambda: read_pickle(path), gigabytes=0.2)


def test_a_packed_array_is_refused_before_it_is_unpacked(tmp_path: Path):
    packed_array(tmp_path / "params.npz", 1 << 24)
    assert "unpack" in within_limits(lambda: read(tmp_path), gigabytes=0.2)


def test_an_archive_whose_entries_share_their_bytes_is_refused(tmp_path: Path):
    path = torch_file(tmp_path / "c.pt", {"W_enc": torch.zeros(1 << 16)})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    at = data.index(b"PK\x01\x02", start)
    while at != -1:  # every entry of the directory claims to be as large as the file
        data[at + 20 : at + 28] = struct.pack("<II", len(data) - 200, len(data) - 200)
        at = data.find(b"PK\x01\x02", at + 4)
    path.write_bytes(bytes(data))
    within_limits(lambda: read_pickle(path))


@pytest.mark.parametrize("reader", PICKLES)
def test_a_tensor_of_more_numbers_than_are_stored_is_refused(reader: str, tmp_path: Path):
    name, call = PICKLES[reader]
    vast = torch.zeros(1).expand(1 << 20, 1 << 20)
    path = torch_file(tmp_path / name, {"W_enc": vast, "adjacency_matrix": vast, "edges_scores": vast, "cfg": {}})
    (path.parent / "config.json").write_text('{"trainer": {"dict_class": "AutoEncoder"}}')
    within_limits(lambda: call(path))


def test_tensors_of_others_want_no_gradient(tmp_path: Path):
    path = tmp_path / "a.pt"
    torch.save({"a": [torch.nn.Parameter(torch.ones(2))], "b": torch.ones(1, requires_grad=True)}, path)
    found = read_pickle(path)
    assert not found["a"][0].requires_grad and not found["b"].requires_grad


def test_what_repeats_itself_is_refused(tmp_path: Path):
    path = torch_file(tmp_path / "c.pt", {"cfg": repeated()})
    assert "repeats itself" in within_limits(lambda: read_mib(path))
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    (tmp_path / "b.yaml").write_text("\n".join(lines))
    assert "repeats itself" in within_limits(lambda: BenchConfig.load(tmp_path / "b.yaml"))
    (tmp_path / "b.yaml").write_text("a: &a [*a]")
    assert "contains itself" in within_limits(lambda: read_yaml(tmp_path / "b.yaml"))
    (tmp_path / "b.yaml").write_text("[" * 3000 + "]" * 3000)
    within_limits(lambda: read_yaml(tmp_path / "b.yaml"))


@pytest.mark.parametrize("sizes", [(10**9, 1, 1), (1, 10**9, 1), (10**5, 10**5, 10**5), (10**400, 1, 1), (True, 1, 1)])
def test_a_graph_larger_than_any_model_is_refused(sizes: tuple[int, int, int], tmp_path: Path):
    Circuit(Graph(GraphSpec(1, 1, 1)), torch.ones(8)).save(tmp_path / "c.safetensors")
    data = (tmp_path / "c.safetensors").read_bytes()
    layers, heads, keys = (str(size).lower() for size in sizes)
    text = data[8:].replace(
        rb"\"n_layers\": 1, \"n_heads\": 1, \"n_kv_heads\": 1",
        rf"\"n_layers\": {layers}, \"n_heads\": {heads}, \"n_kv_heads\": {keys}".encode(),
    )
    assert text != data[8:]
    grown = struct.unpack("<Q", data[:8])[0] + len(text) - len(data) + 8
    (tmp_path / "c.safetensors").write_bytes(struct.pack("<Q", grown) + text)
    assert "layers" in within_limits(lambda: Circuit.load(tmp_path / "c.safetensors"))


def test_shapes_that_a_file_only_claims_are_refused(tmp_path: Path):
    header = b'{"kept":{"dtype":"BOOL","shape":[1000000,1000000],"data_offsets":[0,8]}}'
    (tmp_path / "c.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    within_limits(lambda: Circuit.load(tmp_path / "c.safetensors"))
    within_limits(lambda: read(tmp_path / "c.safetensors"))
    array = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117) + b"\n"
    claimed = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(array)) + array + bytes(64)
    (tmp_path / "t.npy").write_bytes(claimed)
    within_limits(lambda: read_tokens(tmp_path / "t.npy", None, context=8))
    with zipfile.ZipFile(tmp_path / "layer_3.npz", "w") as archive:
        archive.writestr("W_enc.npy", claimed)
    within_limits(lambda: read(tmp_path / "layer_3.npz"))


@pytest.mark.parametrize("counts", [(2**63 - 1, 1), (1, 2**63 - 1), (2**40, 2**40)])
def test_a_gguf_file_of_as_many_fields_as_it_likes_is_refused(counts: tuple[int, int], tmp_path: Path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts) + bytes(64))
    within_limits(lambda: _gguf.read(path))
    key = struct.pack("<Q", 4) + b"name"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + struct.pack("<IIQ", 9, 0, counts[0]) + bytes(64))
    within_limits(lambda: _gguf.read(path))


# --------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    "source", ["hf://a/b/../../c", "hf://../b", "hf://a/..", "hf://a/b/.", "hf://a//b", "hf:///a/b"]
)
def test_a_hub_id_stays_in_its_repository(source: str):
    with pytest.raises(InputError, match="no hub id"):
        read(source)


@pytest.mark.parametrize("name", ["../other/layer_0.safetensors", "/etc/passwd", "a/../../x.safetensors"])
def test_a_set_names_files_of_its_own_folder(name: str, tmp_path: Path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "config.yaml").write_text(f"model_kind: transcoder_set\ntranscoders: [{name!r}]\n")
    save_file({"W_enc": torch.zeros(2, 2)}, tmp_path / "set" / "layer_0.safetensors")
    with pytest.raises(InputError, match="outside the folder"):
        read(tmp_path / "set", "circuit-tracer")


@pytest.mark.parametrize("name", ["..", "../..", "/etc", "a/../../b", "", ".", "~", "\x00", "con\n"])
def test_a_name_is_one_part_of_a_path(name: str):
    found = folder_name(name)
    assert found not in ("", ".", "..") and "/" not in found and "\x00" not in found


def test_writing_replaces_a_link_and_not_what_it_leads_to(tmp_path: Path):
    (tmp_path / "theirs").write_text("untouched")
    os.symlink(tmp_path / "theirs", tmp_path / "ours.json")
    write_atomically(tmp_path / "ours.json", "new")
    assert (tmp_path / "theirs").read_text() == "untouched" and not (tmp_path / "ours.json").is_symlink()


def test_a_link_in_the_cache_is_not_followed_when_it_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from edgewise.models import _default

    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "keep").write_text("untouched")
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"GGUF")
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("EDGEWISE_CACHE", str(cache))
    monkeypatch.setattr(_default, "_write", lambda gguf, digest, folder, reader: (folder / "w").write_text("ours"))
    digest = _default._sha256(gguf)
    os.symlink(theirs, cache / f"m-{digest[:12]}-v{_default._LAYOUT}")
    with pytest.raises(InputError, match="cannot be written"):
        _default._cached("m", gguf, digest)
    assert (theirs / "keep").read_text() == "untouched"
