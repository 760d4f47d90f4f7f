"""fms-hf-tuning 3.2.2: of a response_template the first two tokens are cut off, whatever they are, so that a shorter
text marks the answer.

Run in an environment with fms-hf-tuning 3.2.2. A question that quotes the rest of the marker, in a byte-level
vocabulary, and an answer with a colon, where the marker is three tokens: prints what is trained; exits 1 if words of
the question are, or if words of the answer are not.
"""

import sys

from newline_tokenizer import make
from tuning.data.data_preprocessing_utils import get_data_collator

tokenizer = make()
collate = get_data_collator(False, "### Response:", tokenizer, False, 512, None)
text = "What follows after # Response: in a form?\n### Response:the answer"
wrong = "Say # Response: aloud."
found = []
for sample in (text, wrong):
    labels = collate([tokenizer(sample)])["labels"][0].tolist()
    found.append(tokenizer.decode([label for label in labels if label != -100]))
    print(f"of {sample!r} is trained {found[-1]!r}")
tokenizer.add_tokens(["###", " Response"])  # and ":" is the third
collate = get_data_collator(False, "### Response:", tokenizer, False, 512, None)
sample = "Split it.\n### Response:Two parts: one, two"
labels = collate([tokenizer(sample)])["labels"][0].tolist()
found.append(tokenizer.decode([label for label in labels if label != -100]))
print(f"of {sample!r} is trained {found[-1]!r}")
sys.exit(found[1] != "" or "Two parts" not in found[2])
