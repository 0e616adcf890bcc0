"""Growing a graph: rows of the roots first, then of the nodes that influence them most, batch after batch.

After circuit-tracer: as long as the budget lasts, the nodes whose rows are not known are ranked by their influence
through the rows that are, and the first of them get theirs. Rows are kept sparse: their largest edges that together
have a stated share of all sizes; what is cut is added up.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from edgewise.attribution._nodes import Nodes
from edgewise.attribution._rows import Columns, Targets, rows
from edgewise.attribution._sparse_rows import Cut, SparseRows
from edgewise.attribution._targets import Root, node_targets
from edgewise.runs import ONE_PROCESS, Learner, NothingToGainError, Ranks, joined, share

BLOCK = 128
"""Rows of one walk."""
BLOCK_BYTES = 1 << 28
"""How much a walk's rows, or its covectors, may take; fewer rows where a row is long."""


class Growth(Learner):
    """The rows known so far. A step is one batch of rows."""

    on_interrupt = "finish"

    def __init__(
        self, nodes: Nodes, roots: list[Root], budget: int, batch: int, cut: Cut, ranks: Ranks = ONE_PROCESS
    ) -> None:
        self.nodes, self.roots, self.budget, self.batch, self.cut = nodes, roots, budget, batch, cut
        self.ranks = ranks
        self.columns = Columns.of(nodes)
        self.position = torch.cat([active.position for active in nodes.active]).cpu()
        self.layer = torch.repeat_interleave(torch.tensor(self.columns.counts))
        self.chosen = list[Tensor]()
        """Columns of the nodes that have rows, batch after batch."""
        self.found = list[SparseRows]()
        """The roots' rows first, then each batch's."""
        self.shares = list[csr_array]()
        """The same, normalised, as far as a ranking has needed them."""

    @property
    def n_steps(self) -> int:
        """Batches until the budget, or all nodes, are used up."""
        return -(-min(self.budget, self.columns.n_nodes) // self.batch)

    def begin(self) -> None:
        """The roots' rows."""
        targets = [each.targets._replace(row=each.targets.row + i) for i, each in enumerate(self.roots)]
        self.found.append(rows(self.nodes, self.columns, targets, len(targets), self.cut).cpu())

    def step(self, step: int) -> dict[str, Tensor | float]:
        """One batch; by several rankings where the first reaches fewer nodes than that. Shows the share of all
        influence that nodes without rows had before it.
        """
        left, gain = min(self.batch, min(self.budget, self.columns.n_nodes) - step * self.batch), list[float]()
        while left:
            influence = self.influence()
            nodes = influence[: self.columns.n_nodes].clone()
            for each in self.chosen:
                nodes[each.long()] = -1
            chosen = nodes.topk(left).indices
            chosen = chosen[nodes[chosen] > 0].sort().values  # a layer's nodes stand together
            if not len(chosen):
                break
            self.chosen.append(chosen.to(torch.int32))
            self.found.append(self.rows_of(chosen))
            gain.append(float(nodes.clamp(min=0).sum() / influence.sum().clamp(min=1e-30)))
            left -= len(chosen)
        if not gain:
            raise NothingToGainError
        return {"influence without rows": gain[0]}

    def rows_of(self, chosen: Int[Tensor, " n"]) -> SparseRows:
        """The rows of some nodes, in blocks of nearby positions."""
        order = self.position[chosen].argsort(stable=True)
        widest = len(self.nodes.run) * max(
            self.nodes.run.final.shape[1], -(-max(self.columns.counts) // len(self.nodes.run))
        )
        block = max(1, min(BLOCK, BLOCK_BYTES // (widest * self.nodes.run.final.element_size())))
        blocks = order.split(block)
        mine = share(len(blocks), self.ranks)
        none = SparseRows(*(each[:0] for each in self.found[0]))._replace(offsets=self.found[0].offsets[:1])
        own = SparseRows.joined([none, *(self.block(chosen[each]) for each in blocks[mine.start : mine.stop])])
        return shared_rows(own, self.ranks).take(order.argsort())

    def block(self, chosen: Int[Tensor, " n"]) -> SparseRows:
        """The rows of some nodes by one walk."""
        targets, layer = list[Targets](), self.layer[chosen]
        for each in layer.unique().tolist():
            here = (layer == each).nonzero()[:, 0]
            within = chosen[here] - self.columns.starts[each]
            targets.append(node_targets(self.nodes, each, within)._replace(row=here.to(self.nodes.run.ids.device)))
        return rows(self.nodes, self.columns, targets, len(chosen), self.cut).cpu()

    def influence(self) -> Float[Tensor, " C"]:
        """Of every column on the roots, through the rows known so far; biases have none."""
        total = np.zeros(self.columns.total)
        for found in self.found[len(self.shares) :]:
            self.shares.append(self.normalised(found))
        total += self.shares[0].T @ np.array([root.weight for root in self.roots])
        starts = np.array(self.columns.starts)
        bounds = [np.searchsorted(chosen.numpy(), starts).tolist() for chosen in self.chosen]
        for layer in range(self.columns.n_layers - 1, -1, -1):
            for chosen, shares, bound in zip(self.chosen, self.shares[1:], bounds, strict=True):
                first, last = bound[layer : layer + 2]
                if first < last:
                    here = chosen[first:last].numpy()
                    total += _rows_between(shares, first, last, len(total)).T @ total[here]
        return torch.from_numpy(total)

    def normalised(self, found: SparseRows) -> csr_array:
        """Sizes of some rows' edges, divided by their sum, biases apart."""
        size = found.weight.abs().masked_fill_(found.columns >= self.columns.first_bias, 0)
        counts = found.offsets.diff()
        row = torch.repeat_interleave(counts, output_size=len(size))
        sums = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, row, size.double())
        size /= sums.clamp(min=1e-30).to(size)[row]
        content = size.numpy(), found.columns.numpy(), found.offsets.to(torch.int32).numpy()
        return csr_array(content, shape=(len(counts), self.columns.total))

    def tensors(self) -> dict[str, Tensor]:
        """The rows, and whose they are."""
        state = {}
        for i, sparse in enumerate(self.found):
            state |= {f"{i}.{name}": tensor for name, tensor in sparse._asdict().items()}
        return state | {f"{i}.chosen": tensor for i, tensor in enumerate(self.chosen, 1)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse."""
        n = sum(name.endswith(".offsets") for name in tensors)
        self.found = [SparseRows(*(tensors[f"{i}.{name}"] for name in SparseRows._fields)) for i in range(n)]
        self.chosen = [tensors[f"{i}.chosen"] for i in range(1, n)]
        self.shares = []


def shared_rows(own: SparseRows, ranks: Ranks) -> SparseRows:
    """All processes' rows, one process's after the other's."""
    if ranks.size == 1:
        return own
    counts, *rest = (joined(each, ranks) for each in (own.offsets.diff(), *own[1:]))
    return SparseRows(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), *rest)


def _rows_between(matrix: csr_array, first: int, last: int, width: int) -> csr_array:
    """Some neighbouring rows, without a copy of their entries."""
    data, columns, offsets = (np.asarray(each) for each in (matrix.data, matrix.indices, matrix.indptr))
    these, own = slice(offsets[first], offsets[last]), offsets[first : last + 1] - offsets[first]
    return csr_array((data[these], columns[these], own), (last - first, width))
