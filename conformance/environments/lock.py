"""A lock file: every distribution of an environment with its exact version, and what has to be known beside that.

    # python: 3.11, 3.12                the interpreters that it was made for
    # variable: DISABLE_VERSION_CHECK=1 set whenever its interpreter starts
    # module: torchaudio                an empty module in place of one that is imported and not used
    # note: what a reader should know
    accelerate==1.11.0

Nothing is resolved when an environment is made: what the file names is installed, in these versions, and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FOLDERS = (Path(__file__).parents[1] / "adapters" / "field",)  # where lock files lie
PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
KEYS = ("python", "variable", "module", "note")
FRAMEWORKS = ("torch", "jax", "mlx")  # one of them computes


class PinnedError(ValueError):
    """An environment that is not there or cannot be made; says what to do."""


@dataclass(frozen=True)
class Lock:
    """What a lock file says.

    name       of the environment: the file's name without `.lock`
    pins       "name==version" of every distribution, torch, jax or mlx among them
    python     versions "3.11" that it was made for; none: any
    variables  set whenever its interpreter starts
    modules    names of empty modules
    notes      sentences for a reader
    """

    name: str
    pins: tuple[str, ...]
    python: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    modules: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def torch(self) -> str:
        """The version of torch, which environments share; "" of a trainer in another framework."""
        return self.version_of("torch")

    @property
    def framework(self) -> str:
        """What computes, with its version: "torch 2.13.0"."""
        return next(f"{name} {self.version_of(name)}" for name in FRAMEWORKS if self.version_of(name))

    def version_of(self, distribution: str) -> str:
        """The version of a distribution; "" if it is not among them."""
        found = {normal(name): version for name, _, version in (pin.partition("==") for pin in self.pins)}
        return found.get(normal(distribution), "")


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locks() -> dict[str, Path]:
    """The lock files that there are, by the name of their environment."""
    return {path.stem: path for folder in FOLDERS for path in sorted(folder.glob("*.lock"))}


def read_lock(name: str) -> Lock:
    """The lock of an environment. Raises PinnedError for a name that has none.

    >>> read_lock("litgpt").version_of("litgpt")
    '0.5.13'
    """
    known = locks()
    if name not in known:
        raise PinnedError(f"no environment is called {name!r}; known: {', '.join(sorted(known))}")
    return parse_lock(name, known[name].read_text(encoding="utf-8"))


def parse_lock(name: str, text: str) -> Lock:
    """What a lock file's text says. Raises PinnedError with the line that makes no sense."""
    said: dict[str, list[str]] = {key: [] for key in KEYS}
    pins = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            key, colon, value = line[1:].partition(":")
            if colon and key.strip() in said:
                said[key.strip()].append(value.strip())
        elif PIN.fullmatch(line.strip()):
            distribution, _, version = line.strip().partition("==")
            local = f"no index has {version}" if "+" in version else ""
            if wrong := "sftspec is not its trainer's" if normal(distribution) == "sftspec" else local:
                raise PinnedError(f"{name}.lock, line {number}: {line.strip()!r}: {wrong}; leave out what is local")
            pins.append(line.strip())
        elif line.strip():
            raise PinnedError(f"{name}.lock, line {number}: {line.strip()!r} is no pin; write NAME==VERSION")
    if not any(pin.partition("==")[0] in FRAMEWORKS for pin in pins):
        raise PinnedError(f"{name}.lock pins none of {', '.join(FRAMEWORKS)}: add a line torch==VERSION")
    pythons = tuple(version.strip() for value in said["python"] for version in value.split(","))
    variables = []
    for value in said["variable"]:
        key, equals, given = value.partition("=")
        if not equals:
            raise PinnedError(f"{name}.lock: variable {value!r}; write KEY=VALUE")
        variables.append((key, given))
    return Lock(name, tuple(pins), pythons, tuple(variables), tuple(said["module"]), tuple(said["note"]))
