"""A tiny model in a folder, pairs for it, and a bench of both."""

import json
from pathlib import Path
from typing import Any

import yaml

from tests.tiny import save_gpt2, word_tokenizer

NAMES = ["Mary", "Ann", "Lee", "Sue", "John", "Tom", "Eve", "Max"]
WORDS = ["ran", "to", "the", "sat", "on", "mat", "rug", *NAMES]
METHODS: list[Any] = [
    "random",
    "eap",
    {"method": "mask-ig", "points": 2},
    {"method": "acdc", "thresholds": [0.1, 0.001], "pairs": 4},
    {"name": "ours", "method": "ranking", "steps": 6, "batch_size": 4},
    {"method": "edge-pruning", "preset": "paper", "steps": 12, "batch_size": 4, "sparsities": [0.7], "seeds": [0]},
]


def save_model(folder: Path) -> None:
    """A random GPT-2 of two layers with a tokenizer of whole words."""
    save_gpt2(folder, word_tokenizer(WORDS), n_positions=16)


def save_pairs(path: Path) -> None:
    """28 pairs."""
    rows = []
    for i, one in enumerate(NAMES):
        for other in NAMES[:i]:
            clean, corrupted = (f"{a} ran to the {b} sat on the" for a, b in ((one, other), (other, one)))
            rows.append({"clean": clean, "corrupted": corrupted, "answer": " mat", "wrong_answer": " rug"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def bench_file(folder: Path, path: Path, **changes: Any) -> Path:
    """A bench of the tiny model in a file of its own."""
    content: dict[str, Any] = {
        "models": str(folder / "model"),
        "tasks": {"name": "names", "task": str(folder / "pairs.jsonl")},
        "sparsities": [0.4, 0.7, 0.9],
        "seeds": [0, 1],
        "metrics": ["kl", "logit_diff", "accuracy"],
        "methods": METHODS,
    }
    path.write_text(yaml.safe_dump(content | changes))
    return path
