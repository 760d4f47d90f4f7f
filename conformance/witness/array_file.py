"""Tensors in a file of the safetensors format, as arrays of numpy: for trainers whose environment has no torch.

The format is that of `tensor_file`. numpy has no bfloat16: such a tensor is an array of V2, two bytes as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("V2"),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def as_stored(array: np.ndarray) -> np.ndarray:
    """An array in a dtype that a file holds, bit for bit. Raises ValueError where there is none."""
    array = np.asarray(array, order="C")
    if array.dtype.name == "bfloat16":  # of the package ml_dtypes, which comes with JAX
        return array.view("V2")
    if array.dtype not in NAMES:
        raise ValueError(f"no file holds an array of {array.dtype}")
    return array


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name."""
    header, place, stored = {}, 0, {name: as_stored(item) for name, item in arrays.items()}
    for name, item in stored.items():
        end = place + item.nbytes
        header[name] = {"dtype": NAMES[item.dtype], "shape": list(item.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for item in stored.values():
            file.write(item.tobytes())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, item in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = (start + offset for offset in item["data_offsets"])
            found[name] = np.frombuffer(data[begin:end], DTYPES[item["dtype"]]).reshape(item["shape"]).copy()
    return found
