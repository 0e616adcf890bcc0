"""Tasks: pairs of prompts that show a behaviour, and losses and metrics on the answers."""

from edgewise.tasks._custom import from_jsonl, from_records
from edgewise.tasks._ioi import ioi, ioi_t1
from edgewise.tasks._metrics import (
    CLOSE,
    LOSSES,
    LOWER_IS_BETTER,
    METRICS,
    OUTPUT_METRICS,
    SELF_CONTAINED,
    Score,
    loss_function,
    metric_function,
    reduce,
    score_name,
)
from edgewise.tasks._pairs import Batch, Pair, Target
from edgewise.tasks._program import program
from edgewise.tasks._rebuild import ALL_TASKS, TASKS, from_provenance
from edgewise.tasks._task import Task, pairs_hash

__all__ = [
    "ALL_TASKS",
    "CLOSE",
    "LOSSES",
    "LOWER_IS_BETTER",
    "METRICS",
    "OUTPUT_METRICS",
    "SELF_CONTAINED",
    "TASKS",
    "Batch",
    "Pair",
    "Score",
    "Target",
    "Task",
    "from_jsonl",
    "from_provenance",
    "from_records",
    "ioi",
    "ioi_t1",
    "loss_function",
    "metric_function",
    "pairs_hash",
    "program",
    "reduce",
    "score_name",
]
