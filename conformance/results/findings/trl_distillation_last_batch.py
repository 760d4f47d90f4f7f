"""TRL 1.16.0: DistillationTrainer leaves out the samples that are left after the last full step of an epoch.

Run in an environment with TRL 1.16.0. Three prompts in batches of two: prints how many of them an epoch of its sampler
holds; exits 1 if one is missing.
"""

import sys
import tempfile

import torch
from datasets import Dataset
from newline_tokenizer import make
from transformers import LlamaConfig, LlamaForCausalLM
from trl import DistillationConfig, DistillationTrainer

tokenizer = make()
torch.manual_seed(0)
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
models = [LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)) for _ in range(2)]
rows = [{"prompt": [{"role": "user", "content": letter}]} for letter in "ABC"]
arguments = DistillationConfig(
    tempfile.mkdtemp(), per_device_train_batch_size=2, max_completion_length=4, use_cpu=True, bf16=False, report_to=[]
)
trainer = DistillationTrainer(
    model=models[0], teacher_model=models[1], args=arguments, train_dataset=Dataset.from_list(rows),
    processing_class=tokenizer,
)  # fmt: skip
chosen = set(trainer._get_train_sampler())
print(f"samples: {len(rows)}; an epoch holds {sorted(chosen)}")
sys.exit(len(chosen) < len(rows))
