"""Make the numeric tables: what losses, gradients, steps and estimators are, to 40 digits.

    python golden/numeric/generate.py [table ...]            write the tables (about two minutes for all)
    python golden/numeric/generate.py --check [table ...]    compare them with the files instead

Nothing here calls sftspec or torch. Real functions are evaluated with mpmath at 60 digits, counts and subsets are
enumerated in rational numbers, and where there are two ways to a number both are taken and must agree. Inputs are
multiples of 1/8 or other short binary fractions, so that float64 holds them exactly; expected values are decimal
strings of 40 significant digits.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import best_of_n_tables
import loss_tables
import step_tables

FOLDER = Path(__file__).parent

TABLES = {
    make.__name__: make
    for make in (
        loss_tables.cross_entropy,
        loss_tables.distillation,
        loss_tables.reverse_kl,
        loss_tables.jsd,
        loss_tables.top_k,
        step_tables.clip,
        step_tables.adamw,
        best_of_n_tables.expected_max_normal,
        best_of_n_tables.best_of_n_estimator,
        best_of_n_tables.best_of_n_law,
    )
}


def table(name: str) -> str:
    """The text of one table's file: what it tabulates, how it was made, one case per line."""
    made_by = "golden/numeric/generate.py (mpmath at 60 digits, rational numbers)"
    header = {"table": name, "formula": TABLES[name].__doc__, "made_by": made_by}
    cases = ",\n".join("  " + json.dumps(case) for case in TABLES[name]())
    return json.dumps(header, indent=1, ensure_ascii=False)[:-2] + ',\n "cases": [\n' + cases + "\n ]\n}\n"


def main(arguments: list[str]) -> int:
    check, names = "--check" in arguments, [name for name in arguments if name != "--check"] or list(TABLES)
    stale = 0
    for name in names:
        path, text = FOLDER / f"{name}.json", table(name)
        if not check:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            print(f"{path.name} is not what the generator makes")
            stale += 1
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
