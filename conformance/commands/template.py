"""`sftspec check template PLACE …`: one template in full, many as a matrix of template × property."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftspec.conformance.adapters import TrainerError
from sftspec.conformance.adapters.encoders import LIBRARIES, Encoder, encoders_at
from sftspec.conformance.adapters.templates import places_at, templates_at
from sftspec.conformance.commands.baseline import baseline_of
from sftspec.conformance.commands.outputs import write_outputs
from sftspec.conformance.report.document import identify, make_document
from sftspec.conformance.report.form import validate
from sftspec.conformance.report.outcome import EXIT_BROKEN, SEVERITY, exit_code
from sftspec.conformance.report.printable import printable, printable_json
from sftspec.conformance.report.template_matrix import matrix, one
from sftspec.conformance.report.template_page import template_page
from sftspec.conformance.report.terminal import make_console, print_lines
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
from sftspec.conformance.trial.template_matrix import Kept, Place, judged
from sftspec.conformance.trial.template_traits import variant_of, why_nothing_can_be_read
from sftspec.counted import counted
from sftspec.properties.cases.template import Vocabulary
from sftspec.templates import TEMPLATES, Template

OBJECTS_BETWEEN_COLLECTIONS = 50_000  # a template makes many small objects, and hardly a cycle

# Options that say where a trainer runs, and on what.
OF_TRAINERS = ("device", "dtype", "autocast", "attention", "model", "scenario")


def check_templates(args: argparse.Namespace) -> int:
    """Judge every template at the places; exit code 1 if a must property fails on any."""
    if not args.templates:
        raise TrainerError("which template? sftspec check template PLACE, such as model/chat_template.jinja or trl")
    idle = [name for name in OF_TRAINERS if getattr(args, name)] + ["processes"] * (args.processes > 1)
    if idle:
        raise TrainerError(f"a template computes nothing: leave out --{idle[0]}, which is for trainers")
    if args.variant is not None and args.variant not in TEMPLATES:
        raise TrainerError(f"--as {args.variant}: unknown variant; known: {', '.join(TEMPLATES)}")
    asked = Question(args.tokenizer, args.variant, tuple(args.select or ["template"]), contents_of(args.tokenizer))
    read_functions(select(asked.select))  # what is no property is refused here
    kept = Kept(args.keep, dataclasses.asdict(asked))
    items = [Place(place, name) for item in args.templates for place, name in places_at(item)]
    documents, interrupted = [], False
    with kept_aside(make_console(sys.stderr)) as diary:
        judge = functools.partial(judge_place, asked=asked)
        if len(items) == 1:
            judge = functools.partial(judge, begin=diary.begin)
        try:
            for item, found in judged(items, judge, kept, min(args.workers, len(items))):
                documents += found
                diary.begin(f"{len(documents)} of {counted(len(items), 'template')}, {item.name}")
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        goes_on = f", and are kept in {args.keep}" if args.keep else "; --keep DIR would keep them"
        print(
            f"sftspec: interrupted; {len(documents)} of {counted(len(items), 'template')} are judged{goes_on}",
            file=sys.stderr,
        )
    if not documents:
        return EXIT_BROKEN
    if args.baseline is not None and len(documents) != 1:
        raise TrainerError(f"--baseline is of one template; {len(documents)} are on trial")
    if len(documents) != 1 and args.html:
        raise TrainerError(f"--html is of one template; {len(documents)} are on trial")
    documents = [baseline_of(args.baseline, document) for document in documents]
    console = make_console(sys.stdout)
    print_lines(one(documents[0], console.width) if len(items) == 1 else matrix(documents, console.width), console)
    if len(documents) == 1:
        write_outputs(documents[0], args)
    else:
        write_many(documents, args)
    return EXIT_BROKEN if interrupted else max(map(exit_code, documents), key=SEVERITY.index)


@dataclass(frozen=True)
class Question:
    """What is asked of each template, beside its place."""

    tokenizer: str | None
    variant: str | None
    select: tuple[str, ...]
    contents: str = ""  # of the tokenizer's files, hashed


def contents_of(tokenizer: str | None) -> str:
    if tokenizer is None or not Path(tokenizer).exists():
        return ""
    path = Path(tokenizer)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def judge_place(item: Place, asked: Question, begin: Callable[[str], None] = lambda text: None) -> list[dict[str, Any]]:
    """The documents of what is at a place: one, or one for each renderer of a library."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # short texts, which threads only slow down
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    chosen = read_functions(select(asked.select))
    documents = []
    for candidate, setting in candidates_at(item, asked):
        own_place = candidate.name if isinstance(candidate, EncoderOnTrial) else item.place
        progress = functools.partial(_begin, begin, candidate.name)
        if isinstance(candidate, EncoderOnTrial):
            trial = put_encoder_on_trial(candidate.encoder, chosen, progress)
        else:
            trial = put_template_on_trial(candidate, chosen, progress)
        documents.append(make_document(trial, identify(candidate, setting), command(asked, own_place), seed=0))
    return documents


