"""`sftspec check template PLACE …`: one template in full, many as a matrix of template × property."""

from __future__ import annotations

import argparse
import functools
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from sftspec.conformance.adapters import TrainerError
from sftspec.conformance.adapters.encoders import LIBRARIES, Encoder, encoders_at
from sftspec.conformance.adapters.templates import templates_at
from sftspec.conformance.commands.baseline import baseline_of
from sftspec.conformance.commands.outputs import write_outputs
from sftspec.conformance.report.document import identify, make_document
from sftspec.conformance.report.failures import STYLES, failures, heading, labelled, shortened, style_of
from sftspec.conformance.report.form import validate
from sftspec.conformance.report.outcome import EXIT_CONFORMS, SEVERITY, exit_code
from sftspec.conformance.report.terminal import evidence_of, make_console, print_lines, summary
from sftspec.conformance.show.inputs import Tokens, load_tokenizer, special_tokens_of
from sftspec.conformance.trial.encoder import EncoderOnTrial, put_encoder_on_trial, texts_of_goldens
from sftspec.conformance.trial.quiet_output import kept_aside
from sftspec.conformance.trial.selection import select
from sftspec.conformance.trial.template import (
    TemplateOnTrial,
    against_goldens,
    put_template_on_trial,
    read_functions,
    with_control_tokens_of,
)
from sftspec.conformance.trial.template_traits import variant_of, why_nothing_can_be_read
from sftspec.properties.cases.template import Vocabulary
from sftspec.templates import TEMPLATES, Template

SIGNS = {
    "pass": "✓",
    "fail": "✗",
    "known-fail": "✗",
    "stale": "s",
    "not-measured": "·",
    "not-claimed": "·",
    "error": "!",
    "ambiguous": "?",
    "blocked": "b",
}


def check_templates(args: argparse.Namespace) -> int:
    """Judge every template at the places; exit code 1 if a must property fails on any."""
    if not args.templates:
        raise TrainerError("which template? sftspec check template PLACE, such as model/chat_template.jinja or trl")
    if args.variant is not None and args.variant not in TEMPLATES:
        raise TrainerError(f"--as {args.variant}: unknown variant; known: {', '.join(TEMPLATES)}")
    chosen = read_functions(select(args.select or ["template"]))
    with kept_aside(make_console(sys.stderr)) as diary:
        candidates = list(candidates_of(args))
        documents = []
        for place, candidate, setting in candidates:
            repeat = command(args, place)
            begin = functools.partial(_begin, diary, candidate.name)
            if isinstance(candidate, EncoderOnTrial):
                trial = put_encoder_on_trial(candidate.encoder, chosen, begin)
            else:
                trial = put_template_on_trial(candidate, chosen, begin)
            documents.append(make_document(trial, identify(candidate, setting), repeat, seed=0))
    if args.baseline is not None and len(documents) != 1:
        raise TrainerError(f"--baseline is of one template; {len(documents)} are on trial")
    if len(documents) != 1 and (args.html or args.markdown):
        raise TrainerError(f"--html and --markdown are of one template; {len(documents)} are on trial")
    documents = [baseline_of(args.baseline, document) for document in documents]
    console = make_console(sys.stdout)
    lines = one(documents[0], console.width) if len(documents) == 1 else matrix(documents, console.width)
    print_lines(lines, console)
    if len(documents) == 1:
        write_outputs(documents[0], args)
    elif args.json is not None:
        write(documents, args.json)
    return max(map(exit_code, documents), default=EXIT_CONFORMS, key=SEVERITY.index)


def _begin(diary: Any, name: str, identifier: str) -> None:
    diary.begin(f"{name}: {identifier}")


def candidates_of(args: argparse.Namespace) -> Iterator[tuple[str, TemplateOnTrial | EncoderOnTrial, dict[str, str]]]:
    """(place that gives it alone, candidate, setting) of everything that is asked for."""
    tokenizer = load_tokenizer(args.tokenizer) if args.tokenizer else None
    variables = special_tokens_of(args.tokenizer) if args.tokenizer else {}
    small = with_control_tokens_of(tokenizer.vocabulary.added if tokenizer else None)
    for place in args.templates:
        if place.partition(":")[0] in LIBRARIES:
            for encoder in encoders_at(place):
                on_trial = EncoderOnTrial(encoder)
                yield encoder.name, on_trial, {**encoder_setting(encoder), **habits(on_trial)}
            continue
        for name, template in templates_at(place, variables):
            variant = args.variant or ("" if why_nothing_can_be_read(template) else variant_of(template))
            setting = {"judged_as": variant or "no named variant", **remarks(template, variant, tokenizer)}
            own = Vocabulary(tokenizer.name, tokenizer.inner) if tokenizer else None
            candidate = TemplateOnTrial(name, template, variant, small, own)
            setting |= ends(candidate)
            yield alone(place, name), candidate, {**setting, **habits(candidate)}


def ends(candidate: TemplateOnTrial) -> dict[str, str]:
    """What ends a turn, where that was read off what the template renders."""
    if candidate.variant or why_nothing_can_be_read(candidate.template):
        return {}
    end = candidate.turn_end
    taken = "" if candidate.own else ", taken for one token: --tokenizer tells whether it is"
    return {"end_of_turn": f"{end.token}, read off what it renders{taken}" if end.token else end.why}


def encoder_setting(encoder: Encoder) -> dict[str, str]:
    setting = {"judged_as": encoder.variant or "no named variant", "tokenizer": encoder.tokenizer}
    return {**setting, **goldens(encoder.variant, *texts_of_goldens(encoder))}


def habits(candidate: TemplateOnTrial | EncoderOnTrial) -> dict[str, str]:
    return {"habits": ", ".join(candidate.habits)} if candidate.habits else {}


