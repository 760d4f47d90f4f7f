"""LitGPT 0.5.13: under gradient accumulation each micro-batch weighs the same, whatever it holds; and the micro-batches
after the last full step are computed and thrown away.

Run in an environment with litgpt 0.5.13. Three samples of one epoch, two a step. Exits 1 if a sample is never stepped
on, or the gradient is not that of the mean over the targets of the step.
"""

import json
import sys
import tempfile
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
from torch.nn.functional import cross_entropy
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
start = GPT(config)
torch.save(start.state_dict(), folder / "lit_model.pth")
save_config(config, folder)
data = folder / "data"
data.mkdir()
rows = [{"instruction": "a", "output": text} for text in ("b", "b c d b c d b c d", "c c")]
(data / "train.json").write_text(json.dumps(rows))
(data / "val.json").write_text(json.dumps(rows[:1]))

calls, taken = [], []


def before_step(optimizer, args, kwargs):
    gradients = [item.grad.clone() for group in optimizer.param_groups for item in group["params"]]
    taken.append((gradients, list(calls)))
    calls.clear()


def remember(module, args, output):
    if isinstance(module, GPT) and torch.is_grad_enabled():
        calls.append(args[0])


register_optimizer_step_pre_hook(before_step)
torch.nn.modules.module.register_module_forward_hook(remember)
sys.argv = ["litgpt", "finetune_full", str(folder)]
setup(
    folder, out_dir=folder / "out", precision="32-true",
    data=JSON(data, mask_prompt=True, prompt_style=Default(), num_workers=0),
    train=TrainArgs(global_batch_size=2, micro_batch_size=1, lr_warmup_steps=100, epochs=1),
    eval=EvalArgs(interval=1000, max_new_tokens=1, max_iters=1, final_validation=False),
    optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
)  # fmt: skip
((got, batches),), left = taken, len(calls)
start.max_seq_length = 64
losses, targets = 0.0, []
for ids in batches:  # one prompt token each, the rest is trained
    losses = losses + cross_entropy(start(ids)[0, :-1], ids[0, 1:], reduction="sum")
    targets.append(ids.shape[1] - 1)
(losses / sum(targets)).backward()
right = torch.cat([item.grad.flatten() for item in start.parameters()])
error = float((torch.cat([item.flatten() for item in got]) - right).norm() / right.norm())
print(f"targets of the micro-batches: {targets}; the step's gradient is off by {error:.0%} of the right one")
print(f"micro-batches that were computed and never stepped on: {left}")
sys.exit(error > 0.01 or left > 0)
