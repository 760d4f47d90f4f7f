"""Run the scripts of FINDINGS.md, each by its own line there, in the environment of the trainer that it is about.

    python tests/benchmarks/findings_again.py [WORD …]      # only scripts with one of these words in their line

A script ends with 1 where it sees its defect, and prints what it saw. This prints that, and ends with 1 if any script
does not see it. What has no environment here (`sftspec env create NAME`) is told as not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = re.compile(r"^ +(?:\w+=\S+ )?(?P<python>\S*python) (?P<path>\S*\.py)$", re.MULTILINE)
LIMIT = 300  # seconds for one script


def lines() -> dict[str, str]:
    """Of each script the line that runs it, in the order of FINDINGS.md."""
    text = (ROOT / "conformance/results/FINDINGS.md").read_text(encoding="utf-8")
    return {Path(found["path"]).name: found[0].strip() for found in SCRIPT.finditer(text)}


def run(name: str, line: str) -> tuple[str, str]:
    """What came of it, and the end of what it printed."""
    *settings, python, _ = line.split()
    if "/" in python and not Path(python).expanduser().exists():
        return "not run", f"no {python}"
    interpreter = str(Path(python).expanduser()) if "/" in python else sys.executable
    done = subprocess.run(
        ["env", *settings, interpreter, name],
        cwd=ROOT / "conformance/results/findings", env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, errors="replace", timeout=LIMIT, check=False,
    )  # fmt: skip
    is_broken = done.returncode != 1 or "Traceback (most recent call last)" in done.stderr
    said = done.stdout.strip().splitlines()[-6:] + (done.stderr.strip().splitlines()[-3:] if is_broken else [])
    return ("seen" if not is_broken else "not seen" if done.returncode == 0 else "broke"), "\n    ".join(said)


def main(words: list[str]) -> int:
    known = {name: line for name, line in lines().items() if not words or any(word in line for word in words)}
    came: dict[str, list[str]] = {}
    for name, line in known.items():
        began = time.monotonic()
        try:
            what, said = run(name, line)
        except subprocess.TimeoutExpired:
            what, said = "broke", f"not done within {LIMIT} s"
        came.setdefault(what, []).append(name)
        print(f"{what:9} {name}  ({time.monotonic() - began:.0f} s)\n    {said}", flush=True)
    print(", ".join(f"{what}: {len(names)}" for what, names in came.items()))
    return int(set(came) - {"seen"} != set())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
