"""Packing, beside TRL's best-fit loop, LLaMA-Factory's knapsack and axolotl's compiled packer on the same lengths.

    python tests/benchmarks/bench_packing.py [LENGTHS.npy ...] [--large] [--llamafactory WHEEL] [--axolotl WHEEL]

Prints, per data set and capacity, medians in milliseconds and how many times as long the others take. All packers of a
row run in turn, round after round, so that a busy machine slows them alike. Lengths over the capacity are cut to it
for every packer. Exits with 1 if a target is missed: from 50,000 examples on 60 times TRL with arrays out and 25 times
with lists out; never more packs than TRL's best fit, never fewer than the Martello-Toth bound; a cost per example at
1,000,000 no higher than at 100,000.

TRL has no function for its loop alone: `_pack_bfd` runs on a column of empty values, so that no token is gathered.
What Arrow still does there (sorting, offsets) was profiled at about a tenth of the time that is shown for it.
LLaMA-Factory (0.9.5) is read from an installed package or from a wheel got with
`pip download --no-deps llamafactory==0.9.5`; only the one module with the knapsack is executed. Of axolotl (0.19.0, a
wheel got likewise) it is the one with the multipack sampler, in one process with the group and bin sizes that are its
defaults; it needs numba. Seconds are processor time.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import statistics
import sys
import time
import types
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sftspec.packing import efficiency, lower_bound, pack

os.environ.setdefault("HF_HUB_OFFLINE", "1")
CAPACITIES = (2048, 4096, 8192, 32_768)
TARGETS = {"arrays": 60, "lists": 25}
KNAPSACK = "llamafactory/data/processor/processor_utils.py"
MULTIPACK = "axolotl/utils/samplers/multipack.py"
COLUMNS = (
    ("lengths", 20),
    ("capacity", 9),
    *((title, 8) for title in ("bound", "packs", "TRL", "LF")),
    ("waste", 8),
    *(
        (title, 11)
        for title in ("arrays ms", "lists ms", "TRL ms", "TRL/arrays", "TRL/lists", "LF/lists", "axo/arrays")
    ),
)
Prepare = Callable[[np.ndarray, int], Callable[[], int]]  # lengths, capacity -> a job that returns a number of packs


def trl_loop() -> Prepare | None:
    """TRL's best-fit decreasing over examples."""
    try:
        import pyarrow
        from trl.data_utils import _pack_bfd
    except ImportError:
        return None

    def prepare(lengths: np.ndarray, capacity: int) -> Callable[[], int]:
        offsets = pyarrow.array(np.append(0, np.cumsum(lengths)).astype(np.int32))
        column = pyarrow.ListArray.from_arrays(offsets, pyarrow.nulls(int(lengths.sum())))
        table = pyarrow.table({"tokens": column})
        return lambda: len(_pack_bfd(table, capacity))

    return prepare


def llamafactory_knapsack(wheel: Path | None) -> Prepare | None:
    """LLaMA-Factory's greedy knapsack."""
    spec = importlib.util.find_spec("llamafactory")
    if wheel is not None:
        source = zipfile.ZipFile(wheel).read(KNAPSACK).decode()
    elif spec is not None and spec.submodule_search_locations:
        source = Path(spec.submodule_search_locations[0]).parent.joinpath(KNAPSACK).read_text()
    else:
        return None
    module = types.ModuleType("llamafactory_processor_utils")
    sys.modules[module.__name__] = module  # its dataclass looks its own module up
    exec(compile(source, KNAPSACK, "exec"), module.__dict__)

    def prepare(lengths: np.ndarray, capacity: int) -> Callable[[], int]:
        numbers = lengths.tolist()
        return lambda: len(module.greedy_knapsack(list(numbers), capacity))  # it empties its argument

    return prepare


def axolotl_multipack(wheel: Path | None) -> Prepare | None:
    """axolotl's first-fit loop, compiled by numba."""
    if wheel is None or importlib.util.find_spec("numba") is None:
        return None
    import logging

    for name in ("axolotl", "axolotl.utils", "axolotl.utils.distributed", "axolotl.utils.logging"):
        sys.modules[name] = types.ModuleType(name)  # what its module imports, and the packer does not use
    vars(sys.modules["axolotl.utils.distributed"])["reduce_and_broadcast"] = None
    vars(sys.modules["axolotl.utils.logging"])["get_logger"] = logging.getLogger
    module = types.ModuleType("axolotl_multipack")
    exec(compile(zipfile.ZipFile(wheel).read(MULTIPACK).decode(), MULTIPACK, "exec"), module.__dict__)
    module.pack_parallel(np.array([3, 4, 5]), 10, 100_000, 200, 1)  # compile

    def prepare(lengths: np.ndarray, capacity: int) -> Callable[[], int]:
        return lambda: len(module.pack_parallel(lengths, capacity, 100_000, 200, 1))

    return prepare


