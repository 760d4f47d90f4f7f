"""ms-swift 4.6.0: the end-of-turn token of an empty answer is not trained, unless it is the last one.

Run in an environment with ms-swift 4.6.0. Calls `Template._add_dynamic_eos` with the labels of two rounds, and prints
what is trained behind each answer; exits 1 if one of the two is not.
"""

import sys

from swift.template.base import Template

header, answer, end = [1, 2], [7, 8], [9, 10]
trained = []
for text in (answer, []):  # the first round's answer
    ids = [*header, *text, *end, *header, *answer, *end]
    labels = [-100, -100, *text, -100, -100, -100, -100, *answer, *end]
    Template._add_dynamic_eos(ids, labels, None, end)
    place = len(header) + len(text)
    trained.append(labels[place : place + 2] == end)
    print(f"first answer {text}: its end-of-turn is trained: {trained[-1]}")
sys.exit(not all(trained))
