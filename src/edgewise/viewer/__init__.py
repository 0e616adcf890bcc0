"""One HTML file, without a server and without a network, in which a circuit or a graph is looked at."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
