from itertools import pairwise

import numpy as np
import pytest
import torch

from edgewise.graph import EMBED, LOGITS, MLP, MLP_IN, Graph, GraphSpec
from edgewise.report._layout import place
from edgewise.report._picture import live_nodes
from edgewise.report._routes import route

SPECS = [
    GraphSpec(5, 4, 4),
    GraphSpec(5, 4, 2),
    GraphSpec(4, 1, 1),
    GraphSpec(6, 8, 1, "off"),
    GraphSpec(5, 4, 4, "split", parallel=True),
    GraphSpec(30, 9, 3),
    GraphSpec(12, 12, 12),
]


@pytest.fixture(params=SPECS, ids=str)
def routed(request):
    """Layout, edges and sampled curves of (a sample of) all edges of a graph."""
    graph = Graph(request.param)
    random = torch.Generator().manual_seed(0)
    edges = torch.randperm(graph.n_edges, generator=random)[:1500]
    writers, readers = graph.edge_writer[edges].tolist(), graph.edge_reader[edges].tolist()
    layout = place(graph, set(), set())
    return layout, writers, readers, [sample(curve) for curve in route(layout, writers, readers)]


APART = [
    GraphSpec(4, 3, 3, features=((0, (3, 17, 401)), (2, (1,)))),
    GraphSpec(3, 4, 2, features=((0, (1, 3)), (1, (2,)), (2, ())), cross_layer=((0, (1, 2)), (1, (2,)))),
    GraphSpec(12, 2, 1, "split", neurons=tuple((layer, ((1,), (2,), (3, 4, 5))) for layer in range(12))),
    GraphSpec(3, 8, 8, parallel=True, features=((1, (2, 3)),), neurons=((2, ((9,),)),), error="kept"),
]


@pytest.fixture(params=APART, ids=str)
def in_rows(request):
    """The same of graphs whose MLPs are taken apart; a few of their nodes are in use."""
    graph = Graph(request.param)
    edges = torch.randperm(graph.n_edges, generator=torch.Generator().manual_seed(0))[: graph.n_edges // 12 + 8]
    live = live_nodes(graph, edges.numpy())
    layout = place(graph, live.writers, live.readers)
    writers, readers = graph.edge_writer[edges].tolist(), graph.edge_reader[edges].tolist()
    return layout, live, writers, readers, [sample(curve) for curve in route(layout, writers, readers)]


def test_in_rows_an_edge_into_a_shared_key_alone_has_a_place():
    graph = Graph(GraphSpec(3, 4, 2, features=((0, (1, 3)), (2, (4,)))))
    reader = graph.reader_names.index("a1.kv0.k")
    edge = np.array([int(graph.offset[reader])])
    live = live_nodes(graph, edge)
    assert not np.isnan(place(graph, live.writers, live.readers).port_xy[reader]).any()


def test_in_rows_no_edge_passes_behind_a_node_or_leads_down(in_rows):
    layout, live, writers, readers, curves = in_rows
    graph = layout.graph
    nodes = np.array([w for w in range(graph.n_embeddings, graph.n_writers) if not np.isnan(layout.writer_xy[w, 1])])
    assert live.writers <= {*nodes.tolist(), *range(graph.n_embeddings)}
    half = np.array(layout.box) / 2 - 1e-3
    for writer, reader, curve in zip(writers, readers, curves, strict=True):
        inside = (np.abs(curve[:, None] - layout.writer_xy[nodes]) < half).all(-1).any(0)
        hit = set(nodes[inside].tolist()) - {writer, *graph.writers_fed_by(reader)}
        assert not hit, f"{graph.writer_names[writer]} -> {graph.reader_names[reader]} behind {hit}"
        assert (np.diff(curve[:, 1]) > -1e-9).all() and np.isfinite(curve).all()
        if graph.reader_kind[reader] != LOGITS:
            assert curve[-1] == pytest.approx(layout.port_xy[reader])


def test_in_rows_nodes_have_places_of_their_own(in_rows):
    layout, *_ = in_rows
    shown = layout.writer_xy[layout.graph.n_embeddings :]
    nodes = shown[~np.isnan(shown[:, 1])]
    apart = np.abs(nodes[:, None] - nodes).max(-1) + np.eye(len(nodes))
    assert apart.min() > max(layout.box[1], 0.1)


def sample(curve):
    points, t = np.array(curve), np.linspace(0, 1, 25)[:, None]
    pieces = []
    for first in range(0, len(points) - 1, 3):
        a, b, c, d = points[first : first + 4]
        pieces.append((1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d)
    return np.concatenate(pieces)


def test_no_edge_passes_behind_a_node(routed):
    layout, writers, readers, curves = routed
    graph = layout.graph
    nodes = np.arange(graph.n_embeddings, graph.n_writers)
    half = np.array(layout.box) / 2 - 1e-3
    for writer, reader, curve in zip(writers, readers, curves, strict=True):
        inside = (np.abs(curve[:, None] - layout.writer_xy[nodes]) < half).all(-1).any(0)
        own = {writer, graph.starts[int(graph.reader_layer[reader])] + int(layout.reader_column[reader])}
        hit = set(nodes[inside].tolist()) - own
        assert not hit, f"{graph.writer_names[writer]} -> {graph.reader_names[reader]} behind {hit}"


def test_edges_end_at_their_nodes_and_never_lead_down(routed):
    layout, writers, readers, curves = routed
    graph = layout.graph
    for writer, reader, curve in zip(writers, readers, curves, strict=True):
        start, end = curve[0], curve[-1]
        assert np.abs(start - layout.writer_xy[writer])[1] <= layout.box[1] / 2 + 1e-9
        if graph.writer_kind[writer] != EMBED:
            assert np.abs(start - layout.writer_xy[writer])[0] <= layout.box[0] / 2 + 1e-9
        between_mlps = graph.writer_kind[writer] == MLP and graph.reader_kind[reader] == MLP_IN
        if graph.reader_kind[reader] == LOGITS:
            assert end[1] == layout.port_xy[reader, 1]
        elif between_mlps:
            assert end[0] == pytest.approx(layout.columns[-1] + layout.box[0] / 2)
        else:
            assert end == pytest.approx(layout.port_xy[reader])
        assert (np.diff(curve[:, 1]) > -1e-9).all()


def test_straight_stretches_of_different_writers_lie_apart(routed):
    _, writers, _, curves = routed
    stretches = {}
    for writer, curve in zip(writers, curves, strict=True):
        level = np.diff(curve[:, 0]) == 0
        for x in set(curve[1:, 0][level].tolist()):
            heights = curve[1:, 1][level & (curve[1:, 0] == x)]
            stretches.setdefault(x, []).append((heights.min(), heights.max(), writer))
    for x, found in stretches.items():
        found.sort()
        for (_, high, first), (low, _, second) in pairwise(found):
            assert first == second or low >= high, f"lane {x}"


def test_all_nodes_have_places_of_their_own(routed):
    layout, *_ = routed
    nodes = layout.writer_xy[layout.graph.n_embeddings :]
    apart = np.abs(nodes[:, None] - nodes).max(-1) + np.eye(len(nodes))
    assert apart.min() > max(layout.box[1], 0.1)
    assert len({tuple(xy) for xy in layout.port_xy}) == layout.graph.n_readers
