"""LitGPT 0.5.13: the prompt style of Llama 3 puts a second begin of text behind the tokenizer's.

Run in an environment with litgpt 0.5.13. A sample in the style of Llama 3 through `SFTDataset`, with a tiny tokenizer
that puts `<|begin_of_text|>` before every text, as that of Llama 3 does: prints the ids; exits 1 if they have two.
"""

import json
import sys
import tempfile
from pathlib import Path

from litgpt.data.base import SFTDataset
from litgpt.prompts import Llama3
from litgpt.tokenizer import Tokenizer
from tokenizers import AddedToken
from tokenizers import Tokenizer as Fast
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

special = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
fast = Fast(WordLevel({**{token: id_ for id_, token in enumerate(special)}, "<unk>": 4}, unk_token="<unk>"))
fast.pre_tokenizer = Whitespace()
fast.add_special_tokens([AddedToken(token, special=True) for token in special])
fast.post_processor = TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)])
with tempfile.TemporaryDirectory() as root:
    folder = Path(root) / "Llama-3.2-1B-Instruct"
    folder.mkdir()
    fast.save(str(folder / "tokenizer.json"))
    config = {"bos_token": special[0], "eos_token": special[1], "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    rows = SFTDataset([{"instruction": "is it", "output": "it is"}], Tokenizer(folder), Llama3())
    ids = rows[0]["input_ids"].tolist()
print(f"the begin of text is 0: {ids}")
sys.exit(ids.count(0) > 1)
