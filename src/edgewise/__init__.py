"""edgewise finds circuits in transformers: the few edges between components that carry one behaviour.

Every public name is imported when it is first used (its place is in `__init__.pyi`), so that `import edgewise` and the
command line start without PyTorch.
"""

import lazy_loader as _lazy

_attribute, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    """A public name from its place, or the version."""
    if name == "__version__":
        from importlib.metadata import version

        return version("edgewise")
    return _attribute(name)
