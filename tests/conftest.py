"""What every test starts from."""

import gc
import os
import random

# Set before anything imports huggingface_hub, which reads it once: no test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
# Read when JAX first compiles: what Tracr makes is run once or twice, and nearly all of its time is compiling.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

import jaxtyping
import pytest
import torch
from hypothesis import settings

from tests import shapes

shapes.install()  # before anything imports edgewise

# On models this small a second thread only waits, and on a busy machine for minutes.
torch.set_num_threads(1)

# A shared machine is slow now and then, and a test that fails must fail again when it is run again.
settings.register_profile("edgewise", deadline=None, derandomize=True)
settings.load_profile("edgewise")


def pytest_collection_finish() -> None:
    """Thousands of tests and all of PyTorch stay to the end: no search for garbage needs to walk them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Let every test draw the same random numbers, alone or among others."""
    torch.default_generator.manual_seed(0)  # torch.manual_seed notes the whole call stack, for GPUs that come later
    random.seed(0)  # which item of a list is checked
    shapes.begin_test()


@pytest.fixture(autouse=True)
def _unchecked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave annotations unchecked in a test that is marked as giving what they forbid, to see it refused."""
    if request.node.get_closest_marker("unchecked"):
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
