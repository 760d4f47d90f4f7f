"""The command line: `sftspec check`, `init`, `baseline`, `list`, `explain`, `record`, `judge`, `break`, `show`, ….

Exit codes: 0 no must property fails (beyond the baseline), 1 one does or is ambiguous, 2 the run itself broke or the
command makes no sense, 3 nothing fails and too little was measured to say that it conforms.
A setting, an id or a trainer that does not exist is refused with what does exist: a typo never checks less than asked.
Listing and explaining import no torch, so what needs it is imported by the command that does.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sftspec
from sftspec.conformance.adapters import TrainerError
from sftspec.conformance.book import BookError
from sftspec.conformance.commands.audit import add_audit_arguments, run_audit
from sftspec.conformance.commands.baseline import add_baseline_arguments, baseline_of, document_at, write_baseline
from sftspec.conformance.commands.book import add_book_arguments, run_book
from sftspec.conformance.commands.breakit import BreakError, add_break_arguments, run_break
from sftspec.conformance.commands.diff import add_diff_arguments, run_diff
from sftspec.conformance.commands.env import add_env_arguments, run_env
from sftspec.conformance.commands.explain import ExplainError, add_explain_arguments, run_explain
from sftspec.conformance.commands.init import add_init_arguments, run_init
from sftspec.conformance.commands.interrupts import ended_by_sigterm
from sftspec.conformance.commands.kernels import KernelsError, add_kernels_arguments, run_kernels
from sftspec.conformance.commands.limits import limited
from sftspec.conformance.commands.matrix import add_matrix_arguments, run_matrix_command
from sftspec.conformance.commands.mutants import MutantsError, add_mutants_arguments, run_mutants
from sftspec.conformance.commands.options import Parser
from sftspec.conformance.commands.outputs import OutputError, add_output_arguments, require_places, write_outputs
from sftspec.conformance.commands.show import ShowError, add_show_arguments, run_show
from sftspec.conformance.commands.tested import installed_here, untested
from sftspec.conformance.commands.timemachine import TimeMachineError, add_timemachine_arguments, run_timemachine
from sftspec.conformance.commands.trial import UsageError, add_limits, add_scope, positive, put_on_trial, record
from sftspec.conformance.environments.lock import PinnedError
from sftspec.conformance.gate.baseline import BaselineError, read_baseline
from sftspec.conformance.gate.start import InitError
from sftspec.conformance.ledger.store import RecordingError
from sftspec.conformance.report.form import DocumentError
from sftspec.conformance.report.printable import printable
from sftspec.conformance.trial.selection import SelectionError, select
from sftspec.conformance.witness.shrink import ModelError
from sftspec.properties import AREAS
from sftspec.properties.catalogue import catalogue

EPILOG = """\
TRAINER is reference, transformers, trl, a name of `sftspec env list`, path/to/file.py:Name or package.module:Name: a
class, a function that makes a trainer, or an object, with a method train(job).

exit codes: 0 no must property fails; 1 one fails or is ambiguous; 2 the run itself broke; 3 too little was measured

examples:
  sftspec check trl --set packing=bfd
  sftspec check my_trainer.py --select masking --json verdicts.json
  sftspec check template path/to/model --tokenizer path/to/model
  sftspec explain masking/end-of-turn-is-trained
