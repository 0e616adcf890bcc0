"""Files of tensors with a header: what is written is read, and what is no such file is refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgewise import InputError
from edgewise.runs import names_in, reading_tensors, write_tensors


def _refused(path: Path, body: Any = None, **choices: Any) -> str:
    def read() -> None:
        with reading_tensors(path, "a file of ours", "give another", **choices) as (header, tensors):
            if body is not None:
                body(header, tensors)

    with pytest.raises(InputError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(path)) and message.count(str(path)) == 1
    return message


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "folder" / "x.safetensors"
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones(2, dtype=torch.bool, requires_grad=False)}
    write_tensors(path, tensors, {"schema": 1, "said": [1, "κ"]})
    with reading_tensors(path, "a file of ours", "give another", schema=1) as (header, found):
        assert header == {"schema": 1, "said": [1, "κ"]}
        assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert names_in(path) == {"a", "b", "edgewise"} and names_in(tmp_path / "none") == set()


def test_what_is_no_such_file_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    assert _refused(path) == f"{path}: no such file; give another"
    path.write_bytes(b"noise")
    assert "not a file of ours (SafetensorError" in _refused(path) and names_in(path) == set()
    save_file({"a": torch.zeros(1)}, path, metadata={"other": "{}"})
    assert _refused(path).endswith("not a file of ours (KeyError: 'edgewise'); give another")
    save_file({"a": torch.zeros(1)}, path, metadata={"edgewise": "{"})
    assert "JSONDecodeError" in _refused(path)


def test_a_header_that_nests_too_deep_to_be_walked_is_refused(tmp_path):
    path, deep = tmp_path / "x.safetensors", []
    for _ in range(250):
        deep = [deep]
    with pytest.raises(ValueError, match="deeper than 200"):
        write_tensors(path, {"a": torch.zeros(1)}, {"schema": 1, "provenance": {"said": deep}})
    save_file({"a": torch.zeros(1)}, path, metadata={"edgewise": json.dumps({"schema": 1, "said": deep})})
    assert "it nests deeper than 200" in _refused(path)


def test_what_does_not_fit_the_reader_is_the_files_fault(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.zeros(2)}, {"schema": 2})
    assert "(KeyError: 'b'); give another" in _refused(path, lambda _, tensors: tensors["b"])
    assert "RuntimeError" in _refused(path, lambda _, tensors: torch.zeros(3).copy_(tensors["a"]))
    assert "newer edgewise (schema 2; this one reads 1); upgrade" in _refused(path, schema=1)

    def mine(*_: Any) -> None:
        raise InputError("3 heads; give 4")

    assert _refused(path, mine) == f"{path}: 3 heads; give 4"


def test_a_header_that_is_not_plain_leaves_nothing_behind(tmp_path):
    with pytest.raises(TypeError):
        write_tensors(tmp_path / "x.safetensors", {}, {"made by": object()})
    assert not list(tmp_path.iterdir())
