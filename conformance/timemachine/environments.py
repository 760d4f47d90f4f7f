"""An environment of a release: its packages in the versions that are pinned, and torch from the one that runs this.

Packages are installed in layers, one folder for each list of pins, so that what two releases share stands there once.
An environment is an interpreter whose path holds its layers, the release's own first, and then torch and what torch
requires, linked from here. Nothing else of this environment is on that path.
"""

from __future__ import annotations

import hashlib
import shutil
import site
import subprocess
import sys
import venv
from collections.abc import Iterable, Sequence
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

from sftspec.conformance.environments.build import link

PACKAGES = "site-packages"  # what stands in a folder of this name is a library, and not the trainer's own code


class PinsError(RuntimeError):
    """Pinned packages cannot be installed; says which, and what pip said."""


def environment(layers: Sequence[Sequence[str]], root: Path, inside: bool = False) -> Path:
    """The interpreter of an environment with these layers of pins ("trl==0.15.2"), made if it is not there.

    root    a folder in which environments are kept
    inside  whatever else is installed here stands at the end of its path, so that the suite runs there

    Raises PinsError.
    """
    lines = [str(installed(pins, root)) for pins in layers if pins] + [str(linked("torch", root))]
    if inside:
        lines += [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    folder = root / f"env-{key_of(lines)}"
    if not (folder / "pyvenv.cfg").exists():
        venv.create(folder, symlinks=True)
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "layers.pth").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder / "bin" / "python"


def installed(pins: Sequence[str], root: Path) -> Path:
    """The folder of a layer: exactly these packages, and none that they require. Raises PinsError."""
    folder = root / f"layer-{key_of(pins)}" / PACKAGES
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        with_pip = sys.executable if find_spec("pip") else str(Path(sys.base_prefix, "bin", "python3"))
        command = [
            with_pip,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-compile",
            "--target",
            str(unfinished),
            *pins,
        ]
        said = subprocess.run(command, capture_output=True, text=True)
        if said.returncode:
            raise PinsError(f"pip cannot install {' '.join(pins)}:\n{said.stderr.strip()[-2000:]}")
        unfinished.rename(folder)
    return folder


def linked(name: str, root: Path) -> Path:
    """A folder with links to a package that is installed here, and to what it requires."""
    folder = root / f"linked-{key_of([f'{name}=={distribution(name).version}'])}" / PACKAGES
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        link(name, unfinished)
        unfinished.rename(folder)
    return folder


def key_of(words: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
