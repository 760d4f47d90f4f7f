"""TRL 0.19.1: with packing the masks are thrown away: prompts are trained, whatever completion_only_loss or
assistant_only_loss says; and each example's first token is trained from the last one of the example before it.

Run in an environment with TRL 0.19.1. Two pairs of prompt and completion in one row: prints what its data loader gives,
what is trained in brackets, without and with packing; exits 1 if a prompt is trained.
"""

import sys
import tempfile

from datasets import Dataset
from newline_tokenizer import make, shown
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

tokenizer = make()
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
rows = [{"prompt": "AA", "completion": "bb"}, {"prompt": "CC", "completion": "dd"}]
found = []
for packing in (False, True):
    arguments = SFTConfig(
        tempfile.mkdtemp(), packing=packing, padding_free=True, max_length=64, completion_only_loss=True, use_cpu=True,
        bf16=False, report_to=[],
    )  # fmt: skip
    trainer = SFTTrainer(model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    found.append(shown(tokenizer, batch["input_ids"][0].tolist(), batch["labels"][0].tolist()))
    print(f"packing={packing}: {found[-1]!r}")
sys.exit("[AA" in found[1] or "CC" in found[1].split("[", 1)[1].split("]")[0])
