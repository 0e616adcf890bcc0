"""Settings of a method that are of the wrong type or sign, refused by name before any work."""

import math
from dataclasses import fields
from typing import Any

from edgewise._errors import InputError

_KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
}


def check_settings(title: str, settings: Any, positive: tuple[str, ...] = ()) -> None:
    """Check the numbers of a dataclass of settings.

    Args:
        title: what they are of.
        settings: the dataclass, whose annotations say what each must be.
        positive: fields that must be finite and above 0.

    Raises:
        InputError: one is of another type, or not positive.
    """
    for field in fields(settings):
        value, (types, wanted) = getattr(settings, field.name), _KINDS.get(field.type, ((), ""))
        if types and (not isinstance(value, types) or (isinstance(value, bool) and field.type is not bool)):
            raise InputError(f"{title}: {field.name}={value!r}; give {wanted}")
        if field.name in positive and not 0 < value < math.inf:
            raise InputError(f"{title}: {field.name} {value}; give a number above 0")
