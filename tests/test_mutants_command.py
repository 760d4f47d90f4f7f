"""`sftspec mutants`: what is planted is what was asked for, a survivor is said, and the page shows the matrix."""

from __future__ import annotations

import pytest

from sftspec.conformance.commands.cli import main
from sftspec.conformance.commands.mutants import MutantsError, chosen, lines
from sftspec.conformance.sensitivity import signatures
from sftspec.conformance.sensitivity.html import page, table
from sftspec.conformance.sensitivity.mutants import load_mutants
from sftspec.conformance.sensitivity.signatures import Mark

TWICE = "template/bos-doubled"
ONE_BOS = "template/one-bos-opens-the-sequence"


def test_areas_and_names_are_planted_and_nothing_else():
    assert chosen([]) == [item.name for item in load_mutants()]
    assert chosen([TWICE]) == [TWICE]
    assert {name.partition("/")[0] for name in chosen(["packing"])} == {"packing"}


@pytest.mark.parametrize(
    ("name", "said"),
    [("packings", "areas: masking, packing, step"), ("masking/header", "did you mean masking/header-trained")],
)
def test_a_typo_is_refused_with_what_there_is(name, said):
    with pytest.raises(MutantsError, match=said):
        chosen([name])


def test_one_mutant_is_planted_and_its_kills_are_shown(tmp_path, capsys):
    paths = [tmp_path / "matrix.json", tmp_path / "matrix.html"]
    options = ["--seeds", "0", "--workers", "1", "--json", str(paths[0]), "--html", str(paths[1])]
    assert main(["mutants", TWICE, *options]) == 0
    said = capsys.readouterr().out
    assert "✓ one-bos-opens-the-sequence" in said and "1 of 1 mutants killed by all that they name, on seeds 0" in said
    assert signatures.load(paths[0]).keys() == {TWICE} and ONE_BOS in signatures.load(paths[0])[TWICE]
    assert "bos-doubled" in paths[1].read_text(encoding="utf-8")
    signatures.load.cache_clear()


def test_a_folder_that_is_not_there_is_an_error(capsys, tmp_path):
    assert main(["mutants", TWICE, "--json", str(tmp_path / "none" / "matrix.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_a_survivor_and_an_idle_property_are_said():
    said = "\n".join(lines({TWICE: {}}, {(TWICE, 1): [ONE_BOS]}, [ONE_BOS], [0, 1]))
    assert "✗ one-bos-opens-the-sequence" in said and "0 of 1 mutants" in said
    assert f"SURVIVES {TWICE} on seed 1: not killed by {ONE_BOS}" in said and f"IDLE {ONE_BOS}" in said


def test_the_page_marks_what_is_named_and_what_is_missed():
    row = {ONE_BOS: Mark({"drawn": 1.0}, {"": 1.0}), "masking/nothing-else-is-trained": Mark({"plain": 0.002}, {})}
    drawn = "".join(table("template", [TWICE], {TWICE: row}))
    assert drawn.count("class=named") == 1 and ">100<" in drawn and "&lt;1" in drawn
    assert "named missed" in "".join(table("template", [TWICE], {TWICE: {}}))
    assert "<script" not in page({TWICE: row}, 0)


def test_a_matrix_is_read_as_it_was_written(tmp_path):
    rows = {"a": {"x": Mark({"plain": 0.5, "packed": 1.0}, {"": 1.0}, {"packed": -0.5}, "said")}, "b": {}}
    signatures.save(rows, 3, tmp_path / "matrix.json")
    assert signatures.load(tmp_path / "matrix.json") == rows
    signatures.load.cache_clear()
