"""edgewise finds circuits in transformers: the few edges between components that carry one behaviour.

Every public name is imported when it is first used (its place is in `__init__.pyi`), so that `import edgewise` and the
command line start without PyTorch.
"""

from importlib.metadata import version as _version

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

__version__ = _version("edgewise")
