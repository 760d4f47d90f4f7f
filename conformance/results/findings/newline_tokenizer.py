"""A helper of other scripts: a byte-level tokenizer in which two newlines are one token, as in most vocabularies."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make():
    symbols = {symbol: number for number, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    symbols["ĊĊ"] = len(symbols)
    tokenizer = Tokenizer(models.BPE(symbols, [("Ċ", "Ċ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    made.chat_template = CHATML
    return made


def shown(tokenizer, ids, labels):
    """The text with what is trained in brackets."""
    text, open_ = "", False
    for token, label in zip(ids, labels, strict=True):
        if (label != -100) != open_:
            text, open_ = text + ("]" if open_ else "["), label != -100
        text += tokenizer.decode([token])
    return text + ("]" if open_ else "")
