"""Where the verdicts are written: `--json`, `--markdown`, `--html`. What cannot be is refused before the run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sftspec.conformance.report.printable import printable

FORMS = {
    "json": "the verdicts as JSON (conformance/report/schemas)",
    "markdown": 'a summary as Markdown; to "$GITHUB_STEP_SUMMARY" it is appended',
    "html": "the report as one self-contained page",
}


class OutputError(ValueError):
    """A file that cannot be written; says why."""


def add_output_arguments(command: argparse.ArgumentParser) -> None:
    for form, what in FORMS.items():
        command.add_argument(f"--{form}", metavar="FILE", type=Path, help=f"write {what}")


def places(args: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """(form, file) of what was asked for."""
    for form in FORMS:
        if getattr(args, form, None) is not None:
            yield form, getattr(args, form)


def require_places(args: argparse.Namespace) -> None:
    """Raise OutputError for a file that cannot be: its folder is not there, it is a folder, or it is named twice."""
    taken: dict[Path, str] = {}
    for form, path in places(args):
        try:
            if path.is_dir():
                raise OutputError(f"--{form} {path}: it is a folder; name a file in it")
            if not path.parent.is_dir():
                raise OutputError(f"--{form} {path}: there is no folder {path.parent}")
            place = path.resolve()
        except (OSError, RuntimeError) as error:  # a name that is too long, links that go round
            raise OutputError(f"--{form} {path}: {getattr(error, 'strerror', error)}") from None
        if place in taken and place.is_file() == place.exists():
            raise OutputError(f"--{form} {path}: --{taken[place]} is written there; name another file")
        taken[place] = form


def write_outputs(document: dict[str, Any], args: argparse.Namespace) -> None:
    """Write each file. One that cannot be written is said so and changes no exit code: the verdict is printed."""
    for form, path in places(args):
        text = {"json": as_json, "markdown": as_markdown, "html": as_html}[form](document, path)
        is_summary = str(path) == os.environ.get("GITHUB_STEP_SUMMARY")
        try:
            with path.open("a" if is_summary else "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            print(f"sftspec: --{form} {path} was not written: {error.strerror}", file=sys.stderr)


def as_json(document: dict[str, Any], path: Path) -> str:
    from sftspec.conformance.report.form import json_text

    return json_text(document, path.name)


def as_markdown(document: dict[str, Any], path: Path) -> str:
    from sftspec.conformance.report.markdown import markdown

    return printable(markdown(document))


def as_html(document: dict[str, Any], path: Path) -> str:
    from sftspec.conformance.report.html import page

    return printable(page(document))
