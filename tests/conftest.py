import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors are tiny, and pytest-xdist already uses every core

import pytest
import torch

torch.set_num_threads(1)

# `pytest -m masking`: what is tested of one area, beside its planted bugs. The names are of files: test_NAME.py.
AREAS = {
    "template": "goldens template_forms template_marks template_properties template_rendering templates tokenization",
    "masking": "conversation masking",
    "packing": "attention collation packing",
    "step": "compensated numeric_goldens oracle row_losses step",
    "best_of_n": "best_of_n rejection_sampling",
    "distillation": "data_distillation distillation distillation_properties distillation_recovery",
}


LONG = "long: whole trials, one after another: all planted bugs, unknown faults, changes that keep the behaviour"


def pytest_configure(config):
    config.addinivalue_line("markers", LONG)
    for area in AREAS:
        config.addinivalue_line("markers", f"{area}: tests of one area (tests/conftest.py), and its planted bugs")


def pytest_collection_modifyitems(items):
    for item in items:
        name = item.path.stem.removeprefix("test_")
        for area, names in AREAS.items():
            if name in names.split() or (name == "mutants" and f"[{area}/" in item.nodeid):
                item.add_marker(area)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A worker that is done takes over what another has left, so that both end together."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def warm_starts():
    """Trainers' processes begin with their libraries imported."""
    from sftspec.conformance.trial import launch
    from sftspec.tests import warm_start

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "Popen", warm_start.Popen)
        yield
