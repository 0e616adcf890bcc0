"""The names of the built-in tasks and of files of pairs: what a command needs to refuse a wrong one before anything is
loaded. Nothing here imports PyTorch.
"""

BUILT_IN = {
    "ioi": "ioi",
    "ioi-t1": "ioi_t1",
    "greater-than": "greater_than",
    "gendered-pronoun": "gendered_pronoun",
    "boolean-expressions": "boolean_expressions",
    "docstring": "docstring",
    "induction": "induction",
    "capital-country": "capital_country",
    "arithmetic": "arithmetic",
    "copy-colors": "copy_colors",
}
"""Every task of texts, and the function of `edgewise.tasks` that builds it."""
TASK_NAMES = (*BUILT_IN, "program")
"""Those, and the task of compiled programs."""
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
"""Of files of pairs."""
TEMPLATE_SUFFIXES = (".yaml", ".yml")
"""Of files of templates and words."""
HUB = "hf:"
"""Before the name of a data set of the Hugging Face hub, `hf:NAME` or `hf:NAME:CONFIGURATION`."""
