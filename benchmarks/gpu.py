"""Everything that is to be measured on a GPU, as one command for whatever device is there.

    python benchmarks/gpu.py [--minutes 8] [--out gpu.json] [--device cuda] [--shapes gpt2,llama-1.4b,…]
    python benchmarks/gpu.py --device cpu --tiny          # the same in a minute on a CPU, at a tiny shape

Models have random weights. As far as the minutes last, first exactness, of the shapes with a case in float32: a
circuit's logits and its masks' gradients on the device beside those of the same weights on the CPU, in float32 and in
bfloat16, and each beside the CPU's float64: how far they are, as a share of the largest. Then for each case, in this
order:

* loading it and planning its step, without which none of the others is measured;
* an Edge-Pruning step and an EAP pass, with seconds, and the most memory above the weights beside `plan`'s;
* rows of an attribution graph of neurons, with seconds of them all;
* a transcoder's training step at the shape's width;
* of `llama-1.4b`, the step with layers offloaded to main memory, which gives the same numbers.

What fails is a line of the result with its error, and the rest goes on. The JSON is written after every measurement,
whole or not at all, so that nothing is lost where the time is cut short.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from _cases import random_task
from _measure import peak_tensor_bytes, seconds
from _shapes import SHAPES, random_weights, save_tokenizer
from transformers import LlamaConfig

import edgewise as ew
from edgewise.discovery import EdgePruningConfig, eap
from edgewise.discovery._edge_pruning import EdgePruningLearner
from edgewise.engine import Engine, Placement, footprint, measured_rates
from edgewise.models import Model, PlainConfig, PlainTransformer, load
from edgewise.runs import write_atomically
from edgewise.transcoders import Site, TokenRows
from edgewise.transcoders.training import TrainingConfig
from edgewise.transcoders.training._train import TranscoderLearner

Kind = Literal["cpu", "cuda"]


class Case(NamedTuple):
    """One shape, and how much of it."""

    shape: str
    dtype: torch.dtype
    """Of the weights and of the stack."""
    batch: int
    length: int
    features: int
    """Of the transcoder."""


CASES = (
    Case("gpt2", torch.float32, 32, 20, 24576),
    Case("gpt2", torch.bfloat16, 32, 20, 24576),
    Case("llama-1.4b", torch.bfloat16, 16, 24, 32768),
    Case("llama-7b", torch.bfloat16, 8, 24, 65536),
    Case("codellama-13b", torch.bfloat16, 4, 24, 65536),
)
TINY = (
    Case("tiny", torch.float32, 3, 6, 256),
    Case("tiny-llama", torch.bfloat16, 2, 5, 256),
)
TINY_LLAMA: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SHAPES["tiny-llama"] = lambda: LlamaConfig(**TINY_LLAMA)


class Bench:
    """The rows so far, and how much time is left."""

    def __init__(self, out: Path, minutes: float, about: dict[str, Any]) -> None:
        """Begin."""
        self.out, self.end, self.start = out, time.monotonic() + 60 * minutes, time.monotonic()
        self.found: dict[str, Any] = {"about": about, "rows": []}

    def run(self, name: str, case: Case, measure: Callable[[], dict[str, Any]]) -> None:
        """One measurement; a failure is its row."""
        row: dict[str, Any] = {"what": name, "shape": case.shape, "dtype": str(case.dtype).removeprefix("torch.")}
        if time.monotonic() > self.end:
            row["skipped"] = "no time left"
        else:
            try:
                row |= measure()
            except Exception as error:  # one that fails must not cost the others their time
                row |= {"error": f"{type(error).__name__}: {error}"[:500], "traceback": traceback.format_exc()[-2000:]}
        row["at_s"] = time.monotonic() - self.start
        self.found["rows"].append(row)
        write_atomically(self.out, json.dumps(self.found, indent=1) + "\n")
        print(json.dumps({key: value for key, value in row.items() if key != "traceback"}), flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, as a share of the largest number."""
    one, other = one.double().cpu(), other.double().cpu()
    return float((one - other).abs().max() / other.abs().max())


