"""The options that several commands have, each said once."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

ModelName = Annotated[str, Option("--model", help="smollm2-135m, a hub id, a folder, a GGUF file, or tracr:reverse.")]
OwnModel = Annotated[str | None, Option("--model", help="The model; the circuit's own if not given.")]
TaskName = Annotated[str, Option("--task", help="A built-in task (see `edgewise tasks list`) or a file of pairs.")]
Bos = Annotated[
    bool | None,
    Option("--bos/--no-bos", help="BOS before every prompt, or nothing; unset: as the tokenizer does by itself."),
]
CircuitFile = Annotated[Path, Argument(help="The circuit.safetensors that find wrote.")]
Picture = Annotated[Path, Argument(help="Where to draw it: .png, .svg or .pdf.")]
Out = Annotated[Path, Option("--out", help="Folder for the results; a run that was cut short resumes from it.")]
AsJson = Annotated[bool, Option("--json", help="Print JSON and nothing else.")]
SplitName = Annotated[Literal["train", "validation", "test"], Option("--split", help="Which examples.")]
Embeddings = Annotated[
    Literal["joint", "split", "off"], Option("--embeddings", help="Off: embeddings are not writers.")
]
KeyValue = Annotated[
    Literal["physical", "expanded"], Option("--kv", help="Key and value readers: physical, or expanded to query heads.")
]
Device = Annotated[str, Option("--device", help="cpu, cuda, mps (Apple; the same code, never measured), …")]
DtypeName = Literal["float32", "bf16"]
Dtype = Annotated[
    DtypeName | None, Option("--dtype", help="Of weights and stack; unset: weights as stored, stack float32.")
]
Memory = Annotated[Literal["default", "lean"], Option("--memory", help="Lean: less memory, more time.")]
Matmul = Annotated[
    Literal["highest", "high", "medium"],
    Option("--matmul", help="Medium: float32 products as fast as the machine can, maybe in bfloat16."),
]
Cache = Annotated[
    float,
    Option(
        "--cache", help="GiB kept of what depends on the pairs alone: faster where many are seen again (each process)."
    ),
]


class Logger(str, Enum):  # as typer takes no lists of literals
    """Where a run's metrics may go too."""

    tensorboard = "tensorboard"
    wandb = "wandb"


Log = Annotated[list[Logger] | None, Option("--log", help="Also log there (if installed).")]
TrainPairs = Annotated[int, Option("--train", help="Training pairs of a built-in task.")]
ValidationPairs = Annotated[int, Option("--validation", help="Validation pairs of a built-in task.")]
TestPairs = Annotated[int, Option("--test", help="Test pairs of a built-in task.")]
PairsSeed = Annotated[int, Option("--seed", help="Of the pairs, if the task is built in.")]
BatchSize = Annotated[int, Option("--batch-size", help="Examples at a time; it does not change the numbers.")]
Sparsities = Annotated[str, Option("--sparsities", help="The sizes, as actual sparsities.")]
