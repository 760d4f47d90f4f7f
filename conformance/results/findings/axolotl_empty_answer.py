"""axolotl 0.19.0: the end-of-turn token of an empty answer is not trained (datasets of type chat_template).

Run in an environment with axolotl 0.19.0. Prints two conversations with what is trained in brackets; exits 1 if the
end-of-turn of the empty answer is not.
"""

import sys

from axolotl_run import configured, said
from newline_tokenizer import shown

if __name__ == "__main__":
    _, meta, tokenizer = configured([said("B") + said("C"), said("") + said("C")])
    texts = [shown(tokenizer, row["input_ids"], row["labels"]) for row in meta.train_dataset]
    print(*map(repr, texts), sep="\n")
    sys.exit(not all(text.count("<|im_end|>]") == 2 for text in texts))
