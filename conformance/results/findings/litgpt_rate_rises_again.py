"""LitGPT 0.5.13: where an epoch is no multiple of the accumulation, the learning rate is back up before the end.

Run in an environment with litgpt 0.5.13. Three samples, two a step, in six epochs: prints the learning rate of each
step; exits 1 if it rises after the warm-up.
"""

import json
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import torch
from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config
from litgpt.data import JSON
from litgpt.finetune.full import setup
from litgpt.model import GPT
from litgpt.prompts import Default
from litgpt.utils import save_config
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.optim.optimizer import register_optimizer_step_pre_hook

folder = Path(tempfile.mkdtemp())
words = {word: number for number, word in enumerate(["<pad>", "<eos>", "a", "b", "c", "d"])}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.save(str(folder / "tokenizer.json"))
said = {"eos_token": "<eos>", "tokenizer_class": "PreTrainedTokenizerFast"}
(folder / "tokenizer_config.json").write_text(json.dumps(said))
config = Config(
    name="tiny", hf_config={}, block_size=64, vocab_size=8, padded_vocab_size=8, n_layer=1, n_head=2, n_embd=16,
    rotary_percentage=1.0, parallel_residual=False, bias=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
    intermediate_size=16,
)  # fmt: skip
torch.manual_seed(0)
torch.save(GPT(config).state_dict(), folder / "lit_model.pth")
save_config(config, folder)
data = folder / "data"
data.mkdir()
rows = [{"instruction": "a", "output": text} for text in ("b", "b c d", "c c")]
(data / "train.json").write_text(json.dumps(rows))
(data / "val.json").write_text(json.dumps(rows[:1]))

rates = []
register_optimizer_step_pre_hook(lambda optimizer, args, kwargs: rates.append(optimizer.param_groups[0]["lr"]))
sys.argv = ["litgpt", "finetune_full", str(folder)]
setup(
    folder, out_dir=folder / "out", precision="32-true",
    data=JSON(data, mask_prompt=True, prompt_style=Default(), num_workers=0),
    train=TrainArgs(global_batch_size=2, micro_batch_size=1, lr_warmup_steps=1, epochs=6),
    eval=EvalArgs(interval=1000, max_new_tokens=1, max_iters=1, final_validation=False),
    optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
)  # fmt: skip
print("learning rates of the steps:", ", ".join(f"{rate:.4f}" for rate in rates))
sys.exit(any(after > before for before, after in pairwise(rates[1:])))
