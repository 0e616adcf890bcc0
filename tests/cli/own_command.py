"""A command of one's own, as docs/extending.md shows it: the heads that a circuit keeps most edges of."""

from pathlib import Path
from typing import Annotated

import typer

from edgewise.cli import _options as options


def heads(
    circuit: options.CircuitFile,
    most: Annotated[int, typer.Option(help="How many heads to print.")] = 10,
) -> None:
    """Print the heads whose writes a circuit reads most."""
    import edgewise as ew  # here, so that the command line starts without PyTorch

    found = ew.Circuit.load(Path(circuit))
    counts = found.graph.edge_writer[found.kept].bincount(minlength=found.graph.n_writers)
    for writer in counts.argsort(descending=True, stable=True).tolist():
        name = found.graph.writer_names[writer]
        if name.startswith("a") and most > 0 and counts[writer]:
            print(f"{name}: {int(counts[writer])} edges")
            most -= 1
