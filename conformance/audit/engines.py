"""Who runs the batches: this process, a pool of processes, or a Ray cluster. The sum is the same.

Rule of this file: every shard is counted once. A pool hands batches back in order; Ray may run a shard again when a
worker dies, so that a batch whose shard was added before is left out.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sftspec.conformance.audit.batch import Auditor, Batch, Settings
from sftspec.conformance.audit.shards import InputError, Shard
from sftspec.counted import counted

AHEAD = 3  # shards on the way for each worker: enough to be never idle, few enough to need no memory
_auditor: Auditor | None = None


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_local(shards: Iterable[Shard], auditor: Auditor, workers: int) -> Generator[Batch, None, None]:
    """The batches of all shards, in order. One shard, or one worker, needs no pool."""
    iterator = iter(shards)
    begin = list(islice(iterator, 2))
    if workers < 2 or len(begin) < 2:
        yield from map(auditor, chain(begin, iterator))
        return
    global _auditor
    _auditor = auditor  # a fork has it, loaded, without a copy
    forks = "fork" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if forks else "spawn")
    arguments: Any = (None,) if forks else (auditor.settings,)
    waiting: deque[Future[Batch]] = deque()
    with ProcessPoolExecutor(workers, context, _start, arguments) as pool:
        try:
            for shard in chain(begin, iterator):
                waiting.append(pool.submit(_work, shard))
                if len(waiting) >= AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise InputError("a worker process ended, perhaps for want of memory; try --workers 1") from None
        except BaseException:  # interrupted, or nobody wants the rest: no worker is waited for
            for process in list(pool._processes.values()):
                process.kill()
            raise


def _start(settings: Settings | None) -> None:
    global _auditor
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's matter
    if settings is not None:
        _auditor = Auditor(settings)


def _work(shard: Shard) -> Batch:
    assert _auditor is not None
    return _auditor(shard)


def _absolute(name: str) -> str:
    return str(Path(name).absolute()) if name and Path(name).exists() else name


class RayAuditor:
    """The same function on a Ray worker: rows with a pickled shard become rows with a pickled batch."""

    def __init__(self, settings: bytes):
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self.auditor = Auditor(pickle.loads(settings))

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        batches = [self.auditor(pickle.loads(shard)) for shard in rows["shard"]]
        return {"index": [batch.index for batch in batches], "batch": [pickle.dumps(batch) for batch in batches]}


def run_ray(
    shards: Iterable[Shard], settings: Settings, workers: int, address: str | None
) -> Generator[Batch, None, None]:
    """The batches of all shards by Ray Data, in any order, each shard once.

    The workers read plain JSON Lines by path, so that every machine has to see the files under the same names; other
    files are read here and sent. A worker that dies is replaced by Ray, and its shard audited again.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError("--engine ray needs Ray Data: pip install 'sftspec[ray]'") from None
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False, **({} if address else {"num_cpus": workers}))
    ray.data.DataContext.get_current().enable_progress_bars = False
    template = settings.template and _absolute(settings.template)  # a worker has a folder of its own
    settings = replace(settings, template=template, tokenizer=_absolute(settings.tokenizer))
    items = [{"shard": pickle.dumps(shard)} for shard in shards]
    if not items:
        return
    dataset = ray.data.from_items(items, override_num_blocks=min(len(items), 8 * workers)).map_batches(
        RayAuditor,
        fn_constructor_args=(pickle.dumps(settings),),
        batch_size=1,
        concurrency=workers,
        max_restarts=-1,
        max_task_retries=-1,
    )
    seen: set[int] = set()
    for row in dataset.iter_rows():
        if row["index"] not in seen:
            seen.add(row["index"])
            yield pickle.loads(row["batch"])
    if len(seen) != len(items):
        raise InputError(f"Ray gave back {len(seen)} of {counted(len(items), 'shard')}; the audit is not whole")
