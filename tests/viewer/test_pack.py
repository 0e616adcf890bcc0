"""What a page carries comes out as it went in, and ends no element that it stands in."""

import base64
import json
import zlib

import numpy as np

from edgewise.viewer._pack import ALIGNED, TYPES, Packer
from tests.viewer.conftest import HOSTILE


def test_arrays_come_back_each_where_the_header_says():
    packer = Packer()
    given = {kind: np.arange(number + 3).astype(kind) for number, kind in enumerate(TYPES)}
    for kind, values in given.items():
        packer.add(f"a {kind}", values, kind)
    packed = packer.packed({"title": HOSTILE})
    header = json.loads(packed.header)
    content = zlib.decompress(base64.b64decode(packed.data))
    assert header["title"] == HOSTILE and "<" not in packed.header
    for kind, values in given.items():
        entry = header["arrays"][f"a {kind}"]
        assert entry["start"] % ALIGNED == 0
        found = np.frombuffer(content, f"<{kind}", entry["length"], entry["start"])
        assert (found == values).all() and found.dtype == values.dtype
