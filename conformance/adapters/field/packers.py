"""Peers' packers as functions, each asked in its own trainer's environment, in the reference's pipeline.

    sftspec check packers --set of=axolotl --select packing

The functions' verdicts are the packer's alone. In the runs all but the packer is the reference's. What is longer than
the capacity is refused here, and not by the packer: in these trainers an earlier stage drops or cuts it, and
LLaMA-Factory's packer would not come back. TRL's truncates, and is asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sftspec.conformance.adapters.field.packers_there import PACKERS
from sftspec.conformance.environments.build import find_python

THERE = Path(__file__).with_name("packers_there.py")


class PackerError(RuntimeError):
    """The packer's process did not answer, or the packer raised; says what."""


class Asked:
    """A packer in a process of its own."""

    def __init__(self, name: str):
        # TRL is among the test requirements, and so is asked here.
        python = sys.executable if name == "trl" else str(find_python(name))
        self.process = subprocess.Popen(
            [python, str(THERE), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        self.version = self.said()["version"]
        self.overlong = "truncate" if name == "trl" else "error"

    def said(self) -> dict[str, Any]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise PackerError(f"the packer's process ended with exit {self.process.wait()}")
        return json.loads(line)

    def __call__(self, lengths: Any, capacity: int) -> list[list[int]]:
        assert self.process.stdin is not None
        asked: dict[str, Any] = {"lengths": [plain(length) for length in lengths], "capacity": capacity}
        if self.overlong == "error" and max(asked["lengths"], default=0) > capacity:
            raise PackerError(f"{max(asked['lengths'])} tokens are more than {capacity}: drop or cut them before")
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        said = self.said()
        if "error" in said:
            raise PackerError(said["error"])
        return said["packs"]

    def __del__(self) -> None:
        if hasattr(self, "process"):
            self.process.kill()
            self.process.wait()


def plain(length: Any) -> Any:
    """A number that JSON knows; numpy's are none."""
    return length.item() if hasattr(length, "item") else length


@dataclass(frozen=True)
class Packers:
    """A packer of a trainer.

    of  the trainer
    """

    of: str = "trl"

    name = "packers"
    claims = frozenset({"packing"})

    def __post_init__(self) -> None:
        if self.of not in PACKERS:
            raise ValueError(f"of={self.of!r}; known: {', '.join(PACKERS)}")

    @cached_property
    def packer(self) -> Asked:
        return Asked(self.of)

    @property
    def version(self) -> str:
        return f"{self.of} {self.packer.version}"

    @property
    def parts(self) -> dict[str, Any]:
        return {"pack": self.packer}

    def train(self, job: Any) -> None:
        from sftspec.trainer import Pipeline

        Pipeline(pack=self.packer).train(job)
