"""Evaluation: what a circuit's numbers are worth, beside the full model's, the empty circuit's and chance."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
