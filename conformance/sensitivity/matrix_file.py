"""The kill matrix in a file: a row is kept as soon as it is known, beside those that are there.

The file never shrinks: rows that are not made now stay as they are, except those of mutants that exist no more. A run
that is stopped leaves its rows behind, named under "unfinished" with a digest of the code that made them. The next run
of the same code goes on from there, and one of other code begins again: a row is only as good as what made it.

The file keeps the spec revision of its oldest rows until all are made again. They may stand beside newer ones, because
an id never changes its meaning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import sftspec
from sftspec import SPEC_REVISION, conformance, golden, properties
from sftspec.conformance.sensitivity.signatures import Signature, from_json, save


class MatrixFileError(ValueError):
    """A file that holds no matrix, or another one; says what to do."""


def digest_of_code() -> str:
    """A digest of the package's own source."""
    digest = hashlib.sha256()
    for package in (sftspec, properties, golden, conformance):
        folder = Path(package.__path__[0])
        for path in sorted(item for item in folder.rglob("*") if item.suffix in (".py", ".jinja")):
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


class MatrixFile:
    """The matrix of one seed in a file, to which rows are added.

    path   None: rows are kept in memory only
    known  the mutants that exist
    asked  those whose rows are made now
    anew   make every row again, also those that a stopped run of the same code left
    whole  a row has every property that fails, and not only those that the mutant's entry names

    Afterwards `gone` holds the rows of mutants that exist no more, which the file loses.

    Raises MatrixFileError for a file of something else, of another seed, or of the other kind of rows.
    """

    def __init__(
        self,
        path: Path | None,
        seed: int,
        known: Collection[str],
        asked: Collection[str],
        anew: bool = False,
        whole: bool = True,
    ):
        self.path, self.seed, self.asked, self.whole = path, seed, list(asked), whole
        self.code = digest_of_code() if path else ""
        self.rows: dict[str, Signature] = {}
        self.made: set[str] = set()
        self.gone: list[str] = []
        self.revision, self.is_whole = SPEC_REVISION, set(known) <= set(self.asked)
        document = self._read()
        if document is None:
            return
        self.revision = document["spec_revision"]
        if document["seed"] != seed:
            raise MatrixFileError(f"{path}: the matrix of seed {document['seed']}, not of {seed}: name another file")
        if document.get("whole", True) != whole:
            rows = "only what a mutant's entry names" if whole else "every property that fails (--whole)"
            raise MatrixFileError(f"{path}: its rows have {rows}: name another file")
        self.gone = sorted(document["rows"].keys() - set(known))
        self.rows = {name: row for name, row in from_json(document).items() if name in known}
        unfinished = document.get("unfinished", {})
        if not anew and unfinished.get("code") == self.code:
            self.made = set(unfinished["rows"]) & self.rows.keys()

    def _read(self) -> dict[str, Any] | None:
        if self.path is None or not self.path.exists():
            return None
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            if document.keys() >= {"spec_revision", "seed", "scenarios", "kinds", "rows"}:
                return document
        except (ValueError, AttributeError):
            pass
        raise MatrixFileError(f"{self.path}: this is no kill matrix; name a new file, or one that --json wrote")

    @property
    def left(self) -> list[str]:
        """The mutants asked for whose rows are still to be made."""
        return [name for name in self.asked if name not in self.made]

    def keep(self, name: str, row: Signature) -> None:
        """Add a row, or replace it, and write the file."""
        self.rows[name] = row
        self.made.add(name)
        self._write()

    def finish(self) -> dict[str, Signature]:
        """Every row asked for is made. Returns these."""
        self.made -= set(self.asked)
        self.revision = SPEC_REVISION if self.is_whole else self.revision
        self._write()
        return {name: self.rows[name] for name in self.asked}

    def _write(self) -> None:
        if self.path is not None:
            more: dict[str, Any] = {} if self.whole else {"whole": False}
            if self.made:
                more["unfinished"] = {"code": self.code, "rows": sorted(self.made)}
            save(self.rows, self.seed, self.path, spec_revision=self.revision, **more)
