"""unsloth 2026.10.9: a plain text loses its only beginning-of-sequence token where the chat template writes one, and
after a prompt that ends in a space the first token of a completion is masked.

Run in an environment with unsloth 2026.10.9. What `sft_prepare_dataset`, which stands in place of TRL's preparation,
makes of a text and of a pair: prints them; exits 1 if "<s>" is gone, or the completion's first letter is not trained.
"""

import sys
from types import SimpleNamespace

import unsloth  # isort: skip  # noqa: F401  # it changes what is imported after it
from datasets import Dataset
from newline_tokenizer import make
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast
from unsloth_zoo.dataset_utils import sft_prepare_dataset


def prepared(row, tokenizer):
    arguments = SimpleNamespace(max_length=64, dataset_text_field="text", dataset_num_proc=1)
    rows = Dataset.from_list([row])
    (made,) = sft_prepare_dataset(SimpleNamespace(), rows, tokenizer, arguments, False, None, "train")
    return made


tokenizer = make()
tokenizer.add_special_tokens({"bos_token": "<s>"})
first = [("<s>", tokenizer.bos_token_id)]
tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=first)
tokenizer.chat_template = "<s>" + tokenizer.chat_template
alone = tokenizer.decode(tokenizer("Once upon").input_ids)
text = tokenizer.decode(prepared({"text": "Once upon"}, tokenizer)["input_ids"])
print(f"a text by the tokenizer alone: {alone!r}; as it is trained: {text!r}")

symbols = {symbol: number for number, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
symbols["ĠP"] = len(symbols)
bytes_ = Tokenizer(models.BPE(symbols, [("Ġ", "P")]))
bytes_.pre_tokenizer, bytes_.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_, eos_token="<|end|>", pad_token="<|pad|>")
row = prepared({"prompt": "The capital of France is ", "completion": "Paris"}, tokenizer)
if "labels" in row:
    trained = tokenizer.decode([label for label in row["labels"] if label != -100])
else:
    pairs = zip(row["input_ids"], row["completion_mask"], strict=True)
    trained = tokenizer.decode([token for token, kept in pairs if kept])
print(f"of 'The capital of France is ' and 'Paris' is trained {trained!r}")
sys.exit(text == "Once upon" or not trained.strip().startswith("Paris"))
