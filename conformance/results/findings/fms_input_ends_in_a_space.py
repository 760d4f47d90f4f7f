"""fms-hf-tuning 3.2.2: of an input that ends in a space the first token of the output is masked.

Run in an environment with fms-hf-tuning 3.2.2. Its handler for inputs and outputs takes the length of the input's own
tokens; in the whole text a byte-level vocabulary joins the space to the word after it. Prints what is trained; exits 1
if the output is not.
"""

import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from tuning.data.data_handlers import tokenize_and_apply_input_masking

symbols = {symbol: number for number, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
symbols["ĠP"] = len(symbols)
bytes_ = Tokenizer(models.BPE(symbols, [("Ġ", "P")]))
bytes_.pre_tokenizer, bytes_.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_, eos_token="<|end|>")
row = tokenize_and_apply_input_masking(
    {"input": "The capital of France is ", "output": "Paris"}, "input", "output", tokenizer=tokenizer
)
trained = tokenizer.decode([label for label in row["labels"] if label != -100])
print(f"of 'The capital of France is ' and 'Paris' is trained {trained!r}")
sys.exit("Paris" not in trained)
