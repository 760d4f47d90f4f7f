"""torchtune 0.6.1: with packed and train_on_input each example's first token is trained from the last token of the
example before it, which it does not belong to.

Run in an environment with torchtune 0.6.1. Two examples of 3 tokens in one pack, all trained, and the shift of the
recipe: prints what the last token of the first one is trained to predict; exits 1 if it is anything.
"""

import sys

from torchtune.datasets import PackedDataset

examples = [{"tokens": [1, 2, 3], "labels": [1, 2, 3]}, {"tokens": [4, 5, 6], "labels": [4, 5, 6]}]
pack = PackedDataset(examples, max_seq_len=8)[0]
shifted = pack["labels"][1:].tolist()  # as `_loss_step` shifts them
print(f"tokens {pack['tokens'].tolist()}, lengths {pack['seq_lens'].tolist()}")
print(f"token 3, the last of the first example, is trained to predict {shifted[2]}")
sys.exit(shifted[2] != -100)
