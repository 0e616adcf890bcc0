"""Writers, readers and the edges between them: numbers, names, addresses, and which edges can carry signal."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
