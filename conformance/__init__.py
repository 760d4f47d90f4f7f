"""The suite: what listens to a trainer, what it is judged by, and how that is told.

`from sftspec.conformance import distil` is for adapters of distillation trainers: see the README of this folder.
"""

from __future__ import annotations

import importlib
from typing import Any

_PLACES = {"distil": "trial.distiller"}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
