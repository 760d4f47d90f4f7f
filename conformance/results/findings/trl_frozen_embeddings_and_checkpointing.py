"""TRL 0.25.1: with frozen embeddings no layer gets a gradient, because it turns reentrant gradient checkpointing on.

Run in an environment with TRL 0.25.1 and transformers 4.57. A tiny Llama with random weights, one step; exits 1 if a
parameter of a layer that is to be trained has no gradient.
"""

import sys
import tempfile

from datasets import Dataset
from newline_tokenizer import make
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

tokenizer = make()
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes))
model.model.embed_tokens.requires_grad_(False)
without = []


def look(*args):
    named = model.named_parameters()
    without.extend(name for name, item in named if item.requires_grad and (item.grad is None or not item.grad.any()))


register_optimizer_step_pre_hook(look)
config = SFTConfig(
    output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, max_steps=1, report_to="none", save_strategy="no"
)
SFTTrainer(
    model=model, args=config, processing_class=tokenizer, train_dataset=Dataset.from_list([{"text": "A B C"}] * 8)
).train()
print(f"to be trained, and without a gradient: {without[:3]} … {len(without)} of them")
sys.exit(bool(without))
