"""Continue a prompt by a circuit, and by the full model beside it."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

import edgewise as ew
from edgewise.cli import _common, _show
from edgewise.cli import _options as options
from edgewise.cli import _transcoder_inputs as inputs
from edgewise.cli._print import flat, line
from edgewise.runs import record_of


def generate(
    circuit: options.CircuitFile,
    prompt: Annotated[str, Argument(help="The text to continue.")],
    corrupted: Annotated[
        str | None,
        Option(help="Its twin of as many tokens, whose run the removed edges carry; for interchange ablation."),
    ] = None,
    tokens: Annotated[int, Option(help="How many tokens to add at most.", min=1)] = 20,
    model: options.OwnModel = None,
    bos: options.Bos = None,
    transcoders: inputs.Sources = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    memory: options.Memory = "default",
    offload: options.Offload = None,
    as_json: options.AsJson = False,
) -> None:
    """Continue a prompt by a circuit, and by the full model beside it, the likeliest token each time."""
    loaded_circuit = _common.load_circuit(circuit)
    features = inputs.for_circuit(loaded_circuit, transcoders)
    loaded = _common.load_for(loaded_circuit, model, device, dtype, offload)
    _show.compare_weights(loaded_circuit, loaded)
    choices = {"memory": memory, "dtype": _common.torch_type(dtype, device), "transcoders": features}
    engine = _common.engine_of(circuit, loaded_circuit, loaded, **choices)
    if bos is None:
        bos = record_of(loaded_circuit.provenance, "task").get("bos")
    with _show.working("generating"):
        found = ew.evaluation.generate(engine, loaded_circuit, prompt, corrupted, n=tokens, bos=bos)
    _show.result(found, as_json, _print)


def _print(found: ew.evaluation.Generated) -> None:
    for name, each in (("circuit", found.circuit), ("model", found.model)):
        line(f"{name:8} {flat(str(each.text))}")
