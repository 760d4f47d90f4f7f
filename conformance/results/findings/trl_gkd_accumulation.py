"""TRL 0.19.1: with GKDTrainer the gradient of a step is the sum of its micro-batches' means, and not their mean.

Run in an environment with TRL 0.19.1. Eight conversations that are alike, in one batch and as
gradient_accumulation_steps of 8: prints the norms of both gradients; exits 1 if they differ.
"""

import sys
import tempfile

import torch
from datasets import Dataset
from newline_tokenizer import make
from transformers import LlamaConfig, LlamaForCausalLM
from trl import GKDConfig, GKDTrainer

tokenizer = make()


def model(seed):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))


def norm(batch_size, accumulation):
    """The norm of the gradient of one step, on the dataset alone (lmbda=0)."""
    talk = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "one two three"}]
    arguments = GKDConfig(
        tempfile.mkdtemp(), per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation,
        max_steps=1, lmbda=0.0, max_length=64, use_cpu=True, bf16=False, report_to=[], logging_steps=1,
        max_grad_norm=1e9, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = GKDTrainer(
        model(0), model(1), args=arguments, train_dataset=Dataset.from_list([{"messages": talk}] * 8),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    return next(item["grad_norm"] for item in trainer.state.log_history if "grad_norm" in item)


whole, parts = norm(8, 1), norm(1, 8)
print(f"one batch of 8: {whole:.5f}; 8 micro-batches: {parts:.5f}, {parts / whole:.2f} times as much")
sys.exit(abs(parts / whole - 1) > 0.01)
