import pytest
import torch

from edgewise.circuit import Circuit
from edgewise.graph import EMBED, LOGITS, Graph, GraphSpec

PROVENANCE = {
    "model": {"id": "smollm2-135m", "note": "Q4_1 weights"},
    "task": {"name": "ioi"},
    "method": "edge-pruning",
    "ablation": {"kind": "interchange", "source": "corrupted twin"},
}


@pytest.fixture
def circuit():
    """Makes circuits of random edges, those from embeddings and to logits five times as likely as the others."""

    def make(spec, share, *, scores=True, provenance=PROVENANCE, seed=0):
        graph = Graph(spec)
        random = torch.Generator().manual_seed(seed)
        outer = (graph.writer_kind[graph.edge_writer.long()] == EMBED) | (
            graph.reader_kind[graph.edge_reader.long()] == LOGITS
        )
        kept = torch.rand(graph.n_edges, generator=random) < share * torch.where(outer, 5.0, 1.0)
        values = torch.randn(graph.n_edges, generator=random) ** 3 if scores else None
        return Circuit(graph, kept, values, provenance)

    return make


@pytest.fixture
def small(circuit):
    return circuit(GraphSpec(4, 3, 3), 0.15)
