"""Attribution graphs: what flows along edges on given prompts, why, and what it does."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
