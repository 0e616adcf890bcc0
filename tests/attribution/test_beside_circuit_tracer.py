"""circuit-tracer finds the same edges, and each opens the other's graphs.

It is no part of the project's environment and needs older packages: with the Python of an environment that has it in
`CIRCUIT_TRACER_PYTHON`, this is run (`make other-tools`, where it is never skipped, makes one).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "beside_circuit_tracer.py"
THEIRS = os.environ.get("CIRCUIT_TRACER_PYTHON", "")

pytestmark = pytest.mark.skipif(
    not os.environ.get("EDGEWISE_OTHER_TOOLS") and (not THEIRS or not SCRIPT.is_file()),
    reason="no CIRCUIT_TRACER_PYTHON",
)


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "cross-layer"])
def test_same_graph_and_each_others_files(kind: str):
    command = [sys.executable, str(SCRIPT), "--theirs", THEIRS, "--sizes", "tiny", "--kinds", kind, "--json"]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    assert found["features"] == found["features_of_both"] > 20
    assert found["influence_of_others"] == 0  # rows of features that reach no root are not made here
    assert found["same_roots"] and found["edges"] > 500
    assert found["difference"] < 1e-4
    assert abs(found["left_out"]) < 1e-4
    assert found["activations"] < 1e-4
    judged = [found["judged"][of] for of in ("ours", "theirs")]  # by edgewise
    judged += [found["theirs"][of] for of in ("ours", "theirs")]  # by circuit-tracer
    for each in judged:
        assert each["replacement"] == pytest.approx(judged[0]["replacement"], rel=1e-4)
        assert each["completeness"] == pytest.approx(judged[0]["completeness"], rel=1e-4)
        assert each["kept_nodes"] == judged[0]["kept_nodes"]
