"""`sftspec check TRAINER` and `sftspec record TRAINER`: a trainer is put on trial in a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from sftspec.conformance.environments.build import python_of
from sftspec.conformance.report.printable import printable
from sftspec.conformance.trial.machine import OF_WEIGHTS, Machine
from sftspec.conformance.trial.selection import select
from sftspec.conformance.witness.shrink import read_config
from sftspec.counted import counted


class UsageError(ValueError):
    """An argument that makes no sense; says what would."""


def add_limits(command: argparse.ArgumentParser) -> None:
    """Where the trainer runs, how long, and on what."""
    command.add_argument(
        "--python", metavar="INTERPRETER", default="",
        help="of the trainer's own environment, which needs torch and no sftspec (default: this one)",
    )  # fmt: skip
    command.add_argument(
        "--timeout", metavar="SECONDS", type=positive, default=120.0, help="of one scenario (default %(default)g)"
    )
    command.add_argument(
        "--memory", metavar="GB", type=positive, default=16.0,
        help="of the trainer and all that it starts (default %(default)g; Linux only)",
    )  # fmt: skip
    command.add_argument(
        "--model", metavar="DIR|FILE", type=Path,
        help="judge on a small model of this architecture: the config.json of a causal LM, or its folder",
    )  # fmt: skip
    command.add_argument(
        "--processes", metavar="N", type=several, default=1,
        help="run the trainer as N ranks, started as torchrun does (default 1: alone)",
    )  # fmt: skip
    command.add_argument("--device", metavar="DEVICE", default="", help="where the model is: cpu, cuda or cuda:N")
    command.add_argument("--dtype", choices=OF_WEIGHTS, default="", help="of the weights (default: as a scenario says)")
    command.add_argument(
        "--autocast",
        choices=OF_WEIGHTS[1:],
        default="",
        help="compute under torch.autocast, with weights in float32 (or as --dtype says)",
    )
    command.add_argument(
        "--attention", metavar="NAME", default="",
        help="the model's: eager, sdpa, flex_attention, …; sdpa:math, sdpa:flash, sdpa:efficient, sdpa:cudnn",
    )  # fmt: skip
    command.add_argument(
        "--workers", metavar="N", type=at_least_one, default=1, help="trainers at work at once (default 1)"
    )


def add_scope(command: argparse.ArgumentParser) -> None:
    """How much of the trial is held."""
    command.add_argument("--scenario", metavar="NAME", action="append", default=[], help="only these; may be repeated")
    command.add_argument("--quick", action="store_true", help="few scenarios: the verdicts say what was not run")


def positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of 1 or more")
    return int(text)


def several(text: str) -> int:
    from sftspec.conformance.trial.scenarios import MOST_RANKS

    if not text.isdecimal() or not 1 <= int(text) <= MOST_RANKS:
        raise argparse.ArgumentTypeError(f"{text} is no number of ranks from 1 to {MOST_RANKS}")
    return int(text)


def settings_asked(texts: Sequence[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise UsageError(f"--set {text}: write KEY=VALUE")
    return dict(text.split("=", 1) for text in texts)


def put_on_trial(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """The document of a trial, and what the trainer printed in the scenarios that broke."""
    from sftspec.conformance.trial.evidence import QUICK, said_of_quick, scenarios_of
    from sftspec.conformance.trial.two_processes import put_on_trial_apart

    config = read_config(args.model) if args.model else None
    with performing(args) as (stage, diary, tell):
        chosen = select(args.select)
        from sftspec.conformance.report.document import make_document
        from sftspec.conformance.report.isolation import Isolation
        from sftspec.conformance.trial.scenarios import on_model, scenarios_for

        trainer = stage.trainer()
        known = scenarios_for(trainer.claims)
        showing = scenarios_of(args.select, known) if any(item.seam == "run" for item in chosen) else []
        scenarios = named_scenarios(args.scenario, known) if args.scenario else showing
        examples = 100
        if args.quick:
            scenarios, examples = [item for item in scenarios if item.name in QUICK or args.scenario], 20
        isolation = Isolation()
        trial = put_on_trial_apart(
            stage, trainer, chosen, on_model(scenarios, config), args.seed, diary.begin, examples,
            finished=tell, keep=isolation.add,
        )  # fmt: skip
        if args.quick:
            said_of_quick(trial, len(scenarios), showing)
        words = [*shlex.split(stage.said["command"]), *options_of(args), "--seed", str(args.seed)]
        identity, environment = stage.said["identity"], stage.said["environment"]
        document = make_document(
            trial, identity, shlex.join(words), args.seed, environment, isolation.record(), partial_of(args)
        )
    if trial.interrupted:
        printed = trial.printed.get(trial.interrupted_in, "").strip()
        tail = f"; the trainer had printed:\n{printed}" if printed else ""
        said = f"sftspec: interrupted {trial.interrupted}; what had finished is judged{tail}"
        print(printable(said), file=sys.stderr)
    broken = {run.scenario: run.traceback for run in trial.runs if run.error}
    return document, {name: f"{trial.printed.get(name, '')}\n{text}" for name, text in broken.items()}


def partial_of(args: argparse.Namespace) -> str:
    """The options by which less is run than the claims ask for."""
    words = [word for name in args.scenario for word in ("--scenario", name)]
    return shlex.join([*words, *(["--quick"] if args.quick else [])])


def named_scenarios(names: Sequence[str], known: Sequence[Any]) -> list[Any]:
    """The scenarios with these names. Raises UsageError for one that is not there."""
    there = {item.name: item for item in known}
    for name in names:
        if name not in there:
            close = difflib.get_close_matches(name, there, 1, 0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {'; '.join(there)}"
            raise UsageError(f"--scenario {name!r} is none that this trainer is given; {hint}")
    return [item for item in known if item.name in names]


def options_of(args: argparse.Namespace) -> list[str]:
    """What a command that repeats a verdict has to say beside the trainer and its settings."""
    given = [
        ("--python", args.python),
        ("--model", str(args.model or "")),
        ("--processes", "" if args.processes == 1 else str(args.processes)),
        ("--timeout", "" if args.timeout == 120.0 else f"{args.timeout:g}"),
        ("--memory", "" if args.memory == 16.0 else f"{args.memory:g}"),
    ]
    return [word for option, value in given if value for word in (option, value)] + machine_of(args).options


def machine_of(args: argparse.Namespace) -> Machine:
    return Machine(args.device, args.dtype, args.autocast, args.attention)


@contextlib.contextmanager
def performing(args: argparse.Namespace) -> Iterator[tuple[Any, Any, Callable[[int, int, Any, float], None]]]:
    """The trainer's processes, what is said of the progress, and what is to be called when a scenario is over."""
    from sftspec.conformance.report.terminal import make_console
    from sftspec.conformance.trial.quiet_output import kept_aside
    from sftspec.conformance.trial.two_processes import Limits, stage_of

    console, limits = make_console(sys.stderr), Limits(args.timeout, args.memory)

    def tell(number: int, total: int, run: Any, seconds: float) -> None:
        if not console.is_terminal:  # there, one line says what is being done
            error = run.error.partition("\n")[0]
            said = f"{number:3d}/{total}  {run.scenario:40} {seconds:6.1f} s  {error}"
            console.print(Text(printable(said.rstrip())), no_wrap=True, overflow="ellipsis")

    settings = settings_asked(args.set)
    with (
        kept_aside(console) as diary,
        stage_of(
            args.trainer,
            settings,
            python_of(args.trainer, args.python),
            limits,
            max(1, args.workers),
            args.processes,
            machine_of(args),
        ) as stage,
    ):
        yield stage, diary, tell


def record(args: argparse.Namespace) -> int:
    """Run a trainer and save what happened."""
    from sftspec.conformance.ledger.recording import Recorder
    from sftspec.conformance.trial.two_processes import put_on_trial_apart

    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UsageError(f"--out {args.out}: give a new folder")
    with performing(args) as (stage, diary, tell):
        from sftspec.conformance.trial.scenarios import scenarios_for

        trainer = stage.trainer()
        recorder = Recorder(args.out)
        trial = put_on_trial_apart(
            stage, trainer, [], scenarios_for(trainer.claims), args.seed, diary.begin, finished=tell, keep=recorder.save
        )  # fmt: skip
        made = stage.said["identity"], stage.said["environment"]
        recorder.finish(*made, args.seed, trial.refused, stage.machine)
    print(
        f"{args.out}: {counted(len(trial.runs), 'run')} in {trial.seconds:.0f} s; judge with: sftspec judge {args.out}"
    )
    broken = [run for run in trial.runs if run.error]
    for run in broken:
        print(printable(f"broken: {run.scenario}: {run.error}"))
    return 2 if broken else 0
