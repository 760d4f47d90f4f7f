"""axolotl 0.19.0: where a template writes a think block into the last turn whether it has reasoning or not, as Qwen3's
does, the block's opening is not trained, though the model has to write it.

Run in an environment with axolotl 0.19.0. `ChatTemplateStrategy` as for `type: chat_template`; a conversation of two
answers with reasoning after one question, as with a tool: prints it with what is trained in brackets, and the
generation prompt; exits 1 if the opening of a block is not trained, and not in the generation prompt either.
"""

import os
import sys

os.environ.update({"AXOLOTL_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"})

import newline_tokenizer
from axolotl.prompt_strategies.chat_template import ChatTemplatePrompter, ChatTemplateStrategy

# Of Qwen3's template what stands after the last question: a block in the last turn, and where there is reasoning.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and (loop.last or m.reasoning_content) %}"
    "<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
turns = [
    {"role": "user", "content": "A"},
    {"role": "assistant", "reasoning_content": "R", "content": "B"},
    {"role": "tool", "content": "C"},
    {"role": "assistant", "reasoning_content": "S", "content": "D"},
]
tokenizer = newline_tokenizer.make()
prompter = ChatTemplatePrompter(tokenizer, chat_template=TEMPLATE, message_field_training="train")
strategy = ChatTemplateStrategy(prompter, tokenizer, False, 256, roles_to_train=["assistant"], train_on_eos="turn")
row = strategy.tokenize_prompt({"messages": turns})
text = newline_tokenizer.shown(tokenizer, row["input_ids"], row["labels"])
given = tokenizer.apply_chat_template(
    turns[:1], chat_template=TEMPLATE, add_generation_prompt=True, tokenize=False
).rpartition("<|im_end|>\n")[2]
print(f"{text!r}\ngeneration prompt: {given!r}")
sys.exit(text.count("[<think>") < 2 and "<think>" not in given)
