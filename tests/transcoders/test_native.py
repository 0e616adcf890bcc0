"""Transcoders' own files say what they are in values of the right types, or are refused."""

from pathlib import Path

import pytest
import torch

from edgewise import InputError
from edgewise.runs import reading_tensors, write_tensors
from edgewise.transcoders.formats import load, save
from tests.transcoders.reference import random_transcoder

ENTRY = "edgewise.transcoder"


@pytest.mark.parametrize(
    ("where", "value"), [("k", True), ("n_features", 32.0), ("exclude_special", "false"), ("layer", "3")]
)
def test_a_spec_of_other_types_is_refused(tmp_path: Path, where: str, value: object):
    save(random_transcoder("topk:4", n_features=32, layer=3, dtype=torch.float32), tmp_path / "t.safetensors")
    with reading_tensors(tmp_path / "t.safetensors", "ours", "", entry=ENTRY) as (header, tensors):
        spec = header["spec"]
        place = {"k": spec["activation"], "layer": spec["reads"]}.get(where, spec)
        assert where in place and load(tmp_path / "t.safetensors").spec.activation.k == 4
        place[where] = value
        write_tensors(tmp_path / "odd.safetensors", tensors, header, entry=ENTRY)
    with pytest.raises(InputError, match="odd.safetensors: "):
        load(tmp_path / "odd.safetensors")
