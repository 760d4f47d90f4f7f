"""ms-swift 4.6.0: the reasoning_content of an answer is thrown away when a dataset is read, in silence.

Run in an environment with ms-swift 4.6.0. Prints a conversation as its preprocessor leaves it; exits 1 if the reasoning
is gone.
"""

import sys

from datasets import Dataset
from swift.dataset.preprocessor import AutoPreprocessor

answer = {"role": "assistant", "reasoning_content": "One and one.", "content": "Two."}
rows = Dataset.from_list([{"messages": [{"role": "user", "content": "What is two?"}, answer]}])
(row,) = AutoPreprocessor()(rows, num_proc=1, load_from_cache_file=False)
print(row["messages"])
sys.exit("One and one." not in str(row["messages"]))
