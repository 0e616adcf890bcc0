"""Attribution graphs in other tools' files, as tables and as networkx graphs."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
