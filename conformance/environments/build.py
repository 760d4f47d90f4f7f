"""Make an environment from its lock, and find it again.

DIR/NAME is a venv of the standard library; DIR/torch-VERSION is the torch that all of one version share, put on their
path by a .pth file: nine tenths of an environment's size, and of the time to make it, are torch. An environment is
whole when the lock that it was made from lies in it, which is written last.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from sftspec.conformance.adapters.field import FIELD
from sftspec.conformance.environments.lock import Lock, PinnedError, locks, read_lock
from sftspec.counted import counted

MADE_FROM = "sftspec.lock"
PTH, START = "sftspec_torch.pth", "sftspec_variables.pth"
LAST_LINES = 12  # of pip's output, where it fails


def default_place() -> Path:
    """Where environments lie: $SFTSPEC_ENVS, else sftspec/envs in the user's cache directory."""
    if given := os.environ.get("SFTSPEC_ENVS"):
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "sftspec" / "envs"


def python_in(folder: Path) -> Path:
    """The interpreter of an environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def state_of(name: str, place: Path) -> str:
    """ "ready", "missing", "unfinished", "another lock": it was made from another version of the lock file; "no torch":
    what is shared was linked from an environment that is no longer there.
    """
    folder = place / name
    if not folder.exists():
        return "missing"
    if not (folder / MADE_FROM).exists() or not python_in(folder).exists():
        return "unfinished"
    same = (folder / MADE_FROM).read_text(encoding="utf-8") == locks()[name].read_text(encoding="utf-8")
    if not same:
        return "another lock"
    torch = read_lock(name).torch
    return "ready" if not torch or is_whole(place / f"torch-{torch}") else "no torch"


def find_python(name: str, place: Path | None = None) -> Path:
    """The interpreter of an environment that is ready. Raises PinnedError with the command that makes it."""
    place = place or default_place()
    read_lock(name)
    state = state_of(name, place)
    if state != "ready":
        says = {
            "missing": "is not there",
            "unfinished": "is not finished",
            "another lock": "is of another lock file",
            "no torch": "has lost the torch that it shares, which was linked from an environment that is gone",
        }
        again = "" if state == "missing" else " --again"
        raise PinnedError(f"the environment {name!r} {says[state]}: make it with: sftspec env create {name}{again}")
    return python_in(place / name)


def python_of(trainer: str, asked: str) -> str:
    """The interpreter that a trainer runs in: the one asked for, or that of its pinned environment; "" is this one.

    Raises PinnedError with the command that makes the environment, where it is not there and the trainer neither.
    """
    if asked or trainer not in FIELD:
        return asked
    try:
        return str(find_python(trainer))
    except PinnedError:
        if all(importlib.util.find_spec(name) for name in FIELD[trainer][1]):
            return ""
        raise


def create(
    lock: Lock, text: str, place: Path, tell: Callable[[str], None] = lambda text: None, again: bool = False
) -> Path:
    """Make the environment of a lock. Returns its interpreter.

    text   of the lock file, which is kept in the environment
    again  begin anew where there is one

    Raises PinnedError where the interpreter is of a version that the lock is not made for, where there is an
    environment already, and where pip fails, with the end of what it said.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if lock.python and version not in lock.python:
        wanted = " or ".join(lock.python)
        raise PinnedError(
            f"{lock.name} is pinned for Python {wanted}, this is {version}: run sftspec with one of these"
        )
    folder = place / lock.name
    if folder.exists() and not again:
        raise PinnedError(f"{folder} is there already: add --again to make it anew")
    shutil.rmtree(folder, ignore_errors=True)
    place.mkdir(parents=True, exist_ok=True)
    shared = shared_torch(lock.torch, place, tell) if lock.torch else None
    tell(f"{folder}: {counted(len(lock.pins), 'distribution')}")
    venv.EnvBuilder(with_pip=True, symlinks=os.name != "nt").create(folder)
    site = site_of(folder)
    if shared:
        (site / PTH).write_text(f"{shared}\n", encoding="utf-8")
    if lock.variables:
        given = "; ".join(f"os.environ.setdefault({key!r}, {value!r})" for key, value in lock.variables)
        (site / START).write_text(f"import os; {given}\n", encoding="utf-8")
    for name in lock.modules:
        (site / f"{name}.py").write_text('"""Imported by a trainer that does not use it here."""\n', encoding="utf-8")
    pins = folder / "requirements.txt"
    pins.write_text("\n".join(pin for pin in lock.pins if not pin.startswith("torch==")) + "\n", encoding="utf-8")
    pip(python_in(folder), "--no-deps", "-r", str(pins))
    (folder / MADE_FROM).write_text(text, encoding="utf-8")
    return python_in(folder)


def site_of(folder: Path) -> Path:
    return next(folder.glob("lib/python3*/site-packages"), folder / "Lib" / "site-packages")


def shared_torch(version: str, place: Path, tell: Callable[[str], None]) -> Path:
    """The folder of a torch that environments share: links to the judge's own if it is that one, else installed."""
    folder = place / f"torch-{version}"
    if is_whole(folder):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    unfinished = place / f"torch-{version}.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        own = distribution("torch").version.partition("+")[0]
    except PackageNotFoundError:
        own = ""
    if own == version:
        link("torch", unfinished)
    else:
        tell(f"{folder}: torch {version}, which environments share")
        pip(Path(sys.executable), "--target", str(unfinished), f"torch=={version}")
    unfinished.rename(folder)
    return folder


def is_whole(folder: Path) -> bool:
    """Is it there, with all that it links to?"""
    return folder.is_dir() and all(item.exists() for item in folder.iterdir())


def link(name: str, folder: Path) -> None:
    """Link to a distribution that is installed here, and to all that it requires, from a folder."""
    for source in sorted(set(top_level(name, set()))):
        if not (folder / source.name).exists():  # a namespace that two share
            (folder / source.name).symlink_to(source)


def top_level(name: str, seen: set[str]) -> Iterator[Path]:
    """The folders and files in site-packages of a distribution that is installed here, and of all that it requires."""
    seen.add(name)
    found = distribution(name)
    for file in found.files or ():
        if file.parts[0] not in ("..", "__pycache__") and not file.parts[0].endswith(".pth"):
            yield Path(str(found.locate_file(file.parts[0])))
    for requirement in found.requires or ():
        needed = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        if needed not in seen and "extra ==" not in requirement:
            try:
                yield from top_level(needed, seen)
            except PackageNotFoundError:  # its marker does not hold here
                continue


def pip(python: Path, *words: str) -> None:
    """Install with the pip of an interpreter, as pip is configured on this machine."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-LAST_LINES:])
        raise PinnedError(f"pip install {' '.join(words)} failed:\n{said}")
