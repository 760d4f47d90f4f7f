"""TRL 1.16.0: GKDTrainer divides the loss of what the student wrote by the number of the dataset's own targets.

Run in an environment with TRL 1.16.0. Answers of 40 characters in the dataset, of which the student writes at most 4
tokens in their place (lmbda=1): prints the targets of the step and what the sum is divided by; exits 1 if they differ.
"""

import os
import sys
import tempfile

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
from datasets import Dataset
from newline_tokenizer import make
from transformers import LlamaConfig, LlamaForCausalLM
from trl.experimental.gkd import GKDConfig, GKDTrainer

tokenizer = make()
seen = []


class Heard(GKDTrainer):
    """The same; what its loss is given is written down."""

    @staticmethod
    def generalized_jsd_loss(**given):
        seen.append((int((given["labels"] != -100).sum()), int(given["num_items_in_batch"])))
        return GKDTrainer.generalized_jsd_loss(**given)


def model(seed):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))


talk = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "0123456789" * 4}]
arguments = GKDConfig(
    tempfile.mkdtemp(), per_device_train_batch_size=2, max_steps=1, lmbda=1.0, max_new_tokens=4, max_length=128,
    use_cpu=True, bf16=False, report_to=[], save_strategy="no", disable_tqdm=True,
)  # fmt: skip
rows = Dataset.from_list([{"messages": talk}] * 2)
Heard(model(0), model(1), args=arguments, train_dataset=rows, processing_class=tokenizer).train()
print(f"targets of the step: {seen[0][0]}; their loss is divided by {seen[0][1]}")
sys.exit(seen[0][0] != seen[0][1])
