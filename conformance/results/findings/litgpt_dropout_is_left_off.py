"""LitGPT 0.5.13: after an evaluation whose example is too long to be generated, LoRA trains without dropout.

Run in an environment with litgpt 0.5.13. `finetune_lora` on four samples of one epoch with dropout, an evaluation after
the second step, and its own max_new_tokens of 100: prints in which mode each step was computed; exits 1 if one was in
evaluation mode.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config
from litgpt.data import JSON
from litgpt.finetune.lora import setup
from litgpt.lora import GPT as LoraGPT
from litgpt.model import GPT
from litgpt.prompts import Default
from litgpt.utils import save_config
from tokenizers import Tokenizer, models, pre_tokenizers

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
rows = [{"instruction": "a", "output": text} for text in ("b", "b c d", "c c", "d")]
(data / "train.json").write_text(json.dumps(rows))
(data / "val.json").write_text(json.dumps(rows[:1]))

modes = []


def remember(module, args, output):
    if isinstance(module, LoraGPT) and torch.is_grad_enabled():
        modes.append("training" if module.training else "evaluation")


torch.nn.modules.module.register_module_forward_hook(remember)
sys.argv = ["litgpt", "finetune_lora", str(folder)]
setup(
    folder, out_dir=folder / "out", precision="32-true", lora_dropout=0.05,
    data=JSON(data, mask_prompt=True, prompt_style=Default(), num_workers=0),
    train=TrainArgs(global_batch_size=1, micro_batch_size=1, lr_warmup_steps=1, epochs=1),
    eval=EvalArgs(interval=2, max_new_tokens=100, max_iters=1, final_validation=False),
)  # fmt: skip
print("steps were computed in the modes:", ", ".join(modes))
sys.exit("evaluation" in modes)
