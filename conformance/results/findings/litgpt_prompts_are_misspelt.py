"""LitGPT 0.5.13: two prompt styles write what their models were not trained on.

Run in an environment with litgpt 0.5.13. Prints the beginnings of the prompts in the styles phi-4-reasoning and
llama2-function-calling; exits 1 if one begins with `<|im_start>` and the other doubles the braces of its JSON.
"""

import sys

from litgpt.prompts import PromptStyle

phi = PromptStyle.from_name("phi-4-reasoning").apply("Hi")
llama = PromptStyle.from_name("llama2-function-calling").apply("Hi")
print(f"phi-4-reasoning: {phi[:20]!r}; llama2-function-calling: {llama[:40]!r}")
sys.exit(phi.startswith("<|im_start>") or "{{" in llama)
