"""The engine: run a model under masks on its edges, forwards and backwards."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