def exactness(case: Case, device: str) -> dict[str, Any]:
    """Logits and mask gradients on the device, on the CPU, and in float64."""
    task = random_task(900, 2, 6)
    weights = random_weights(SHAPES[case.shape]()).state_dict()  # on the CPU: devices draw other numbers
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for where, dtype in (("cpu", torch.float64), ("cpu", torch.float32), (device, torch.float32)):
        found[f"{where} {dtype}"] = _circuit(case.shape, weights, where, dtype, None, task)
    for where in ("cpu", device):
        found[f"{where} bf16"] = _circuit(case.shape, weights, where, torch.bfloat16, torch.bfloat16, task)
    exact = found["cpu torch.float64"]
    row = {
        f"{name} {what}": apart(own, expected)
        for name, pair in found.items()
        for what, own, expected in zip(("logits", "gradients"), pair, exact, strict=True)
    }
    own = found[f"{device} torch.float32"], found["cpu torch.float32"]
    return row | {"device beside cpu": max(apart(*pair) for pair in zip(*own, strict=True))}


def _circuit(
    shape: str, weights: dict[str, torch.Tensor], device: str, dtype: torch.dtype, stack: Any, task: ew.tasks.Task
) -> tuple[torch.Tensor, torch.Tensor]:
    module = random_weights(SHAPES[shape](), dtype)
    module.load_state_dict(weights)
    model = load(module.to(device, dtype))
    engine = Engine(model, dtype=stack)
    mask = torch.rand(engine.graph.n_edges, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    logits = engine.run(task.batch("train", range(2)).to(model.device), mask)
    logits.float().square().mean().backward()
    assert mask.grad is not None
    return logits.detach().cpu(), mask.grad.cpu()


def _learner(model: Model, task: ew.tasks.Task, case: Case, memory: Any) -> EdgePruningLearner:
    settings = EdgePruningConfig(steps=8, batch_size=case.batch, warm_start=0.0, lr_warmup=1, sparsity_warmup=4)
    learner = EdgePruningLearner(Engine(model, memory=memory, dtype=_stack(case)), task, settings)
    learner.prepare()
    return learner


def _stack(case: Case) -> torch.dtype | None:
    return None if case.dtype == torch.float32 else case.dtype


def plans(model: Model, case: Case, kind: Kind, room: int) -> Any:
    """The plan of the fastest memory mode that fits; of the last where none does."""
    found = [
        footprint(
            model,
            model.graph(),
            case.batch,
            case.length,
            memory=memory,
            dtype=_stack(case),
            placement=Placement(kind),
            examples=16,
        )
        for memory in ("default", "lean")
    ]
    return next((plan for plan in found if plan.total_bytes < 0.9 * room), found[-1])


def step(model: Model, case: Case, plan: Any, device: str) -> dict[str, Any]:
    """Edge-Pruning steps: seconds and memory beside the plan's."""
    task = random_task(900, max(16, case.batch), case.length)
    learner = _learner(model, task, case, plan.memory)
    learner.step(0)
    times = [seconds(lambda number=number: learner.step(number))[0] for number in (1, 2, 3)]
    peak = peak_tensor_bytes(lambda: learner.step(4))
    rates = measured_rates(model, model.graph(), case.batch, case.length, device=device)
    return {
        "memory": plan.memory,
        "step_s": statistics.median(times),
        "planned_s": rates.seconds(plan),
        "bytes_above_weights": peak,
        "planned_bytes_above_weights": plan.bytes_above_weights,
        "rates": asdict(rates),
    }


def attribution_pass(model: Model, case: Case, plan: Any) -> dict[str, Any]:
    """EAP over one batch."""
    task = replace(random_task(900, case.batch, case.length), validation=[], test=[])
    engine = Engine(model, memory=plan.memory, dtype=_stack(case))
    eap(engine, task, batch_size=case.batch)
    s, _ = seconds(lambda: eap(engine, task, batch_size=case.batch))
    return {"s": s, "bytes_above_weights": peak_tensor_bytes(lambda: eap(engine, task, batch_size=case.batch))}


def offloaded_step(case: Case, device: str, whole: Model) -> dict[str, Any]:
    """The same step with layers in main memory (on a CPU: on disk), and how far its gradients are."""
    where: Any = "disk" if device == "cpu" else "cpu"
    task, found, times = random_task(900, case.batch, case.length), [], []
    with tempfile.TemporaryDirectory() as folder:
        module: Any = whole.module
        module.save_pretrained(folder)
        save_tokenizer(Path(folder))
        own = load(folder, device=device, offload=where)
    for model in (whole, own):
        learner = _learner(model, task, case, "default")
        times.append(seconds(lambda learner=learner: learner.step(0))[0])
        assert learner.edges.grad is not None
        found.append(learner.edges.grad.clone())
    return {"s": times[1], "resident_s": times[0], "apart": apart(found[1], found[0])}


def rows(model: Model, case: Case, n: int) -> dict[str, Any]:
    """Rows of an attribution graph of neurons."""
    ids = torch.randint(900, (4 * case.length,), generator=torch.Generator().manual_seed(0)).tolist()
    config = ew.AttributionConfig(max_nodes=n, batch=n // 2, keep=0.9)
    s, graph = seconds(lambda: ew.attribute(model, ids, config=config, options=ew.RunOptions(progress=False)))
    return {"s": s, "rows": n, "tokens": len(ids), "residual": float(graph.ledger.worst)}


def transcoder_step(model: Model, case: Case, device: str) -> dict[str, Any]:
    """A TopK transcoder's step at the shape's width, activations at hand."""
    width, batch = model.parts.d_model, 4096 if case.features > 1000 else 64
    shape = PlainConfig(8, 16, 1, 1, width, 8, 8)
    small = load(PlainTransformer(shape).eval().to(device))
    config = TrainingConfig(
        (0,),
        ("topk:32",),
        features=case.features,
        batch_tokens=batch,
        tokens=batch * 1000,
        pool_tokens=batch,
        exclude_special=False,
    )
    learner = TranscoderLearner(small, TokenRows(torch.zeros(2 * batch // 16 + 16, 16, dtype=torch.long)), config)
    x = torch.randn(batch, width, device=device)
    data = {Site("mlp_in", 0): x, Site("mlp_out", 0): x.tanh()}
    learner.stream.batch = lambda step: data
    learner.stream.first = lambda site, n_batches: data[site]
    learner.begin()
    learner.step(0)
    times = [seconds(lambda number=number: learner.step(number))[0] for number in (1, 2, 3)]
    return {"step_s": statistics.median(times), "features": case.features, "tokens": batch}


def measure(bench: Bench, case: Case, args: argparse.Namespace, kind: Kind, room: int) -> None:
    """All of a case but its exactness; nothing of it where its model cannot be had, or there is no time for it."""
    found = list[Any]()

    def loading() -> dict[str, Any]:
        s, model = seconds(lambda: load(random_weights(SHAPES[case.shape](), case.dtype, args.device)))
        plan = plans(model, case, kind, room)
        found.extend((model, plan))
        return {"s": s, "memory": plan.memory, "planned_bytes": plan.total_bytes}

    bench.run("loading", case, loading)
    if not found:
        return
    model, plan = found
    bench.run("edge-pruning step", case, lambda: step(model, case, plan, args.device))
    bench.run("eap", case, lambda: attribution_pass(model, case, plan))
    bench.run("attribution rows", case, lambda: rows(model, case, 32 if args.tiny else 512))
    bench.run("transcoder step", case, lambda: transcoder_step(model, case, args.device))
    if args.tiny or case.shape == "llama-1.4b":
        bench.run("offloaded step", case, lambda: offloaded_step(case, args.device, model))


def about(device: str) -> dict[str, Any]:
    """The machine."""
    found = {"device": device, "torch": torch.__version__, "python": platform.python_version()}
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(0)
        found |= {"name": properties.name, "bytes": str(properties.total_memory)}
    return found | {"software": ew.runs.software()}


def main() -> None:
    """Parse, and measure as long as there is time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", help="only these, with commas")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    kind: Kind = "cuda" if args.device.startswith("cuda") else "cpu"
    room = torch.cuda.get_device_properties(0).total_memory if kind == "cuda" else 4 << 30
    bench = Bench(args.out, args.minutes, about(args.device))
    wanted = None if args.shapes is None else args.shapes.split(",")
    cases = [case for case in (TINY if args.tiny else CASES) if wanted is None or case.shape in wanted]
    for case in cases:
        if case.dtype == torch.float32 or args.tiny:
            bench.run("exactness", case, lambda case=case: exactness(case, args.device))
    for case in cases:
        measure(bench, case, args, kind, room)


if __name__ == "__main__":
    main()
