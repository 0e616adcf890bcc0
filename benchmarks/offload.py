"""A model larger than memory on a CPU: an exact Edge-Pruning step and an EAP pass with layers mapped from disk.

    python benchmarks/offload.py --folder DIR [--shape codellama-13b] [--pairs 2] [--length 24] [--memory default|lean]
    [--cut 4] [--keep] [--out offload.json]

It writes random bfloat16 weights of the shape under DIR (26 GB for codellama-13b), a file for each layer, and removes
them in the end unless told to `--keep` them; those that an earlier run kept are used. Printed beside the plan: seconds;
bytes of layers asked for, and read from the disk; and the most memory that was the process's own (`RssAnon`: cached
pages of files aside, which the system takes back when it needs them). First a cut of the shape, of its first `--cut`
layers, gives the same numbers offloaded as in memory, to the bit.

The plan's seconds come from rates measured beforehand: products with a layer's weights, products with masks, those of
the full model in the type of its weights, and reading a mapped file that is not in the system's cache. A layer is read
while another is computed, so the plan takes the longer of the two.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from _cases import random_task
from _measure import seconds
from _shapes import SHAPES, save_tokenizer
from safetensors.torch import save_file
from transformers import AutoConfig, PretrainedConfig

from edgewise.discovery import EdgePruningConfig, eap
from edgewise.discovery._edge_pruning import EdgePruningLearner
from edgewise.engine import Engine, Footprint, Placement, Rates, footprint, measured_rates
from edgewise.models import Model, OffloadedLayers, from_config, load
from edgewise.runs import write_atomically
from edgewise.tasks import Task

INDEX = "model.safetensors.index.json"


def write_weights(folder: Path, config: PretrainedConfig) -> None:
    """Random bfloat16 weights in the layout of `transformers`: a file for each layer, one for the rest, an index."""
    folder.mkdir(parents=True)
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    save_tokenizer(folder)
    sizes = from_config(folder, torch.bfloat16).module.state_dict()
    files: dict[str, list[str]] = {}
    for name in sizes:
        number = next((part for part in name.split(".") if part.isdigit()), None)
        files.setdefault("rest" if number is None else f"layer-{int(number):03d}", []).append(name)
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randn(1 << 24, generator=generator) * 0.02).bfloat16()  # of which every matrix takes its numbers

    def tensor(shape: torch.Size) -> torch.Tensor:
        if len(shape) == 1:
            return torch.ones(shape, dtype=torch.bfloat16)
        start = int(torch.randint(len(drawn), (), generator=generator))
        return drawn.roll(start).repeat(-(-shape.numel() // len(drawn)))[: shape.numel()].view(shape).clone()

    for file, names in files.items():
        tensors = {name: tensor(sizes[name].shape) for name in names}
        save_file(tensors, folder / f"{file}.safetensors", metadata={"format": "pt"})
    _index(folder, {name: f"{file}.safetensors" for file, names in files.items() for name in names})


def _index(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def cut(folder: Path, n_layers: int) -> Path:
    """A model of the first layers, whose files are links to the whole model's."""
    into = folder / "cut"
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    config = json.loads((folder / "config.json").read_text())
    name = "num_hidden_layers" if "num_hidden_layers" in config else "n_layer"
    (into / "config.json").write_text(json.dumps(config | {name: n_layers}))
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    kept = {
        name: file
        for name, file in weight_map.items()
        if file == "rest.safetensors" or int(file[len("layer-") : -len(".safetensors")]) < n_layers
    }
    for file in [*set(kept.values()), *(path.name for path in folder.glob("token*"))]:
        (into / file).symlink_to(folder / file)
    _index(into, kept)
    return into


