"""LitGPT 0.5.13: with include_multiturn_conversations later turns are samples of their own, without the earlier ones.

Run in an environment with litgpt 0.5.13. A conversation of two turns in the form of LIMA and of Deita: prints the
samples; exits 1 if the second one lacks the first turn.
"""

import sys

from litgpt.data import deita, lima

turns = ["My name is Ada.", "Hello Ada!", "What is my name?", "Your name is Ada."]
made = {
    "lima": lima.format_dataset([{"conversations": turns}], True),
    "deita": deita.format_dataset([{"messages": [{"content": turn} for turn in turns]}], True),
}
for name, samples in made.items():
    print(f"{name}: the second sample is {samples[1]['instruction']!r} -> {samples[1]['output']!r}")
sys.exit(any("My name is Ada." not in samples[1]["instruction"] for samples in made.values()))
