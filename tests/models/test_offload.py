"""Offloaded models: the numbers of the model in memory, one layer at a time."""

import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from edgewise._errors import InputError
from edgewise.engine import Placement, footprint
from edgewise.models import Model, OffloadedLayers, load
from tests.engines import engine
from tests.models.test_load import _tokenizer
from tests.tiny import collate, draw_prompts, random_model

PROMPTS, OTHERS = draw_prompts((6, 3)), draw_prompts((2, 5), seed=1)


def _saved(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Path:
    module: Any = random_model(name, dtype).module
    module.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def _run(model: Model, **choices) -> list[Tensor]:
    """A circuit's logits, its masks' gradients, and of other prompts those of all masks 1 as for attribution; the full
    model's logits.
    """
    own, found = engine(model, **choices), list[Tensor]()
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(own.graph.n_edges, generator=generator, dtype=torch.float64)
    for prompts, mask, gradients in ((PROMPTS, masks, "fractional"), (OTHERS, torch.ones_like(masks), "all")):
        mask.requires_grad_()
        logits = own.run(collate(prompts), mask, gradients=gradients)  # pyright: ignore[reportArgumentType] (one of the two)
        logits.square().sum().backward()
        assert mask.grad is not None
        found += [logits.detach(), mask.grad]
    return [*found, own.full(collate(PROMPTS))]


NAMES = ("gpt2", "llama-gqa", "neox-parallel", "granite", "phi3")


CASES = [
    *((name, torch.float32, None) for name in (*NAMES, "gemma2", "mixtral")),
    *((name, torch.float32, torch.float64) for name in NAMES),
    ("mixtral", torch.bfloat16, torch.float32),
]


@pytest.mark.parametrize(("name", "stored", "dtype"), CASES)
def test_an_offloaded_model_gives_the_numbers_of_the_model_in_memory(
    tmp_path: Path, name: str, stored: torch.dtype, dtype: torch.dtype | None
):
    """Mapped from its file as it is stored, and copied layer by layer where the type is another."""
    folder = _saved(tmp_path, name, stored)
    whole, parts = load(folder, dtype=dtype), load(folder, dtype=dtype, offload="disk")
    assert parts.parts.offloaded and not whole.parts.offloaded
    assert (parts.dtype, parts.device, parts.graph()) == (whole.dtype, whole.device, whole.graph())
    for memory in ("default", "lean"):
        for own, expected in zip(_run(parts, memory=memory), _run(whole, memory=memory), strict=True):
            assert torch.equal(own, expected)
    assert parts.identity == whole.identity


def test_routing_is_said_before_layers_are_offloaded(tmp_path: Path):
    """A second set of layers would swap the weights of the same modules, unaware of the first."""
    model = load(_saved(tmp_path, "mixtral"), offload="disk", routing="differentiated")
    assert {layer.mlp.routing for layer in model.parts.stored} == {"differentiated"}
    assert model.identity["note"] == "routing differentiated"
    with pytest.raises(InputError, match="routing='frozen': the model's layers are offloaded; say it where"):
        model.routed("frozen")


def test_few_layers_are_there_at_a_time_and_each_comes_once_a_walk(tmp_path: Path):
    module: Any = random_model("llama-gqa", torch.float32).module
    config = LlamaConfig(**(module.config.to_dict() | {"num_hidden_layers": 7}))
    fresh: Any = LlamaForCausalLM(config)
    fresh.save_pretrained(tmp_path)
    _tokenizer().save_pretrained(tmp_path)
    layers = load(tmp_path, offload="disk", dtype=torch.float64).parts.layers
    assert isinstance(layers, OffloadedLayers)
    size = sum(x.numel() * x.element_size() for x in layers.blocks[0].parameters())
    for walk in (iter(layers), reversed(layers), (layers[i] for i in range(7)), (layers[i] for i in (5, 2, 2))):
        seen, before, n = list[weakref.ref[Tensor]](), layers.fetched_bytes, 0
        for n, layer in enumerate(walk, 1):  # noqa: B007
            seen.append(weakref.ref(layer.attention.output_weight))
            assert len({id(x) for each in seen if (x := each()) is not None}) <= 2
        layers._pool.submit(int).result()  # what was asked for has come
        assert n in (7, 3) and (layers.fetched_bytes - before) // size <= n + 1
    assert (layers.fetched_bytes - before) // size <= 4


def test_the_plan_says_how_much_is_brought(tmp_path: Path):
    model = load(_saved(tmp_path, "llama-gqa"), offload="disk")
    plan, layers = footprint(model, model.graph(), 2, 6, placement=Placement(offload="disk")), model.parts.layers
    assert isinstance(layers, OffloadedLayers)
    own, batch = engine(model), collate(PROMPTS)
    mask = torch.rand(own.graph.n_edges, requires_grad=True)
    own.run(batch, mask).square().sum().backward()
    own.full(batch)
    assert layers.fetched_bytes == pytest.approx(sum(plan.traffic.values()), rel=0.2)  # of three layers one is much
    assert plan.bytes["weights"] == 0 < footprint(model, model.graph(), 2, 6).bytes["weights"]


def test_weights_are_mapped_and_not_read_into_memory(tmp_path: Path):
    model = load(_saved(tmp_path, "llama-gqa"), offload="disk")
    weight = model.parts.layers[1].attention.query.weight
    files = [
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if (span := re.match(r"(\w+)-(\w+) ", line)) and int(span[1], 16) <= weight.data_ptr() < int(span[2], 16)
    ]
    assert files == [str(tmp_path / "model.safetensors")]


def test_layers_on_several_devices_are_refused_with_advice():
    for choose in (lambda m: m.model.layers[1], lambda m: m.model.layers, lambda m: m.lm_head):
        module: Any = random_model("llama-gqa", torch.float32).module
        choose(module).to("meta")  # as a device_map leaves what it puts elsewhere
        with pytest.raises(InputError, match="several devices .cpu, meta.*offload='disk'"):
            load(module)


def test_a_device_map_of_one_device_runs_and_one_of_files_is_refused():
    module: Any = random_model("llama-gqa", torch.float32).module
    module.hf_device_map = {"": "cpu"}
    assert load(module).device.type == "cpu"
    module.to("meta").hf_device_map = {"": "disk"}
    with pytest.raises(InputError, match="several devices .meta, disk"):
        load(module)


def test_what_cannot_be_offloaded_is_refused_in_a_line(tmp_path: Path):
    module = random_model("llama-gqa", torch.float32).module
    with pytest.raises(InputError, match="loaded from a folder or the hub"):
        load(module, offload="disk")
    with pytest.raises(InputError, match="use offload='disk'"):
        load(_saved(tmp_path / "llama", "llama-gqa"), offload="cpu")
    folder = _saved(tmp_path / "gemma", "gemma2")  # in bfloat16 it would scale its embeddings by a rounded root
    with pytest.raises(InputError, match="embed_scale is computed in the type of the weights"):
        load(folder, dtype=torch.float64, offload="disk")
