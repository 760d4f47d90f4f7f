"""ms-swift 4.6.0: with label_smoothing_factor the gradient of a step is the sum of its micro-batches' means.

Run in an environment with ms-swift 4.6.0. `sft_main` on eight conversations that are alike, in one batch and as
gradient_accumulation_steps of 8: prints the norms of both gradients; exits 1 if they differ.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.update({"USE_HF": "1", "HF_HUB_OFFLINE": "1"})

import torch
from newline_tokenizer import make
from swift.pipelines import SwiftSft
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(tempfile.mkdtemp())
torch.manual_seed(0)
tokenizer = make()
sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(HERE / "model")
tokenizer.save_pretrained(HERE / "model")
talk = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "one two three"}]
(HERE / "data.jsonl").write_text((json.dumps({"messages": talk}) + "\n") * 8)


def norm(batch_size, accumulation):
    """The norm of the gradient of one step."""
    given = {
        "model": HERE / "model", "model_type": "llama", "template": "chatml", "check_model": False,
        "torch_dtype": "float32", "attn_impl": "sdpa", "tuner_type": "full", "dataset": HERE / "data.jsonl",
        "load_from_cache_file": False, "dataset_num_proc": 1, "dataloader_num_workers": 0, "max_length": 128,
        "per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation, "max_steps": 1,
        "label_smoothing_factor": 0.1, "max_grad_norm": 1e9, "logging_steps": 1, "save_strategy": "no",
        "output_dir": HERE / f"output-{batch_size}", "use_cpu": True, "bf16": False, "report_to": "none",
        "split_dataset_ratio": 0, "add_version": False, "gradient_checkpointing": False,
    }  # fmt: skip
    pipeline = SwiftSft([word for name, value in given.items() for word in (f"--{name}", str(value))])
    log = HERE / f"output-{batch_size}" / "logging.jsonl"
    pipeline.main()
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return next(float(row["grad_norm"]) for row in rows if "grad_norm" in row)


if __name__ == "__main__":
    whole, parts = norm(8, 1), norm(1, 8)
    print(f"one batch of 8: {whole:.4f}; 8 micro-batches: {parts:.4f}, {parts / whole:.2f} times as much")
    sys.exit(abs(parts / whole - 1) > 0.01)
