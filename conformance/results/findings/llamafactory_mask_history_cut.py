"""LLaMA-Factory 0.9.5: with mask_history a conversation that is too long loses its system prompt and gets a stump of an
earlier turn in its place.

Run in an environment with llamafactory 0.9.5 (DISABLE_VERSION_CHECK=1). Prints a conversation with what is trained in
brackets, whole and cut; exits 1 if the cut one begins with a piece of a turn and its system prompt is gone.
"""

import sys
from types import SimpleNamespace

from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
from llamafactory.data.template import TEMPLATES
from newline_tokenizer import make, shown

tokenizer = make()
TURNS = ["What is the capital of France?", "Paris", "And of Italy?", "Rome"]


def text(cutoff_len):
    given = {"cutoff_len": cutoff_len, "mask_history": True, "train_on_prompt": False}
    processor = SupervisedDatasetProcessor(TEMPLATES["chatml"], tokenizer, None, SimpleNamespace(**given))
    talk = [{"role": role, "content": item} for role, item in zip(["user", "assistant"] * 2, TURNS, strict=True)]
    ids, labels = processor._encode_data_example(
        prompt=talk[:-1], response=talk[-1:], system="Answer in French.", tools=None, images=[], videos=[], audios=[]
    )
    return shown(tokenizer, ids, labels)


print(f"whole: {text(1000)!r}")
cut = text(60)
print(f"cut:   {cut!r}")
sys.exit("French" not in cut and not cut.startswith("<|im_start|>user\nAnd"))
