"""`sftspec mutants`: what is planted is what was asked for, a survivor is said, and the page shows the matrix."""

from __future__ import annotations

import json

import pytest

from sftspec.conformance.commands.cli import main
from sftspec.conformance.commands.mutants import MutantsError, chosen, kill_line, summary
from sftspec.conformance.sensitivity import matrix, matrix_file, signatures
from sftspec.conformance.sensitivity.html import page, table
from sftspec.conformance.sensitivity.matrix_file import MatrixFile, MatrixFileError
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
    options = ["--workers", "1", "--json", str(paths[0]), "--html", str(paths[1])]
    assert main(["mutants", TWICE, "--whole", *options]) == 0
    said, progress = capsys.readouterr()
    assert progress.startswith("seed 0: 1 of 1 in ")
    assert "✓ one-bos-opens-the-sequence (drawn); " in said
    assert "1 of 1 mutant killed by all that they name, on seeds 0" in said
    assert signatures.load(paths[0]).keys() == {TWICE} and ONE_BOS in signatures.load(paths[0])[TWICE]
    assert "bos-doubled" in paths[1].read_text(encoding="utf-8")
    signatures.load.cache_clear()


def test_it_is_planted_until_what_it_names_has_failed_and_such_rows_are_kept_apart(tmp_path, capsys):
    path = tmp_path / "kills.json"
    assert main(["mutants", TWICE, "--workers", "1", "--seeds", "0", "1", "--json", str(path)]) == 0
    said, progress = capsys.readouterr()
    assert said.count(f"{TWICE}: ✓ one-bos-opens-the-sequence (drawn)") == 2
    assert "seed 1: 1 of 1 in " in progress and "1 of 1 mutant killed by all that they name, on seeds 0, 1" in said
    document = json.loads(path.read_text(encoding="utf-8"))
    assert not document["whole"] and document["rows"][TWICE].keys() == {ONE_BOS}
    assert main(["mutants", TWICE, "--whole", "--json", str(path)]) == 2
    assert "its rows have only what a mutant's entry names: name another file" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_an_error(capsys, tmp_path):
    assert main(["mutants", TWICE, "--json", str(tmp_path / "none" / "matrix.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_a_survivor_and_an_idle_property_are_said():
    assert kill_line(TWICE, [ONE_BOS], {}) == f"{TWICE}: ✗ {ONE_BOS}"
    said = "\n".join(summary(1, {(TWICE, 1): [ONE_BOS]}, [ONE_BOS], [0, 1]))
    assert "0 of 1 mutant killed" in said
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


ROW = {ONE_BOS: Mark({"drawn": 1.0}, {"": 1.0})}
KNOWN = ["a", "b", "c"]


def test_rows_are_merged_into_the_file_and_none_is_lost(tmp_path):
    path = tmp_path / "matrix.json"
    signatures.save({"a": {}, "b": ROW}, 0, path)
    file = MatrixFile(path, 0, KNOWN, ["a", "c"])
    assert file.left == ["a", "c"]
    file.keep("c", ROW)
    stopped = json.loads(path.read_text(encoding="utf-8"))
    assert stopped["rows"].keys() == {"a", "b", "c"} and stopped["unfinished"]["rows"] == ["c"]
    file.keep("a", ROW)
    assert file.finish() == {"a": ROW, "c": ROW}
    finished = json.loads(path.read_text(encoding="utf-8"))
    assert finished["rows"].keys() == {"a", "b", "c"} and "unfinished" not in finished
    assert [item.name for item in tmp_path.iterdir()] == ["matrix.json"]


def test_a_stopped_run_goes_on_unless_the_code_is_another_or_it_shall_begin_anew(tmp_path, monkeypatch):
    path = tmp_path / "matrix.json"
    MatrixFile(path, 0, KNOWN, KNOWN).keep("b", ROW)
    assert MatrixFile(path, 0, KNOWN, KNOWN).left == ["a", "c"]
    assert MatrixFile(path, 0, KNOWN, KNOWN, anew=True).left == KNOWN
    monkeypatch.setattr(matrix_file, "digest_of_code", lambda: "other")
    assert MatrixFile(path, 0, KNOWN, KNOWN).left == KNOWN


def test_the_row_of_a_mutant_that_is_no_more_goes(tmp_path):
    path = tmp_path / "matrix.json"
    signatures.save({"old": ROW, "b": ROW}, 0, path)
    file = MatrixFile(path, 0, KNOWN, ["a"])
    file.keep("a", {})
    assert file.gone == ["old"] and json.loads(path.read_text(encoding="utf-8"))["rows"].keys() == {"a", "b"}


def test_what_is_no_matrix_or_another_one_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "matrix.json"
    signatures.save({"a": ROW}, 3, path)
    before = path.read_bytes()
    with pytest.raises(MatrixFileError, match="the matrix of seed 3, not of 0"):
        MatrixFile(path, 0, KNOWN, ["a"])
    assert path.read_bytes() == before
    for text in ("{", "[]", "{}"):
        path.write_text(text)
        with pytest.raises(MatrixFileError, match="this is no kill matrix"):
            MatrixFile(path, 0, KNOWN, ["a"])


def test_a_mutant_of_a_function_runs_no_scenario():
    matrix.reference_run.cache_clear()
    named = {item.name: item for item in load_mutants()}
    for name in ("best_of_n/rewards-limited-to-ten", "template/bos-doubled"):
        assert matrix.kill_row(named[name]).keys() >= set(named[name].killed_by)
    assert matrix.reference_run.cache_info().currsize == 0


def ends_itself(name: str, seed: int) -> None:
    import os

    os._exit(1)


def test_a_worker_that_was_ended_is_said():
    with pytest.raises(matrix.WorkerEnded, match="out of memory"):
        list(matrix.in_parallel(ends_itself, ["a"], 0, 1))


def test_the_file_is_of_its_oldest_rows_revision_until_all_are_made(tmp_path, monkeypatch):
    path = tmp_path / "matrix.json"
    signatures.save({"a": ROW, "b": ROW}, 0, path)
    monkeypatch.setattr(matrix_file, "SPEC_REVISION", "next")
    for asked, revision in ((["c"], signatures.SPEC_REVISION), (KNOWN, "next")):
        file = MatrixFile(path, 0, KNOWN, asked)
        for name in asked:
            file.keep(name, ROW)
        assert json.loads(path.read_text(encoding="utf-8"))["spec_revision"] == signatures.SPEC_REVISION
        file.finish()
        assert json.loads(path.read_text(encoding="utf-8"))["spec_revision"] == revision
