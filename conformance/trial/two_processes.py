"""A trial in two processes: the trainer performs the next scenario while the judge reads the last one.

Jobs go out and what was heard comes back as files (`witness.exchange`). A run is read once, what a verdict needs of it
is kept, and the rest is forgotten. However the trainer ends, every scenario that was performed is judged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sftspec.conformance.adapters import TrainerError, resolve
from sftspec.conformance.trial.judge import Trial, Verdict, block, judge_untrained, open_verdicts, read_run, settle
from sftspec.conformance.trial.launch import StartError
from sftspec.conformance.trial.machine import HERE, Machine, on_machine, require_able, require_asked
from sftspec.conformance.trial.merging import merged
from sftspec.conformance.trial.performer import (
    Performance,
    alphabet_of,
    performed,
    provenance_of,
    replays_in,
    require_known_claims,
)
from sftspec.conformance.trial.process import Ended, Limits, Performer
from sftspec.conformance.trial.scenarios import Scenario, make_job, spare_of
from sftspec.conformance.witness.asked import keep
from sftspec.conformance.witness.exchange import read_heard, write_job
from sftspec.conformance.witness.identity import SEQUENCE
from sftspec.conformance.witness.mailbox import FIRST, ORDER, TWIN, job_folder, write_whole
from sftspec.conventions import Conventions
from sftspec.properties import Property
from sftspec.properties.ledger.run import Run

LIMITS = Limits()
AHEAD = 2  # jobs that wait for a performer beside the one that it does


@dataclass(frozen=True)
class Described:
    """A trainer in another process: what it says of itself.

    in_process  the same trainer made here, where functions of it are judged beside its runs
    """

    name: str
    version: str
    setting: Mapping[str, Any]
    claims: frozenset[str]
    conventions: Conventions
    policy: str = "all"
    in_process: Any = None


@dataclass
class Stage:
    """The performers of one trainer, and their folder."""

    place: str
    settings: Mapping[str, str]
    folder: Path
    performers: list[Performer]
    jobs: queue.Queue
    results: queue.Queue
    python: str = ""
    processes: int = 1
    machine: Machine = HERE
    said: dict[str, Any] = field(default_factory=dict)

    def trainer(self) -> Described:
        """Who is on trial. Raises TrainerError: it cannot be had, or claims what is nothing."""
        for performer in self.performers:
            try:
                self.said = performer.greeting()
            except StartError as error:
                raise TrainerError(f"{self.place} cannot be imported: {error}") from None
            if "refused" in self.said:
                raise TrainerError(self.said["refused"])
        identity = self.said["identity"]
        if self.processes > 1:  # what ranks in one process show, several show as well, unless they share each row
            more = {"processes"} if SEQUENCE in identity["claims"] else {"processes", "ranks"}
            identity["claims"] = sorted({*identity["claims"], *more})
            identity["setting"] = {**identity["setting"], "processes": self.processes}
        require_able(self.machine, frozenset(identity["claims"]))
        identity["setting"] = {**identity["setting"], **self.machine.asked}
        # The functions of a trainer are judged here, and so in this interpreter alone.
        has_functions = self.said["functions"] and not self.python
        described = Described(
            **identity
            | {"claims": frozenset(identity["claims"]), "conventions": Conventions(**identity["conventions"])},
            policy=self.said["policy"],
            in_process=resolve(self.place, self.settings).trainer if has_functions else None,
        )
        require_known_claims(described)
        return described

    def printed(self) -> str:
        """The end of what the trainer printed last."""
        return "".join(performer.printed() for performer in self.performers)

    def close(self) -> None:
        for performer in self.performers:
            performer.close()


@contextlib.contextmanager
def stage_of(
    place: str,
    settings: Mapping[str, str],
    python: str = "",
    limits: Limits = LIMITS,
    workers: int = 1,
    processes: int = 1,
    machine: Machine = HERE,
) -> Iterator[Stage]:
    """Start the trainer's processes; end them, and all that they started, when this is left.

    processes: ranks of each worker. machine: where and how it computes.
    """
    folder = Path(tempfile.mkdtemp(prefix="sftspec-"))
    jobs: queue.Queue = queue.Queue()
    results: queue.Queue = queue.Queue()
    stage = Stage(place, settings, folder, [], jobs, results, python, processes, machine)
    try:
        order = {"place": place, "settings": dict(settings), "processes": processes, "device": machine.device}
        write_whole(folder / ORDER, order)
        try:
            for name in range(workers):
                stage.performers.append(Performer(folder, name, python, processes, limits, jobs, results))
        except StartError as error:
            raise TrainerError(str(error)) from None
        yield stage
    finally:
        stage.close()
        shutil.rmtree(folder, ignore_errors=True)


def put_on_trial_apart(
    stage: Stage,
    trainer: Described,
    chosen: Sequence[Property],
    scenarios: Sequence[Scenario],
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
    max_examples: int = 100,
    max_replays: int = 4,
    finished: Callable[[int, int, Run, float], None] = lambda number, total, run, seconds: None,
    keep: Callable[[Run], None] = lambda run: None,
) -> Trial:
    """Let the trainer perform the scenarios, judge the chosen properties. An interrupt ends it with what there is.

    finished  is told of each scenario: which of how many, its run, its seconds
    keep      is given each run before it is forgotten
    """
    trial, started = Trial(trainer), time.perf_counter()
    verdicts = open_verdicts(chosen, trainer)
    seams = [place for place, item in enumerate(verdicts) if item.property.seam != "run"]
    desk = Desk(stage, trainer, seed, max_replays, list(on_machine(scenarios, stage.machine)))
    try:
        for run in desk.runs(lambda: _judge_one_seam(verdicts, seams, trainer, max_examples, progress), progress):
            read_run(verdicts, run)
            keep(run)
            trial.runs.append(lightened(run, verdicts))
            finished(len(trial.runs), len(desk.scenarios), run, desk.seconds.get(run.scenario, 0.0))
        while seams:
            _judge_one_seam(verdicts, seams, trainer, max_examples, progress)
    except KeyboardInterrupt:
        trial.interrupted_in = desk.name()
        desk.printed[trial.interrupted_in] = stage.printed()
        stage.close()
        trial.interrupted = desk.where()
        trial.runs += [lightened(run, verdicts) for run in desk.rest(f"interrupted: {trial.interrupted}")]
        for place in seams:
            verdicts[place].status, verdicts[place].reason = "not-measured", "interrupted"
    trial.refused, trial.seconds_of, trial.printed = desk.refused, desk.seconds, desk.printed
    trial.verdicts = [
        item if item.property.seam != "run" else settle(item, trainer, trial.runs, max_examples) for item in verdicts
    ]
    judge_untrained(trial)
    block(trial)
    trial.seconds = time.perf_counter() - started
    return trial


def _judge_one_seam(verdicts, seams, trainer, max_examples, progress) -> bool:
    """Judge a property of a function, if one is left: there is time for it while the trainer trains."""
    if not seams:
        return False
    place = seams[0]
    progress(verdicts[place].property.id)
    verdicts[place] = settle(verdicts[place], trainer, [], max_examples)
    del seams[0]  # an interrupt before leaves it among those that were not judged
    return True


class Desk:
    """Sends the jobs out, and reads what comes back, in the order of the scenarios."""

    def __init__(self, stage: Stage, trainer: Described, seed: int, max_replays: int, scenarios: list[Scenario]):
        self.stage, self.trainer, self.seed, self.max_replays = stage, trainer, seed, max_replays
        self.scenarios, self.sent, self.read = scenarios, 0, 0
        self.blank: dict[int, Run] = {}
        self.ended: dict[int, Ended] = {}
        self.refused: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.printed: dict[str, str] = {}
        self.began = time.perf_counter()

    def runs(self, meanwhile: Callable[[], bool], progress: Callable[[str], None]) -> Iterator[Run]:
        """The runs, one after another. meanwhile: what is done while nothing has come yet; False: nothing is left."""
        while self.read < len(self.scenarios):
            while self.sent < min(len(self.scenarios), self.read + AHEAD + len(self.stage.performers)):
                self._send()
            progress(self.scenarios[self.read].name)
            self.began = time.perf_counter()
            while self.read not in self.ended:
                self._wait(meanwhile)
            # The next job goes out before this one is read.
            if self.sent < len(self.scenarios):
                self._send()
            number, self.read = self.read, self.read + 1
            progress(f"verdicts on {self.scenarios[number].name}")
            run = self._finished(number)
            yield run
            if number == 0 and is_unheard(run):
                self.stage.close()
                yield from self.rest(f"not performed: nothing was heard of the trainer in {run.scenario!r}")

    def rest(self, reason: str) -> Iterator[Run]:
        """The scenarios that are never performed."""
        while self.read < len(self.scenarios):
            if self.read not in self.blank:
                self._make(self.read, with_twin=False)
            number, self.read = self.read, self.read + 1
            run = self.blank.pop(number)
            run.error = reason
            yield run

    def name(self) -> str:
        """The scenario that is being performed, or the last one."""
        return self.scenarios[min(self.read, len(self.scenarios) - 1)].name if self.scenarios else ""

    def where(self) -> str:
        """What is being done, and since when."""
        if self.read >= len(self.scenarios):
            return "after the last scenario"
        return f"in {self.scenarios[self.read].name!r}, {time.perf_counter() - self.began:.0f} s after it began"

    def _wait(self, meanwhile: Callable[[], bool]) -> None:
        try:
            ended = self.stage.results.get_nowait()
        except queue.Empty:
            if meanwhile():
                return
            try:
                ended = self.stage.results.get(timeout=0.1)
            except queue.Empty:
                return
        self.ended[ended.number] = ended

    def _send(self) -> None:
        """Make the job of the next scenario, and hand it over to a performer."""
        self._make(self.sent)
        self.sent += 1
        self.stage.jobs.put(self.sent - 1)

    def _make(self, number: int, with_twin: bool = True) -> None:
        """The job of a scenario in its folder, and the run that is still blank."""
        scenario, folder = self.scenarios[number], job_folder(self.stage.folder, number)
        run = self._asked(scenario, folder / FIRST, replays_in(scenario, self.max_replays), {})
        if scenario.twin is not None and with_twin:
            run.twin = self._asked(scenario, folder / TWIN, 0, scenario.twin)
        self.blank[number] = run

    def _asked(self, scenario: Scenario, folder: Path, replays: int, changes: Mapping[str, Any]) -> Run:
        processes = self.stage.processes
        if processes > 1 and SEQUENCE not in self.trainer.claims:
            changes = {**changes, "world_size": processes}
        job, _ = make_job(scenario, self.trainer, self.seed, folder, **changes)
        spare = spare_of(scenario, job, self.seed)
        run = Run(job, self.trainer.conventions, scenario=scenario.name, processes=processes)
        run.initial = {name: item.detach() for name, item in job.model.named_parameters()}
        streams = [stream.input_ids for stream in run.streams]
        write_job(folder, job, streams, alphabet_of(job.tokenizer), run.pad, replays, self.seed, spare)
        return run

    def _finished(self, number: int) -> Run:
        """The run of a scenario that was performed, or of which it is known why it was not."""
        ended, run, folder = self.ended.pop(number), self.blank.pop(number), job_folder(self.stage.folder, number)
        self.printed[run.scenario] = ended.output
        if not ended.skipped:
            self.seconds[run.scenario] = ended.seconds
        if ended.died:
            run.error, run.twin = ended.died, None
        else:
            try:
                shared = SEQUENCE in self.trainer.claims
                first = heard_of(run, folder / FIRST, self.stage.processes, shared)
                if run.twin is not None:
                    first.twin = heard_of(run.twin, folder / TWIN, self.stage.processes, shared)
                self.refused[run.scenario] = first.refused
                run = first.read()
                require_asked(run)
            except (OSError, ValueError, KeyError, TypeError) as error:
                run.error, run.twin = f"what was heard cannot be read: {type(error).__name__}: {error}", None
            run.error = run.error or ended.left
        shutil.rmtree(folder, ignore_errors=True)
        return run


def heard_of(run: Run, folder: Path, processes: int, rows_are_shared: bool) -> Performance:
    """What was heard of a trainer, on all of its ranks, with the job of a run that is blank so far."""
    heard = merged([read_heard(folder, rank) for rank in range(processes)], rows_are_shared)
    job, streams = run.job, run.streams
    run.refused = [talk for number, talk in enumerate(job.conversations) if number not in heard.accepted]
    run.refused = run.refused[: heard.refused]  # what is left out beside them only made batches come out even
    job.conversations = keep(job.conversations, heard.accepted)
    run.__dict__["streams"] = [streams[number] for number in heard.accepted]
    return performed(run, heard, provenance_of(run), heard.refused)


def is_unheard(run: Run) -> bool:
    """Did the trainer train, without an error of its own, and nothing of it could be read?"""
    untrained = run.error.startswith("untrained: ")  # that is a verdict
    return (
        bool(run.error) and not untrained and not run.traceback and not run.steps and not run.rows and run.final != {}
    )


def lightened(run: Run, verdicts: Sequence[Verdict]) -> Run:
    """What is told of a run that was read: all but its tensors where it holds a counterexample, else its name."""
    shown = [item.counterexample for item in verdicts if item.counterexample and item.counterexample.get("run") is run]
    arithmetic, told = run.arithmetic if run.final else "", run.untaken  # read when verdicts are settled and told
    run.job.model = SimpleNamespace(config=run.job.model.config)
    if run.twin is not None:
        run.twin = Run(run.twin.job, run.conventions, scenario=run.scenario, error=run.twin.error)
        run.twin.job.model = None
    if not shown:
        light = Run(run.job, run.conventions, scenario=run.scenario, error=run.error, traceback=run.traceback)
        light.unread = run.unread
        light.twin, light.__dict__["arithmetic"], light.__dict__["untaken"] = run.twin, arithmetic, told
        return light
    run.initial = run.final = {}
    run.forwards = [dataclasses.replace(item, hidden=None) for item in run.forwards]
    nothing: dict[str, Any] = {name: {} for name in ("gradients", "before", "after", "again")}
    light_step = {id(item): dataclasses.replace(item, **nothing) for item in run.steps}
    for found in shown:
        found["subject"] = light_step.get(id(found["subject"]), found["subject"])
    run.steps = list(light_step.values())
    return run
