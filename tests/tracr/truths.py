"""True circuits, each computed once for all tests that only read it."""

from dataclasses import replace
from functools import cache

import edgewise as ew
from edgewise.models import CompiledTransformer, Model, load
from edgewise.tracr import Truth, find_truth


def engine_of(name: str, ablation: str, embeddings: str = "joint") -> ew.Engine:
    model = load(f"tracr:{name}")
    return ew.Engine(model, model.graph(embeddings), ew.Ablation(ablation))  # pyright: ignore[reportArgumentType]


def of_short_inputs(model: Model, longest: int = 3) -> Model:
    """The same program with only its inputs of up to so many symbols listed, which are few enough to pair all of them;
    its tokenizer, and so its task, still knows them all.
    """
    module = model.module
    assert isinstance(module, CompiledTransformer)
    program, short = module.program, module.program.lengths <= longest + 1
    program = replace(program, inputs=program.inputs[short], expected=program.expected[short])
    shorter = CompiledTransformer(module.config, program)
    shorter.load_state_dict(module.state_dict(), assign=True)
    return load(shorter.eval(), tokenizer=model.tokenizer)


@cache
def truth_of(name: str, ablation: str) -> Truth:
    """Of the graph with both embeddings together."""
    return find_truth(engine_of(name, ablation))
