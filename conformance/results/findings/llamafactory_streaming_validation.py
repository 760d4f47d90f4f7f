"""LLaMA-Factory 0.9.5: with streaming and val_size, samples of the validation set are trained from the second epoch on.

Run in an environment with llamafactory 0.9.5 (DISABLE_VERSION_CHECK=1). Eight samples, two of which are for validation,
split as it splits them, in two epochs of its trainer's dataloader: prints both; exits 1 if one that is validated is
trained.
"""

import sys
import tempfile
from types import SimpleNamespace

import torch
from datasets import Dataset
from llamafactory.data.data_utils import split_dataset
from transformers import LlamaConfig, LlamaForCausalLM, Seq2SeqTrainer, Seq2SeqTrainingArguments

rows = Dataset.from_list([{"input_ids": [number]} for number in range(8)]).to_iterable_dataset()
given = SimpleNamespace(streaming=True, val_size=2, buffer_size=16384)
train, evaluation = split_dataset(rows, None, given, seed=42)
seen = []


def collate(rows):
    seen.extend(row["input_ids"][0] for row in rows)
    ids = torch.tensor([row["input_ids"] * 2 for row in rows])
    return {"input_ids": ids, "labels": ids}


sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=8, **sizes))
arguments = Seq2SeqTrainingArguments(
    tempfile.mkdtemp(), use_cpu=True, report_to=[], max_steps=12, per_device_train_batch_size=1, save_strategy="no",
    disable_tqdm=True,
)  # fmt: skip
Seq2SeqTrainer(model=model, args=arguments, train_dataset=train["train"], data_collator=collate).train()
held = [row["input_ids"][0] for row in evaluation["validation"]]
print(f"validated: {held}; trained in the first epoch: {seen[:6]}, in the second: {seen[6:12]}")
sys.exit(bool(set(held) & set(seen[:12])))
