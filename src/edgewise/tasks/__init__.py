"""Tasks: pairs of prompts that show a behaviour, and losses and metrics on the answers."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
