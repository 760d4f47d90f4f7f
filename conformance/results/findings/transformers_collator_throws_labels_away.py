"""transformers 5.23.0: DataCollatorForLanguageModeling throws away the labels of a dataset that has some.

Run in an environment with transformers 5.23.0. A row with a masked prompt, and no error where labels are as long as
their rows: prints the labels that come out; exits 1 if the prompt is trained.
"""

import sys

from newline_tokenizer import make
from transformers import DataCollatorForLanguageModeling

row = {"input_ids": [65, 66, 67, 68], "labels": [-100, -100, 67, 68]}
labels = DataCollatorForLanguageModeling(make(), mlm=False)([dict(row)])["labels"][0].tolist()
print(f"labels of the dataset: {row['labels']}; of the batch: {labels}")
sys.exit(labels != row["labels"])
