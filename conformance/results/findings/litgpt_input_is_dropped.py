"""LitGPT 0.5.13: a prompt style other than alpaca drops the "input" of a sample, in silence.

Run in an environment with litgpt 0.5.13. The prompt of a sample in each style: prints the styles that leave its input
out; exits 1 if there are any.
"""

import sys

from litgpt.prompts import prompt_styles

sample = {"instruction": "Translate to French.", "input": "Good morning.", "output": "Bonjour."}
dropped = []
for name, style in prompt_styles.items():
    prompt = style().apply(prompt=sample["instruction"], **sample)  # as `SFTDataset.__getitem__` calls it
    if sample["input"] not in str(prompt):
        dropped.append(name)
print(f"styles that keep the input: {len(prompt_styles) - len(dropped)}; that drop it: {', '.join(dropped)}")
sys.exit(bool(dropped))
