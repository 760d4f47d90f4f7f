"""ms-swift 4.6.0: two messages of the user in a row become one, with nothing between their texts.

Run in an environment with ms-swift 4.6.0. Prints the messages as `Template._swift_prepare_inputs` leaves them; exits 1
if two have become one word.
"""

import sys
from types import SimpleNamespace

from swift.template.base import Template

template = object.__new__(Template)
template.template_backend = "swift"
messages = [
    {"role": "user", "content": "Answer in French."},
    {"role": "user", "content": "What is two?"},
    {"role": "assistant", "content": "Deux."},
]
inputs = SimpleNamespace(messages=messages, tools=None)
template._swift_prepare_inputs(inputs)
for message in inputs.messages:
    print(message["role"], repr(message["content"]))
sys.exit(inputs.messages[0]["content"] == "Answer in French.What is two?")
