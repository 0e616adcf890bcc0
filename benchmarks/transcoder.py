"""One training step of a transcoder (language model excluded), beside SAELens' and sparsify's, in turn in one process.

    python benchmarks/transcoder.py [--width 576] [--features 18432] [--k 32] [--batch 2048] [--steps 8] [--json]

Each tool takes the step that its own trainer takes: forward, backward, clipping or projection where it does so, the
optimiser, and its count of silent features. What is compared:

* ours: a TopK transcoder with `TrainingConfig`'s defaults, in both precisions, and with a tenth of its features dead,
  whose revival costs more (none is dead otherwise: the default waits for 200,000 silent tokens);
* SAELens has no trainer for transcoders; the nearest is its TopK autoencoder: as it comes, with `autocast`, with its
  sparse activations (whose backward PyTorch does not have on every device);
* sparsify: its TopK transcoder, with its default optimiser (schedule-free SignSGD) and with Adam, and with the autocast
  around its forward that it only has on a GPU.

The floor is the encoder's product alone, which every one of them must do. SAELens and sparsify are no part of the
project's environment; `not installed` is printed where one is missing.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any, Literal

import torch
from _measure import rss_bytes, seconds
from torch.nn import functional

from edgewise.models import PlainConfig, PlainTransformer, load
from edgewise.transcoders import Site, TokenRows
from edgewise.transcoders.training import TrainingConfig
from edgewise.transcoders.training._train import TranscoderLearner

Step = Callable[[int], Any]


def batches(args: argparse.Namespace) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A few batches of inputs and outputs, related as an MLP relates them."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    up, down = draw(args.width, 4 * args.width) / args.width**0.5, draw(4 * args.width, args.width) / args.width**0.5
    inputs = [draw(args.batch, args.width).to(args.device) for _ in range(4)]
    return [(x, functional.gelu(x @ up.to(args.device)) @ down.to(args.device)) for x in inputs]


def ours(args: argparse.Namespace, precision: Literal["bfloat16", "float32"], dead: int = 0) -> Step:
    """The learner that `edgewise transcoder train` runs, fed with the batches; with so many features kept dead."""
    shape = PlainConfig(8, 16, 1, 1, args.width, 8, 8)
    model = load(PlainTransformer(shape).eval().to(args.device))
    config = TrainingConfig(
        (0,),
        (f"topk:{args.k}",),
        features=args.features,
        batch_tokens=args.batch,
        tokens=args.batch * 1000,
        pool_tokens=args.batch,
        precision=precision,
        exclude_special=False,
    )
    rows = TokenRows(torch.zeros(2 * args.batch // 16 + 16, 16, dtype=torch.long))
    learner = TranscoderLearner(model, rows, config)
    data = batches(args)
    sites = (Site("mlp_in", 0), Site("mlp_out", 0))
    learner.stream.batch = lambda step: dict(zip(sites, data[step % len(data)], strict=True))
    learner.stream.first = lambda site, n_batches: dict(zip(sites, data[0], strict=True))[site]
    learner.begin()
    (silent,) = next(iter(learner.silent.values()))

    def step(number: int) -> None:
        silent[:dead] = config.dead_after + 1
        learner.step(number)

    return step


def saelens(args: argparse.Namespace, *, sparse: bool = False, autocast: bool = False) -> Step:
    """The step of SAELens' own trainer, on its TopK autoencoder."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig  # pyright: ignore[reportMissingImports] (theirs)
    from sae_lens.config import SAETrainerConfig  # pyright: ignore[reportMissingImports] (theirs)
    from sae_lens.training.sae_trainer import SAETrainer  # pyright: ignore[reportMissingImports] (theirs)

    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=args.width, d_sae=args.features, k=args.k, device=args.device, use_sparse_activations=sparse
        )
    )
    data = [x for x, _ in batches(args)]
    config = SAETrainerConfig(
        total_training_samples=args.batch * 1000,
        train_batch_size_samples=args.batch,
        device=args.device,
        lr_end=3e-5,
        autocast=autocast,
    )
    trainer = SAETrainer(config, sae, iter(data))
    return lambda step: trainer._train_step(sae, data[step % len(data)])


