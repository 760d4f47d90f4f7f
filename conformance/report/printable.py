"""Text that is not ours, as a terminal may be given it: control characters are shown, and do nothing.

A trainer's name, an error or a template may hold sequences that set a title, clear the screen or write the clipboard.
Each control character becomes one visible character, so that no place in a line moves.
"""

from __future__ import annotations

PICTURES = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"} | {0x7F: "\u2421"}
NONE = dict.fromkeys([*range(0x80, 0xA0), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")
SHOWN = PICTURES | NONE  # C1 controls, and those that turn the direction of writing


def printable(text: str) -> str:
    """The text with each control character as one that is seen.

    >>> printable("loop\\x1b]0;owned\\x07")
    'loop␛]0;owned␇'
    """
    return text.translate(SHOWN)
