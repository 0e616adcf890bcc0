"""Whether AtP*'s QK fix, edge by edge, is nearer to exact patching than EAP on edges into queries and keys.

    python benchmarks/qk_fix.py --threads 1

The default model on `ioi`. An edge's fixed score removes it from its reader, runs the head's attention exactly and
takes the effect of the head's output as linear (Kramár et al. 2024, section 3.1.1, for one edge in place of a node).
Circuits of both, with scores from the same pairs, are judged on 32 validation pairs.
Half of the edges are those of highest absolute EAP score, half are drawn from all others into queries and keys.
"""

import argparse
import json

import torch
from _measure import seconds
from scipy.stats import pearsonr, spearmanr

import edgewise as ew
from edgewise.graph import KEY, QUERY


def kl_of_circuits(engine: ew.Engine, task: ew.tasks.Task, scores: dict[str, ew.Scores]) -> dict[str, float]:
    """KL on validation of the circuits at 95 % and 98 %, by absolute score."""
    found = {}
    for sparsity in (0.95, 0.98):
        for name, each in scores.items():
            circuit = each.at(sparsity, actual=True, absolute=True)
            result = ew.evaluate(engine, circuit, task, split="validation", baselines=())
            found[f"kl_at_{sparsity}_{name}"] = result.metrics["kl"].value
    return found


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
    task = ew.tasks.ioi(model.tokenizer, train=args.pairs, validation=32, test=1, seed=0)
    engine = ew.Engine(model)
    eap_s, plain = seconds(lambda: ew.eap(engine, task))
    fixed_s, mended = seconds(lambda: ew.eap(engine, task, qk_fix=True))
    graph, linear = engine.graph, plain.values.double()
    kind = graph.reader_kind[graph.edge_reader.long()]
    into = ((kind == QUERY) | (kind == KEY)).nonzero()[:, 0]
    by_score = into[linear[into].abs().argsort(descending=True)]
    n = args.edges // 2
    others = by_score[n:][torch.randperm(len(by_score) - n, generator=torch.Generator().manual_seed(0))[:n]]
    chosen = torch.zeros(graph.n_edges, dtype=torch.bool)
    chosen[torch.cat([by_score[:n], others])] = True
    exact_s, exact = seconds(lambda: ew.exact_patching(engine, task, edges=chosen, pairs=args.pairs).values.double())
    result = {"pairs": args.pairs, "eap_s": eap_s, "fixed_s": fixed_s, "exact_s": exact_s}
    result |= kl_of_circuits(engine, task, {"eap": plain, "fixed": mended})
    is_top = torch.isin(chosen.nonzero()[:, 0], by_score[:n])
    for name, rows in (("top", is_top), ("drawn", ~is_top)):
        truth = exact[chosen][rows]
        for method, scores in (("eap", linear[chosen]), ("fixed", mended.values.double()[chosen])):
            result[f"{name}_{method}_pearson"] = float(pearsonr(scores[rows], truth)[0])  # pyright: ignore[reportArgumentType] (scipy's stubs)
            result[f"{name}_{method}_spearman"] = float(spearmanr(scores[rows], truth)[0])  # pyright: ignore[reportArgumentType] (scipy's stubs)
            result[f"{name}_{method}_mean_error"] = float((scores[rows] - truth).abs().mean())
        result[f"{name}_mean_effect"] = float(truth.abs().mean())
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
