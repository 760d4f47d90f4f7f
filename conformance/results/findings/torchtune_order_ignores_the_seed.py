"""torchtune 0.6.1: the order of the data does not depend on the seed: the sampler's own is always 0.

Run in an environment with torchtune 0.6.1. The recipe's `_setup_data` under two seeds: prints the order of eight rows;
exits 1 if it is the same.
"""

import sys

from omegaconf import OmegaConf
from torchtune import training
from torchtune_recipe import recipe


class Rows(list):
    def __init__(self, tokenizer):
        super().__init__({"tokens": [number], "labels": [number]} for number in range(8))


def order(seed):
    training.set_seed(seed=seed)
    made = recipe(list, epochs=1, accumulation=1)
    made._tokenizer = type("Tokenizer", (), {"pad_id": 0})
    dataset = OmegaConf.create({"_component_": "torchtune_order_ignores_the_seed.Rows"})
    loader = made._setup_data(dataset, shuffle=True, batch_size=1, collate_fn="torchtune.data.padded_collate_sft")
    return [int(item["tokens"][0, 0]) for item in loader]


if __name__ == "__main__":
    orders = {seed: order(seed) for seed in (1, 2)}
    for seed, found in orders.items():
        print(f"seed {seed}: {found}")
    sys.exit(orders[1] == orders[2])
