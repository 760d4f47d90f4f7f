"""The output of `check` is ours: what a trainer and its libraries print is kept aside, and shown where it broke.

Progress bars and log lines of four libraries would bury twenty verdicts. They are not thrown away: each scenario keeps
its own, so that an error is shown with what the trainer said before it.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live
from rich.text import Text

# No network, no bars. Warnings and logs stay on, for they explain an error.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

ON_TRIAL = "SFTSPEC_ON_TRIAL"  # set in the process of a trainer

LAST = 2000  # characters shown of what was printed before an interrupt


class Diary:
    """What was printed and how many seconds it took, by stage; a stage begins when it is named."""

    def __init__(self, announce: Callable[[str], None]):
        self.seconds: dict[str, float] = {}
        self.output: dict[str, str] = {}
        self.stream = io.StringIO()
        self._announce = announce
        self._stage, self._began, self._from = "", time.perf_counter(), 0

    def begin(self, stage: str) -> None:
        now = time.perf_counter()
        if self._stage:
            self.seconds[self._stage] = now - self._began
            self.output[self._stage] = self.stream.getvalue()[self._from :]
        self._stage, self._began, self._from = stage, now, self.stream.tell()
        if stage:
            self._announce(stage)

    def where(self) -> str:
        """What is being done, since when, and the end of what was printed meanwhile."""
        printed = self.stream.getvalue()[self._from :].rstrip()[-LAST:]
        stage = repr(self._stage) if self._stage else "the start of the trainer"
        since = f"{stage}, {time.perf_counter() - self._began:.0f} s after it began"
        return since + (f"; the trainer had printed:\n{printed}" if printed else "")


@contextlib.contextmanager
def kept_aside(progress: Console) -> Iterator[Diary]:
    """A Diary that gets everything that Python code prints, logs or warns while this is open.

    progress: a console on which one line says what is being done, if it is a terminal.
    """
    os.environ.update(ENVIRONMENT)
    began, done = time.perf_counter(), 0

    def announce(stage: str) -> None:
        nonlocal done
        done += 1
        said = f"{time.perf_counter() - began:4.0f} s  {done:3d}  {stage}"
        live.update(Text(said, "cyan", no_wrap=True, overflow="ellipsis"), refresh=True)

    live = Live(console=progress, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    diary = Diary(announce if progress.is_terminal else lambda stage: None)
    with live, contextlib.redirect_stdout(diary.stream), contextlib.redirect_stderr(diary.stream):
        try:
            yield diary
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"in {diary.where()}") from None
        finally:
            diary.begin("")
