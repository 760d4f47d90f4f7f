"""instructlab-training 0.16.2: where a chat template trims contents, as Llama 3's does, answers are trained untrimmed:
the marks that it puts around them stand between the template and their white space.

Run in an environment with instructlab-training 0.16.2. A conversation as it is rendered and as it is trained: prints
both; exits 1 if they differ.
"""

import sys
import tempfile

from instructlab.training.data_process import (
    UNMASK_BEGIN_TOKEN,
    UNMASK_END_TOKEN,
    UNMASK_REASONING_BEGIN_TOKEN,
    UNMASK_REASONING_END_TOKEN,
    unmask_sample,
)
from newline_tokenizer import make
from transformers import LlamaConfig

MARKS = [UNMASK_BEGIN_TOKEN, UNMASK_END_TOKEN, UNMASK_REASONING_BEGIN_TOKEN, UNMASK_REASONING_END_TOKEN]
tokenizer = make()
tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *MARKS]})
tokenizer.chat_template = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
)
tokenizer.name_or_path = tempfile.mkdtemp()  # where it looks up which model this is
LlamaConfig().save_pretrained(tokenizer.name_or_path)
talk = [{"role": "user", "content": " A "}, {"role": "assistant", "content": " B\n\n"}]
rendered = tokenizer.apply_chat_template(talk, tokenize=False)
trained = tokenizer.decode(unmask_sample({"messages": talk}, tokenizer)["input_ids"])
print(f"rendered: {rendered!r}\ntrained:  {trained!r}")
sys.exit(rendered != trained)
