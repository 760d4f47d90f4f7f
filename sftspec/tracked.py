"""Text that knows where each of its characters came from.

Rule of this file: provenance is carried through, never found again by searching. A chat template may strip, split, join
and move what people wrote; whatever is left of it still says which message it is from, and text that the template made
itself says nothing. What an operation does that is not covered here loses the provenance of a mixture and keeps that of
a text of one origin.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, SupportsIndex


class Origin(NamedTuple):
    """kind as in spans.py; message -1: none; block: the number of its {% generation %} block (0: in none)."""

    kind: str
    message: int
    block: int = 0


class Tracked(str):
    """A str with runs: (length, Origin or None), in order, adding up to its length, no two neighbours alike.

    A run of length 0 stays: an empty answer has a place in the text too.
    """

    __slots__ = ("runs",)
    runs: tuple[tuple[int, Origin | None], ...]

    def __new__(cls, text: str, runs: Iterable[tuple[int, Origin | None]]) -> Tracked:
        if not (type(runs) in (list, tuple) and len(runs) == 1):  # type: ignore[arg-type]
            runs = [(sum(length for length, _ in group), origin) for origin, group in groupby(runs, itemgetter(1))]
        return cls.of(text, runs)

    @classmethod
    def of(cls, text: str, runs: Iterable[tuple[int, Origin | None]]) -> Tracked:
        """A text of which no two neighbouring runs are alike, which is not looked at again."""
        self = super().__new__(cls, text)
        self.runs = tuple(runs)
        return self

    def __str__(self) -> Tracked:  # str(x) has to keep the provenance: Jinja calls it on all that is printed
        return self

    # What no text is, Python does not add to one: a template that tries to, with a content of None, is refused.
    def __add__(self, other: str) -> Tracked:
        return joined((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> Tracked:
        return joined((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, count: SupportsIndex) -> Tracked:
        return Tracked(str.__mul__(self, count), self.runs * max(count.__index__(), 0))

    __rmul__ = __mul__

    def __getitem__(self, key: Any) -> Tracked:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                return self._uniform(str.__getitem__(self, key))
            return self._cut(start, max(start, stop))
        index = key if key >= 0 else key + len(self)
        return Tracked(str.__getitem__(self, key), self._cut(index, index + 1).runs)

    def __iter__(self) -> Iterator[Tracked]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple:
        return Tracked, (str.__str__(self), self.runs)

    def _cut(self, start: int, stop: int) -> Tracked:
        runs, position = [], 0
        for length, origin in self.runs:
            left, right = max(start, position), min(stop, position + length)
            if left < right or (left == right and not length):
                runs.append((right - left, origin))
            position += length
        # Nothing left of a text is still a place of its origin.
        return Tracked(str.__getitem__(self, slice(start, stop)), runs or [(0, origin) for _, origin in self.runs[:1]])

    def _uniform(self, text: str) -> Tracked:
        """A text made of this one: of the same origin, if that is one."""
        return Tracked(text, [(len(text), common_origin([self]))])

    def strip(self, chars: str | None = None) -> Tracked:
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None) -> Tracked:
        return self._cut(len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None) -> Tracked:
        return self._cut(0, len(str.rstrip(self, chars)))

    def removeprefix(self, prefix: str) -> Tracked:
        return self._cut(len(prefix), len(self)) if self.startswith(prefix) else self

    def removesuffix(self, suffix: str) -> Tracked:
        return self._cut(0, len(self) - len(suffix)) if suffix and self.endswith(suffix) else self

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Any]:
        return self._places(str.split(self, sep, maxsplit), gap=None if sep is None else len(sep))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Any]:
        return self._places(str.rsplit(self, sep, maxsplit), gap=None if sep is None else len(sep))

    def splitlines(self, keepends: bool = False) -> list[Any]:
        lines = self._places(str.splitlines(self, keepends=True), gap=0)
        return lines if keepends else [line.rstrip("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029") for line in lines]

    def partition(self, sep: str) -> tuple[Any, Any, Any]:
        before, found, after = self._places(str.partition(self, sep), gap=0)
        return before, found, after

    def rpartition(self, sep: str) -> tuple[Any, Any, Any]:
        before, found, after = self._places(str.rpartition(self, sep), gap=0)
        return before, found, after

    def _places(self, parts: Iterable[str], gap: int | None) -> list[Tracked]:
        """The parts, which stand in this text in order: `gap` characters between two (None: white space)."""
        found, position = [], 0
        for part in parts:
            position = str.index(self, part, position) if gap is None else position
            found.append(self._cut(position, position + len(part)))
            position += len(part) + (gap or 0)
        return found

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> Tracked:
        if not old:
            return self._uniform(str.replace(self, old, new, count))
        return joined(self.split(old, count), new)

    def join(self, parts: Iterable[str]) -> Tracked:
        return joined_texts(parts, self)


class Safe(Tracked):
    """What Jinja's filters `safe` and `escape` give: as with Markup, what is added to it is escaped.

    >>> Safe("<a>", [(3, None)]) + "<b>"
    '<a>&lt;b&gt;'
    """

    __slots__ = ()

    def __html__(self) -> Safe:
        return self

    def __add__(self, other: str) -> Tracked:
        return self._joined(self, other) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> Tracked:
        return self._joined(other, self) if isinstance(other, str) else NotImplemented

    def _joined(self, *parts: str) -> Tracked:
        whole = joined(part if hasattr(part, "__html__") else _escaped(part) for part in parts)
        return Safe.of(whole, whole.runs)


class TrackedDict(dict):
    """An object whose text, where a template prints it as it is, has the one origin of what it holds."""

    def __str__(self) -> str:
        return _printed([[*self], *self.values()], dict.__repr__(self))


class TrackedList(list):
    """The same of a list."""

    def __str__(self) -> str:
        return _printed(self, list.__repr__(self))


def _printed(value: list, text: str) -> str:
    origin = common_origin(value)
    return Tracked(text, [(len(text), origin)]) if origin else text


def _escaped(text: str) -> Tracked:
    safe = html.escape(str.__str__(text)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")  # as markupsafe writes
    return Tracked(safe, [(len(safe), common_origin([text]))])


def _same_origin(name: str) -> Any:
    method = getattr(str, name)

    def call(self: Tracked, *arguments: Any, **options: Any) -> Tracked:
        return self._uniform(method(self, *arguments, **options))

    return call


for _name in ("lower", "upper", "title", "capitalize", "swapcase", "casefold", "center", "ljust", "rjust", "zfill",
              "expandtabs", "translate", "__mod__", "format"):  # fmt: skip
    setattr(Tracked, _name, _same_origin(_name))


def runs_of(text: str) -> tuple[tuple[int, Origin | None], ...]:
    """(length, origin) of each run of a text; a plain one is a single run without an origin.

    >>> runs_of("ab")
    ((2, None),)
    """
    return text.runs if isinstance(text, Tracked) else ((len(text), None),)


def joined(parts: Iterable[Any], separator: str = "") -> Tracked:
    """separator.join of the parts as text.

    >>> joined([Tracked("Hi", [(2, Origin("content", 0))]), "!"]).runs
    ((2, Origin(kind='content', message=0, block=0)), (1, None))
    """
    texts: list[str] = []
    for part in parts:
        if texts and separator:
            texts.append(separator)
        texts.append(part if isinstance(part, str) else str(part))
    runs: list[tuple[int, Origin | None]] = []
    for text in texts:
        more = runs_of(text)
        if runs and more and runs[-1][1] == more[0][1]:  # only where two parts meet can two runs be alike
            runs[-1] = (runs[-1][0] + more[0][0], runs[-1][1])
            more = more[1:]
        runs += more
    return Tracked.of("".join(texts), runs)


def joined_texts(parts: Iterable[str], separator: str = "") -> Tracked:
    """The same as `str.join`, which refuses what is no text.

    >>> joined_texts(["a", "b"], "-")
    'a-b'
    """
    parts = list(parts)
    str.join("", parts)
    return joined(parts, separator)


def common_origin(values: Iterable[Any]) -> Origin | None:
    """The one origin of all tracked text in values (None: there is none, or more than one).

    >>> text = Tracked("Hi", [(2, Origin("content", 0))])
    >>> common_origin([text, [text]])
    Origin(kind='content', message=0, block=0)
    """
    origins = {origin for text in _texts(values) for _, origin in text.runs}
    return origins.pop() if len(origins) == 1 else None


def _texts(values: Iterable[Any]) -> Iterator[Tracked]:
    for value in values:
        if isinstance(value, Tracked):
            yield value
        elif isinstance(value, dict):
            yield from _texts(value.values())
        elif isinstance(value, (list, tuple)):
            yield from _texts(value)
