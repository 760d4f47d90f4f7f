"""Mutated recordings: how many are read, how many refused in a sentence, and whether any does what none may.

    python -m tests.benchmarks.fuzz_recordings --folders 10000 --seconds 1200

A small recording of a wrong trainer is spoilt in one place or several: bytes, JSON values (huge numbers, NaN, other
types), files dropped and doubled, links, paths that lead out. None may end in a traceback, take longer than 5 s, or
pass as a trainer without the fault.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sftspec.conformance.ledger.recording import load_trial, save_trial
from sftspec.conformance.ledger.store import RecordingError
from sftspec.conformance.report.document import identify, make_document
from sftspec.conformance.report.outcome import exit_code
from sftspec.conformance.trial.judge import Trial, reach_verdicts, run_scenarios
from sftspec.conformance.trial.scenarios import SCENARIOS
from sftspec.conformance.trial.selection import select
from sftspec.masking import encode
from sftspec.trainer import Pipeline

SCENARIO, PROPERTY = "rate zero", "masking/end-of-turn-is-trained"
LIMIT = 5  # seconds
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 10**30, 10**400, 1e308, "", "x", "../right", "/etc/passwd", "\x1b[2J", "\x00", [], {},
    [[]], {"a": 1}, {"$float": "nan"}, {"$float": "inf"}, {"$float": "x"}, [1] * 1000, "a" * 100_000, 0.5, -0.0,
)  # fmt: skip


def forgetful(*arguments: Any, **options: Any) -> Any:
    """Encodes, and trains no end-of-turn token."""
    encoded = encode(*arguments, **options)
    kinds = [encoded.rendered.spans[owner].kind for owner in encoded.owners]
    encoded.labels[:] = [
        -100 if kind == "end_of_turn" else label for kind, label in zip(kinds, encoded.labels, strict=True)
    ]
    return encoded


class Wrong(Pipeline):
    claims = frozenset({"padding"})


def record(folder: Path) -> None:
    """A small recording of a trainer that trains no end of turn."""
    trainer = Wrong(encode=forgetful)
    trial = run_scenarios(Trial(trainer), [item for item in SCENARIOS if item.name == SCENARIO], seed=0, max_replays=1)
    save_trial(trial, identify(trainer, {}), 0, folder)


def judged(folder: Path) -> int:
    """The exit code of the one property on a recording. Raises RecordingError."""
    trial, made = load_trial(folder)
    if not trial.runs:
        return 3
    reach_verdicts(trial, select([PROPERTY]))
    document = make_document(trial, made["trainer"], "", made["seed"], recorded_on=made["environment"])
    return exit_code(document)


def places(value: Any, here: tuple = ()) -> list[tuple]:
    """Places in a JSON value; of a long list a few."""
    found = [here] if here else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*here, key))
    if isinstance(value, list):
        for place in sorted({0, 1, len(value) // 2, len(value) - 1} & set(range(len(value)))):
            found += places(value[place], (*here, place))
    return found


def spoil_json(chance: random.Random, path: Path) -> str:
    value = json.loads(path.read_text(encoding="utf-8"))
    place = chance.choice(places(value))
    holder = value
    for step in place[:-1]:
        holder = holder[step]
    how = chance.choice(("replace", "drop", "double", "nudge"))
    old = holder[place[-1]]
    if how == "drop":
        del holder[place[-1]]
    elif how == "double" and isinstance(holder, list):
        holder.insert(place[-1], old)
    elif how == "nudge" and isinstance(old, (int, float)) and not isinstance(old, bool):
        holder[place[-1]] = old + chance.choice((-1, 1, 1000, 0.5))
    else:
        holder[place[-1]] = chance.choice(ODD)
    try:
        path.write_text(json.dumps(value), encoding="utf-8")
    except ValueError:  # 10**400 has no text within Python's limit
        path.write_text(json.dumps(value, default=str).replace('"x"', "1" * 5000), encoding="utf-8")
    return f"json {how} {'.'.join(map(str, place))[:60]}"


def spoil_text(chance: random.Random, path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    at = chance.randrange(len(text))
    piece = chance.choice(("NaN", "Infinity", "1e999", "[" * 5000, "{" * 200, '"', ",", '{"format": 1, "format": 1}'))
    path.write_text(text[:at] + piece + text[at + chance.choice((0, 1, 5)) :], encoding="utf-8")
    return f"text {path.name} {piece[:12]}"


def spoil_bytes(chance: random.Random, path: Path) -> str:
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 8))):
        at = chance.randrange(min(len(data), chance.choice((16, 4096, len(data)))))
        data[at] = chance.randrange(256)
    path.write_bytes(data[: chance.choice((len(data), len(data), chance.randrange(len(data) + 1)))])
    return f"bytes {path.name}"


def spoil_files(chance: random.Random, path: Path) -> str:
    how = chance.choice(("drop", "empty", "link", "folder", "fifo", "swap"))
    if how == "empty":
        path.write_bytes(b"")
        return f"file empty {path.name}"
    path.unlink()
    if how == "link":
        path.symlink_to("/dev/zero")
    elif how == "folder":
        path.mkdir()
    elif how == "fifo":
        import os

        os.mkfifo(path)
    elif how == "swap":
        others = [item for item in path.parent.rglob("*") if item.is_file()]
        if others:
            shutil.copy(chance.choice(sorted(others)), path)
    return f"file {how} {path.name}"


def spoil_trial(chance: random.Random, path: Path) -> str:
    record = json.loads(path.read_text(encoding="utf-8"))
    runs = record["runs"]
    record["runs"] = chance.choice((
        [], runs * 2, [f"../{path.parent.name}/{runs[0]}"], ["/etc"], [".."], [""], [None], runs[0],
        [runs[0] + "/.."], 3,
    ))  # fmt: skip
    path.write_text(json.dumps(record), encoding="utf-8")
    return f"runs {str(record['runs'])[:40]}"


def spoilt(chance: random.Random, folder: Path) -> str:
    """Spoil a recording in one to three places. Returns what was done."""
    done = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        files = sorted(item for item in folder.rglob("*") if item.is_file() and not item.is_symlink())
        if not files:
            break
        path = chance.choice(files)
        ways: list[Callable[[random.Random, Path], str]] = [spoil_bytes, spoil_files]
        run_files = [item for item in files if item.name in ("run.json", "trial.json")]
        if run_files and chance.random() < 0.75:
            path = chance.choice(run_files)
            ways = [spoil_json, spoil_json, spoil_json, spoil_text]
            ways += [spoil_trial] if path.name == "trial.json" else []
        try:
            done.append(chance.choice(ways)(chance, path))
        except (
            ValueError,
            KeyError,
            TypeError,
            IndexError,
            RecursionError,
        ):  # too much to be spoilt again
            break
    return "; ".join(done)


class Hang(BaseException):
    """It took longer than the limit."""


def _alarm(number: int, frame: Any) -> None:
    raise Hang


def outcome(folder: Path) -> str:
    """What came of judging a folder: refused, exit 1, …; or the fault."""
    signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        return f"exit {judged(folder)}"
    except RecordingError as error:
        return "refused" if str(folder) in str(error) or "trial.json" in str(error) else f"UNNAMED {error}"
    except Hang:
        return "HANG"
    except Exception as error:
        return f"TRACEBACK {type(error).__name__}: {str(error)[:120]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def is_fault(said: str) -> bool:
    return said.startswith(("HANG", "TRACEBACK", "UNNAMED")) or said == "exit 0"


def fuzz(folders: int, seconds: float, seed: int, room: Path) -> tuple[Counter[str], list[tuple[int, str, str]]]:
    """(how often each outcome came, the faults: number, what was spoilt, what came of it)."""
    base = room / "base"
    record(base)
    assert outcome(base) == "exit 1", "the recording itself must be judged, and fail"
    counts: Counter[str] = Counter()
    faults = []
    began = time.perf_counter()
    for number in range(folders):
        if time.perf_counter() - began > seconds:
            break
        copy = room / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(base, copy)
        done = spoilt(random.Random(seed * 10**6 + number), copy)
        said = outcome(copy)
        counts[said if not said.startswith("TRACEBACK") else "TRACEBACK"] += 1
        if is_fault(said):
            faults.append((number, done, said))
    return counts, faults


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--folders", type=int, default=10_000)
    arguments.add_argument("--seconds", type=float, default=1200)
    arguments.add_argument("--seed", type=int, default=0)
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory() as room:
        counts, faults = fuzz(asked.folders, asked.seconds, asked.seed, Path(room))
    for number, done, said in faults[:40]:
        print(f"{number}: {done}: {said}")
    print(f"{sum(counts.values())} folders: {dict(counts.most_common())}; {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    raise SystemExit(main())
