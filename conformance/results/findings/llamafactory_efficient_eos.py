"""LLaMA-Factory 0.9.5: a template with efficient_eos (glm4, gemma2, falcon, solar and others) trains an end-of-sequence
token after an answer that cutoff_len cut, and with mask_history after an answer that is not to be trained.

Run in an environment with llamafactory 0.9.5 (DISABLE_VERSION_CHECK=1). Prints what is trained in brackets; exits 1 if
the cut answer ends, or an earlier one is trained.
"""

import sys
from types import SimpleNamespace

from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
from llamafactory.data.template import TEMPLATES
from newline_tokenizer import make

tokenizer = make()


def trained(messages, **settings):
    """Ids and labels of a conversation, and its text with each label before the token that it stands at."""
    given = {"cutoff_len": 1000, "mask_history": False, "train_on_prompt": False, **settings}
    processor = SupervisedDatasetProcessor(TEMPLATES["solar"], tokenizer, None, SimpleNamespace(**given))
    roles = ["user", "assistant"] * (len(messages) // 2)
    talk = [{"role": role, "content": content} for role, content in zip(roles, messages, strict=True)]
    return processor._encode_data_example(
        prompt=talk[:-1], response=talk[-1:], system=None, tools=None, images=[], videos=[], audios=[]
    )


def text(labels):
    return tokenizer.decode([label for label in labels[1:] if label != -100])  # the first token is no target


_, whole = trained(["Count.", "one two three four five six seven eight nine ten"])
_, cut = trained(["Count.", "one two three four five six seven eight nine ten"], cutoff_len=60)
_, last = trained(["A", "first", "B", "second", "C", "third"], mask_history=True)
print(f"trained of the whole answer  {text(whole)!r}\nof the one that is cut       {text(cut)!r}")
print(f"with mask_history            {text(last)!r}")
sys.exit(text(cut).endswith("<|im_end|>") or text(last) != "third<|im_end|>")