def alone(place: str, name: str) -> str:
    """The place of one of many: in a folder by its file, in a library by its name."""
    file = Path(place) / f"{name}.jinja"
    return str(file) if file.exists() else name if name.startswith(f"{place}:") else place


def remarks(template: Template, variant: str, tokenizer: Tokens | None) -> dict[str, str]:
    """What its user has to know beside the verdicts."""
    said = {"tokenizer": f"small, and {tokenizer.name}" if tokenizer else "small"}
    if variant:
        said |= goldens(variant, *against_goldens(template, variant))
    source = getattr(template.pieces, "source", "")
    if guessed := [name for name in ("bos_token", "eos_token") if name in source and tokenizer is None]:
        values = [repr(template.pieces.variables.get(name, "")) for name in guessed]  # type: ignore[attr-defined]
        said["special_tokens"] = f"{' and '.join(guessed)} taken to be {' and '.join(values)}: give --tokenizer"
    if "strftime_now" in source:
        said["date"] = "it asks for today's: other tokens tomorrow (sglang#3296); judged with a fixed one"
    number = tokenizer.vocabulary.added.get(template.bos) if tokenizer else None
    if tokenizer and number is not None and tokenizer.inner.encode("").ids[:1] == [number]:
        said["bos"] = "template and tokenizer both write one: encode its text with add_special_tokens=False (trl#3328)"
    return said


def goldens(variant: str, equal: int, number: int, first: str) -> dict[str, str]:
    differs = f"; {first} differs" if first else ""
    return {"goldens": f"{equal} of {number} texts of {variant} are equal{differs}"} if number else {}


def command(args: argparse.Namespace, place: str) -> str:
    options = [("--tokenizer", args.tokenizer), ("--as", args.variant)]
    return shlex.join(["sftspec", "check", "template", place, *(word for pair in options if pair[1] for word in pair)])


def write(documents: list[dict[str, Any]], path: Path) -> None:
    """Many documents, each in the form of its schema, as a list."""
    for document in documents:
        validate(document, source=path.name)
    path.write_text(json.dumps(documents, ensure_ascii=False, allow_nan=False, indent=1) + "\n", encoding="utf-8")


def one(document: dict[str, Any], width: int) -> Iterator[Text]:
    """Every verdict with its reason, every failure in full."""
    yield Text(f"{document['trainer']['name']} on trial", "bold cyan")
    for label, said in document["trainer"]["setting"].items():
        yield from labelled(label.replace("_", " "), str(said), width)
    yield Text()
    size = max((len(name_of(verdict)) for verdict in document["verdicts"]), default=0)
    for verdict in document["verdicts"]:
        line = Text(f"{name_of(verdict):{size}}  ").append(f"{verdict['status']:12}", style_of(verdict))
        yield line.append(f"  {evidence_of(verdict):>8}")
        if verdict["status"] != "pass" and verdict["reason"]:
            yield Text(f"    {shortened(verdict['reason'], width - 4, 1)}", "dim")
    yield from failures(document, width)
    yield from summary(document, width)


def matrix(documents: Sequence[dict[str, Any]], width: int) -> Iterator[Text]:
    """A row for each template, a column for each property; then what does not hold, in a line each."""
    properties = [verdict["id"] for verdict in documents[0]["verdicts"]]
    yield Text(f"{len(documents)} templates on trial", "bold cyan")
    for number, identifier in enumerate(properties, 1):
        yield Text(f"{number:>4}  {identifier}")
    yield Text("      ✓ pass  ✗ fail  · not measured  ! error", "dim")
    yield Text()
    size = max(len(document["trainer"]["name"]) for document in documents)
    yield Text(
        f"{'':{size}}" + "".join(f"{number:>4}" for number in range(1, len(properties) + 1)) + "  judged as", "dim"
    )
    for document in documents:
        line = Text(f"{document['trainer']['name']:{size}}")
        for verdict in document["verdicts"]:
            line.append(f"{SIGNS[verdict['status']]:>4}", style_of(verdict))
        setting = document["trainer"]["setting"]
        goldens = f", {setting['goldens'].partition(' texts')[0]} goldens" if "goldens" in setting else ""
        yield line.append(f"  {setting['judged_as']}{goldens}", "dim")
    for identifier in properties:
        yield from failing(identifier, documents, width)
    failed = sum(exit_code(document) == 1 for document in documents)
    yield Text()
    yield Text(f"{failed} of {len(documents)} templates do not conform", STYLES["fail"] if failed else STYLES["pass"])
    if len(documents) > 1 and failed:
        yield Text("one in full: sftspec check template NAME", "dim")


def failing(identifier: str, documents: Sequence[dict[str, Any]], width: int) -> Iterator[Text]:
    """The templates on which a property fails, and what was found."""
    found = {
        document["trainer"]["name"]: verdict
        for document in documents
        for verdict in document["verdicts"]
        if verdict["id"] == identifier and verdict["status"] in ("fail", "error")
    }
    if found:
        yield Text()
        yield heading(Text(f"{identifier}  fails on {len(found)}", STYLES["fail"]), width)
    for name, verdict in found.items():
        counterexample = verdict["counterexample"] or {}
        note = counterexample.get("note") or verdict["reason"] or "does not hold"
        drawn = counterexample.get("arguments", {}).get("messages", "")
        yield from labelled(name[:11], shortened(f"{name}: {note}", width - 12, 2), width)
        if drawn:
            yield from labelled("", shortened(drawn, width - 12, 2), width, "dim")


def name_of(verdict: dict[str, Any]) -> str:
    return verdict["id"].partition("/")[2]
