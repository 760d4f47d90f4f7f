"""transformers 5.6.0 (the newest that LLaMA-Factory 0.9.5 allows) counts a step's targets before the shift: a first
token with a label is counted, and it is no target.

Run in an environment with llamafactory 0.9.5, or with fms-hf-tuning 3.2.2 (transformers 4.55.4). Two rows of three
tokens, all labelled: prints what the loss of a step is divided by; exits 1 if it is not their four targets.
"""

import sys
import tempfile

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=16, **sizes))
trainer = Trainer(model=model, args=TrainingArguments(tempfile.mkdtemp(), use_cpu=True, report_to=[]))
ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
_, count = trainer.get_batch_samples(iter([{"input_ids": ids, "labels": ids.clone()}]), 1, torch.device("cpu"))
print(f"transformers {transformers.__version__}: 4 targets, the loss is divided by {int(count)}")
sys.exit(int(count) != 4)
