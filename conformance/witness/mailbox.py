"""Names of the files by which the judge and the trainer's process talk, and how one is written.

order.json           which trainer, with which settings
N-hello.json         who it is; N counts the times that the process was started
N-next.json          the number of the job that is to be done next
NNNN/first, /twin    a job, and the same with other settings, to be compared with it
NNNN/started, /done.json, /forked
stop                 nothing more is asked
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


def write_whole(path: Path, record: Any) -> None:
    """Write JSON that is either there as a whole or not at all."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(record, default=str), encoding="utf-8")
    os.replace(unfinished, path)
