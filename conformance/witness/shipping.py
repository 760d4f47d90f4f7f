"""What is put on the path of a trainer's interpreter: these files, and nothing else of sftspec.

They import each other, torch and the standard library of Python 3.9; transformers, where it is installed, makes the
model and the tokenizer. For a trainer in JAX or MLX that framework and numpy take the place of torch. So a trainer
keeps its own environment, and nothing is installed into it.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from sftspec.conformance.adapters import field

MODULES = (
    "sftspec",
    "sftspec.adapters",
    "sftspec.conventions",
    "sftspec.conversation",
    "sftspec.fields",
    "sftspec.handover",
    "sftspec.job",
    "sftspec.spans",
    "sftspec.weights",
    "sftspec.conformance",
    "sftspec.conformance.adapters",
    "sftspec.conformance.adapters.transformers_trainer",
    "sftspec.conformance.adapters.trl",
    *field.MODULES,
    "sftspec.conformance.witness",
    "sftspec.conformance.witness.asked",
    "sftspec.conformance.witness.bare",
    "sftspec.conformance.witness.ear",
    "sftspec.conformance.witness.exchange",
    "sftspec.conformance.witness.groups",
    "sftspec.conformance.witness.identity",
    "sftspec.conformance.witness.leftovers",
    "sftspec.conformance.witness.listening",
    "sftspec.conformance.witness.mailbox",
    "sftspec.conformance.witness.performer",
    "sftspec.conformance.witness.place",
    "sftspec.conformance.witness.provenance",
    "sftspec.conformance.witness.replay",
    "sftspec.conformance.witness.shadowing",
    "sftspec.conformance.witness.shards",
    "sftspec.conformance.witness.tap",
    "sftspec.conformance.witness.tensor_file",
)
# For trainers without torch: these import numpy, and what the framework is when it is there.
OF_ARRAYS = (
    "sftspec.conformance.witness.array_exchange",
    "sftspec.conformance.witness.array_file",
    "sftspec.conformance.witness.jax_recorder",
    "sftspec.conformance.witness.mlx_recorder",
    "sftspec.conformance.witness.recorder",
)


def ship(folder: Path) -> Path:
    """Copy the modules into a folder that is to stand on an interpreter's path. Returns the folder."""
    for name in (*MODULES, *OF_ARRAYS):
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"{name} is not installed")
        source, parts = Path(spec.origin), name.split(".")
        target = folder.joinpath(*parts, "__init__.py") if source.stem == "__init__" else folder.joinpath(*parts)
        target = target if target.suffix else target.with_suffix(".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return folder
