"""The commands about benches, as a user gives them."""

import json
from pathlib import Path

import pytest

from edgewise.bench import _run
from edgewise.cli import main
from tests.bench.toys import bench_file, save_model, save_pairs
from tests.processes import server

pytest.importorskip("pyarrow")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    monkeypatch.setattr("sys.argv", ["edgewise", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_bench_then_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    save_model(tmp_path / "model")
    save_pairs(tmp_path / "pairs.jsonl")
    path, out = bench_file(tmp_path, tmp_path / "b.yaml", methods=["random", "eap"]), tmp_path / "runs"
    monkeypatch.setattr(_run, "get_context", lambda _: server())  # new processes, and not ten seconds of imports
    assert not run(monkeypatch, "bench", path, "--out", out, "--jobs", 2, "--write", tmp_path / "page.md")
    told = capsys.readouterr().out
    assert f"table -> {out / 'bench.parquet'}" in told and "page.png" in told
    assert "(4 of 4 cells done" in (tmp_path / "page.md").read_text()
    assert not run(monkeypatch, "plot", out / "bench.parquet", "--out", tmp_path / "a.pdf", "--metric", "accuracy")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    before = (out / "bench.parquet").read_bytes()
    assert not run(monkeypatch, "bench", path, "--out", out)
    assert (out / "bench.parquet").read_bytes() == before, "what is done is not done again"


def test_a_bench_of_which_nothing_is_done_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    path = bench_file(tmp_path, tmp_path / "b.yaml", methods=["random"])
    page = tmp_path / "page.md"
    gather = ("bench", path, "--out", tmp_path / "o", "--table-only")
    assert not run(monkeypatch, *gather)  # others may be at work there
    assert f"note: no cell of {path} is done in {tmp_path / 'o'}; give" in "".join(capsys.readouterr())
    assert run(monkeypatch, *gather, "--write", page) == 2
    assert f"{page}: there is nothing to write" in capsys.readouterr().err
    assert not page.exists()


def test_plot_draws_what_curve_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    conditions = {"ablation": {"kind": "zero", "source": ""}, "split": "test", "task": {"name": "toy"}}
    points = [{"method": "eap", "edges": 10, "value": 1.0, "low": 0.5, "high": 2.0}]
    row = {"metric": "kl", "points": points, "full": 0.0, "empty": 2.0, "total_edges": 100, "n": 4}
    (tmp_path / "curve.json").write_text(json.dumps(row | {"conditions": conditions}))
    assert not run(monkeypatch, "plot", tmp_path / "curve.json", "--out", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000
    assert run(monkeypatch, "plot", tmp_path / "curve.json", "--out", tmp_path / "b.png", "--metric", "js") == 2
    assert "curve.json holds kl alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "{}/none.yaml"), "none.yaml: cannot be read"),
        (("bench", "{}/b.yaml", "--write", "page.txt"), "give a .md file"),
        (("plot", "{}/none.parquet", "--out", "{}/a.png"), "no such file"),
        (("plot", "{}/b.yaml", "--out", "{}/a.png"), "not a table of `edgewise bench`"),
        (("plot", "{}/none.json", "--out", "{}/a.png"), "not a curve that `edgewise curve` wrote"),
        (("plot", "{}/b.yaml", "--out", "{}/a.gif"), "cannot draw to a .gif file"),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
):
    (tmp_path / "b.yaml").write_text("a: 1")
    assert run(monkeypatch, *(each.format(tmp_path) for each in arguments)) == 2
    told = capsys.readouterr().err
    assert message in " ".join(told.split()) and told.count("edgewise: ") == 1


def test_a_file_of_mibs_is_judged_in_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    save_model(tmp_path / "model")
    save_pairs(tmp_path / "pairs.jsonl")
    choices = ("--model", tmp_path / "model", "--task", tmp_path / "pairs.jsonl")
    run(monkeypatch, "find", *choices, "--method", "eap", "--sparsity", 0.5, "--out", tmp_path)
    run(monkeypatch, "export", tmp_path / "circuit.safetensors", tmp_path / "theirs.json", "--d-model", 16)
    capsys.readouterr()
    rows = []
    for file, options in (("theirs.json", choices), ("circuit.safetensors", ())):
        assert not run(monkeypatch, "mib", tmp_path / file, *options, "--json")
        rows.append(json.loads(capsys.readouterr().out))
    assert rows[0]["signed"] == rows[1]["signed"] and rows[0]["absolute"]["cmd"] == rows[1]["absolute"]["cmd"]
    assert not run(monkeypatch, "mib", tmp_path / "theirs.json", *choices)
    told = capsys.readouterr().out
    assert f"{rows[0]['absolute']['cmd']:.3f}" in told and "0.1 %" in told
    assert "split test; ablation interchange with corrupted" in told and rows[0]["ablation"]["kind"] == "interchange"
    assert run(monkeypatch, "mib", tmp_path / "theirs.json") == 2
    assert "give --model and --task" in capsys.readouterr().err


def test_each_process_of_a_bench_takes_its_own_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []

    def run_bench(*_: object, device: str, **__: object) -> None:
        seen.append(device)
        raise KeyboardInterrupt

    monkeypatch.setattr("edgewise.bench.run_bench", run_bench)
    monkeypatch.setenv("LOCAL_RANK", "1")
    path = bench_file(tmp_path, tmp_path / "b.yaml", methods=["random"])
    for device in ("cuda", "cpu"):
        assert run(monkeypatch, "bench", path, "--out", tmp_path / "o", "--device", device) == 130
    assert seen == ["cuda:1", "cpu"]
