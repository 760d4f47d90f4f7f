"""Tensors in a file of the safetensors format, written and read with torch and the standard library alone.

The format is eight bytes of length (little-endian), a JSON header {name: dtype, shape, offsets}, and the data
(github.com/huggingface/safetensors, "Format"). A trainer's process need not have the library of that name, nor numpy.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
DTYPES = {name: dtype for dtype, name in NAMES.items()}


def bytes_of(tensor: Tensor) -> bytes:
    """The bytes of a tensor's elements, in order."""
    plain = tensor.detach().cpu().contiguous()
    return ctypes.string_at(plain.data_ptr(), plain.numel() * plain.element_size()) if plain.numel() else b""


def is_same(one: Tensor, other: Tensor) -> bool:
    """Equal bit for bit: NaN is itself, and 0 is not -0."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(*(item.detach().contiguous().flatten().view(torch.uint8) for item in (one, other)))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name. Raises ValueError for a dtype that the format does not have."""
    if sys.byteorder != "little":
        raise ValueError("tensors are written on little-endian machines only")
    header, place = {}, 0
    for name, tensor in tensors.items():
        if tensor.dtype not in NAMES:
            raise ValueError(f"{name}: no file holds a tensor of {tensor.dtype}")
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, place + size],
        }
        place += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(bytes_of(tensor))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, each in memory of its own."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
    found = {}
    for name, item in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        begin, end = item["data_offsets"]
        tensor = torch.empty(item["shape"], dtype=DTYPES[item["dtype"]])
        if len(data) < start + end or tensor.numel() * tensor.element_size() != end - begin:
            raise ValueError(f"{path.name}: {name} is cut off")
        ctypes.memmove(tensor.data_ptr(), address + start + begin, end - begin)
        found[name] = tensor
    return found
