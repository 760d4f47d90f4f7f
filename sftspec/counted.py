"""A number and what it counts, as a person says it."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """A number with what it counts, in the singular where there is one.

    >>> counted(1, "scenario"), counted(2600, "property"), counted(0, "piece of evidence")
    ('1 scenario', '2,600 properties', '0 pieces of evidence')
    """
    return f"{number:,} {thing if number == 1 else several(thing)}"


def several(thing: str) -> str:
    """The plural of a noun, of the first one where others follow it with "of".

    >>> several("failing property"), several("piece of evidence"), several("loss"), several("key")
    ('failing properties', 'pieces of evidence', 'losses', 'keys')
    """
    noun, of, rest = thing.partition(" of ")
    if noun.endswith("y") and noun[-2] not in "aeo":
        return f"{noun[:-1]}ies{of}{rest}"
    return f"{noun}es{of}{rest}" if noun.endswith(("s", "x", "ch")) else f"{noun}s{of}{rest}"
