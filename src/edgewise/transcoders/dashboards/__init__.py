"""Dashboards of features: what a text shows of every feature of a transcoder, beside what its weights say."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
