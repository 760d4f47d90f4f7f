"""Ways to spoil the files of a recording: its tensors, what their names stand for, what lies beside them.

Each way takes a source of chance and a file of the recording, changes it, and returns what it did in a few words. A
file is always replaced and never written into: the copies of a recording share their files by hard links.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\x08\u202e"  # title, screen, colour, backspace, direction: it must not come out
ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**63, 10**30, 10**400, 1e308, 5e-324, "", "x", "../right", "/etc/passwd",
    ESCAPE, "\x00", "\ud800", [], {}, [[]], {"a": 1}, {"$float": "nan"}, {"$float": "inf"}, {"$float": "x"},
    {"$float": []}, [1] * 1000, "a" * 100_000, 0.5, -0.0, "0", "plain", "packed",
)  # fmt: skip
SENTINEL = "SFTSPEC_CODE_RAN"


class Evil:
    """A pickle of it makes a folder when it is loaded."""

    def __init__(self, place: str):
        self.place = place

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.place,)


def replace(path: Path, data: bytes | str) -> None:
    path.unlink()
    path.write_bytes(data.encode("utf-8", errors="surrogatepass") if isinstance(data, str) else data)


def text_of(value: Any) -> str:
    try:
        return json.dumps(value)
    except ValueError:  # 10**400 has no text within Python's limit
        return json.dumps(value, default=str).replace('"x"', "1" * 5000)


def spoil_bytes(chance: random.Random, path: Path) -> str:
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 8))):
        here = chance.randrange(min(len(data), chance.choice((16, 4096, len(data)))))
        data[here] = chance.randrange(256)
    replace(path, bytes(data[: chance.choice((len(data), len(data), chance.randrange(len(data) + 1)))]))
    return "bytes"


def spoil_header(chance: random.Random, path: Path) -> str:
    """The header of safetensors: shapes, dtypes, offsets, names, its length."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    names = [name for name in header if name != "__metadata__"]
    name = chance.choice(names)
    entry, other = header[name], header[chance.choice(names)]
    how = chance.choice(
        ("shape", "dtype", "offsets", "other", "name", "drop", "twice", "length", "deep", "odd", "meta")
    )
    length = None
    if how == "shape":
        entry["shape"] = chance.choice(([2**40], [2**62, 4], [0], [], [-1], [10**30], [1] * 5000, "x", [1.5], [None]))
    elif how == "dtype":
        entry["dtype"] = chance.choice(
            ("F64", "F16", "BF16", "I64", "BOOL", "U8", "F8_E4M3", "F4", "C64", "X", 3, ESCAPE)
        )
    elif how == "offsets":
        entry["data_offsets"] = chance.choice(([0, 2**63], [0, 0], [5, 1], [-4, 4], [2**64, 2**65], "x", [0]))
    elif how == "other":
        header[name] = other
    elif how == "name":
        header[chance.choice(("../x", ESCAPE, "step/0/gradients/", "a" * 10_000, "", "\x00"))] = header.pop(name)
    elif how == "drop":
        del header[name]
    elif how == "length":
        length = chance.choice((0, 1, 2**63, 2**64 - 1, 10**8, size + 1, size - 1, size + len(rest)))
    elif how == "deep":
        entry["shape"] = "@deep"
    elif how == "odd":
        header[name] = chance.choice(ODD)
    elif how == "meta":
        header["__metadata__"] = chance.choice(({"a": "b"}, {"a": 1}, "x", {ESCAPE: ESCAPE}, {"a": "b" * 10**6}))
    text = text_of(header).replace('"@deep"', "[" * 20_000 + "]" * 20_000)
    if how == "twice":
        text = text[:-1] + f", {json.dumps(name)}: {json.dumps(other)}}}"
    encoded = text.encode()
    replace(path, struct.pack("<Q", len(encoded) if length is None else length) + encoded + rest)
    return f"header {how} {name[:40]}"


