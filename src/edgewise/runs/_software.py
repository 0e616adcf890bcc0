"""What a result was computed with."""

from importlib.metadata import version


def software() -> dict[str, str]:
    """The versions that a result depends on, for its provenance."""
    return {name: version(name) for name in ("edgewise", "torch", "transformers")}
