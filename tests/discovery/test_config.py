"""Settings of Edge Pruning: what is refused, and the two schedules."""

import json
import math
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from edgewise import InputError
from edgewise.discovery import EdgePruningConfig, RankingConfig

paper = EdgePruningConfig.paper


def test_paper_is_the_published_ioi_run():
    published = {
        "steps": 3000,
        "batch_size": 32,
        "learning_rate": 0.8,
        "lambda_rate": 0.8,
        "lr_warmup": 200,
        "sparsity_warmup": 2500,
        "schedule": "linear",
        "initial": 10.0,
        "initial_spread": 0.01,
        "weight_decay": 0.01,
        "clip": 1.0,
        "nodes": True,
        "node_sparsity": None,  # --disable_node_loss
    }
    settings = asdict(paper())
    assert {name: settings[name] for name in published} == published
    assert paper(sparsity=1.05).sparsity == 1.05  # a target, not a budget: the sweep goes up to 1.4
    assert paper(steps=10).steps == 10


def test_settings_are_plain_values():
    for config in (EdgePruningConfig(), paper()):
        assert json.loads(json.dumps(asdict(config))) == asdict(config)


@pytest.mark.parametrize("sparsity", [0.0, 1.0, 1.5, -0.1, 98, math.nan, math.inf])
def test_a_sparsity_that_is_no_share_is_refused(sparsity: float):
    _refused(f"sparsity {sparsity}: .* between 0 and 1", sparsity=sparsity)


def test_impossible_settings_are_refused():
    _refused("steps 0; give at least 1", steps=0)
    _refused("batch_size 0; give at least 1", batch_size=0)
    _refused("dual='exact' works on edges alone", nodes=True)
    _refused("node_sparsity .* wants nodes=True", node_sparsity=0.5)
    _refused("weight_decay -0.1, clip None", weight_decay=-0.1)
    _refused("weight_decay 0.0, clip -1", clip=-1.0)
    _refused("sparsity_warmup -1", sparsity_warmup=-1)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"learning_rate": -1}, "learning_rate -1; give a number above 0"),
        ({"learning_rate": "0.1"}, "learning_rate='0.1'; give a number"),
        ({"learning_rate": math.nan}, "learning_rate nan; give a number above 0"),
        ({"steps": 3.5}, "steps=3.5; give a whole number"),
        ({"steps": True}, "steps=True; give a whole number"),
        ({"batch_size": "8"}, "batch_size='8'; give a whole number"),
    ],
)
def test_settings_of_a_wrong_type_or_sign_are_refused_by_name(changes: dict[str, Any], wanted: str):
    for make, title in ((EdgePruningConfig, "edge pruning"), (RankingConfig, "ranking")):
        with pytest.raises(InputError) as caught:
            make(**changes)
        assert str(caught.value).startswith(f"{title}: {wanted}")
    with pytest.raises(InputError, match="decay=1; give True or False"):
        RankingConfig(decay=1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"mask_margin 0\.5"):
        RankingConfig(mask_margin=0.5)


@pytest.mark.parametrize("field", ["dual", "budget", "schedule"])
def test_an_unknown_name_is_refused(field: str):
    _refused(field, **{field: "exactly"})  # taken for the other choice, in silence


@pytest.mark.parametrize("sparsity", [math.nan, math.inf, -0.5])
def test_a_target_that_is_no_target_is_refused(sparsity: float):
    _refused("sparsity", **asdict(paper()) | {"sparsity": sparsity})


def test_a_logarithmic_schedule_to_no_edges_at_all_is_refused():
    # Otherwise the target at step 100 is a complex number.
    _refused("logarithmic", **asdict(paper()) | {"sparsity": 1.05, "schedule": "logarithmic"})


def test_an_exact_budget_of_more_than_no_edges_is_refused_at_once():
    _refused("sparsity 1.05", **asdict(paper()) | {"sparsity": 1.05, "budget": "exact"})


def test_a_node_target_beside_an_edge_target_of_zero_is_refused():
    _refused("sparsity", **asdict(paper()) | {"sparsity": 0.0, "node_sparsity": 0.7})


def _refused(message: str, **settings) -> None:
    with pytest.raises(InputError, match=message) as caught:
        EdgePruningConfig(**settings)
    assert "\n" not in str(caught.value)


def test_linear_target_rises_evenly():
    config = paper(sparsity=0.9)
    assert [config.target(step) for step in (0, 250, 1250, 2500, 2999)] == pytest.approx([0, 0.09, 0.45, 0.9, 0.9])


def test_logarithmic_target_cuts_the_same_share_each_step():
    config = EdgePruningConfig(sparsity=0.99, sparsity_warmup=100, schedule="logarithmic")
    kept = [1 - config.target(step) for step in range(101)]
    assert kept[0] == 1 and kept[50] == pytest.approx(0.1) and kept[100] == pytest.approx(0.01)
    assert all(b / a == pytest.approx(kept[1]) for a, b in pairwise(kept))
    assert config.target(1000) == config.target(100)


@pytest.mark.parametrize("schedule", ["linear", "logarithmic"])
def test_without_a_warm_up_the_target_is_met_from_the_start(schedule):
    assert EdgePruningConfig(sparsity=0.9, sparsity_warmup=0, schedule=schedule).target(0) == pytest.approx(0.9)


@pytest.mark.parametrize(("warmup", "steps"), [(200, 3000), (10, 240), (0, 50), (1, 1), (5, 5), (10, 6)])
def test_rates_are_those_of_the_scripts_scheduler(warmup: int, steps: int):
    config = replace(EdgePruningConfig(), steps=steps, lr_warmup=warmup)
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = get_linear_schedule_with_warmup(optimizer, warmup, steps)
    for step in range(steps):
        assert config.rate(step) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
