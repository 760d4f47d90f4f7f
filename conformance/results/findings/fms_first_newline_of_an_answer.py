"""fms-hf-tuning 3.2.2: the first token of an answer that begins with a newline is masked: the prompt is tokenized by
itself to find where the answer begins, and in the whole text its last newline and the answer's first are one token.

Run in an environment with fms-hf-tuning 3.2.2. Prints what is trained in brackets; exits 1 if the newline is not.
"""

import sys

from newline_tokenizer import make, shown
from tuning.data.data_handlers import tokenize_and_apply_chat_template_with_masking

tokenizer = make()
talk = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "\nB"}]
found = tokenize_and_apply_chat_template_with_masking({"messages": talk}, max_seq_length=100, tokenizer=tokenizer)
ids, labels = (list(map(int, found[key])) for key in ("input_ids", "labels"))
print(repr(shown(tokenizer, ids, labels)))
newlines = tokenizer.convert_tokens_to_ids("ĊĊ")
sys.exit(labels[ids.index(newlines)] == -100)
