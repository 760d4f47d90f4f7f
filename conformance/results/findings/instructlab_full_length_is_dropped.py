"""instructlab-training 0.16.2: a sample of exactly max_seq_len tokens is dropped, and is not among those it counts.

Run in an environment with instructlab-training 0.16.2. Prints the lengths that are kept of 30, 31 and 32 tokens at
max_seq_len 32, and the number that its statistics call dropped; exits 1 if one is lost that is not counted.
"""

import logging
import sys

from datasets import Dataset, disable_progress_bars
from instructlab.training import data_process

if __name__ == "__main__":
    disable_progress_bars()
    said = []

    class Said(logging.Handler):
        def emit(self, record):
            if "samples to be dropped" in record.getMessage():
                said.append(int(record.getMessage().rpartition(" ")[2]))

    data_process.logger.addHandler(Said())
    data_process.logger.setLevel(logging.INFO)
    rows = Dataset.from_list([{"len": length} for length in (30, 31, 32)])
    data_process.analyze_dataset_statistics(rows, 32, 1)
    kept = data_process.filter_samples_by_length(rows, 32)["len"]
    print(f"kept {list(kept)}; said to be dropped: {sum(said)}")
    sys.exit(len(rows) - len(kept) != sum(said))
