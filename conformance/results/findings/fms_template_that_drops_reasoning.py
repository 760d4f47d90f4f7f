"""fms-hf-tuning 3.2.2: where a chat template drops the reasoning of earlier answers, as Qwen3's does, the beginning of
the user's next message is trained.

Run in an environment with fms-hf-tuning 3.2.2. Prints a conversation with what is trained in brackets; exits 1 if words
of the user are.
"""

import sys

from newline_tokenizer import make, shown
from tuning.data.data_handlers import tokenize_and_apply_chat_template_with_masking

tokenizer = make()
tokenizer.chat_template = (
    "{% set last = namespace(user=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 < last.user %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
talk = [
    {"role": "user", "content": "What is two and two?"},
    {"role": "assistant", "content": "<think>Count on.</think>Four."},
    {"role": "user", "content": "And three and three, if you please?"},
    {"role": "assistant", "content": "<think>Again.</think>Six."},
]
row = tokenize_and_apply_chat_template_with_masking({"messages": talk}, 512, tokenizer=tokenizer)
text = shown(tokenizer, row["input_ids"].tolist(), row["labels"].tolist())
print(repr(text))
trained = "".join(piece.split("]")[0] for piece in text.split("[")[1:])
sys.exit("user" in trained or "And three" in trained)
