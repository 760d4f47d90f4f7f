"""LLaMA-Factory 0.9.5: packed rows are padded to a multiple of 8 and their position_ids are not.

Run in an environment with llamafactory 0.9.5 (DISABLE_VERSION_CHECK=1). Collates one packed row for cutoff_len 149, to
which `packing: true` with cutoff_len 150 comes down; exits 1 if the positions are fewer than the tokens.
"""

import sys
from types import SimpleNamespace

from llamafactory.data.collator import SFTDataCollatorWith4DAttentionMask
from llamafactory.data.processor.supervised import PackedSupervisedDatasetProcessor
from llamafactory.data.template import TEMPLATES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

symbols = {symbol: number for number, symbol in enumerate(pre_tokenizers.ByteLevel.alphabet())}
bytes_ = Tokenizer(models.BPE(symbols, []))
bytes_.pre_tokenizer, bytes_.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_, eos_token="<|im_end|>", pad_token="<|endoftext|>")
tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
arguments = SimpleNamespace(cutoff_len=149, mask_history=False, train_on_prompt=False, neat_packing=False)
template = TEMPLATES["chatml"]
processor = PackedSupervisedDatasetProcessor(template, tokenizer, None, arguments)
talk = {"_prompt": [{"role": "user", "content": "A"}], "_response": [{"role": "assistant", "content": "B"}]}
other = dict.fromkeys(("_system", "_tools", "_images", "_videos", "_audios"))
rows = processor.preprocess_dataset({key: [value] for key, value in {**talk, **other}.items()})
collator = SFTDataCollatorWith4DAttentionMask(
    tokenizer=tokenizer, template=template, pad_to_multiple_of=8, label_pad_token_id=-100
)
batch = collator([{key: value[0] for key, value in rows.items()}])
tokens, positions = batch["input_ids"].shape[1], batch["position_ids"].shape[1]
print(f"tokens {tokens}, positions {positions}")
sys.exit(tokens != positions)
