"""Names of the files by which the judge and the trainer's process talk, and how one is written.

order.json           which trainer, with which settings
N-hello.json         who it is; N counts the times that the process was started
N-next.json          the number of the job that is to be done next, and the ports at which ranks meet in it
NNNN/first, /twin    a job, and the same with other settings, to be compared with it
NNNN/started, /done.json, /forked
stop                 nothing more is asked

Of several ranks each has files of its own (1-done.json; rank 0 those without a number), and all read the same jobs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

ORDER, STOP = "order.json", "stop"
HELLO, NEXT = "hello.json", "next.json"
FIRST, TWIN = "first", "twin"
STARTED, DONE, FORKED = "started", "done.json", "forked"


def job_folder(folder: Path, number: int) -> Path:
    return folder / f"{number:04d}"


def of_rank(name: str, rank: int) -> str:
    """The name of a rank's file; what a trainer writes that is alone is rank 0's."""
    return f"{rank}-{name}" if rank else name


def write_whole(path: Path, record: Any) -> None:
    """Write JSON that is either there as a whole or not at all."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(record, default=str), encoding="utf-8")
    os.replace(unfinished, path)
