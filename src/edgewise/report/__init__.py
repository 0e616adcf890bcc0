"""What people look at: pictures of circuits and of how faithful they are.

Drawing needs matplotlib (`pip install edgewise[plot]`), which is imported only when something is drawn.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