"""


def parser() -> argparse.ArgumentParser:
    main = Parser(
        prog="sftspec",
        description="Put a trainer for supervised fine-tuning on trial: what was trained, on which token, how much.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    revision = f"sftspec {sftspec.__version__}, spec revision {sftspec.SPEC_REVISION}"
    main.add_argument("--version", action="version", version=revision)
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=summary, description=summary)

    check = command("check", "put a trainer on trial and print the verdicts")
    recording = command("record", "run a trainer and save what happened, to be judged elsewhere")
    judge = command("judge", "print the verdicts on a recorded trial")
    for item in (check, recording):
        item.add_argument("trainer", metavar="TRAINER", help="a built-in name, file.py:Name or package.module:Name")
        item.add_argument(
            "--set", metavar="KEY=VALUE", action="append", default=[], help="a setting of the trainer; may be repeated"
        )
        item.add_argument("--seed", type=int, default=0, help="of the corpus, the model and the order (default 0)")
    for item in (check, recording):
        add_limits(item)
    add_scope(check)
    check.add_argument(
        "templates", metavar="TEMPLATE", nargs="*",
        help="with `check template`: .jinja files, tokenizer folders, folders of templates, trl or trl:NAME",
    )  # fmt: skip
    check.add_argument("--tokenizer", metavar="DIR|FILE", help="of the templates: its BOS, EOS and control tokens")
    check.add_argument("--as", dest="variant", metavar="VARIANT", help="the named variant that the template is to be")
    check.add_argument(
        "--keep", metavar="DIR", type=Path,
        help="of many templates: keep each result there, and judge no template again that did not change",
    )  # fmt: skip
    recording.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new folder")
    judge.add_argument("folder", metavar="DIR", type=Path, help="what `sftspec record` wrote")
    judge.add_argument(
        "--timeout", metavar="SECONDS", type=positive, default=900.0, help="of judging it (default %(default)g)"
    )
    judge.add_argument(
        "--memory", metavar="GB", type=positive, default=8.0, help="of judging it (default %(default)g; Linux only)"
    )
    for item in (check, judge):
        item.add_argument(
            "--select", metavar="AREA|ID", action="append", default=[], help="judge only these; may be repeated"
        )
        add_output_arguments(item)
        item.add_argument("--baseline", metavar="FILE", type=Path, help="what is known to fail: only a change is red")
    add_init_arguments(command("init", "write an adapter for the training that is here, and a CI workflow"))
    baseline = command("baseline", "write what is known to fail, or hold a trial against it")
    add_baseline_arguments(baseline)
    add_limits(baseline)
    add_scope(baseline)
    add_env_arguments(command("env", "make the pinned environment of a trainer, or list them"))
    add_matrix_arguments(command("matrix", "put many trainers in many settings on trial, and write what came of it"))
    add_diff_arguments(command("diff", "say which properties changed from one trial to another"))
    command("list", "list the properties, by area").add_argument("area", metavar="AREA", nargs="?")
    add_explain_arguments(command("explain", "explain a property, a law, a trap, a bug; or find what mentions a word"))
    add_break_arguments(command("break", "make a mistake on purpose, and see what it does to a model"))
    add_mutants_arguments(command("mutants", "plant the known bugs, and show which properties kill them"))
    add_kernels_arguments(command("kernels", "hold every attention and every loss of this machine against float64"))
    add_timemachine_arguments(command("timemachine", "put released versions with a known bug on trial again"))
    add_audit_arguments(command("audit", "say what files of conversations train, what is wrong with them, and where"))
    add_show_arguments(command("show", "show which tokens of a file are trained, and what is wrong with it"))
    add_book_arguments(command("book", "write the specification as a site to read, and as one HTML file"))
    return main


def check(args: argparse.Namespace) -> int:
    require_places(args)
    if args.baseline is not None:
        read_baseline(args.baseline)
    if args.trainer == "template":
        from sftspec.conformance.commands.template import check_templates

        return check_templates(args)
    if args.templates or args.tokenizer or args.variant or args.keep:
        raise UsageError(f"{args.trainer} is a trainer; templates are judged with: sftspec check template TEMPLATE …")
    document, output = put_on_trial(args)
    return conclude(document, args, output)


def baseline(args: argparse.Namespace) -> int:
    require_places(args)
    if args.action == "check" or args.baseline.exists():
        read_baseline(args.baseline)
    elif not args.baseline.parent.is_dir():
        raise OutputError(f"--baseline {args.baseline}: there is no folder {args.baseline.parent}")
    output: dict[str, str] = {}

    def run(args: argparse.Namespace) -> dict[str, Any]:
        document, said = put_on_trial(args)
        output.update(said)
        return document

    document = document_at(args, run)
    if args.action == "write":
        return write_baseline(document, args.baseline)
    return conclude(document, args, output)


def init(args: argparse.Namespace) -> int:
    return run_init(args, lambda words: baseline(parser().parse_args(words)))


def judge(args: argparse.Namespace) -> int:
    from sftspec.conformance.report.terminal import make_console
    from sftspec.conformance.trial.quiet_output import kept_aside

    require_places(args)
    if args.baseline is not None:
        read_baseline(args.baseline)
    with kept_aside(make_console(sys.stderr)) as diary:
        chosen = select(args.select)
        from sftspec.conformance.ledger.recording import load_trial
        from sftspec.conformance.report.document import make_document
        from sftspec.conformance.trial.judge import reach_verdicts

        with limited(args.folder, args.timeout, args.memory):
            trial, made = load_trial(args.folder, complete=True)
            command = f"sftspec judge {args.folder}"
            try:
                reach_verdicts(trial, chosen, diary.begin)
                document = make_document(trial, made["trainer"], command, made["seed"], recorded_on=made["environment"])
            except MemoryError:
                raise
            except Exception as error:
                said = f"{type(error).__name__}: {str(error)[:200]}"
                raise RecordingError(f"{args.folder}: no verdict can be made of it ({said})") from error
    return conclude(document, args, {run.scenario: run.traceback for run in trial.runs if run.error})


def conclude(document: dict[str, Any], args: argparse.Namespace, output: Mapping[str, str]) -> int:
    """Hold the document against the baseline, print the report, write what was asked for, return the exit code."""
    from sftspec.conformance.report.outcome import exit_code
    from sftspec.conformance.report.terminal import make_console, print_report

    document = baseline_of(args.baseline, document)
    print_report(document, make_console(sys.stdout), output)
    write_outputs(document, args)
    return exit_code(document)


def list_properties(args: argparse.Namespace) -> int:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if args.area and args.area not in AREAS:
        raise UsageError(f"unknown area {args.area!r}; known: {', '.join(AREAS)}")
    chosen = catalogue(*([args.area] if args.area else []))
    longest = max(len(item.id) for item in chosen)
    for item in chosen:
        print(f"{item.id:{longest}}  {item.level:6}  {item.sentence}"[:width])
    return 0


EXIT_CLOSED_PIPE = 128 + 13  # as a shell says it of a command that SIGPIPE ended

COMMANDS = {
    "check": check, "init": init, "baseline": baseline, "diff": run_diff, "record": record, "judge": judge,
    "list": list_properties, "explain": run_explain, "break": run_break, "show": run_show, "audit": run_audit,
    "mutants": run_mutants, "book": run_book, "env": run_env,
    "matrix": run_matrix_command, "timemachine": run_timemachine, "kernels": run_kernels,
}  # fmt: skip

VERDICTS = ("check", "baseline", "record", "judge")  # commands whose outcome hangs on the releases installed

REFUSALS = (
    UsageError, OutputError, SelectionError, TrainerError, BaselineError, DocumentError, RecordingError, BreakError,
    ShowError, MutantsError, ModelError, ExplainError, BookError, InitError, PinnedError,
    KernelsError,
    TimeMachineError,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 gets ? instead of an error
    args = parser().parse_args(arguments)
    for said in untested(installed_here()) if args.command in VERDICTS else ():
        print(printable(f"sftspec: {said}"), file=sys.stderr)
    try:
        with ended_by_sigterm():
            code = COMMANDS[args.command](args)
            sys.stdout.flush()
        return code
    except REFUSALS as error:
        print(printable(f"sftspec: {error}"), file=sys.stderr)
    except BrokenPipeError:  # who read along has gone
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return EXIT_CLOSED_PIPE
    except KeyboardInterrupt as interrupt:
        print(printable(f"sftspec: interrupted, no verdict {interrupt}"), file=sys.stderr)
    except SystemExit as error:
        print(f"sftspec: something called sys.exit({error.code!r}), and there is no verdict", file=sys.stderr)
    except Exception:
        print(printable(traceback.format_exc()), file=sys.stderr)
        print("sftspec: this is a fault of sftspec, and no verdict on the trainer", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