class Memory:
    """The most memory of the process's own since this was made, in bytes; asked for twenty times a second."""

    def __init__(self) -> None:
        """Begin to look."""
        self.peak, self._over = own_memory(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.peak = max(self.peak, own_memory())

    def stop(self) -> int:
        """The peak."""
        self._over.set()
        self._thread.join()
        return self.peak


def own_memory() -> int:
    """The process's memory without pages of files, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("offload: /proc/self/status has no RssAnon; run it on Linux")


def bytes_read() -> int:
    """How much the process has had read from disks."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("read_bytes:"):
            return int(line.split()[1])
    raise SystemExit("offload: /proc/self/io has no read_bytes; run it on Linux")


def read_rate(file: Path) -> float:
    """Bytes per second from a mapped file that is not in the system's cache, a byte of every page looked at, as layers
    are brought.
    """
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # what is not yet written cannot be dropped from the cache
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    mapped = torch.from_file(str(file), size=file.stat().st_size, dtype=torch.uint8)
    s, _ = seconds(lambda: mapped[:: resource.getpagesize()].sum())
    return len(mapped) / s


def same_numbers(folder: Path, task: Task, memory: Any) -> bool:
    """Whether a step's gradients and EAP scores of a model are the same offloaded and in memory, to the bit."""
    found = []
    for offload in (None, "disk"):
        model = load(folder, offload=offload)
        learner = _learner(model, task, memory)
        learner.step(0)
        assert learner.edges.grad is not None
        found.append([learner.edges.grad.clone(), eap(Engine(model, memory=memory), task).values])
        del model, learner
    return all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def _learner(model: Model, task: Task, memory: Any) -> EdgePruningLearner:
    settings = EdgePruningConfig(steps=1, batch_size=len(task.train), warm_start=0.0, lr_warmup=0, sparsity_warmup=0)
    return EdgePruningLearner(Engine(model, memory=memory), task, settings)


def measured(model: Model, run: Callable[[], Any]) -> dict[str, Any]:
    """Seconds of a call, its bytes of layers and of the disk, and the most memory of the process's own."""
    layers = model.parts.layers
    assert isinstance(layers, OffloadedLayers)
    asked, read, before, memory = layers.fetched_bytes, bytes_read(), own_memory(), Memory()
    s, _ = seconds(run)
    return {
        "before_bytes": before,
        "s": s,
        "layer_bytes": layers.fetched_bytes - asked,
        "disk_bytes": bytes_read() - read,
        "own_memory_bytes": memory.stop(),
    }


def planned(plan: Footprint, rates: Rates, read: float) -> dict[str, float]:
    """The same as planned, the constants of the pairs included."""
    n_bytes = plan.traffic["layers of a step, there and back"] + plan.traffic["layers for a batch's constants"]
    compute = rates.seconds(plan, new_pairs=True)
    return {"s": max(compute, n_bytes / read), "compute_s": compute, "layer_bytes": n_bytes}


def study(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything that is printed."""
    config = SHAPES[args.shape]()
    n_layers, d_model = config.num_hidden_layers, config.hidden_size
    if (folder / INDEX).exists():  # which is written last
        if (kept := AutoConfig.from_pretrained(folder)).num_hidden_layers != n_layers or kept.hidden_size != d_model:
            raise SystemExit(f"{folder} has weights of another shape; remove it")
    else:
        shutil.rmtree(folder, ignore_errors=True)
        write_s, _ = seconds(lambda: write_weights(folder, config))
        os.sync()  # what is still to be written would slow all that follows
        print(f"written in {write_s:.0f} s", file=sys.stderr, flush=True)
    task = random_task(900, args.pairs, args.length)
    row: dict[str, Any] = {"shape": args.shape, "pairs": args.pairs, "length": args.length, "memory": args.memory}
    row["threads"] = torch.get_num_threads()
    if args.cut < n_layers:
        row["cut_is_equal"] = same_numbers(cut(folder, args.cut), task, args.memory)
        print(f"the first {args.cut} layers: equal to the bit: {row['cut_is_equal']}", file=sys.stderr, flush=True)
    read = read_rate(folder / f"layer-{n_layers - 1:03d}.safetensors")
    load_s, model = seconds(lambda: load(folder, offload="disk"))
    graph = model.graph()
    row |= {"weights_bytes": sum(x.numel() * 2 for x in model.module.parameters()), "edges": graph.n_edges}
    row |= {"load_s": load_s, "read_bytes_per_s": read}
    plan = footprint(model, graph, args.pairs, args.length, placement=Placement(offload="disk"), memory=args.memory)
    rates = measured_rates(model, graph, args.pairs, args.length)
    row["rates"] = asdict(rates)
    row["plan"] = planned(plan, rates, read) | {"own_memory_bytes": plan.total_bytes}
    learner = _learner(model, task, args.memory)
    row["edge_pruning_step"] = measured(model, lambda: learner.step(0))
    print(f"step: {row['edge_pruning_step']}", file=sys.stderr, flush=True)
    del learner
    row["eap"] = measured(model, lambda: eap(Engine(model, memory=args.memory), task))
    return row


@contextmanager
def weights_in(folder: Path, keep: bool) -> Iterator[Path]:
    """A folder of its own there, which is removed in the end unless it is to be kept."""
    own = folder / "edgewise-offload"
    if own.exists() and not keep:
        raise SystemExit(f"{own} exists; use it with --keep, remove it, or name another --folder")
    try:
        yield own
    finally:
        if not keep:
            shutil.rmtree(own, ignore_errors=True)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where there is room for the weights")
    parser.add_argument("--shape", choices=list(SHAPES), default="codellama-13b")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--length", type=int, default=24)
    parser.add_argument("--memory", choices=["default", "lean"], default="default")
    parser.add_argument("--cut", type=int, default=4)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    with weights_in(args.folder, args.keep) as folder:
        row = study(args, folder)
    text = json.dumps(row, indent=2)
    print(text)
    if args.out is not None:
        write_atomically(args.out, f"{text}\n")


if __name__ == "__main__":
    main()
