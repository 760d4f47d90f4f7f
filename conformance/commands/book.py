"""`sftspec book`: the specification as a site and as one HTML file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path


def add_book_arguments(command: ArgumentParser) -> None:
    command.add_argument("--out", metavar="DIR", type=Path, default=Path("book"), help="a new folder (default: book)")


def run_book(args: Namespace) -> int:
    """Write the Markdown, then what the generator makes of it."""
    from sftspec.conformance.book.single import single
    from sftspec.conformance.book.site import build, pages, write

    made = pages()
    write(args.out, made)
    build(args.out)
    one = args.out / "sftspec.html"
    one.write_text(single(made), encoding="utf-8")
    print(f"{len(made)} pages\nsite: {args.out / 'site' / 'index.html'}\none file: {one}")
    return 0
