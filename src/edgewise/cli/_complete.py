"""What a shell offers for an option's value when Tab is pressed; nothing here imports PyTorch."""

import os
from glob import escape, iglob

import edgewise as ew


def methods(incomplete: str) -> list[str]:
    """The methods of the catalogue."""
    return [name for name in ew.discovery.methods() if name.startswith(incomplete)]


def tasks(incomplete: str) -> list[str]:
    """The built-in tasks, files of pairs, and folders on the way to them."""
    names = [name for name in ew.tasks.TASK_NAMES if name.startswith(incomplete)]
    paths = sorted(iglob(f"{escape(incomplete)}*"))
    suffixes = ew.tasks.SUFFIXES + ew.tasks.TEMPLATE_SUFFIXES
    return names + [path for path in paths if path.endswith(suffixes) or os.path.isdir(path)]
