"""Whether AtP*'s QK fix, edge by edge, is nearer to exact patching than EAP on edges into queries and keys.

    python benchmarks/qk_fix.py --threads 1

The default model on `ioi`. An edge's fixed score removes it from its reader, runs the head's attention exactly and
takes the effect of the head's output as linear (Kramár et al. 2024, section 3.1.1, for one edge in place of a node).
Half of the edges are those of highest absolute EAP score, half are drawn from all others into queries and keys.
"""

import argparse
import json

import torch
from _measure import seconds
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

import edgewise as ew
from edgewise.discovery._explain import metric_sum
from edgewise.engine import Stream
from edgewise.graph import KEY, QUERY


def fixed_scores(engine: ew.Engine, task: ew.tasks.Task, edges: Tensor) -> Tensor:
    """The fixed scores of some edges into queries and keys, the mean over the training pairs in one batch."""
    graph, batch = engine.graph, task.batch("train", range(len(task.train)))
    stream = Stream(engine, batch)
    run = stream.run(inner=True)
    gradients = stream.writer_effects(run, stream.value(run, metric_sum(engine, task, batch))).mixed
    found = []
    with torch.no_grad():
        for edge in edges.tolist():
            reader, writer = int(graph.edge_reader[edge]), int(graph.edge_writer[edge])
            layer = int(graph.reader_layer[reader])
            place, x = reader - graph.blocks[2 * layer].reader, run.inputs[2 * layer]
            clean = run.reads[2 * layer].detach()
            patched = clean.clone()
            patched[place] = stream.project(layer, x - stream.differences(slice(None), slice(writer, writer + 1))[0])[
                place
            ]
            change = stream.mix(layer, clean) - stream.mix(layer, patched)
            found.append(float((gradients[2 * layer] * change).sum()) / stream.n_examples)
    return torch.tensor(found, dtype=torch.float64)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--edges", type=int, default=200)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    model = ew.load_model("smollm2-135m")
    task = ew.tasks.ioi(model.tokenizer, train=args.pairs, validation=1, test=1, seed=0)
    engine = ew.Engine(model)
    graph, linear = engine.graph, ew.eap(engine, task).values.double()
    kind = graph.reader_kind[graph.edge_reader.long()]
    into = ((kind == QUERY) | (kind == KEY)).nonzero()[:, 0]
    by_score = into[linear[into].abs().argsort(descending=True)]
    n = args.edges // 2
    others = by_score[n:][torch.randperm(len(by_score) - n, generator=torch.Generator().manual_seed(0))[:n]]
    chosen = torch.zeros(graph.n_edges, dtype=torch.bool)
    chosen[torch.cat([by_score[:n], others])] = True
    exact_s, exact = seconds(lambda: ew.exact(engine, task, edges=chosen, pairs=args.pairs).values.double())
    fixed_s, fixed = seconds(lambda: fixed_scores(engine, task, chosen.nonzero()[:, 0]))
    result = {"pairs": args.pairs, "exact_s": exact_s, "fixed_s": fixed_s}
    is_top = torch.isin(chosen.nonzero()[:, 0], by_score[:n])
    for name, rows in (("top", is_top), ("drawn", ~is_top)):
        truth = exact[chosen][rows]
        for method, scores in (("eap", linear[chosen]), ("fixed", fixed)):
            result[f"{name}_{method}_pearson"] = float(pearsonr(scores[rows], truth)[0])
            result[f"{name}_{method}_spearman"] = float(spearmanr(scores[rows], truth)[0])
            result[f"{name}_{method}_mean_error"] = float((scores[rows] - truth).abs().mean())
        result[f"{name}_mean_effect"] = float(truth.abs().mean())
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
