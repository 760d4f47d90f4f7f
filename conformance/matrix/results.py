"""What is kept of a trial: the statuses, the evidence, and each counterexample as the terminal shows it.

RESULTS/SPEC_REVISION/TRAINER/VERSION.json holds one entry for each setting. A document of `sftspec check --json` is ten
times as large, and is made again with the entry's command.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sftspec import SPEC_REVISION, __version__
from sftspec.conformance.adapters.field import FIELD
from sftspec.conformance.environments.lock import read_lock
from sftspec.conformance.matrix.settings import Setting
from sftspec.conformance.report.failures import failure
from sftspec.conformance.report.outcome import exit_code

FORMAT = 1
WIDTH = 100
WRONG = ("fail", "ambiguous", "error")


def version_of(trainer: str) -> str:
    """The version of a trainer that would be put on trial: of its lock file, else what is installed here."""
    if trainer in FIELD:
        return read_lock(trainer).version_of(FIELD[trainer][2])
    if trainer in ("reference", "packers"):  # a packer's own version is told by its setting's lock
        return __version__
    try:
        return version(trainer)
    except PackageNotFoundError:
        return "not installed"


def path_of(folder: Path, trainer: str) -> Path:
    """Where the results of a trainer's version lie."""
    return folder / SPEC_REVISION / trainer / f"{version_of(trainer)}.json"


def read(path: Path) -> dict[str, Any]:
    """The results of a trainer's version; none yet, where there is no file."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    return {
        "format": FORMAT,
        "spec_revision": SPEC_REVISION,
        "trainer": path.parent.name,
        "version": path.stem,
        "settings": [],
    }


def entry_of(results: Mapping[str, Any], setting: Setting) -> dict[str, Any] | None:
    """What is kept of a setting; None if it was not tried."""
    return next((entry for entry in results["settings"] if entry["set"] == setting.asked), None)


def add(path: Path, entry: Mapping[str, Any]) -> None:
    """Put an entry into a file, in place of an older one of the same setting."""
    results = read(path)
    kept = [item for item in results["settings"] if item["set"] != entry["set"]]
    results["settings"] = sorted([*kept, entry], key=lambda item: (bool(item["choice"]), json.dumps(item["set"])))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def entry_from(document: Mapping[str, Any], setting: Setting, quick: bool = False) -> dict[str, Any]:
    """What is kept of a document of verdicts (`sftspec check --json`); quick: few scenarios were tried."""
    scenarios = document["scenarios"]
    return {
        "set": setting.asked,
        "choice": setting.choice,
        "error": "",
        "quick": quick,
        "exit": exit_code(document),
        "command": document["command"],
        "seconds": round(document["seconds"]),
        "environment": document["environment"],
        "conventions": document["trainer"]["conventions"],
        "claims": document["trainer"]["claims"],
        "conversations": sum(item["conversations"] for item in scenarios),
        "refused": sum(item["refused"] for item in scenarios),
        "broken": {item["name"]: item["error"].strip()[:400] for item in scenarios if item["error"]},
        "scenarios": len(scenarios),
        "areas": dict(areas(document["verdicts"])),
        "verdicts": [verdict(item) for item in document["verdicts"] if item["status"] != "not-claimed"],
        **({"cpu_seconds": document["cpu_seconds"]} if "cpu_seconds" in document else {}),
    }


def entry_of_error(error: str, setting: Setting, command: str) -> dict[str, Any]:
    """What is kept of a setting that could not be tried: why."""
    return {"set": setting.asked, "choice": setting.choice, "error": error, "command": command}


def areas(verdicts: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, int]]]:
    """Of each area that was judged: how many musts have which status, and how many shoulds fail."""
    verdicts = [item for item in verdicts if item["status"] != "not-claimed"]
    for area in dict.fromkeys(item["id"].partition("/")[0] for item in verdicts):
        counts: dict[str, int] = {}
        for item in verdicts:
            if item["id"].startswith(f"{area}/"):
                is_warning = item["level"] == "should" and item["status"] in WRONG
                status = "warning" if is_warning else item["status"]
                counts[status] = counts.get(status, 0) + 1
        yield area, counts


def verdict(item: Mapping[str, Any]) -> dict[str, Any]:
    """A verdict in short; with what the terminal shows of it, where it does not hold."""
    kept = {"id": item["id"], "level": item["level"], "status": item["status"]}
    kept["evidence"] = sum(item["evidence"].values())
    if item["status"] == "fail" and item["counterexample"]:
        kept["failures"] = item["counterexample"]["failures"]
        kept["note"] = item["counterexample"]["note"]
        kept["shown"] = "\n".join(line.plain.rstrip() for line in failure(item, WIDTH))
        kept["again"] = item["repro"]
    elif item["reason"] and item["status"] != "not-measured":
        kept["reason"] = item["reason"]
    return kept


def all_results(folder: Path, revision: str = SPEC_REVISION) -> list[dict[str, Any]]:
    """Everything that is kept of trainers of a revision, by trainer and version; results of templates lie there too."""
    found = (read(path) for path in sorted((folder / revision).glob("*/*.json")))
    return [item for item in found if "settings" in item]
