"""One trial for all tests, whoever runs them: the first that asks makes it, the others read its document.

Under pytest-xdist the workers are processes. They share a folder named by the id of the test run, and a file lock in
it: while one makes the trial the others wait, and none makes it twice. The folder goes when the test run ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEST_RUN = "PYTEST_XDIST_TESTRUNUID"  # the same in every worker, another one in every test run

_made: dict[str, dict[str, Any] | Exception] = {}


def document_once(key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The document of this key: made by whoever asks first. What making it raised is raised again for all who ask."""
    if key not in _made:
        test_run = os.environ.get(TEST_RUN)
        try:
            _made[key] = make() if test_run is None else _by_one_of_several(folder_of(test_run), key, make)
        except Exception as error:
            _made[key] = error
    found = _made[key]
    if isinstance(found, Exception):
        raise found
    return found


def folder_of(test_run: str) -> Path:
    return Path(tempfile.gettempdir()) / f"sftspec-tests-{test_run}"


def _by_one_of_several(folder: Path, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    from filelock import FileLock

    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            unfinished = path.with_suffix(".part")
            unfinished.write_text(json.dumps(make()), encoding="utf-8")
            unfinished.rename(path)
        return json.loads(path.read_text(encoding="utf-8"))


def forget(test_run: str) -> None:
    """Remove what the workers of a test run shared."""
    if test_run:
        shutil.rmtree(folder_of(test_run), ignore_errors=True)
