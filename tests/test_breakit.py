"""Every experiment on one seed: its claims hold, its mistake is a planted one, and the property named kills it."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from rich.console import Console

from sftspec import properties
from sftspec.conformance import breakit
from sftspec.conformance.breakit import Chart, numbers, packs, rewards, temperatures
from sftspec.conformance.breakit.charts import bar, print_chart, save_png
from sftspec.conformance.commands import cli
from sftspec.conformance.sensitivity.mutants import load_mutants

EXPERIMENTS = breakit.load()
# The two long ones in a quick form, with the same claims: fewer steps, fewer temperatures.
QUICK = {"packs-leak": (packs, "STEPS", 200), "t-without-t-squared": (temperatures, "TEMPERATURES", (1.0, 4.0))}


@pytest.mark.long
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_is_broken_shows(name, monkeypatch):
    if name in QUICK:
        monkeypatch.setattr(*QUICK[name])
    outcome = EXPERIMENTS[name].run(0)
    assert len(outcome.claims) >= 2
    assert outcome.holds, [claim.text for claim in outcome.claims if not claim.holds]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_property_named_exists_and_kills_the_mutant(name):
    item = EXPERIMENTS[name]
    properties.load(item.caught_by.partition("/")[0])
    assert item.caught_by in properties.REGISTRY
    assert item.breaks.endswith(".") and len(item.nuance) > 80
    if item.mutant:
        (mutant,) = (mutant for mutant in load_mutants() if mutant.name == item.mutant)
        assert item.caught_by in mutant.killed_by


def test_the_worth_of_the_best_is_what_simulation_says():
    """Independent source: 40,000 draws of the best of 16 by gold + Student-t(3), five standard errors."""
    generator = np.random.default_rng(0)
    gold = generator.normal(size=(40_000, 16))
    winner = (gold + generator.standard_t(3, size=gold.shape)).argmax(1)
    drawn = gold[np.arange(len(gold)), winner]
    (exact,), _ = rewards.gold_of_best(partial(rewards.student_t_density, 3), (16,))
    assert abs(drawn.mean() - exact) <= 5 * drawn.std() / math.sqrt(len(drawn))


def test_with_normal_errors_the_worth_is_the_expected_maximum_over_root_two():
    """E[gold | proxy] = proxy / 2, and the proxy's deviation is sqrt(2). The quadrature is of second order in 0.01."""
    gold, _ = rewards.gold_of_best(rewards.normal_density)
    for n, value in zip(rewards.COUNTS, gold, strict=True):
        assert abs(value - rewards.expected_max_normal(n) / math.sqrt(2)) <= 0.01**2


def test_five_rounds_of_best_of_four_are_one_best_of_1024():
    base, quality, length = rewards.policy(0)
    law = base
    for _ in range(5):
        law = rewards.best_of_n_law(law / law.sum(), quality + 0.1 * length, 4)
    once = rewards.best_of_n_law(base, quality + 0.1 * length, 1024)
    assert np.abs(law - once).max() <= 1e-12


def test_a_chart_has_a_line_for_each_point_and_a_file(tmp_path):
    bars = Chart("", "share", {"right": [("a", 1.0), ("b", 0.5)], "broken": [("a", 0.25)]})
    lines = Chart("N", "worth", {"right": [(1, 0.0), (2, 1.5)]}, log_x=True)
    console = Console(width=100, record=True, quiet=False, file=open(tmp_path / "seen", "w"))  # noqa: SIM115
    print_chart(bars, console)
    printed = console.export_text().splitlines()
    assert [line.count("█") for line in printed if "█" in line] == [40, 10, 20]
    assert bar(0.5, 2) == "█" and bar(0.0) == "" and bar(1 / 16, 2) == "▏"
    pytest.importorskip("matplotlib")
    save_png([bars, lines], "both", tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes()[:4] == b"\x89PNG"


def test_the_command_lists_runs_and_refuses(capsys, tmp_path):
    assert cli.main(["break"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in EXPERIMENTS)
    assert cli.main(["break", "verbosity-bias"]) == 0
    assert "caught by best_of_n/" in capsys.readouterr().out
    assert cli.main(["break", "verbosity"]) == 2
    assert "did you mean verbosity-bias?" in capsys.readouterr().err
    assert cli.main(["break", "--facts"]) == 0
    assert "27,540 annotations" in capsys.readouterr().out


def test_an_experiment_that_fails_ends_with_one(monkeypatch, capsys):
    failing = breakit.Experiment(
        "nothing", "Nothing.", "n", "", "", lambda seed: breakit.Outcome("x", (breakit.above("y", 0.0, 1.0),), ())
    )
    monkeypatch.setitem(EXPERIMENTS, "nothing", failing)
    assert cli.main(["break", "nothing"]) == 1
    assert "FAILS" in capsys.readouterr().out


def test_every_fact_has_a_source_and_counts_add_up():
    assert all(fact.value and fact.source for fact in numbers.FACTS)
    assert 11_295 + 1_430 == 12_725 and 6_623 + 26_584 == 33_207  # InstructGPT, table 6
    assert max(map(len, numbers.facts_as_text(80).splitlines())) <= 80
