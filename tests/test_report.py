"""The report says what the document says, in plain text and in colour, and fits the page."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from sftspec.conformance.report.outcome import STATUSES
from sftspec.conformance.report.terminal import make_console, print_report
from sftspec.conformance.report.token_strip import Cell, draw, lines_of, strip_of, visible, window
from sftspec.conformance.trial.judge import Trial, run_scenarios
from sftspec.conformance.trial.scenarios import SCENARIOS
from sftspec.conformance.witness.model import make_tokenizer
from sftspec.masking import encode
from sftspec.trainer import Pipeline

ORIGIN = "masking/every-position-has-an-origin"
COUNTS = dict.fromkeys(STATUSES, 0)
TOKENS = [
    {"text": "<|im_start|>"},
    {"text": "user"},
    {"text": "⏎", "trained": True},
    {"text": "A", "trained": True},
    {"text": "<|im_end|>", "wrong": True, "expected": "<|im_end|>", "seen": "—"},
    {"text": "⏎", "present": False},
]
COUNTEREXAMPLE = {
    "scenario": "packed",
    "failures": 1234,
    "note": "expected 292 as target, saw None",
    "settings": {"batch_size": 2, "packing": True},
    "place": {"step": 0, "forward": 1, "row": 0, "column": 3, "conversation": 4, "message": 0, "token": 3, "tokens": 6},
    "messages": [{"role": "user", "content": "A"}],
    "tokens": TOKENS,
    "row": [{"conversation": 2, "start": 0, "end": 9}, {"conversation": 4, "start": 0, "end": 6}],
    "numbers": {},
    "arguments": {},
}


def verdict(identifier: str, status: str, level: str = "must", **changes) -> dict:
    known = {"reason": "", "evidence": {"plain": 1200, "packed": 34}, "counterexample": None}
    repro = f"sftspec check my.py --seed 0 --select {identifier}"
    return {"id": identifier, "level": level, "status": status, **known, "repro": repro, **changes}


DOCUMENT: dict[str, Any] = {
    "format": 2,
    "spec_revision": "2026-11",
    "trainer": {
        "name": "mine",
        "version": "1.2",
        "setting": {"packing": "bfd", "padding_free": False},
        "claims": ["packing", "padding"],
        "conventions": {"end_of_turn": True, "separator": False},
    },
    "environment": {"python": "3.11.7", "platform": "Linux x86_64", "torch": "2.13.0", "transformers": "5.23.0"},
    "command": "sftspec check my.py --seed 0",
    "seed": 0,
    "seconds": 12.3,
    "scenarios": [
        {"name": "plain", "error": "", "conversations": 13, "refused": 2, "seconds": 1.0},
        {"name": "packed", "error": "", "conversations": 15, "refused": 0, "seconds": 1.0},
    ],
    "verdicts": [
        verdict("masking/nothing-else-is-trained", "pass"),
        verdict("masking/end-of-turn-is-trained", "fail", evidence={}, counterexample=COUNTEREXAMPLE),
        verdict("masking/lost-data-is-counted", "not-claimed", "should", evidence={}),
        verdict("masking/padding-is-never-trained", "not-measured", evidence={"plain": 7}),
        verdict("packing/packing-packs", "fail", "should", counterexample={**COUNTEREXAMPLE, "failures": 1}),
        verdict("packing/examples-do-not-see-each-other", "blocked", reason=f"needs {ORIGIN}"),
        verdict("packing/no-pack-exceeds-its-capacity", "not-claimed", evidence={}),
        verdict("step/the-loss-is-cross-entropy", "ambiguous", reason="no loss that is known fits 3 gradients"),
    ],
    "diagnosis": [],
    "baseline": None,
    "isolation": None,
    "totals": {
        "must": COUNTS | {"pass": 1, "fail": 1, "not-measured": 1, "blocked": 1, "not-claimed": 1, "ambiguous": 1},
        "should": COUNTS | {"fail": 1, "not-claimed": 1},
    },
}


def printed(document: dict, output: dict | None = None, **options) -> str:
    stream = io.StringIO()
    print_report(document, Console(file=stream, highlight=False, **{"width": 100, **options}), output)
    return stream.getvalue()


def block(text: str, heading: str) -> list[str]:
    """The lines under a heading, to the next blank line."""
    lines = text.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith(heading))
    return lines[start : lines.index("", start)]


def test_plain_text_has_no_escape_and_fits_the_page():
    text = printed(DOCUMENT)
    assert "\x1b" not in text
    assert all(len(line) <= 100 for line in text.splitlines() if not line.startswith("again"))
    assert all(line == line.rstrip() for line in text.splitlines())


def test_the_header_says_who_was_judged_and_how():
    lines = printed(DOCUMENT).splitlines()
    assert lines[0] == "mine 1.2 on trial"
    assert lines[1] == "setting     packing=bfd padding_free=false"
    assert "claims      packing, padding" in lines
    assert "conventions end_of_turn=true separator=false" in lines
    assert "spec        2026-11, seed 0, 2 scenarios" in lines


def test_a_table_has_a_line_for_each_property():
    assert block(printed(DOCUMENT), "masking ") == [
        "masking                         level   status        evidence",
        "nothing-else-is-trained         must    pass             1,234",
        "end-of-turn-is-trained          must    fail                 –  1,234 do not hold",
        "lost-data-is-counted            should  not-claimed          –  no claim 'report'",
        "padding-is-never-trained        must    not-measured      7/50",
    ]


def test_what_a_trainer_does_not_expose_is_one_line():
    table = block(printed(DOCUMENT), "packing ")
    assert table[-1] == "1 not-claimed: they read functions that the trainer does not expose (pack)"
    assert "packing-packs                   should  fail             1,234  1 does not hold" in table
    assert "examples-do-not-see-each-other  must    blocked          1,234" in table
    assert f"    needs {ORIGIN}" in table


def test_a_failure_explains_itself_in_a_dozen_lines():
    lines = block(printed(DOCUMENT), "masking/end-of-turn-is-trained")
    assert lines[0].startswith("masking/end-of-turn-is-trained  fails (must) ──")
    assert lines[1] == "Every trained assistant turn trains the token that ends it, unless it was cut off."
    assert lines[2:4] == [
        "where       scenario 'packed' (batch_size=2 packing=true); conversation 4, token 3 of 6, in message",
        "            0 (user); the smallest of 1,234",
    ]
    assert lines[4:10] == [
        "its row     conversation[tokens] 2[0:9] | 4[0:6]",
        "tokens      <|im_start|> user[⏎ A]<|im_end|>(⏎)",
        "                                  ^^^^^^^^^^",
        "expected                          <|im_end|>",
        "seen                              —",
        "found       expected 292 as target, saw None",
    ]
    assert lines[10].startswith("why         ")
    assert lines[-1] == "again       sftspec check my.py --seed 0 --select masking/end-of-turn-is-trained"
    assert len(lines) <= 14


def test_a_should_is_a_warning_and_decides_nothing():
    text = printed(DOCUMENT)
    assert block(text, "packing/packing-packs")[0].startswith("packing/packing-packs  warning (should)")
    document = copy.deepcopy(DOCUMENT)
    document["verdicts"] = [item for item in document["verdicts"] if item["status"] not in ("fail", "ambiguous")]
    document["totals"]["must"] = COUNTS | {"pass": 5, "not-measured": 1}
    text = printed(document)
    assert "must        5 of 5 claimed pass, 1 not measured" in text
    assert "mine 1.2 in this setting: no must fails (exit 0), 12 s" in text


def test_every_status_is_counted_and_none_is_lumped():
    text = printed(DOCUMENT)
    said = "1 of 3 claimed pass, 1 fail, 1 ambiguous, 1 blocked, 1 not measured"
    assert f"must        {said}\n" in text
    assert "should      0 of 1 claimed pass, 1 fail\n" in text
    assert "functions you do not offer are not counted (1); what you do not claim" in text
    assert f"mine 1.2 in this setting does not conform: {said} (exit 1)" in " ".join(text.split())


def test_refused_conversations_are_counted():
    assert "data        refused: 2 of 15 conversations (plain)" in printed(DOCUMENT)


def test_an_error_is_shown_once_with_what_the_trainer_said():
    document = copy.deepcopy(DOCUMENT)
    for number, scenario in enumerate(document["scenarios"]):
        scenario["error"] = f"OSError: no space left on device {number}"
    text = printed(document, {"plain": "step 1\nstep 2\nTraceback …", "packed": "other"})
    assert block(text, "the run broke")[1:] == [
        "in          2 of 2 scenarios: plain; packed",
        "error       OSError: no space left on device 0",
        "it printed  step 1",
        "            step 2",
        "            Traceback …",
    ]
    assert "the run itself broke in 2 scenarios: no verdict on mine 1.2; 1 must fail in what did run" in text


def test_a_step_and_drawn_arguments_are_shown_in_figures():
    numbers = {"step": 3, "targets": [7, 9], "weights": [1.0, 1.0], "scale": 1.0, "residual": 0, "learning_rate": 0.01}
    step = {**COUNTEREXAMPLE, "tokens": [], "row": [], "place": {"step": 3}, "numbers": numbers}
    drawn = {**step, "scenario": "drawn", "numbers": {}, "arguments": {"lengths": "[9, 1]", "capacity": "7"}}
    document = {
        **DOCUMENT,
        "verdicts": [
            verdict("step/the-denominator-is-the-number-of-targets", "fail", counterexample=step),
            verdict("packing/no-pack-exceeds-its-capacity", "fail", counterexample=drawn),
        ],
    }
    text = printed(document)
    assert "step        3: targets by micro-batch: 7 + 9; their weights sum to 1.0 + 1.0; scale 1.0, residual" in text
    assert "where       the function pack, with drawn arguments" in text
    assert "drawn       lengths = [9, 1]\n            capacity = 7\n" in text


def test_colour_says_the_same_and_more(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = printed(DOCUMENT, force_terminal=True, color_system="standard")
    assert "\x1b[30;42mA\x1b[0m" in coloured  # trained: black on green
    assert "\x1b[1;4;31m<|im_end|>\x1b[0m" in coloured  # wrong: bold, underlined, red
    monkeypatch.setenv("NO_COLOR", "1")
    without = printed(DOCUMENT, force_terminal=True, color_system="standard")
    assert "\x1b[3" not in without and "\x1b[4" not in without


def test_a_pipe_gets_plain_text_of_a_hundred_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    console = make_console(io.StringIO())
    assert (console.width, console.is_terminal) == (100, False)


def test_white_space_and_parts_of_characters_are_visible():
    tokenizer = make_tokenizer()
    ids = tokenizer.encode("a \n\n漢\tis", add_special_tokens=False)
    assert [visible(tokenizer, token) for token in ids] == ["a", "␠", "⏎⏎", "\\xe6", "\\xbc", "\\xa2", "⇥", "i", "s"]


@pytest.mark.parametrize("wrong", [0, 1, 40, 78, 79])
@pytest.mark.parametrize("room", [30, 100])
def test_a_long_conversation_is_cut_around_what_is_wrong(wrong, room):
    cells = [Cell(f"t{number}", wrong=number == wrong) for number in range(80)]
    kept = window(cells, room)
    assert cells[wrong] in kept
    assert sum(len(cell.text) + 1 for cell in kept) <= room + 4
    inside = [cell for cell in kept if cell.text != "…"]
    assert inside == cells[cells.index(inside[0]) : cells.index(inside[-1]) + 1]
    assert (kept[0].text == "…") == (inside[0] != cells[0]) and (kept[-1].text == "…") == (inside[-1] != cells[-1])


def test_marks_stand_under_their_tokens_also_when_these_are_wide():
    cells = [Cell("漢字"), Cell("b", True, wrong=True, expected="long", seen="c"), Cell("d", True)]
    assert [(name, text.plain) for name, text in draw(cells)] == [
        ("tokens", "漢字[b    d]"),
        ("", "     ^^^^"),
        ("expected", "     long"),
        ("seen", "     c"),
    ]


def test_lines_keep_to_the_width():
    cells = [Cell("x" * size, trained=size % 2 == 0) for size in (3, 9, 1, 8, 2, 2, 7, 5)]
    lines = list(lines_of(cells, 20))
    assert [cell for line in lines for cell in line] == cells
    assert all(len(text.plain) <= 20 for line in lines for _, text in draw(line))


def run_of(trainer: Pipeline, name: str):
    return run_scenarios(Trial(trainer), [item for item in SCENARIOS if item.name == name], 0).runs[0]


def test_a_strip_shows_what_the_model_was_trained_on():
    run = run_of(Pipeline(), "packed, every token")
    piece = next(piece for piece in run.pieces if len(piece) > 10)
    cells = strip_of(run, piece.rows[3])
    assert [cell.trained for cell in cells] == [False] + [True] * (len(piece) - 1)
    assert [cell.wrong for cell in cells] == [place == 3 for place in range(len(cells))]
    assert strip_of(run, piece.rows[3], weights=True)[4].wrong


def test_a_strip_shows_lost_and_forged_targets():
    def one_late(*arguments, **options):
        encoded = encode(*arguments, **options)
        labels = [*encoded.labels]
        if encoded.num_targets:
            first = next(place for place, label in enumerate(labels) if label != -100)
            labels[first - 1 : first + 1] = encoded.input_ids[first - 1], -100
        return replace(encoded, labels=labels)

    run = run_of(Pipeline(encode=one_late), "clipping out of reach")
    row = next(row for row in run.rows if row.target is not None)
    cells = strip_of(run, row)
    place = next(place for place, cell in enumerate(cells) if cell.wrong)
    forged, lost = cells[place : place + 2]
    assert (forged.trained, forged.expected, forged.seen) == (True, "—", forged.text)
    assert (lost.trained, lost.expected, lost.seen) == (False, lost.text, "—")
    assert sum(cell.wrong for cell in cells) == 2


def test_what_a_trainer_looks_like_is_said_or_that_it_looks_like_nothing():
    known = {
        "mutant": "masking/mask-dropped", "agree": 3, "of": 4, "likeness": 0.81, "breaks": "Every token is trained.",
        "seen_in": "karpathy/nanochat#582", "effect": "learns to write the user's turn", "fix": "keep the mask",
    }  # fmt: skip
    assert "looks like  no planted bug (sftspec mutants) fails in so similar a way" in printed(DOCUMENT)
    said = " ".join(printed(DOCUMENT | {"diagnosis": [known, known | {"mutant": "masking/header-trained"}]}).split())
    assert "looks like masking/mask-dropped (3 of 4 failing properties agree, likeness 0.81): Every" in said
    assert "Seen in: karpathy/nanochat#582" in said and "fix: keep the mask." in said
    assert "or masking/header-trained (3 of 4" in said
