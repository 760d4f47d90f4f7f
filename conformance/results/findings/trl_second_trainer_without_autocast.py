"""TRL 1.16.0: a second SFTTrainer around the same model trains in float32, whatever `bf16` or `fp16` says.

Run in an environment with TRL 1.16.0 and transformers 5.23. A tiny Llama with random weights is trained in two stages
of a step, by `Trainer` and by `SFTTrainer`, with bf16=True; exits 1 if a linear layer of some stage did not compute in
bfloat16.
"""

import sys
import tempfile

import torch
from datasets import Dataset
from newline_tokenizer import make
from transformers import DataCollatorForLanguageModeling, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

tokenizer = make()
rows = Dataset.from_list([dict(tokenizer("A B C"))] * 8)
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
options = {"use_cpu": True, "bf16": True, "max_steps": 1, "report_to": "none", "save_strategy": "no"}


def stages(make_trainer):
    """The dtypes that a linear layer gave in each of two trainings of one model."""
    model, seen = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes)), []
    model.model.layers[0].mlp.down_proj.register_forward_hook(lambda module, given, out: seen[-1].add(out.dtype))
    for _ in range(2):
        seen.append(set())
        make_trainer(model).train()
    return seen


def plain(model):
    arguments = TrainingArguments(output_dir=tempfile.mkdtemp(), **options)
    return Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)


def trl(model):
    arguments = SFTConfig(output_dir=tempfile.mkdtemp(), **options)
    return SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)


collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
found = {"Trainer": stages(plain), "SFTTrainer": stages(trl)}
for name, (first, second) in found.items():
    print(f"{name}: first stage {first}, second stage {second}")
sys.exit(any(seen != {torch.bfloat16} for both in found.values() for seen in both))
