"""What is planned for a step against what a step takes."""

from typing import Any, Literal

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from benchmarks._measure import peak_tensor_bytes
from benchmarks._shapes import SHAPES
from edgewise import InputError
from edgewise.engine import Engine, Placement, _stack, footprint, measured_rates
from edgewise.engine._footprint import _layer_bytes, _used_of_module
from edgewise.engine._stack import LeanStack
from edgewise.models import from_config, load
from tests.tiny import collate, draw_prompts, tiny

GPT2: dict[str, Any] = {
    "vocab_size": 500,
    "n_embd": 192,
    "n_layer": 8,
    "n_head": 6,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LLAMA: dict[str, Any] = {
    "vocab_size": 500,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 10,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def _saved(tmp_path: Any, config: Any) -> Any:
    config.save_pretrained(tmp_path)
    return tmp_path / "config.json"


@pytest.mark.parametrize("memory", ["default", "lean"])
@pytest.mark.parametrize("config", [GPT2Config(**GPT2), LlamaConfig(**LLAMA)], ids=["gpt2", "llama"])
def test_within_15_percent_of_what_a_step_takes(tmp_path, config: Any, memory: Literal["default", "lean"]):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = load(AutoModelForCausalLM.from_config(config).eval().requires_grad_(False))
    n, length = 48, 20
    batch = collate(draw_prompts((length,) * n))
    mask = torch.rand(model.graph().n_edges, requires_grad=True)
    engine = Engine(model, memory=memory)
    measured = peak_tensor_bytes(lambda: engine.run(batch, mask).square().sum().backward())
    sizes = from_config(_saved(tmp_path, config))
    planned = footprint(sizes, sizes.graph(), n, length, memory=memory).bytes_above_weights
    assert planned == pytest.approx(measured, rel=0.15)


def test_codellama_13b_fits_a_gpu_of_80_gb(tmp_path):
    config = SHAPES["codellama-13b"]()
    model = from_config(_saved(tmp_path, config), torch.bfloat16)
    graph = model.graph("off")
    assert graph.n_edges == 3_872_820  # as published for this model
    plans = {
        memory: footprint(model, graph, 16, 72, placement=Placement("cuda"), memory=memory, dtype=torch.bfloat16)
        for memory in ("default", "lean")
    }
    assert plans["default"].bytes["weights"] == 2 * 13_016_028_160
    # The stacks by hand: 1,600 heads and 40 MLPs at full width, or each layer's heads at one width together.
    tokens, width = 16 * 72, 5120
    assert plans["default"].bytes["stack of gradients"] == 1640 * tokens * width * 4
    assert plans["lean"].bytes["stack of gradients"] == 80 * tokens * width * 4
    assert plans["lean"].total_bytes < 80e9 < plans["default"].total_bytes


def test_operations_of_a_small_model_by_hand(tmp_path):
    model = from_config(_saved(tmp_path, GPT2Config(**GPT2)))
    graph = model.graph()
    plans = [footprint(model, graph, 3, 5, memory=memory) for memory in ("default", "lean")]
    tokens, width = 15, 192
    forward = 2 * tokens * 8 * 12 * width**2 + 2 * 3 * 500 * width
    assert plans[0].operations["model forward"] == forward
    assert plans[0].operations["masks' gradients"] == 2 * graph.n_edges * tokens * width
    again = (
        2 * 3 * (1 + 2 + 3) + 4 * 4
    )  # two groups of four layers: within each three times, before the second four times
    assert plans[1].operations["heads through W_O again"] == again * 2 * tokens * width**2
    assert plans[0].total_operations < plans[1].total_operations


@pytest.mark.parametrize(
    ("content", "said"), [(None, "no such file"), ("{}", "not a configuration"), ('{"model_type": "t5"}', "t5")]
)
def test_what_is_no_configuration_of_ours_is_told(tmp_path, content: str | None, said: str):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=said):
        from_config(path)


@pytest.mark.parametrize("gradients", ["fractional", "all"])
def test_lean_never_widens_more_than_a_chunk(gradients: Literal["fractional", "all"], monkeypatch: pytest.MonkeyPatch):
    model, batch = tiny("llama-gqa"), collate(draw_prompts((9,) * 20))
    engine = Engine(model, memory="lean")
    n_bytes = 60_000
    monkeypatch.setattr(_stack, "CHUNK_BYTES", {"cpu": n_bytes})
    for value in (0.5, 1.0):
        mask = torch.full((engine.graph.n_edges,), value, requires_grad=True)
        logits = engine.run(batch, mask, gradients=gradients)
        if logits.requires_grad:
            logits.sum().backward()
    expanded = engine._arranged.workspace.spare["expanded"]
    assert 0 < expanded.numel() * expanded.element_size() <= n_bytes * LeanStack.longer_chunks


def test_chunks_are_not_shorter_than_the_weights_that_each_reads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_stack, "CHUNK_BYTES", {"cpu": 400})  # a hundred numbers
    stack = _stack.Stack(3, 20, 8, torch.zeros(1), torch.float32, _stack.Workspace())
    assert [each.stop - each.start for each in stack.chunks(0, 20, 50)] == [2] * 10
    assert [each.stop - each.start for each in stack.chunks(0, 20, 50, 40)] == [2] * 10
    assert [each.stop - each.start for each in stack.chunks(0, 20, 50, 400)] == [8, 8, 4]
    assert [each.stop - each.start for each in stack.chunks(0, 20, 500)] == [1] * 20


@pytest.mark.unchecked
def test_a_place_that_there_is_not_is_refused():
    for choice in ({"device": "gpu"}, {"offload": "tape"}, {"share": "pairs"}):
        with pytest.raises(InputError, match=f"^{next(iter(choice))}='.*': choose .* or '"):
            Placement(**choice)  # pyright: ignore[reportArgumentType] (that is what is refused)
    model = tiny("gpt2")
    with pytest.raises(InputError, match="device 'cuda:99': not available here"):
        measured_rates(model, model.graph(), 2, 6, device="cuda:99")


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe", "gpt-oss"])
def test_experts_count(name: str):
    """All of a layer's where it lies or moves; of what a token runs, those that are chosen for it."""
    model = tiny(name, torch.float32)
    module: Any = model.module
    config = module.config
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in module.model.layers]
    assert _layer_bytes(model) == pytest.approx([4 * n for n in sizes], rel=0.06)  # but for norms and biases
    for layer in model.parts.stored:
        if layer.mlp.routing is not None:
            mlp: Any = layer.mlp.module
            experts = sum(p.numel() for p in mlp.experts.parameters())
            number = getattr(config, "num_local_experts", None) or config.num_experts
            unused = experts * (number - config.num_experts_per_tok) // number
            everything = sum(p.numel() for p in mlp.parameters())
            assert _used_of_module(layer, config) == everything - unused < everything
