"""What every test starts from."""

import os

# Set before anything imports huggingface_hub, which reads it once: no test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import settings

# On models this small a second thread only waits, and on a busy machine for minutes.
torch.set_num_threads(1)

# A shared machine is slow now and then, and a test that fails must fail again when it is run again.
settings.register_profile("edgewise", deadline=None, derandomize=True)
settings.load_profile("edgewise")


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Let every test draw the same random numbers, alone or among others."""
    torch.manual_seed(0)
