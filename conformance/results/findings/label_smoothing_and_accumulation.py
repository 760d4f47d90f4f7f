"""transformers before 5.15 (LLaMA-Factory 0.9.5 allows up to 5.6.0, fms-hf-tuning 3.2.2 has 4.55.4): with
label_smoothing_factor the gradient of a step is the sum of its micro-batches' means.

Run in an environment of one of these. Eight samples that are alike, in one batch and as gradient_accumulation_steps of
8: prints the norms of both gradients; exits 1 if they differ.
"""

import sys
import tempfile

import torch
import transformers
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, default_data_collator


def norm(batch_size, accumulation):
    """The norm of the gradient of one step."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes))
    rows = Dataset.from_list([{"input_ids": list(range(10)), "labels": list(range(10))}] * 8)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation, max_steps=1,
            label_smoothing_factor=0.1, use_cpu=True, report_to=[], logging_steps=1, max_grad_norm=1e9,
            save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=default_data_collator)
        trainer.train()
    return next(item["grad_norm"] for item in trainer.state.log_history if "grad_norm" in item)


whole, parts = norm(8, 1), norm(1, 8)
print(f"transformers {transformers.__version__}: one batch of 8: {whole:.4f}; ", end="")
print(f"8 micro-batches: {parts:.4f}, {parts / whole:.2f} times as much")
sys.exit(abs(parts / whole - 1) > 0.01)
