"""The options that several commands have, each said once."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from edgewise import engine, graph
from edgewise.cli import _complete
from edgewise.tasks import Split

ModelName = Annotated[str, Option("--model", help="smollm2-135m, a hub id, a folder, a GGUF file, or tracr:reverse.")]
OwnModel = Annotated[str | None, Option("--model", help="The model. Default: the circuit's own.")]
TaskName = Annotated[
    str,
    Option(
        "--task",
        help="A built-in task (see `edgewise tasks list`), or a file of pairs or of templates.",
        autocompletion=_complete.tasks,
    ),
]
Bos = Annotated[
    bool | None,
    Option(
        "--bos/--no-bos",
        help="Put the BOS token before every prompt, or nothing. If unset: as a circuit's own task, or the tokenizer.",
    ),
]
CircuitFile = Annotated[Path, Argument(help="The circuit.safetensors that find wrote.")]
Picture = Annotated[Path, Argument(help="The picture to write: .png, .svg or .pdf.")]
Out = Annotated[Path, Option("--out", help="Folder for the results. A run that was cut short goes on from there.")]
Force = Annotated[bool, Option("--force", help="Write over what is there.")]
AsJson = Annotated[bool, Option("--json", help="Print JSON and nothing else.")]
SplitName = Annotated[Split, Option("--split", help="Which split of the examples.")]
Embeddings = Annotated[
    graph.Embeddings,
    Option("--embeddings", help="One writer (joint), tokens and positions apart (split), or no writers (off)."),
]
KeyValue = Annotated[
    graph.KeyValue,
    Option("--kv", help="Key and value readers: one per key-value head, or one per query head."),
]
Device = Annotated[str, Option("--device", help="Device: cpu, cuda, mps (Apple; the same code, never measured), …")]
DtypeName = Literal["auto", "float32", "bf16"]
Dtype = Annotated[
    DtypeName | None,
    Option(
        "--dtype",
        help="Type of weights and stack. If unset: weights as stored, stack in float32. Auto: bf16 where the processor "
        "has instructions for it, good for finding and not for judging.",
    ),
]
Memory = Annotated[Literal["default", "lean"], Option("--memory", help="Lean takes less memory and more time.")]
Matmul = Annotated[
    engine.Matmul,
    Option("--matmul", help="Precision of float32 products. Medium is the fastest, and may use bfloat16."),
]
Cache = Annotated[
    float,
    Option(
        "--cache",
        help="Most GiB to keep of what depends only on the pairs, in each process. Saves time if pairs are seen again.",
    ),
]


Offload = Annotated[
    Literal["cpu", "disk"] | None,
    Option("--offload", help="Larger than memory: layers come from disk (to a GPU: or cpu) as they run."),
]


Share = Annotated[
    Literal["examples", "tokens"],
    Option("--share", help="What the processes of torchrun share out of each step (docs/scale.md)."),
]


class Logger(str, Enum):  # as typer takes no lists of literals
    """Where a run's metrics may go too."""

    tensorboard = "tensorboard"
    wandb = "wandb"


Log = Annotated[list[Logger] | None, Option("--log", help="Also log to this tool, if it is installed.")]
TrainPairs = Annotated[int | None, Option("--train", help="Training pairs of a built-in task or of templates; or 200.")]
ValidationPairs = Annotated[
    int | None, Option("--validation", help="Validation pairs of a built-in task or of templates; or 200.")
]
TestPairs = Annotated[int | None, Option("--test", help="Test pairs of a built-in task or of templates; or 256.")]
DrawnSeed = Annotated[int | None, Option("--seed", help="Seed of the pairs of a built-in task or of templates; or 0.")]
JudgedPairs = Annotated[
    int | None, Option("--test", help="With --task: test pairs of a built-in task or of templates; or 256.")
]
JudgedSeed = Annotated[
    int | None,
    Option("--seed", help="With --task: seed of the pairs of a built-in task or of templates; or 0."),
]
BatchSize = Annotated[int, Option("--batch-size", help="Examples at a time. The numbers do not depend on it.")]
Sparsities = Annotated[str, Option("--sparsities", help="The sizes, as actual sparsities between commas.")]


def of_config(name: str) -> Any:
    """The option `--set` of a command whose settings are this class's."""
    return Option("--set", help=f"A setting of `{name}`, name=value; may be repeated.")
