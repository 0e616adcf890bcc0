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
from edgewise.attribution._rows import Columns, Cut, SparseRows, Targets, rows
from edgewise.attribution._targets import Root, node_targets
from edgewise.runs import Learner, NothingToGainError

BLOCK = 128
"""Rows of one walk."""
BLOCK_BYTES = 1 << 28
"""How much a walk's rows, or its covectors, may take; fewer rows where a row is long."""


class Growth(Learner):
    """The rows known so far. A step is one batch of rows."""

    on_interrupt = "finish"

    def __init__(self, nodes: Nodes, roots: list[Root], budget: int, batch: int, cut: Cut) -> None:
        self.nodes, self.roots, self.budget, self.batch, self.cut = nodes, roots, budget, batch, cut
        self.columns = Columns.of(nodes)
        self.position = torch.cat([active.position for active in nodes.active])
        self.layer = torch.repeat_interleave(torch.tensor(self.columns.counts))
        self.chosen = list[Tensor]()
        """Columns of the nodes that have rows, batch after batch."""
        self.found = list[SparseRows]()
        """The roots' rows first, then each batch's."""

    @property
    def n_steps(self) -> int:
        """Batches until the budget, or all nodes, are used up."""
        return -(-min(self.budget, self.columns.n_nodes) // self.batch)

    def begin(self) -> None:
        """The roots' rows."""
        targets = [each.targets._replace(row=each.targets.row + i) for i, each in enumerate(self.roots)]
        self.found.append(rows(self.nodes, self.columns, targets, len(targets), self.cut))

    def step(self, step: int) -> dict[str, Tensor | float]:
        """One batch; by several rankings where the first reaches fewer nodes than that."""
        left, gain = min(self.batch, min(self.budget, self.columns.n_nodes) - step * self.batch), list[float]()
        while left:
            influence = self.influence()
            nodes = influence[: self.columns.n_nodes].clone()
            for each in self.chosen:
                nodes[each.long()] = -1
            chosen = nodes.topk(left).indices
            chosen = chosen[nodes[chosen] > 0]
            if not len(chosen):
                break
            self.chosen.append(chosen.to(torch.int32))
            self.found.append(self.rows_of(chosen))
            gain.append(float(nodes.clamp(min=0).sum() / influence.sum().clamp(min=1e-30)))
            left -= len(chosen)
        if not gain:
            raise NothingToGainError
        return {"loss": gain[0]}

    def rows_of(self, chosen: Int[Tensor, " n"]) -> SparseRows:
        """The rows of some nodes, in blocks of nearby positions."""
        order = self.position[chosen].argsort(stable=True)
        widest = len(self.nodes.run) * max(
            self.nodes.run.final.shape[1], -(-max(self.columns.counts) // len(self.nodes.run))
        )
        block = max(1, min(BLOCK, BLOCK_BYTES // (widest * self.nodes.run.final.element_size())))
        found = SparseRows.joined([self.block(chosen[each]) for each in order.split(block)])
        return found.take(order.argsort())

    def block(self, chosen: Int[Tensor, " n"]) -> SparseRows:
        """The rows of some nodes by one walk."""
        targets, layer = list[Targets](), self.layer[chosen]
        for each in layer.unique().tolist():
            here = (layer == each).nonzero()[:, 0]
            within = chosen[here] - self.columns.starts[each]
            targets.append(node_targets(self.nodes, each, within)._replace(row=here))
        return rows(self.nodes, self.columns, targets, len(chosen), self.cut)

    def influence(self) -> Float[Tensor, " C"]:
        """Of every column on the roots, through the rows known so far; biases have none."""
        total = np.zeros(self.columns.total)
        weights = np.array([root.weight for root in self.roots])
        self.pass_down(total, self.found[0], weights)
        starts = self.columns.starts
        batches = [(chosen.numpy(), sparse) for chosen, sparse in zip(self.chosen, self.found[1:], strict=True)]
        for layer in range(len(starts) - 2, -1, -1):
            for chosen, sparse in batches:
                here = np.flatnonzero((chosen >= starts[layer]) & (chosen < starts[layer + 1]))
                if len(here):
                    self.pass_down(total, sparse, total[chosen[here]], here)
        return torch.from_numpy(total)

    def pass_down(
        self, total: np.ndarray, sparse: SparseRows, mass: np.ndarray, these: np.ndarray | None = None
    ) -> None:
        size = np.abs(sparse.weight.double().numpy())
        size[sparse.columns.numpy() >= self.columns.first_bias] = 0
        n = len(sparse.offsets) - 1
        matrix = csr_array((size, sparse.columns.numpy(), sparse.offsets.numpy()), shape=(n, len(total)))
        matrix = matrix if these is None else matrix[these]
        sums = np.asarray(matrix.sum(axis=1)).ravel()
        total += matrix.T @ (mass / np.where(sums > 0, sums, 1))

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
