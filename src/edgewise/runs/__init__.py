"""Long runs: one loop, stateless noise, ranks, whole-file writing, progress, records of settings, statistics."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