def _begin(begin: Callable[[str], None], name: str, identifier: str) -> None:
    begin(f"{name}: {identifier}")


def candidates_at(item: Place, asked: Question) -> Iterator[tuple[TemplateOnTrial | EncoderOnTrial, dict[str, str]]]:
    """(candidate, setting) of everything at a place."""
    if item.place.partition(":")[0] in LIBRARIES:
        for encoder in encoders_at(item.place):
            on_trial = EncoderOnTrial(encoder)
            yield on_trial, {**encoder_setting(encoder), **habits(on_trial)}
        return
    tokenizer, variables, small = tokenizer_of(asked.tokenizer, asked.contents)
    ((_, template),) = templates_at(item.place, variables)
    variant = asked.variant or ("" if why_nothing_can_be_read(template) else variant_of(template))
    setting = {"judged_as": variant or "no named variant", **remarks(template, variant, tokenizer)}
    own = Vocabulary(tokenizer.name, tokenizer.inner) if tokenizer else None
    candidate = TemplateOnTrial(item.name, template, variant, small, own)
    yield candidate, {**setting, **ends(candidate), **takes(candidate), **habits(candidate)}


@functools.cache
def tokenizer_of(path: str | None, contents: str) -> tuple[Tokens | None, dict[str, str], Any]:
    """(the tokenizer, its special tokens, the small tokenizer with its control tokens); read once while its contents
    are these."""
    tokenizer = load_tokenizer(path) if path else None
    variables = special_tokens_of(path) if path else {}
    return tokenizer, variables, with_control_tokens_of(tokenizer.vocabulary.added if tokenizer else None)


def ends(candidate: TemplateOnTrial) -> dict[str, str]:
    """What ends a turn, where that was read off what the template renders."""
    if candidate.variant or why_nothing_can_be_read(candidate.template):
        return {}
    end = candidate.turn_end
    taken = "" if candidate.own else ", taken for one token: --tokenizer tells whether it is"
    return {"end_of_turn": f"{end.token}, read off what it renders{taken}" if end.token else end.why}


def takes(candidate: TemplateOnTrial) -> dict[str, str]:
    """What it writes beside contents."""
    if candidate.name in TEMPLATES or why_nothing_can_be_read(candidate.template):
        return {}
    return {"takes": ", ".join(candidate.fields) or "contents alone: no tools, calls, results or thoughts"}


def encoder_setting(encoder: Encoder) -> dict[str, str]:
    setting = {"judged_as": encoder.variant or "no named variant", "tokenizer": encoder.tokenizer}
    return {**setting, **goldens(encoder.variant, *texts_of_goldens(encoder))}


def habits(candidate: TemplateOnTrial | EncoderOnTrial) -> dict[str, str]:
    return {"habits": ", ".join(candidate.habits)} if candidate.habits else {}


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


def command(asked: Question, place: str) -> str:
    options = [("--tokenizer", asked.tokenizer), ("--as", asked.variant)]
    return shlex.join(
        ["sftspec", "check", "template", place, *(word for name, value in options if value for word in (name, value))]
    )


def write_many(documents: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Many documents, each in the form of its schema, as a list; and a page of which template fails what."""
    if args.json is not None:
        for document in documents:
            validate(document, source=args.json.name)
        text = json.dumps(documents, ensure_ascii=False, allow_nan=False, indent=1)
        args.json.write_text(printable_json(text) + "\n", "utf-8")
    if args.markdown is not None:
        args.markdown.write_text(printable(template_page(documents)), "utf-8")
