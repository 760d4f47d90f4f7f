"""LLaMA-Factory 0.9.5: with use_asft_loss the gradient of a step is the sum of its micro-batches' means: with
gradient_accumulation_steps of 8 it is 8 times that of the same samples in one batch.

Run in an environment with llamafactory 0.9.5 (DISABLE_VERSION_CHECK=1). Prints the norms of both; exits 1 if they
differ. All samples are alike, so that a mean of means is the mean.
"""

import sys
import tempfile
from functools import partial
from types import SimpleNamespace

import torch
from datasets import Dataset
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
from llamafactory.train.trainer_utils import asft_loss_func
from transformers import LlamaConfig, LlamaForCausalLM, Seq2SeqTrainingArguments, default_data_collator

FINETUNING = SimpleNamespace(
    use_badam=False, use_dft_loss=False, use_eaft_loss=False, use_asft_loss=True, asft_alpha=0.1,
    disable_shuffling=True, use_galore=False, use_apollo=False, loraplus_lr_ratio=None, use_adam_mini=False,
    use_muon=False,
)  # fmt: skip


def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes))


def norm(batch_size, accumulation):
    """The norm of the gradient of one step."""
    found = []

    class Trainer(CustomSeq2SeqTrainer):
        def create_optimizer(self, *args, **kwargs):
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
            return self.optimizer

    with tempfile.TemporaryDirectory() as folder:
        arguments = Seq2SeqTrainingArguments(
            folder, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation, max_steps=1,
            use_cpu=True, report_to=[], logging_steps=1, max_grad_norm=1e9, save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        arguments.fp8 = False
        rows = [{"input_ids": list(range(10)), "labels": list(range(10))}] * 8
        trainer = Trainer(
            finetuning_args=FINETUNING, processor=None, model=model(), ref_model=model(), args=arguments,
            train_dataset=Dataset.from_list(rows), tokenizer=None, data_collator=default_data_collator,
        )  # fmt: skip
        assert isinstance(trainer.compute_loss_func, partial) and trainer.compute_loss_func.func is asft_loss_func
        trainer.train()
        found = [item["grad_norm"] for item in trainer.state.log_history if "grad_norm" in item]
    return found[0]


whole, parts = norm(8, 1), norm(1, 8)
print(f"one batch of 8: {whole:.4f}; 8 micro-batches: {parts:.4f}, {parts / whole:.2f} times as much")
sys.exit(abs(parts / whole - 1) > 0.01)
