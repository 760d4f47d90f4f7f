"""The form of a document: JSON Schemas, one for each format that was ever written, and reading and writing by them.

A document of an earlier format is read in today's form. What its schema does not know is refused, with the place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from sftspec.conformance.report.outcome import totals
from sftspec.conformance.report.printable import printable_json

FORMAT = 2


class DocumentError(ValueError):
    """A document that is not in the form of its schema; says where and what."""


@lru_cache
def schema(name: str) -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of this package, such as "verdicts"."""
    path = resources.files("sftspec.conformance.report") / "schemas" / f"{name}.schema.json"
    return json.loads(path.read_text(encoding="utf-8"))


def validate(document: Any, name: str = "verdicts", source: str = "document") -> None:
    """Raise DocumentError with a place at which a document is not in the form of the schema."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    name, _, part = name.partition("#")  # "verdicts#trainer": what the schema says of that key
    form = schema(name)
    form = form["properties"][part] | {"$defs": form["$defs"]} if part else form
    error = best_match(Draft202012Validator(form).iter_errors(document))
    if error is not None:
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
        raise DocumentError(f"{source}: {place.lstrip('.') or 'top level'}: {error.message[:300]}")


def read_document(path: Path) -> dict[str, Any]:
    """Read a document, also one of an earlier format, in today's form. Raises DocumentError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_no_constant)
    except OSError as error:
        raise DocumentError(f"{path}: {error.strerror}; `sftspec check TRAINER --json FILE` writes one") from None
    except ValueError as error:  # also of text that is not UTF-8
        raise DocumentError(f"{path}: not valid JSON ({error})") from None
    except RecursionError:
        raise DocumentError(f"{path}: not valid JSON (it is nested too deeply)") from None
    found = document.get("format") if isinstance(document, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise DocumentError(f"{path}: format {found}; this version reads 1 to {FORMAT}: update sftspec")
    if found == 1:
        validate(document, "verdicts-1", path.name)
        document |= {"format": FORMAT, "baseline": None, "isolation": None, "totals": totals(document["verdicts"])}
    validate(document, source=path.name)
    return document


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def write_document(document: Mapping[str, Any], path: Path) -> None:
    """Write a document as JSON, if it has the form of its schema."""
    path.write_text(json_text(document, path.name), encoding="utf-8")


def json_text(document: Mapping[str, Any], source: str = "document") -> str:
    """A document as JSON. Raises DocumentError if it has not the form of its schema."""
    validate(document, source=source)
    return printable_json(json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1)) + "\n"
