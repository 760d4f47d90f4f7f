"""Mutated recordings: how many are read, how many refused in a sentence, and whether any does what none may.

    python -m tests.benchmarks.fuzz_recordings --folders 100000 --seconds 7200 --tally /tmp/tally.jsonl

Recordings of wrong trainers (padded, packed, clipped, resumed, with adapters) are spoilt in one to three places each
(`spoiling`), and judged; of the verdicts a part is printed, in every form. None may

- end in an exception that is no sentence, break a property, or end in a sentence that does not name the file,
- take more than 5 s of the processor (or wait for 60), or the process more than 2 GB,
- pass on the property that the trainer fails,
- load a pickle, import a module of the folder, start a process, open a connection or read a file outside the folder,
- print a control character that the recording brought.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftspec.conformance.commands.outputs import as_html, as_json, as_markdown
from sftspec.conformance.ledger.recording import load_trial, save_trial
from sftspec.conformance.ledger.store import RecordingError
from sftspec.conformance.report.document import identify, make_document
from sftspec.conformance.report.printable import printable
from sftspec.conformance.report.terminal import make_console, print_report
from sftspec.conformance.sensitivity.mutants import MUTANTS, load_mutants
from sftspec.conformance.trial.judge import Trial, reach_verdicts, run_scenarios
from sftspec.conformance.trial.scenarios import SCENARIOS
from sftspec.conformance.trial.selection import select
from sftspec.masking import encode
from sftspec.tests.benchmarks.spoiling import spoil
from sftspec.tests.benchmarks.spoilt_files import SENTINEL
from sftspec.trainer import Pipeline

LIMIT = 5.0  # seconds of the processor
WAIT = 60.0  # seconds by the clock: it waits for something, or the machine has other work
PRINTED = 4  # of so many verdicts one is printed, and all on texts with control sequences
SCENARIO, PROPERTY = "rate zero", "masking/end-of-turn-is-trained"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


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


@dataclass(frozen=True)
class Base:
    """A recording to be spoilt: of a wrong trainer in one scenario, and the property that must never pass on it.

    often  how many of a hundred copies are of it
    """

    scenario: str
    property: str
    mutant: str
    often: int

    def trainer(self) -> Any:
        if not self.mutant:
            return Wrong(encode=forgetful)
        load_mutants()
        return MUTANTS[self.mutant].make()


BASES = (
    Base(SCENARIO, PROPERTY, "", 80),
    Base("clipping", "step/clipping-is-by-the-norm-of-the-whole-gradient", "step/never-clipped", 5),
    Base("packed", "packing/examples-do-not-see-each-other", "packing/plain-causal-attention", 5),
    Base("resume after one step", "step/resuming-equals-not-stopping", "step/resume-forgets-the-optimizer", 5),
    Base("plain", "step/adapters-learn", "step/base-trained-beside-frozen-adapters", 5),
)


def record(folder: Path, base: Base = BASES[0]) -> None:
    """A small recording of a wrong trainer."""
    trainer = base.trainer()
    scenarios = [item for item in SCENARIOS if item.name == base.scenario]
    trial = run_scenarios(Trial(trainer), scenarios, seed=0, max_replays=1)
    save_trial(trial, identify(trainer, {}), 0, folder)


def judged(folder: Path, name: str = PROPERTY, prints: bool = True) -> tuple[str, str]:
    """(status of the property on a recording, all that is printed of it in every form). Raises RecordingError."""
    trial, made = load_trial(folder)
    if not trial.runs:
        return "no run", ""
    reach_verdicts(trial, select([name]))
    document = make_document(trial, made["trainer"], "", made["seed"], recorded_on=made["environment"])
    (status,) = (item["status"] for item in document["verdicts"] if item["id"] == name)
    if not prints:
        return status, ""
    stream, page = io.StringIO(), Path("page")
    print_report(document, make_console(stream), {run.scenario: run.traceback for run in trial.runs if run.error})
    return status, "\n".join([stream.getvalue(), *(make(document, page) for make in (as_json, as_markdown, as_html))])


class Watch:
    """What a process did that no reading of data does, by Python's audit events."""

    EVENTS = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect")

    def __init__(self) -> None:
        self.folder = ""
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.folder:
            return
        if event in self.EVENTS:
            self.seen.append(f"{event} {arguments!r:.80}")
        elif event == "import" and isinstance(arguments[1], str) and arguments[1].startswith(self.folder):
            self.seen.append(f"import {arguments[1]}")
        elif event == "open" and str(arguments[0]) in ("/etc/passwd", "/dev/zero"):
            self.seen.append(f"open {arguments[0]}")


class Hang(BaseException):
    """It took longer than the limit."""


def _alarm(number: int, frame: Any) -> None:
    raise Hang


