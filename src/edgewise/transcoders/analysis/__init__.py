"""What features read and write, from the weights alone: nothing is run, and no text is looked at."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
