"""A bench's figure and page, from a table made by hand."""

from pathlib import Path
from typing import Any

import pytest

from edgewise import InputError
from edgewise.bench import BenchTable
from edgewise.report import bench_page, draw_bench, write_bench


def row(method: str, algorithm: str, size: float, edges: int, kl: float, **changes: Any) -> dict[str, Any]:
    """One circuit of a graph of 1,000 edges on four examples that are all alike."""
    settled = {"model": "/somewhere/small", "task": "toy", "seed": 0, "split": "test", "selection": "signed"}
    counts = {"edges": edges, "actual_edges": edges, "total_edges": 1000, "n": 4, "values": [kl] * 4}
    numbers = {"value": kl, "low": kl, "high": kl, "full": 0.0}
    cost = {"examples": 16.0, "forwards": 32.0, "backwards": 8.0, "seconds": 60.0}
    metric = {"metric": "kl", "lower_is_better": True, "distance": True, "ablation": "interchange", "settings": "{}"}
    known = settled | counts | numbers | cost | metric
    return known | {"method": method, "algorithm": algorithm, "size": size} | changes


def table() -> BenchTable:
    rows = [row("empty", "empty", 1.0, 0, 4.0)]
    for size, edges, eap, ig, ours in ((0.9, 100, 1.0, 1.2, 0.5), (0.98, 20, 2.0, 1.6, 1.0), (0.995, 5, 3.0, 3.1, 2.0)):
        for method, kl in (("eap", eap), ("eap-ig", ig)):
            rows += [row(method, method, size, edges, kl - 0.01, split="validation")]
            rows += [row(method, method, size, edges, kl)]
        settings = {"settings": '{"steps": 9, "sizes": [0.9, 0.98]}'}
        rows += [row("ours", "ranking", size, edges, ours + 0.1 * seed, seed=seed, **settings) for seed in (-1, 1)]
    rows += [row("paper", "edge-pruning", 0.98, 30, 1.0)]
    about = {"software": {"edgewise": "0"}, "cells": {"asked": 6, "done": 6}, "note": "Two processes.", "judging": 90.0}
    about |= {"matmul": {"ours": "medium"}, "pairs": {"toy": {"train": 9, "test": 4}}}
    return BenchTable(rows, about)


def test_the_page_says_what_the_table_holds():
    page = bench_page(table(), "it.png", command="edgewise bench it.yaml")
    lines = page.splitlines()
    assert "`edgewise bench it.yaml` (6 of 6 cells done; finding took 6 min and judging 90 s" in page
    assert "![" in page and "(it.png)" in page
    assert "## `toy` in `small`" in lines and "the empty circuit has 4.000" in page
    assert "| method (seeds) | 90 % | 98 % | 99.5 % |" in lines
    best = next(line for line in lines if line.startswith("| *best attribution*"))
    assert best.split(" | ")[1:] == ["1.000; 100; eap, signed", "1.600; 20; eap-ig, signed", "3.000; 5; eap, signed |"]
    ours = next(line for line in lines if line.startswith("| ours (2)"))
    assert "1.000 [1.000, 1.000] ± 0.141; 20" in ours  # of 0.9 and 1.1
    # From 2.0 at 5 edges to 1.0 at 20, 1.6 is at 5 · 4^0.4.
    for needed in (
        "| best attribution at 98 % (eap-ig), 1.600 | 20 | 9 [9, 9], seeds 8, 10; 0.44 × to 0.50 × |",
        "| best attribution at 99.5 % (eap), 3.000 | 5 | ≤ 5 [≤ 5, ≤ 5], seeds ≤ 5, ≤ 5; ≤ 1.00 × to ≤ 1.00 × |",
        "| paper, 1.000 | 30 | 20 [20, 20], seeds 17, 28; 0.67 × to 0.92 × |",
    ):
        assert needed in lines, page
    assert "| ours | steps 9, sizes 0.9 0.98, matmul medium | 16 | 32 | 8 | 60, 60 |" in lines
    assert "Two processes." in lines and "4 examples (9 train, 4 test), of 1,000 edges" in page


def test_a_task_with_nothing_judged_yet_is_named_and_not_drawn(tmp_path: Path):
    found = table()
    begun = [row("empty", "empty", 1.0, 0, 4.0, task="begun"), row("eap", "eap", 0.9, 9, 1.0, task="b", split="train")]
    write_bench(BenchTable([*found.rows, *begun], found.about), tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "## `begun` in `small`\n\nNo circuit is judged yet." in page and "## `b` in `small`" in page
    with (tmp_path / "page.md").open("a", encoding="utf-8") as file:
        file.write("\n## Reading\n\nOurs — is nearer.\n")
    write_bench(found, tmp_path / "page.md")
    first = (tmp_path / "page.md").read_text()
    write_bench(found, tmp_path / "page.md")  # the section stands before the tables now
    write_bench(found, tmp_path / "without.md")
    page, reading = (tmp_path / "page.md").read_text(), "## Reading\n\nOurs — is nearer.\n\n"
    alone = (tmp_path / "without.md").read_text().replace("without.", "page.")
    assert page == first and reading in page and page.replace(reading, "") == alone and "begun" not in page
    assert (tmp_path / "page.png").read_bytes() == (tmp_path / "without.png").read_bytes()


def test_the_figure_has_a_panel_per_task_and_is_the_same_each_time(tmp_path: Path):
    found = table()
    two = BenchTable([*found.rows, *({**each, "task": "another"} for each in found.rows)], found.about)
    for name in ("a.svg", "b.svg", "one.png"):
        draw_bench(two if name.endswith("svg") else found, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    for part in ("another", "toy", "ours", "paper", "sparsity (of 1,000 edges)", "KL(full ‖ circuit), nats"):
        assert part in text
    assert "/somewhere" not in text
    write_bench(found, tmp_path / "page.md")
    assert (tmp_path / "page.png").read_bytes() == (tmp_path / "one.png").read_bytes()
    with pytest.raises(InputError, match="nothing to draw for accuracy; it has kl"):
        draw_bench(found, tmp_path / "c.png", metric="accuracy")


def test_the_caption_speaks_for_all_panels(tmp_path: Path):
    found = table()
    wide = {"task": "another", "n": 6, "values": [0.7] * 6, "actual_edges": 20}
    seeds = [row("ours", "ranking", 0.98, 20, 0.7, seed=seed, **wide) for seed in range(5)]
    draw_bench(BenchTable([*found.rows, *seeds], found.about), tmp_path / "a.svg")
    text = " ".join((tmp_path / "a.svg").read_text(encoding="utf-8").split())
    assert "4 to 6 test examples" in text and "mean over 1 to 5 seeds" in text


def test_an_empty_circuit_is_no_goal_and_hides_none():
    """Edges of another method stand for its distance only where it has some."""
    found = table()
    found.rows[-1]["size"] = 0.9
    rows = [*found.rows, row("paper", "edge-pruning", 0.98, 0, 4.0), row("acdc", "acdc", 0.98, 0, 4.0)]
    page = bench_page(BenchTable(rows, found.about), "it.png", command="edgewise bench it.yaml")
    assert "| paper, 1.000 | 30 |" in page and "| acdc, " not in page and "0 (empty)" in page


def test_one_example_has_no_interval():
    rows = [each | {"n": 1, "values": each["values"][:1]} for each in table().rows]
    page = bench_page(BenchTable(rows, table().about), "it.png", command="edgewise bench it.yaml")
    assert "| eap (1) | 1.000; 100, signed |" in page and "[" not in page.partition("| method (seeds) |")[2]
