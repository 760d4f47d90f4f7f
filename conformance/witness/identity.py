"""Who is on trial: what a trainer says of itself, in plain JSON, for a judge that never sees the object."""

from __future__ import annotations

import platform
import reprlib
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sftspec.conformance.adapters import TrainerError
from sftspec.conventions import TOLD, Conventions
from sftspec.job import Job

SEQUENCE = "sequence-parallel"  # the claim of a trainer whose ranks share each row

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200


def claims_of(trainer: Any) -> frozenset[str]:
    """What a trainer claims; padding, where it says nothing. Raises TrainerError where that is no set of names."""
    claims = getattr(trainer, "claims", ())
    if not isinstance(claims, (set, frozenset, tuple, list)):
        raise TrainerError(f'claims is a {type(claims).__name__}: give a set of names, such as {{"padding", "adamw"}}')
    return frozenset(claims) or frozenset({"padding"})


def identify(trainer: Any, setting: Mapping[str, Any]) -> dict[str, Any]:
    """Who was judged. A verdict belongs to a trainer's version and setting, never to its name alone."""
    package = sys.modules.get(type(trainer).__module__.partition(".")[0])
    conventions = getattr(trainer, "conventions", None) or Conventions()
    if not isinstance(conventions, Conventions):
        raise TrainerError(f"conventions is a {type(conventions).__name__}: give sftspec.Conventions(...)")
    return {
        "name": str(getattr(trainer, "name", "") or type(trainer).__name__),
        "version": str(getattr(trainer, "version", "") or getattr(package, "__version__", "")),
        "setting": {name: _plain(value) for name, value in setting.items()},
        "claims": sorted(claims_of(trainer)),
        "conventions": conventions.said(),
    }


def weights_told(trainer: Any, job: Job) -> dict[str, Any]:
    """What a trainer's function says that each message of a job weighs, to stand beside its reports; {} without one."""
    weights = (getattr(trainer, "conventions", None) or Conventions()).weights_for(job.conversations)
    return {} if weights is None else {TOLD: weights}


def _plain(value: Any) -> Any:
    is_plain = value is None or isinstance(value, (bool, int, float, str))
    return value if is_plain else " ".join(_short.repr(value).split())


def environment() -> dict[str, str]:
    """Versions that a verdict may depend on; nothing that identifies the machine or its user."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for package in ("torch", "transformers", "jax", "mlx"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            if package in ("torch", "transformers"):
                found[package] = ""
    return found
