"""Options of the command line: one that is not known is refused with the one that was meant."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that names the option that one which it does not know looks like.

    >>> parser = Parser(prog="p", exit_on_error=False)
    >>> _ = parser.add_argument("--processes")
    >>> parser.meant(["--procceses=2", "4"], None)
    '; did you mean --processes?'
    """

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        found, left = self.parse_known_args(args, namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}{self.meant(left, getattr(found, 'command', None))}")
        return found

    def meant(self, left: Sequence[str], command: str | None) -> str:
        """What to say of words that are left over: the options of the command that was given which they look like."""
        parser: argparse.ArgumentParser = self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and command in action.choices:
                parser = action.choices[command]
        known = [option for action in parser._actions for option in action.option_strings]
        words = [word.partition("=")[0] for word in left if word.startswith("--")]
        near = [found for word in words for found in difflib.get_close_matches(word, known, 1)]
        return f"; did you mean {', '.join(dict.fromkeys(near))}?" if near else ""
