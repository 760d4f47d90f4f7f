"""A helper of other scripts: axolotl's `train` on a few conversations, with a tiny Llama of random weights."""

import json
import os
import tempfile
from pathlib import Path

os.environ.update(
    {"AXOLOTL_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "AXOLOTL_DATASET_NUM_PROC": "0"}
)

import torch
from axolotl.cli.config import load_cfg
from axolotl.common.datasets import load_datasets
from newline_tokenizer import make
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(tempfile.mkdtemp())


def configured(conversations, **more):
    """The configuration that `axolotl train` would be given, and the dataset that it makes of the conversations."""
    tokenizer = make()
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes))
    model.save_pretrained(HERE / "model")
    tokenizer.save_pretrained(HERE / "model")
    (HERE / "data.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in conversations))
    given = {
        "base_model": str(HERE / "model"),
        "datasets": [{"path": str(HERE / "data.jsonl"), "ds_type": "json", "type": "chat_template"}],
        "chat_template": "tokenizer_default",
        "dataset_prepared_path": str(HERE / "prepared"),
        "dataset_num_proc": 0,
        "output_dir": str(HERE / "output"),
        "sequence_len": 256,
        "attn_implementation": "sdpa",
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_epochs": 1,
        "optimizer": "sgd",
        "learning_rate": 1e-2,
        "lr_scheduler": "constant",
        "max_grad_norm": 0.0,
        "bf16": False,
        "tf32": False,
        "val_set_size": 0.0,
        "save_strategy": "no",
        **more,
    }
    (HERE / "config.yaml").write_text(json.dumps(given))
    cfg = load_cfg(str(HERE / "config.yaml"))
    return cfg, load_datasets(cfg=cfg), tokenizer


def said(answer):
    return [{"role": "user", "content": "A"}, {"role": "assistant", "content": answer}]
