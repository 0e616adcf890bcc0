"""Reading files of others: what is wrong with one is a single line."""

from typing import Any


def truth(value: Any) -> bool:
    """True or False, or 1 or 0, also of numpy. Raises `ValueError` for anything else: "false" would count as true."""
    if value not in (True, False):
        raise ValueError(f"{str(value)[:40]!r}; give True or False")
    return bool(value)
