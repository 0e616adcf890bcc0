"""One thread: on models this small a second one only waits, and on a busy machine for minutes."""

import torch

torch.set_num_threads(1)
