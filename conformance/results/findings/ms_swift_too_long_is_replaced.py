"""ms-swift 4.6.0: with lazy_tokenize a sample over max_length is replaced by another one, at random and in silence.

Run in an environment with ms-swift 4.6.0. Four samples, of which the second is too long, in its lazy dataset, as its
default truncation_strategy "delete" makes it: prints what an epoch holds; exits 1 if a sample is there twice.
"""

import sys

from swift.dataset.utils import LazyLLMDataset
from swift.template import MaxLengthError


def encode(row, return_length):
    """`Template.encode` at a max_length: it raises the same."""
    if row["length"] > 10:
        raise MaxLengthError("too long")
    return row["name"]


rows = [{"name": name, "length": length} for name, length in [("a", 5), ("b", 50), ("c", 5), ("d", 5)]]
dataset = LazyLLMDataset(rows, encode, random_state=0)
epoch = [dataset[number] for number in range(len(dataset))]
print("samples: a, b (too long), c, d; an epoch holds", epoch)
sys.exit(len(set(epoch)) < len(epoch))