def sparsify(args: argparse.Namespace, optimizer: str, *, autocast: bool = False) -> Step:
    """sparsify's trainer's step with its transcoder: the body of its loop, without the language model around it."""
    from schedulefree import ScheduleFreeWrapper  # pyright: ignore[reportMissingImports] (theirs)
    from sparsify import SparseCoder, SparseCoderConfig  # pyright: ignore[reportMissingImports] (theirs)
    from sparsify.sign_sgd import SignSGD  # pyright: ignore[reportMissingImports] (theirs)

    config = SparseCoderConfig(num_latents=args.features, k=args.k, transcode=True)
    coder = SparseCoder(args.width, config, args.device, dtype=torch.float32)
    scale = (args.features / 2**14) ** 0.5
    if optimizer == "adam":
        chosen: Any = torch.optim.Adam(coder.parameters(), lr=2e-4 / scale)
    else:
        chosen = ScheduleFreeWrapper(SignSGD(coder.parameters(), lr=5e-3 / scale), momentum=0.95)
        chosen.train()
    data = batches(args)
    silent = torch.zeros(args.features, dtype=torch.long, device=args.device)

    def step(number: int) -> None:
        x, y = data[number % len(data)]
        with torch.autocast(args.device, torch.bfloat16, enabled=autocast):
            out = coder(x, y, dead_mask=None)
        out.fvu.backward()
        chosen.step()
        chosen.zero_grad()
        silent.add_(len(x))
        silent[out.latent_indices.flatten()] = 0

    return step


def floor(args: argparse.Namespace, dtype: torch.dtype) -> Step:
    """The encoder's product, into memory that is there already."""
    x = batches(args)[0][0].to(dtype)
    weight = torch.randn(args.features, args.width, device=args.device).to(dtype)
    out = torch.empty(args.batch, args.features, device=args.device, dtype=dtype)
    return lambda _: torch.mm(x, weight.T, out=out)


TOOLS: dict[str, Callable[[argparse.Namespace], Step]] = {
    "edgewise, bfloat16": lambda args: ours(args, "bfloat16"),
    "edgewise, bfloat16, a tenth dead": lambda args: ours(args, "bfloat16", args.features // 10),
    "edgewise, float32": lambda args: ours(args, "float32"),
    "SAELens TopK SAE": saelens,
    "SAELens TopK SAE, autocast": lambda args: saelens(args, autocast=True),
    "SAELens TopK SAE, sparse": lambda args: saelens(args, sparse=True),
    "sparsify transcoder, SignSGD": lambda args: sparsify(args, "signum"),
    "sparsify transcoder, Adam": lambda args: sparsify(args, "adam"),
    "sparsify transcoder, autocast": lambda args: sparsify(args, "adam", autocast=True),
    "floor: encoder in bfloat16": lambda args: floor(args, torch.bfloat16),
    "floor: encoder in float32": lambda args: floor(args, torch.float32),
}


def measure(args: argparse.Namespace) -> dict[str, float | str]:
    """Median seconds of a step by tool, or why there are none. The tools take turns, step by step."""
    found: dict[str, float | str] = {}
    steps: dict[str, Step] = {}
    for name, make in TOOLS.items():
        if args.only and not any(part in name for part in args.only):
            continue
        try:
            steps[name] = make(args)
            for number in range(args.warmup):
                steps[name](number)
        except ImportError:
            found[name] = "not installed"
            steps.pop(name, None)
        except (NotImplementedError, RuntimeError) as error:  # another library without a CPU path: the table says so
            found[name] = f"does not run here ({type(error).__name__})"
            steps.pop(name, None)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(args.steps):
        for name, step in steps.items():
            times[name].append(seconds(lambda step=step, number=number: step(number))[0])
    return found | {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--features", type=int, default=32 * 576)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="parts of the names to measure")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = measure(args)
    if args.json:
        sizes = {name: getattr(args, name) for name in ("width", "features", "k", "batch", "steps", "device")}
        print(json.dumps({**sizes, "threads": torch.get_num_threads(), "rss_bytes": rss_bytes(), "seconds": found}))
        return
    base = found.get("edgewise, bfloat16")
    sizes = f"d = {args.width}, F = {args.features}, TopK {args.k}, {args.batch} tokens"
    print(f"{sizes}, {torch.get_num_threads()} threads")
    for name in TOOLS:
        took = found.get(name)
        if isinstance(took, float):
            against = f"{took / base:6.2f} x" if isinstance(base, float) else ""
            print(f"{name:34} {took:8.3f} s {against}")
        elif took is not None:
            print(f"{name:34} {took}")


if __name__ == "__main__":
    main()
