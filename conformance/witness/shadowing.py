"""A file or a folder beside the trainer that is taken for a library: Python looks there first.

`mlx/` or `datasets.py` beside trainer.py hides the library of that name. What is raised then ("No module named
'mlx.core'") does not say so.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path

FILE_PREFIX = "sftspec_trainer_"  # of a file's module: trl.py next to you is not the package trl
MODULE = re.compile(r"(?:No module named|module|from) '([\w.]+)'")


def with_hint(said: str, error: BaseException) -> str:
    """What is said of an error, and what beside the trainer is taken for the library that it speaks of.

    >>> with_hint("it fails", ModuleNotFoundError("No module named 'nowhere.at_all'"))
    'it fails'
    """
    beside = folders()
    others = [Path(item) for item in sys.path if Path(item).resolve() not in beside]
    for name in named(error):
        here = found(name, beside)
        if here and found(name, others):
            return f"{said} ({here} beside the trainer hides the library {name}: give it another name)"
        if here:
            return f"{said} ({name} is {here} beside the trainer, and no library of that name is installed here)"
    return said


def named(error: BaseException | None) -> list[str]:
    """The packages that an error, and those behind it, miss, or miss a name in."""
    names: list[str] = []
    while error is not None:
        if isinstance(error, (ImportError, AttributeError)):
            of_import = (error.name or "") if isinstance(error, ImportError) else ""
            names += filter(None, [of_import, *MODULE.findall(str(error))])
        error = error.__cause__ or error.__context__
    return list(dict.fromkeys(name.partition(".")[0] for name in names))


def folders() -> list[Path]:
    """Those that Python looks into because of the trainer: of its file, and the current one."""
    files = [module.__file__ for name, module in list(sys.modules.items()) if name.startswith(FILE_PREFIX)]
    return [Path(".").resolve(), *(Path(file).resolve().parent for file in files if file)]


def found(name: str, places: Iterable[Path]) -> str:
    """The module or package of this name in the first of the folders that has one; "" where none has."""
    spec = PathFinder.find_spec(name, list(map(str, places)))
    if spec is None:
        return ""
    return f"{name}.py" if spec.submodule_search_locations is None else f"the folder {name}"
