"""Which neurons stand for their MLPs: those of the largest mean effect, or of the largest mean size of effect?

    python benchmarks/candidates.py                        # all tasks, on the test split
    python benchmarks/candidates.py --split validation     # to choose by

For each task: the effects of all neurons on the training pairs, once by each average (`neuron_effects`), the largest of
each MLP, and the KL of the circuit in which these are all that is left of the MLPs: every edge is kept but those of the
MLPs' other neurons. Random neurons of the same number stand for chance. Interchange ablation, hard masks.
"""

import argparse
import time
from dataclasses import replace

import torch
from _page import model_name

import edgewise as ew
from edgewise.evaluation import judge
from edgewise.graph import MLP
from edgewise.runs import bootstrap, uniform

AVERAGES = ("signed", "absolute")


def alone(model: ew.Model, chosen: dict[int, torch.Tensor]) -> ew.Circuit:
    """All edges but those of the neurons that were not chosen."""
    graph = model.graph(neurons={layer: tuple(sorted(each.tolist())) for layer, each in chosen.items()})
    return ew.Circuit(graph, graph.writer_kind[graph.edge_writer.long()] != MLP, ablation=ew.Ablation())


def main() -> None:
    """Choose, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", nargs="+", default=["ioi", "greater-than", "gendered-pronoun", "capital-country"])
    parser.add_argument("--neurons", nargs="+", type=int, default=[8, 32], help="of each MLP")
    parser.add_argument("--train", type=int, default=64)
    parser.add_argument("--judged", type=int, default=64)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    args = parser.parse_args()
    model = ew.load_model(args.model)
    print("| task | neurons of each MLP | signed | absolute | random |\n|---|---|---|---|---|")
    seconds: dict[str, list[float]] = {average: [] for average in AVERAGES}
    for name in args.tasks:
        sizes = {"train": args.train, "validation": args.judged, "test": args.judged}
        task = ew.tasks.TASKS[name](model.tokenizer, **sizes, seed=0)
        effects: dict[str, dict[int, torch.Tensor]] = {}
        ew.discovery.neuron_effects(model, replace(task, train=task.train[:8]))  # the first call costs more
        for average in AVERAGES:
            start = time.perf_counter()
            effects[average] = ew.discovery.neuron_effects(model, task, average=average)
            seconds[average].append(time.perf_counter() - start)
        effects["random"] = {layer: uniform(len(each), 0, layer) for layer, each in effects["signed"].items()}
        for n in args.neurons:
            kl = []
            for each in effects.values():
                circuit = alone(model, {layer: x.abs().topk(n).indices for layer, x in each.items()})
                values = judge(ew.Engine(model, circuit.graph), {"alone": circuit}, task, args.split, names=("kl",))
                kl.append(str(bootstrap(values["alone"]["kl"])))
            print(f"| {name} | {n} | {' | '.join(kl)} |", flush=True)
    shown = ", ".join(f"{average} {sum(each) / len(each):.0f} s" for average, each in seconds.items())
    print(
        f"\n{model_name(args.model)}, interchange ablation. Mean KL on {args.judged} {args.split} pairs, 95 % bootstrap"
        f" intervals. The effects of {args.train} training pairs took: {shown}."
    )


if __name__ == "__main__":
    main()
