"""The prepared measurements for a GPU run from end to end on a CPU, so that nothing fails on borrowed time."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def test_every_measurement_runs(tmp_path: Path):
    out = tmp_path / "gpu.json"
    arguments = ["--device", "cpu", "--tiny", "--out", str(out)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # on shapes this small a second one only waits
    subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], check=True, capture_output=True, timeout=300, env=one_thread
    )
    rows = json.loads(out.read_text())["rows"]
    assert [(row["what"], row["error"]) for row in rows if "error" in row or "skipped" in row] == []
    by_kind = {kind: [row for row in rows if row["what"] == kind] for kind in {row["what"] for row in rows}}
    assert {kind: len(found) for kind, found in by_kind.items()} == dict.fromkeys(by_kind, 2) and len(by_kind) == 7
    for row in by_kind["exactness"]:
        assert row["device beside cpu"] == 0  # the device is the CPU
        assert row["cpu torch.float32 gradients"] < 1e-4 < 1e-3 < row["cpu bf16 gradients"] < 0.3
    for row in by_kind["offloaded step"]:
        assert row["apart"] == 0
    for row in by_kind["attribution rows"]:
        assert row["residual"] < 1e-4
