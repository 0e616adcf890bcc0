"""Tasks: pairs of prompts that show a behaviour, and losses and metrics on the answers."""

from edgewise.tasks._arithmetic import arithmetic
from edgewise.tasks._boolean import boolean_expressions
from edgewise.tasks._capitals import capital_country
from edgewise.tasks._changes import grouped_by_changes
from edgewise.tasks._colors import copy_colors
from edgewise.tasks._custom import from_records
from edgewise.tasks._docstring import docstring
from edgewise.tasks._files import SUFFIXES, FileCheck, check_file, from_dataset, from_file
from edgewise.tasks._forms import FORMS, capital_records
from edgewise.tasks._greater_than import greater_than
from edgewise.tasks._induction import induction
from edgewise.tasks._ioi import ioi, ioi_t1
from edgewise.tasks._metrics import (
    CLOSE,
    LOSSES,
    LOWER_IS_BETTER,
    METRICS,
    OUTPUT_METRICS,
    SELF_CONTAINED,
    SET_METRICS,
    Score,
    loss_function,
    metric_function,
    reduce,
    score_name,
)
from edgewise.tasks._pairs import Batch, Pair, Target
from edgewise.tasks._program import program
from edgewise.tasks._pronoun import gendered_pronoun
from edgewise.tasks._rebuild import ALL_TASKS, TASKS, from_provenance
from edgewise.tasks._score import Ability, Measure, score
from edgewise.tasks._splits import SPLITS
from edgewise.tasks._task import Task, pairs_hash

__all__ = [
    "ALL_TASKS",
    "CLOSE",
    "FORMS",
    "LOSSES",
    "LOWER_IS_BETTER",
    "METRICS",
    "OUTPUT_METRICS",
    "SELF_CONTAINED",
    "SET_METRICS",
    "SPLITS",
    "SUFFIXES",
    "TASKS",
    "Ability",
    "Batch",
    "FileCheck",
    "Measure",
    "Pair",
    "Score",
    "Target",
    "Task",
    "arithmetic",
    "boolean_expressions",
    "capital_country",
    "capital_records",
    "check_file",
    "copy_colors",
    "docstring",
    "from_dataset",
    "from_file",
    "from_provenance",
    "from_records",
    "gendered_pronoun",
    "greater_than",
    "grouped_by_changes",
    "induction",
    "ioi",
    "ioi_t1",
    "loss_function",
    "metric_function",
    "pairs_hash",
    "program",
    "reduce",
    "score",
    "score_name",
]
