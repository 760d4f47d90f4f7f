"""Text that is not ours, as a terminal may be given it: control characters are shown, and do nothing.

A trainer's name, an error or a template may hold sequences that set a title, clear the screen or write the clipboard.
Each control character becomes one visible character, so that no place in a line moves.
"""

from __future__ import annotations

PICTURES = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"} | {0x7F: "\u2421"}
DIRECTIONS = (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))  # they turn the direction of writing
NONE = dict.fromkeys([*range(0x80, 0xA0), *DIRECTIONS, *range(0xD800, 0xE000)], "\ufffd")  # also C1, half a pair
SHOWN = PICTURES | NONE


def printable(text: str) -> str:
    """The text with each control character as one that is seen.

    >>> printable("loop\\x1b]0;owned\\x07")
    'loop␛]0;owned␇'
    """
    return text.translate(SHOWN)


IN_JSON = {code: f"\\u{code:04x}" for code in (0x7F, *NONE)}  # those below a blank are escaped by every writer


def printable_json(text: str) -> str:
    """JSON with the control characters in its strings as escapes: another text of the same values.

    >>> print(printable_json('"loop\\x9b31m"'))
    "loop\\u009b31m"
    """
    return text.translate(IN_JSON)
