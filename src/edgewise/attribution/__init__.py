"""Judging transcoders: reconstruction, sparsity, and the model's loss with them in the MLPs' places."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