def interleaved(jobs: dict[str, Callable[[], int]], rounds: int) -> tuple[dict[str, float], dict[str, int]]:
    """Median seconds and result of each job, the jobs taking turns."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    results = {}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.process_time()
            results[name] = job()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}, results


def lognormal(count: int) -> np.ndarray:
    return np.random.default_rng(0).lognormal(5.8, 1.0, count).astype(np.int64).clip(1)


@dataclass(frozen=True)
class Row:
    """One data set at one capacity; `seconds` and `packs` by job: arrays, lists, TRL, LLaMA-Factory."""

    name: str
    capacity: int
    examples: int
    bound: int
    waste: float
    seconds: dict[str, float]
    packs: dict[str, int]

    def times(self, other: str, job: str) -> float:
        """How many times as long the other packer takes."""
        return self.seconds[other] / self.seconds[job] if other in self.seconds else float("nan")

    def cells(self) -> list[str]:
        milliseconds = [f"{1e3 * self.seconds.get(job, float('nan')):.1f}" for job in ("arrays", "lists", "TRL")]
        ratios = [f"{self.times('TRL', job):.0f}" for job in TARGETS]
        ratios += [f"{self.times('LLaMA-Factory', 'lists'):.1f}", f"{self.times('axolotl', 'arrays'):.1f}"]
        packs = [str(self.packs.get(job, "-")) for job in ("arrays", "TRL", "LLaMA-Factory")]
        return [self.name, str(self.capacity), str(self.bound), *packs, f"{self.waste:.3%}", *milliseconds, *ratios]

    def missed(self) -> list[str]:
        place, ours, best_fit = f"{self.name} at {self.capacity}", self.packs["arrays"], self.packs.get("TRL")
        lines = []
        if not self.bound <= ours <= (best_fit or ours):
            lines.append(f"{place}: {ours} packs; bound {self.bound}, TRL {best_fit}")
        if self.examples >= 50_000:
            slow = [job for job, target in TARGETS.items() if self.times("TRL", job) < target]
            lines += [f"{place}: {job} {self.times('TRL', job):.0f} times TRL, not {TARGETS[job]}" for job in slow]
        return lines


def measure(name: str, lengths: np.ndarray, capacity: int, others: dict[str, Prepare], rounds: int) -> Row:
    lengths = np.minimum(lengths, capacity)
    jobs = {"arrays": lambda: len(pack(lengths, capacity)), "lists": lambda: len(list(pack(lengths, capacity)))}
    jobs |= {other: prepare(lengths, capacity) for other, prepare in others.items()}
    seconds, packs = interleaved(jobs, rounds)
    waste = 1 - efficiency(lengths, pack(lengths, capacity), capacity)
    return Row(name, capacity, len(lengths), lower_bound(lengths, capacity), waste, seconds, packs)


def count_packs(lengths: np.ndarray, capacity: int) -> int:
    return len(pack(lengths, capacity))


def growth(capacity: int) -> list[str]:
    """Print nanoseconds an example at 100,000 and at 1,000,000 examples, taking turns; a line if the cost has grown."""
    data = {count: np.minimum(lognormal(count), capacity) for count in (100_000, 1_000_000)}
    jobs: dict[str, Callable[[], int]]
    jobs = {str(count): partial(count_packs, lengths, capacity) for count, lengths in data.items()}
    seconds, _ = interleaved(jobs, rounds=15)
    small, large = (1e9 * seconds[str(count)] / count for count in data)
    print(f"capacity {capacity}: {small:.0f} ns an example at 100,000 and {large:.0f} at 1,000,000")
    return [f"capacity {capacity}: the cost of an example grows with their number"] if large > small else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lengths", nargs="*", type=Path, help=".npy files with one length per example")
    parser.add_argument("--large", action="store_true", help="add lognormal lengths up to 1,000,000 (minutes)")
    parser.add_argument("--llamafactory", type=Path, metavar="WHEEL", help="wheel of llamafactory 0.9.5")
    parser.add_argument("--axolotl", type=Path, metavar="WHEEL", help="wheel of axolotl 0.19.0")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    data = {path.name.split(".")[0]: np.load(path).astype(np.int64) for path in arguments.lengths}
    if arguments.large or not data:
        counts = (1_000, 50_000, 100_000, 1_000_000) if arguments.large else (1_000, 50_000)
        data |= {f"lognormal {count:,}": lognormal(count) for count in counts}
    others = {"TRL": trl_loop(), "LLaMA-Factory": llamafactory_knapsack(arguments.llamafactory)}
    others["axolotl"] = axolotl_multipack(arguments.axolotl)
    print(*(f"{name}: not installed" for name, prepare in others.items() if prepare is None), sep="\n")
    found = {name: prepare for name, prepare in others.items() if prepare is not None}

    rows = []
    print("".join(f"{title:>{width}}" for title, width in COLUMNS))
    for (name, lengths), capacity in itertools.product(data.items(), CAPACITIES):
        rounds = arguments.rounds if len(lengths) <= 500_000 else 2
        rows.append(measure(name, lengths, capacity, found, rounds))
        print("".join(f"{cell:>{w}}" for cell, (_, w) in zip(rows[-1].cells(), COLUMNS, strict=True)), flush=True)
    missed = [line for row in rows for line in row.missed()]
    if arguments.large:
        missed += [line for capacity in CAPACITIES for line in growth(capacity)]
    print(*(f"MISSED {line}" for line in missed), sep="\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
