"""Peers' packers, run by the interpreter that has them: a line of JSON in, a line of JSON out.

    {"lengths": [5, 5, 3], "capacity": 8}  ->  {"packs": [[0, 2], [1]]}

It is given a packer's name, says its version first, and imports nothing of sftspec.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version

Packs = list  # of lists of indices


def trl(lengths: list, capacity: int) -> Packs:
    """`trl.pack_dataset`, best fit decreasing: each example is its own number, over and over."""
    from datasets import Dataset, disable_progress_bars
    from trl import pack_dataset

    disable_progress_bars()
    rows = Dataset.from_dict({"input_ids": [[number] * length for number, length in enumerate(lengths)]})
    packed = pack_dataset(rows, capacity, "bfd")["input_ids"] if lengths else []
    return [list(dict.fromkeys(row)) for row in packed]


def axolotl(lengths: list, capacity: int) -> Packs:
    """`pack_parallel` of the multipack sampler, with the group and the bin of its defaults."""
    import numpy
    from axolotl.utils.samplers.multipack import pack_parallel

    found = pack_parallel(numpy.array(lengths, dtype=numpy.int64), capacity, 100_000, 200, 1, False)
    return [[int(index) for index in one] for one in found]


def llamafactory(lengths: list, capacity: int) -> Packs:
    """`greedy_knapsack`, which gives lengths; its processor takes examples of each length in turn, as here."""
    from llamafactory.data.processor.processor_utils import greedy_knapsack

    places = defaultdict(list)
    for index, length in enumerate(lengths):
        places[length].append(index)
    return [[places[length].pop() for length in one] for one in greedy_knapsack(list(lengths), capacity)]


def swift(lengths: list, capacity: int) -> Packs:
    """`calculate_matched_group`, to its end."""
    from swift.dataset.packing import calculate_matched_group

    packs, rest = calculate_matched_group(list(enumerate(lengths)), capacity, is_finished=True)
    return [[index for index, _ in one] for one in packs] + [[index] for index, _ in rest]


def instructlab(lengths: list, capacity: int) -> Packs:
    """`batch_lengths_to_minibatches_lpt` for one rank."""
    from instructlab.training.batch_packer import batch_lengths_to_minibatches_lpt

    return [[int(index) for index in one] for one in batch_lengths_to_minibatches_lpt(lengths, capacity, 1, 0)]


def nemo(lengths: list, capacity: int) -> Packs:
    """`greedy_knapsack` of its neat packing."""
    from nemo_automodel.components.datasets.llm.neat_packing import greedy_knapsack

    return [list(one) for one in greedy_knapsack(list(lengths), capacity)]


def verl(lengths: list, capacity: int) -> Packs:
    """`rearrange_micro_batches` of a batch with an attention mask, which has the rows' lengths."""
    import torch
    from tensordict import TensorDict
    from verl.utils.seqlen_balancing import rearrange_micro_batches

    if not lengths:
        return []
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    rows = TensorDict({"input_ids": mask, "attention_mask": mask}, batch_size=[len(lengths)])
    _, packs = rearrange_micro_batches(rows, capacity)
    return [[int(index) for index in one] for one in packs]


def torchtune(lengths: list, capacity: int) -> Packs:
    """`PackedDataset`, which fills rows in the order of the dataset: each example is its own number, over and over."""
    from torchtune.datasets import PackedDataset

    rows = [{"tokens": [number] * length, "labels": [number] * length} for number, length in enumerate(lengths)]
    packed = PackedDataset(rows, max_seq_len=capacity, padding_idx=-1)  # type: ignore[arg-type]
    return [[number for number in dict.fromkeys(pack["tokens"].tolist()) if number >= 0] for pack in packed.packs]


# name: (packer, distribution)
PACKERS: dict[str, tuple[Callable, str]] = {
    "llamafactory": (llamafactory, "llamafactory"),
    "ms-swift": (swift, "ms-swift"),
    "axolotl": (axolotl, "axolotl"),
    "verl": (verl, "verl"),
    "instructlab-training": (instructlab, "instructlab-training"),
    "nemo-automodel": (nemo, "nemo-automodel"),
    "trl": (trl, "trl"),
    "torchtune": (torchtune, "torchtune"),
}


def main(name: str) -> None:
    sys.path.pop(0)  # beside this file stand adapters that are called like the libraries
    pack, distribution = PACKERS[name]
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        print(json.dumps({"version": version(distribution)}), file=answers, flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                said = {"packs": pack(asked["lengths"], asked["capacity"])}
            except Exception as error:
                said = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
