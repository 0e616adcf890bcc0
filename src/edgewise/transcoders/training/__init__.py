"""Training transcoders: activations of a model, batches of them, the training loop, sweeps."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
