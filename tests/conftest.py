import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors are tiny, and pytest-xdist already uses every core

import torch

torch.set_num_threads(1)
