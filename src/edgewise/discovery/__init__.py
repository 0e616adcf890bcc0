"""Discovery: one file per method; each takes an engine and a task and gives scores or a circuit."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
