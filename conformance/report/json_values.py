"""Values and texts as a document may hold them: plain JSON, and no folder of the machine that made it."""

from __future__ import annotations

import math
import re
import reprlib
import tempfile
from pathlib import Path
from typing import Any

PLACES = (
    (re.escape(tempfile.gettempdir()) + r"/sftspec-[^/\s'\"]+(/\d+(/first|/twin)?(/work)?)?", "<workdir>"),
    (re.escape(str(Path(__file__).parents[2])) + "/", ""),
    (r"(?:/[^\s/'\":]+)+/(?:site-packages|dist-packages|lib/python3\.\d+)/", ""),
)


def without_paths(text: str) -> str:
    """Text without the folders of this machine: what is in a job's folder, in this package, in an installed one."""
    for pattern, said in PLACES:
        text = re.sub(pattern, said, text)
    return text


def plain(value: Any) -> bool | int | float | str | None:
    """A value that JSON has: NaN, the infinities and objects as text."""
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return short(value)


_short = reprlib.Repr()
_short.maxlist = _short.maxtuple = _short.maxdict = 24
_short.maxstring = _short.maxother = 200


def short(value: Any) -> str:
    """A drawn value, in full where it is small."""
    return without_paths(" ".join(_short.repr(value).split()))
