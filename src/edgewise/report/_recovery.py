"""A picture of a found circuit beside the true one."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.report._canvas import INK, NEGATIVE, POSITIVE
from edgewise.report._caption import conditions, heading
from edgewise.report._picture import paint
from edgewise.report._strokes import Strokes

BOTH, MISSING, EXTRA = ("found, and true", INK), ("true, not found", NEGATIVE), ("found, not true", POSITIVE)


def draw_recovery(
    circuit: Circuit, true: Bool[Tensor, " E"], path: str | Path, *, title: str | None = None, dpi: int = 200
) -> None:
    """Draw a circuit's actual edges and the true ones of the same graph, coloured by whether they are one, the other or
    both. `path`, `title` and `dpi` are those of `draw`.

    Raises:
        InputError: there is not one entry per edge, or the picture cannot be written.
    """
    if true.shape != circuit.kept.shape:
        raise InputError(f"true: shape {tuple(true.shape)}; the circuit's graph has {circuit.graph.n_edges} edges")
    found, wanted = circuit.actual.numpy(), true.cpu().bool().numpy()
    kinds = [(found & wanted, BOTH), (wanted & ~found, MISSING), (found & ~wanted, EXTRA)]
    edges = np.concatenate([chosen.nonzero()[0] for chosen, _ in kinds])
    colours = [colour for chosen, (_, colour) in kinds for _ in range(int(chosen.sum()))]
    ink = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in colours]).reshape(-1, 3)
    legend = [label for chosen, label in kinds if chosen.any()]
    looks = Strokes(np.full(len(edges), 0.6), ink, legend, [], 2.2)
    size = f"{int((found & wanted).sum())} of {int(wanted.sum())} true edges found"
    size += f", {int((found & ~wanted).sum())} others; {len(wanted):,} edges in all"
    words = [size, conditions(circuit.provenance, circuit.graph.spec)]
    paint(path, circuit.graph, edges, looks, title or heading(circuit.provenance), words, dpi)
