import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors are tiny, and pytest-xdist already uses every core

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def warm_starts():
    """Trainers' processes begin with their libraries imported."""
    from sftspec.conformance.trial import launch
    from sftspec.tests import warm_start

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "Popen", warm_start.Popen)
        yield
