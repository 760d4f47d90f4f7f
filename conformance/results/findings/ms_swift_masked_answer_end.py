"""ms-swift 4.6.0: of a last answer with "loss": false the end-of-turn is trained.

Run in an environment with ms-swift 4.6.0. Prints two rounds, of which one or the other is not to be trained, with what
is trained in brackets; exits 1 if anything of a masked answer is.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.update({"USE_HF": "1", "HF_HUB_OFFLINE": "1"})

from newline_tokenizer import make, shown
from swift.model import get_processor
from swift.template import get_template
from transformers import LlamaConfig, LlamaForCausalLM

here = Path(tempfile.mkdtemp())
tokenizer = make()
sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(here)
tokenizer.save_pretrained(here)
template = get_template(get_processor(str(here), model_type="llama"), template_type="chatml")
template.set_mode("train")


def text(masked):
    messages = [
        {"role": "user", "content": "A"}, {"role": "assistant", "content": "Good."},
        {"role": "user", "content": "B"}, {"role": "assistant", "content": "Bad."},
    ]  # fmt: skip
    messages[masked]["loss"] = False
    made = template.encode({"messages": messages})
    return shown(tokenizer, made["input_ids"], made["labels"])


first, last = text(1), text(3)
print(f"the first answer is masked: {first!r}")
print(f"the last answer is masked:  {last!r}")
sys.exit("Bad.[<|im_end|>" in last)
