"""A release of torch or transformers that the suite was not tested with is said, and refused by none.

The wide pins of the package let a user's own environment be. `.ci/constraints.txt` holds what CI installs.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

TESTED = {"torch": ("2.6", "2.14"), "transformers": ("5.3", "5.24")}  # oldest, newest release


def untested(installed: dict[str, str]) -> list[str]:
    """A sentence for each package outside the releases that were tested.

    >>> untested({"torch": "2.13.0+cpu", "transformers": "6.1.0"})
    ['transformers 6.1.0 is newer than the newest release that sftspec was tested with (5.24)']
    """
    said = []
    for name, (oldest, newest) in TESTED.items():
        if name in installed:
            release = _release(installed[name])
            end = "newer than the newest" if release > _release(newest) else "older than the oldest"
            if not _release(oldest) <= release <= _release(newest):
                tested = newest if "new" in end else oldest
                said.append(f"{name} {installed[name]} is {end} release that sftspec was tested with ({tested})")
    return said


def installed_here() -> dict[str, str]:
    """The releases in this environment, by package."""
    found = {}
    for name in TESTED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _release(text: str) -> tuple[int, int]:
    """Major and minor of a version such as "2.13.0+cpu"."""
    major, minor = text.split("+")[0].split(".")[:2]
    return int(major), int("".join(char for char in minor if char.isdigit()) or 0)
