"""The audit on a Ray cluster of two workers, one of them killed on the way: the summary of one process, no more."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest

from sftspec.conformance.audit.batch import Auditor, Settings
from sftspec.conformance.audit.document import Places, make_document
from sftspec.conformance.audit.engines import RayAuditor, run_local, run_ray
from sftspec.conformance.audit.shards import cut, find_sources
from sftspec.conformance.audit.summary import Summary

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")


@pytest.fixture(scope="module")
def cluster():
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()


class SlowAuditor(RayAuditor):
    """So slow that one of its processes can be killed while it works; it leaves its process id in a folder."""

    folder = ""

    def __call__(self, rows):
        settings = self.auditor.settings
        folder = os.path.dirname(str(settings.sources[0].path))
        with open(os.path.join(folder, f"{os.getpid()}.pid"), "w"):
            time.sleep(0.3)
        return super().__call__(rows)


def document_of(batches, auditor):
    summary = sum((batch.summary for batch in batches), Summary())
    return make_document(summary, auditor.settings, Places(auditor.settings.sources, {0: "line"}), [], "t", "s", 0.0)


def kill_one(folder, killed):
    """End the first worker that has begun."""
    for _ in range(600):
        if pids := [int(path.stem) for path in folder.glob("*.pid")]:
            killed.append(pids[0])
            os.kill(pids[0], signal.SIGKILL)
            return
        time.sleep(0.1)


def test_a_cluster_that_loses_a_worker_gives_the_same_summary(cluster, tmp_path, monkeypatch):
    path = tmp_path / "data.jsonl"
    talks = [[{"role": "user", "content": f"q {n % 700} {'x' * 90}"}, {"role": "assistant", "content": "a" * (n % 5)}]
             for n in range(1500)]  # fmt: skip
    path.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks) + "{\n")
    auditor = Auditor(Settings(tuple(find_sources([str(path)])), "chatml/openai"))
    shards = list(cut(list(auditor.settings.sources)))
    assert len(shards) >= 4
    monkeypatch.setattr("sftspec.conformance.audit.engines.RayAuditor", SlowAuditor)
    killed: list[int] = []
    killer = threading.Thread(target=kill_one, args=(tmp_path, killed))
    killer.start()
    batches = list(run_ray(shards, auditor.settings, 2, None))
    killer.join()
    assert killed and len({path.stem for path in tmp_path.glob("*.pid")}) >= 2  # another one went on
    assert sorted(batch.index for batch in batches) == list(range(len(shards)))
    alone = document_of(run_local(shards, auditor, 1), auditor)
    assert document_of(batches, auditor) == alone and alone["records"] == 1501
