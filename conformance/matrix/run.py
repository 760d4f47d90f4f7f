"""Put trainers on trial one after another, each in processes of its own, and keep what comes of it.

What was tried already is kept: a result belongs to a trainer's version, its setting and the revision of the
specification. Whatever a trainer, an environment or a trial does, the next one is tried.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from sftspec.conformance.matrix.results import add, entry_from, entry_of, entry_of_error, path_of, read
from sftspec.conformance.matrix.settings import Setting, settings_of
from sftspec.conformance.report.json_values import without_paths
from sftspec.counted import counted

Judge = Callable[[str, Setting, Path], str]  # (trainer, setting, file for the document) -> why there is none


def command_of(trainer: str, setting: Setting) -> list[str]:
    """The words of the command that tries a setting, without the program."""
    return ["check", trainer, *(word for key, text in setting.asked.items() for word in ("--set", f"{key}={text}"))]


def in_a_process(more: Sequence[str] = (), limit: float = 1800.0) -> Judge:
    """`sftspec check` as a process. limit: seconds after which it is ended."""

    def judge(trainer: str, setting: Setting, target: Path) -> str:
        words = [*command_of(trainer, setting), "--json", str(target), *more]
        words = [sys.executable, "-m", "sftspec.conformance.commands.cli", *words]
        with tempfile.TemporaryFile() as said:
            code, cpu_seconds = run(words, said, limit)
            if code is None:
                return f"not judged within {limit:g} s"
            if target.exists():
                document = json.loads(target.read_text(encoding="utf-8"))
                target.write_text(json.dumps(document | {"cpu_seconds": round(cpu_seconds)}), encoding="utf-8")
                return ""
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
        return without_paths("\n".join(lines[-3:]) or f"sftspec ended with exit {code} and no document")

    return judge


def run(words: Sequence[str], stderr: IO[bytes], limit: float) -> tuple[int | None, float]:
    """The exit code of a command (None: it was ended at its limit), and its CPU seconds, with those of all it ran."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=stderr)
    began, timer = time.monotonic(), threading.Timer(limit, process.kill)
    timer.start()
    _, status, used = os.wait4(process.pid, 0)
    timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode if time.monotonic() - began < limit else None, used.ru_utime + used.ru_stime


def run_matrix(
    trainers: Iterable[str],
    folder: Path,
    judge: Judge,
    workers: int = 1,
    again: bool = False,
    quick: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> int:
    """Try the settings of these trainers that are not kept yet. Returns how many were tried.

    again  try those too that are kept
    quick  the judge tries few scenarios: its results are said to be so, and a whole trial takes their place
    """
    lock = threading.Lock()
    asked = [(trainer, setting) for trainer in trainers for setting in settings_of(trainer)]
    open_ones = [(name, item) for name, item in asked if again or not is_kept(folder, name, item, quick)]
    tell(f"{len(open_ones)} of {counted(len(asked), 'setting')} to be tried")

    def attempt(job: tuple[str, Setting]) -> None:
        trainer, setting = job
        line = shlex.join(["sftspec", *command_of(trainer, setting)])
        with tempfile.TemporaryDirectory(prefix="sftspec-") as place:
            target = Path(place) / "verdicts.json"
            try:
                error = judge(trainer, setting, target)
                text = "" if error else target.read_text(encoding="utf-8")
                entry = entry_of_error(error, setting, line) if error else entry_from(json.loads(text), setting, quick)
            except Exception as problem:  # it is said, and the next setting is tried
                entry = entry_of_error(f"{type(problem).__name__}: {problem}", setting, line)
        if any(reason.startswith("interrupted: ") for reason in entry.get("broken", {}).values()):
            tell(f"{line}: interrupted, and not kept")
            return
        with lock:
            add(path_of(folder, trainer), entry)
            failed = sum(item["status"] == "fail" for item in entry.get("verdicts", ()))
            tell(f"{line}: {entry['error'] or f'{failed} fail'}")

    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        list(pool.map(attempt, open_ones))
    return len(open_ones)


def is_kept(folder: Path, trainer: str, setting: Setting, quick: bool = False) -> bool:
    """Is there a result, of a whole trial or of a quick one as asked? What could not be tried, or broke in every
    scenario, is tried again.
    """
    entry = entry_of(read(path_of(folder, trainer)), setting)
    if entry is None or entry["error"] or len(entry["broken"]) == entry["scenarios"] > 0:
        return False
    return quick or not entry["quick"]
