"""LitGPT 0.5.13: encode(..., eos=True) takes the end away where the text has it already.

Run in an environment with litgpt 0.5.13. A sample whose output ends with `</s>`, through `SFTDataset` with a tiny
tokenizer, and one whose tokenizer puts `</s>` behind every text: prints the targets; exits 1 if they lack the end.
"""

import json
import sys
import tempfile
from pathlib import Path

from litgpt.data.base import SFTDataset
from litgpt.prompts import Default
from litgpt.tokenizer import Tokenizer
from tokenizers import AddedToken
from tokenizers import Tokenizer as Fast
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

fast = Fast(WordLevel({"</s>": 0, "two": 1, "is": 2, "it": 3, "<unk>": 4}, unk_token="<unk>"))
fast.pre_tokenizer = Whitespace()
fast.add_special_tokens([AddedToken("</s>", special=True)])


def targets(output: str) -> list[int]:
    """The targets of an output, from `SFTDataset` with the tokenizer as it is now."""
    with tempfile.TemporaryDirectory() as folder:
        fast.save(str(Path(folder) / "tokenizer.json"))
        config = {"eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config))
        rows = SFTDataset([{"instruction": "is it", "output": output}], Tokenizer(folder), Default())
        return [label for label in rows[0]["labels"].tolist() if label != -100]


without, written = targets("it is two"), targets("it is two</s>")
fast.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
added = targets("it is two")
print(f"the end is 0. no end in the text: {without}; in the text: {written}; put there by the tokenizer: {added}")
sys.exit(0 not in written or 0 not in added)
