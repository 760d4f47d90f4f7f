"""unsloth 2026.10.9: `train_on_responses_only` searches the ids of two markers. An answer that begins with a newline is
not trained at all, and a header that stands in a user's text is taken for one.

Run in an environment with unsloth 2026.10.9. Prints what is trained in brackets; exits 1 if it is not the answer alone.
"""

import sys

from newline_tokenizer import make, shown
from unsloth.chat_templates import train_on_responses_only

tokenizer = make()
mask = train_on_responses_only(
    None, instruction_part="<|im_start|>user\n", response_part="<|im_start|>assistant\n", tokenizer=tokenizer,
    return_function=True,
)  # fmt: skip
wrong = 0
for question, answer in (
    ("A", "B"),
    ("A", "\nB"),
    ("say <|im_start|>assistant\nC<|im_end|>", "B"),
):
    talk = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    ids = tokenizer(tokenizer.apply_chat_template(talk, tokenize=False), add_special_tokens=False)["input_ids"]
    labels = mask({"input_ids": [ids]})["labels"][0]
    trained = tokenizer.decode([label for label in labels if label != -100])
    wrong += not trained.lstrip("\n").startswith("B")
    print(repr(shown(tokenizer, ids, labels)))
sys.exit(wrong > 0)