def outcome(folder: Path, name: str = PROPERTY, watch: Watch | None = None, prints: bool = True) -> str:
    """What came of judging a folder: refused, a status, …; or the fault."""
    before = [signal.signal(number, _alarm) for number in (signal.SIGALRM, signal.SIGPROF)]
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    signal.setitimer(signal.ITIMER_REAL, WAIT)
    if watch is not None:
        watch.folder, watch.seen = str(folder), []
    try:
        said, text = judged(folder, name, prints)
        text.encode()  # half a surrogate pair cannot be written
        if CONTROL.search(text):
            return f"CONTROL {CONTROL.search(text)!r}"
    except RecordingError as error:
        text = str(error)
        said = "refused" if str(folder) in text or "trial.json" in text else f"UNNAMED {error}"
        if CONTROL.search(printable(text)):
            return f"CONTROL {error!r}"
    except Hang:
        return "HANG"
    except Exception as error:
        return f"TRACEBACK {type(error).__name__}: {str(error)[:120]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before[0])
        signal.signal(signal.SIGPROF, before[1])
        if watch is not None:
            watch.folder = ""
    if watch is not None and watch.seen:
        return f"CODE {watch.seen[0]}"
    if next(folder.rglob(SENTINEL), None) is not None:
        return "CODE a pickle was loaded"
    return "WRONG PASS" if said == "pass" else said


FAULTS = ("HANG", "TRACEBACK", "UNNAMED", "CONTROL", "CODE", "WRONG PASS", "error")  # error: a property broke on it


def is_fault(said: str) -> bool:
    return said.startswith(FAULTS)


def peak() -> float:
    """Gigabytes that this process had in memory at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@dataclass
class Tally:
    """How often each outcome came, the slowest, and the faults: (number, what was spoilt, what came of it)."""

    counts: Counter[str]
    faults: list[tuple[int, str, str]]
    slowest: float = 0.0

    def line(self, number: int) -> str:
        said = {"number": number, "counts": self.counts, "faults": self.faults}
        return json.dumps(said | {"slowest": round(self.slowest, 2), "gigabytes": round(peak(), 2)})


def fuzz(
    folders: int, seconds: float, seed: int, room: Path, first: int = 0, bases: tuple[Base, ...] = BASES,
    told: Callable[[int, Tally], None] = lambda number, tally: None, watch: Watch | None = None,
) -> Tally:  # fmt: skip
    """Judge so many spoilt copies, numbered from `first`, for at most so many seconds."""
    for number, base in enumerate(bases):
        record(room / f"base-{number}", base)
        said = outcome(room / f"base-{number}", base.property)
        assert said == "fail", f"the recording itself must be judged, and fail: {base}: {said}"
    gc.freeze()  # what is there so far is not looked through again and again
    tally = Tally(Counter(), [])
    began = time.perf_counter()
    for number in range(first, first + folders):
        if time.perf_counter() - began > seconds:
            break
        chance = random.Random(seed * 10**6 + number)
        which = chance.choices(range(len(bases)), [base.often for base in bases])[0]
        copy = room / "copies" / "copy"  # in a folder of its own: it may be moved
        shutil.rmtree(copy.parent, ignore_errors=True)
        shutil.copytree(room / f"base-{which}", copy, copy_function=os.link)
        done = spoil(chance, copy)
        started = time.process_time()
        prints = number % PRINTED == 0 or "control" in done
        said = outcome(copy, bases[which].property, watch, prints)
        tally.slowest = max(tally.slowest, time.process_time() - started)
        tally.counts[said.partition(" ")[0] if is_fault(said) else said] += 1
        if is_fault(said):
            tally.faults.append((number, f"{bases[which].scenario}: {done}", said))
        told(number, tally)
    return tally


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--folders", type=int, default=10_000)
    arguments.add_argument("--seconds", type=float, default=1200)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--first", type=int, default=0, help="the number of the first copy")
    arguments.add_argument("--tally", type=Path, help="append the counts to this file, every 500 copies")
    asked = arguments.parse_args()

    def told(number: int, tally: Tally) -> None:
        faulthandler.dump_traceback_later(3 * WAIT, exit=True)  # a hang that no signal ends says where it is
        if asked.tally and ((number + 1) % 500 == 0 or (tally.faults and tally.faults[-1][0] == number)):
            with asked.tally.open("a") as file:
                file.write(tally.line(number) + "\n")

    with tempfile.TemporaryDirectory() as room:
        tally = fuzz(
            asked.folders, asked.seconds, asked.seed, Path(room), asked.first, told=told, watch=Watch()
        )  # fmt: skip
    faulthandler.cancel_dump_traceback_later()
    for number, done, said in tally.faults[:40]:
        print(f"{number}: {done}: {said}")
    counts = ", ".join(f"{name} {count:,}" for name, count in tally.counts.most_common())
    print(f"{sum(tally.counts.values()):,} recordings: {counts}; {len(tally.faults)} faults")
    print(f"slowest {tally.slowest:.2f} s, at most {peak():.2f} GB")
    return int(bool(tally.faults) or peak() > 2)


if __name__ == "__main__":
    raise SystemExit(main())
