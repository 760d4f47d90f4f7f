"""mlx-lm 0.32.2, mask_prompt: the newline that an answer begins with is masked, as one token with its header's.

Run in an environment with mlx-lm 0.32.2. Prints an answer "\\nB" with what is trained in brackets; exits 1 if its
newline is not.
"""

import sys

from mlx_lm.tuner.datasets import ChatDataset
from newline_tokenizer import make, shown

tokenizer = make()
talk = {"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "\nB"}]}
ids, offset = ChatDataset([talk], tokenizer, mask_prompt=True).process(talk)
text = shown(tokenizer, ids, [-100] * offset + ids[offset:])
print(repr(text))
sys.exit("[\n\nB" not in text)
