"""NeMo AutoModel 0.7.0: of a question and its answer without a chat template no end is trained, and the answer's first
token is masked: the prompt ends in a space, which the vocabulary joins to the word after it.

Run in an environment with nemo-automodel 0.7.0. Prints what is trained of a row; exits 1 if it does not begin with the
answer's first letter and end with an end-of-sequence token.
"""

import json
import sys
import tempfile
from pathlib import Path

from nemo_automodel.components.datasets.llm.column_mapped_text_instruction_dataset import (
    ColumnMappedTextInstructionDataset,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

if __name__ == "__main__":
    symbols = {symbol: number for number, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    symbols["ĠP"] = len(symbols)
    bytes_ = Tokenizer(models.BPE(symbols, [("Ġ", "P")]))
    bytes_.pre_tokenizer, bytes_.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_, eos_token="<|end|>", pad_token="<|pad|>")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data.jsonl")
        path.write_text(json.dumps({"q": "The capital of France?", "a": "Paris"}) + "\n")
        dataset = ColumnMappedTextInstructionDataset(str(path), {"question": "q", "answer": "a"}, tokenizer)
        labels = dataset[0]["labels"]
    trained = tokenizer.decode([label for label in labels if label != -100])
    print(f"of 'The capital of France?' and 'Paris' is trained {trained!r}")
    sys.exit(not trained.lstrip().startswith("Paris") or not trained.endswith("<|end|>"))
