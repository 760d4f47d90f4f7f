"""LLaMA-Factory 0.9.5: cutoff_len cuts a prompt at its end, where the assistant's header stands, and trains the answer
that follows without it.

Run in an environment with llamafactory 0.9.5 (DISABLE_VERSION_CHECK=1). Prints what is trained; exits 1 if the answer
does not follow its header.
"""

import sys
from types import SimpleNamespace

from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
from llamafactory.data.template import TEMPLATES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

symbols = {symbol: number for number, symbol in enumerate(pre_tokenizers.ByteLevel.alphabet())}
bytes_ = Tokenizer(models.BPE(symbols, []))
bytes_.pre_tokenizer, bytes_.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_, eos_token="<|im_end|>", pad_token="<|endoftext|>")
tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
arguments = SimpleNamespace(cutoff_len=30, mask_history=False, train_on_prompt=False)
processor = SupervisedDatasetProcessor(TEMPLATES["chatml"], tokenizer, None, arguments)
ids, labels = processor._encode_data_example(
    prompt=[{"role": "user", "content": "What is the capital of France?"}],
    response=[{"role": "assistant", "content": "Paris"}],
    system=None, tools=None, images=[], videos=[], audios=[],
)  # fmt: skip
first = next(place for place, label in enumerate(labels) if label != -100)
before, trained = tokenizer.decode(ids[:first]), tokenizer.decode(ids[first:])
print(f"the model sees  {before!r}\nand is trained  {trained!r}")
sys.exit(not before.endswith("<|im_start|>assistant\n"))
