"""`sftspec show`: its arguments, and what it prints and writes."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

POLICIES = ("all", "last", "every-token", "contents")  # as in sftspec.masking, which is not imported to print a help


class ShowError(ValueError):
    """A file, template or tokenizer that cannot be shown; says which and what to do."""


def add_show_arguments(command: ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE", type=Path, help="conversations: JSON Lines or JSON, any known form")
    command.add_argument("--template", metavar="NAME|PATH", help="a named variant, a .jinja file or a tokenizer folder")
    command.add_argument(
        "--tokenizer", metavar="DIR|FILE", default="small", help="a folder, a tokenizer.json, or small (default)"
    )
    command.add_argument("--policy", choices=POLICIES, default="all", help="which messages are trained (default all)")
    command.add_argument("--max-length", metavar="N", type=int, help="cut after so many tokens")
    command.add_argument(
        "--line", metavar="N[-M]", action="append", default=[], help="only these lines (rows, records)"
    )
    command.add_argument(
        "--drop-nulls", action="store_true", help="leave out nulls in tool calls and tools, which Arrow puts there"
    )
    command.add_argument("--limit", metavar="N", type=int, default=20, help="conversations to show (default 20)")
    command.add_argument("--html", metavar="FILE", type=Path, help="write the page there, too")


def run_show(args: Namespace) -> int:
    """Print what is trained. Exit code 0 whatever was found; 1 where only the readable lines of a file are shown."""
    from sftspec.conformance.report.printable import printable
    from sftspec.conformance.report.terminal import make_console
    from sftspec.conformance.show.html import page
    from sftspec.conformance.show.inputs import choose_template, load_tokenizer
    from sftspec.conformance.show.showing import show
    from sftspec.conformance.show.terminal import print_showing

    if args.max_length is not None and args.max_length < 1:
        raise ShowError(f"--max-length {args.max_length}: give a positive number of tokens")
    if args.limit < 0:
        raise ShowError(f"--limit {args.limit}: give a number of conversations, 0 for the counts alone")
    if args.html is not None and (args.html.is_dir() or not args.html.parent.is_dir()):
        fault = "it is a folder" if args.html.is_dir() else f"there is no folder {args.html.parent}"
        raise ShowError(f"--html {args.html}: {fault}")
    template = choose_template(args.template, args.tokenizer)
    tokenizer = load_tokenizer(args.tokenizer)
    showing = show(
        args.file, template, tokenizer, args.policy, args.max_length, lines_asked(args.line), args.drop_nulls
    )
    print_showing(showing, args.limit, make_console(sys.stdout))
    if args.html is not None:
        args.html.write_text(printable(page(showing, args.limit)), encoding="utf-8")
        print(f"\npage: {args.html}")
    return 1 if showing.unread else 0


def lines_asked(texts: list[str]) -> tuple[tuple[int, int], ...] | None:
    """The ranges that --line names: "12", "5-9", "3,8"; None for all. Raises ShowError."""
    ranges = []
    for text in (part for item in texts for part in item.split(",")):
        found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", text)
        if not found:
            raise ShowError(f"--line {text}: write a number or a range, such as 12 or 5-9")
        ranges.append((int(found[1]), int(found[2] or found[1])))
    return tuple(ranges) or None