def spoil_values(chance: random.Random, path: Path) -> str:
    """The numbers of one tensor: NaN, the infinities, zero, another scale."""
    import numpy

    data = bytearray(path.read_bytes())
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(bytes(data[8 : 8 + size]))
    name = chance.choice([item for item in header if header[item].get("dtype") == "F32"] or ["none"])
    if name == "none":
        return "values of nothing"
    first, last = (8 + size + offset for offset in header[name]["data_offsets"])
    numbers = numpy.frombuffer(bytes(data[first:last]), dtype="<f4").copy()
    value = chance.choice((float("nan"), float("inf"), 0.0, 3e38, 1e-45, -1.0))
    few = numpy.array([chance.randrange(len(numbers)) for _ in range(8)], dtype=int)
    chosen = chance.choice((slice(None), few))
    numbers[chosen] = value if chance.random() < 0.7 else numbers[chosen] * numpy.float32(-1.5)
    data[first:last] = numbers.tobytes()
    replace(path, bytes(data))
    return f"values {value} {name[:40]}"


def spoil_pickle(chance: random.Random, path: Path) -> str:
    """A pickle in place of the file: it makes a folder when it is loaded."""
    data = pickle.dumps(Evil(str(path.parent / SENTINEL)), protocol=chance.choice((0, 2, 4)))
    if chance.random() < 0.3:
        path = path.with_name(chance.choice(("pytorch_model.bin", "optimizer.pt", "tokenizer.pkl", "modeling.py")))
        path.write_bytes(data)
        return f"pickle beside {path.name}"
    replace(path, data)
    return "pickle"


def spoil_files(chance: random.Random, path: Path) -> str:
    """What a name stands for: nothing, a link, a folder, a pipe, a socket, another file; or another name, or a size."""
    how = chance.choice((
        "drop", "empty", "link", "loop", "outside", "folder", "fifo", "socket", "swap", "rename", "longer", "huge",
        "linked folder", "unreadable name", "many",
    ))  # fmt: skip
    others = [item for item in path.parent.rglob("*") if item.is_file() and item != path]
    if how == "longer":
        replace(path, path.read_bytes() + bytes(chance.choice((1, 7, 4096))))
    elif how == "huge":
        replace(path, path.read_bytes())
        os.truncate(path, chance.choice((65 * 2**20, 513 * 2**20, 2**40)))  # sparse: it takes no room
    elif how == "rename":
        path.rename(path.with_name(chance.choice((path.name.upper(), path.name + ".bak", "\x1b[2Jx", "x" * 200))))
    elif how == "linked folder":
        moved = path.parent.with_name("moved-" + path.parent.name)
        path.parent.rename(moved)
        path.parent.symlink_to(moved)
    elif how == "unreadable name":
        (path.parent / os.fsdecode(b"\xff\xfe\x1b[2J")).write_bytes(b"x")
    elif how == "many":
        for number in range(200):
            more = path.parent / f"more-{number}"
            if not more.exists():  # one may be a pipe by now, at which a writer waits
                more.write_bytes(b"")
    else:
        swapped = chance.choice(sorted(others)).read_bytes() if others and how == "swap" else b""
        path.unlink()
        if how in ("link", "loop", "outside"):
            path.symlink_to({"link": "/dev/zero", "loop": path.name, "outside": "../../../base-0"}[how])
        elif how == "folder":
            path.mkdir()
        elif how == "fifo":
            os.mkfifo(path)
        elif how == "socket":
            with suppress(OSError), socket.socket(socket.AF_UNIX) as made:  # its path may be too long
                made.bind(str(path))
        elif how in ("swap", "empty"):
            path.write_bytes(swapped)
    return f"file {how}"


def spoil_folder(chance: random.Random, path: Path) -> str:
    """The folder of a run, renamed, doubled or gone."""
    how = chance.choice(("rename", "drop", "copy of itself"))
    folder = path.parent
    if how == "rename":
        folder.rename(folder.with_name("99-other"))
    elif how == "drop":
        shutil.rmtree(folder)
    else:
        shutil.copytree(folder, folder / "twin", copy_function=os.link, dirs_exist_ok=True)
    return f"folder {how}"
