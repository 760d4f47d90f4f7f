"""TRL 1.16.0: with packing, `evaluate` of a dict of datasets packs each of them twice, and its examples run together.

Run in an environment with TRL 1.16.0. The same four samples, handed to `evaluate` as a dataset and in a dict: prints
how many examples begin in what is evaluated, its targets and the loss; exits 1 if they differ.
"""

import sys
import tempfile

import torch
from datasets import Dataset
from newline_tokenizer import make
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

tokenizer = make()
torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=1.0, **sizes))
rows = Dataset.from_list([{"text": text} for text in ("one", "two and", "three and four", "five, six and seven")])
arguments = SFTConfig(
    tempfile.mkdtemp(), use_cpu=True, bf16=False, report_to=[], packing=True, max_length=64, disable_tqdm=True,
    per_device_eval_batch_size=1, shuffle_dataset=False,
)  # fmt: skip
trainer = SFTTrainer(model, args=arguments, train_dataset=rows, processing_class=tokenizer)
seen = []


def collate(rows, collator=trainer.data_collator):
    batch = collator(rows)
    seen.append((int((batch["position_ids"] == 0).sum()), int((batch["labels"] != -100).sum())))
    return batch


trainer.data_collator = collate
alone = trainer.evaluate(rows)["eval_loss"]
named = trainer.evaluate({"test": rows})["eval_test_loss"]
for form, (examples, targets), loss in zip(("a dataset", "a dict"), seen, (alone, named), strict=True):
    print(f"as {form}: {examples} examples, {targets} targets, loss {loss:.4f}")
sys.exit(seen[0] != seen[1])
