"""Attribution graphs of random numbers, whose edges add up."""

import torch

from edgewise.attribution import AttributionGraph, Ledger, NodeTable
from edgewise.attribution._graph import KINDS

L, S = 3, 4


def made_up(seed: int = 0, kind: str = "feature", n_inner: int = 4, n_roots: int = 2, density: float = 0.6, S: int = S):
    """A graph of L layers and S tokens with every kind of node; each inner node and root reads some nodes below it."""
    torch.manual_seed(seed)
    rows = [("token", -1, s, 10 + s, 0.0) for s in range(S)] + [("position", -1, s, -1, 0.0) for s in range(S)]
    for layer in range(L):
        rows += [(bias, layer, -1, -1, 0.0) for bias in ("reading bias", "attention bias", "MLP bias")]
        rows += [("error", layer, s, -1, 0.0) for s in range(S)]
        taken = torch.randperm(S * 3)[:n_inner].sort().values  # of three neurons or features at each position
        rows += [(kind, layer, int(i) // 3, 7 * (int(i) % 3), 0.0) for i in taken]
    rows += [("reading bias", L, -1, -1, 0.0)] + [("root", L, S - 1, i, 0.0) for i in range(n_roots)]
    kinds, layers, positions, indices, values = zip(*rows, strict=True)
    nodes = NodeTable(
        torch.tensor([KINDS.index(each) for each in kinds]),
        torch.tensor(layers),
        torch.tensor(positions),
        torch.tensor(indices),
        torch.tensor(values, dtype=torch.float64),
    )
    n, is_target = len(rows), nodes.is_kind("neuron", "feature", "root")
    is_bias = nodes.is_kind("attention bias", "MLP bias", "reading bias")
    below = (nodes.layer[:, None] > nodes.layer) | (is_bias & (nodes.layer[:, None] == nodes.layer))
    before = (nodes.position[:, None] >= nodes.position) | is_bias
    dense = torch.randn(n, n, dtype=torch.float64).float() * (torch.rand(n, n) < density) * is_target[:, None]
    dense = dense * below * before * ~nodes.is_kind("root")
    total = dense.double().sum(1)
    outside = torch.where(is_target, 0.01 * torch.randn(n, dtype=torch.float64), 0.0)
    size = dense.double().abs().sum(1) + outside.abs()
    targets, sources = dense.nonzero().unbind(1)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(targets, minlength=n).cumsum(0)])
    return AttributionGraph(
        nodes._replace(value=total + outside),
        offsets,
        sources,
        dense[targets, sources],
        Ledger(torch.zeros(n, dtype=torch.float64), size, outside, outside.abs()),
        torch.arange(10, 10 + S),
        tuple(f" t{s}\n" for s in range(S)),
        tuple(f' "a{i}" (p=' for i in range(n_roots)),
        torch.rand(n_roots),
        {"nodes": "neurons" if kind == "neuron" else ["mlp_in[0]"], "root_tokens": list(range(20, 20 + n_roots))},
        {"model": {"id": "made/up"}},
    )
