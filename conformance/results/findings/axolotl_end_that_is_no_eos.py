"""axolotl 0.19.0: where a template ends turns with a token that is not the EOS, no end of a turn is trained.

Run in an environment with axolotl 0.19.0. `ChatTemplateStrategy` as for `type: chat_template`, a template that ends
turns with `<|im_end|>`, the EOS `<|endoftext|>`, as the templates of Gemma do with theirs: prints a conversation with
what is trained in brackets, in that template and in one that names `eos_token` in a comment, and what was warned of;
exits 1 if no end is trained.
"""

import logging
import os
import sys

os.environ.update({"AXOLOTL_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"})

import newline_tokenizer
from axolotl.prompt_strategies.chat_template import ChatTemplatePrompter, ChatTemplateStrategy

turns = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]
ends, heard = 0, []
listener = logging.Handler()
listener.emit = lambda record: heard.append(record.getMessage())
logging.getLogger("axolotl.prompt_strategies.chat_template").addHandler(listener)
for more in ("", "{# no eos_token #}"):
    tokenizer = newline_tokenizer.make()
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    template = newline_tokenizer.CHATML + more
    heard.clear()
    prompter = ChatTemplatePrompter(tokenizer, chat_template=template, message_field_training="train")
    kinds = {"roles_to_train": ["assistant"], "train_on_eos": "turn"}
    strategy = ChatTemplateStrategy(prompter, tokenizer, False, 256, **kinds)
    row = strategy.tokenize_prompt({"messages": turns * 2})
    text = newline_tokenizer.shown(tokenizer, row["input_ids"], row["labels"])
    print(repr(text), "warned:", any("terminator" in line for line in heard))
    ends += text.count("<|im_end|>]")
sys.exit(not ends)
