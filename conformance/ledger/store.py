"""The files of a recording: strict JSON, and tensors by place.

What was written comes back bit for bit, NaN included. A file that is missing, of another format, or that holds a tensor
too many or too few is an error that names it: what is skipped in silence is evidence that is lost.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sftspec.counted import counted

FORMAT = 1


class RecordingError(ValueError):
    """A folder that is no recorded run, or not one that this version can read; names the file and the fault."""


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(_encoded(record, ""), allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of the format that this version reads."""
    try:
        text = present(path, LARGEST_JSON).read_text(encoding="utf-8")
        record = json.loads(text, object_pairs_hook=_decoded, parse_constant=_refused, parse_float=_finite)
    except RecordingError:
        raise
    except RecursionError:
        raise RecordingError(f"{path}: not valid JSON (it is nested too deeply)") from None
    except (OSError, ValueError) as error:
        raise RecordingError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        raise RecordingError(f"{path}: format {found!r}; this version reads {FORMAT}: update sftspec, or record again")
    return record


LARGEST_JSON, LARGEST_TENSORS = 64 * 2**20, 512 * 2**20  # bytes; the suite's own are at most a tenth of it


def present(path: Path, largest: int = LARGEST_TENSORS) -> Path:
    """The path of a file of a recording: one that is there, in the folder itself, and not larger than any is."""
    if path.is_symlink() or path.parent.is_symlink():
        raise RecordingError(f"{path}: it is a link; a recording holds its files itself")
    if not path.is_file():
        raise RecordingError(f"{path}: no such file; `sftspec record TRAINER --out DIR` writes a whole folder")
    if path.stat().st_size > largest:
        raise RecordingError(f"{path}: {counted(path.stat().st_size, 'byte')}; at most {largest:,} are read")
    return path


def _encoded(value: Any, place: str) -> Any:
    """The value in JSON, which has no NaN and no infinity: these are {"$float": "nan"}."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _encoded(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encoded(item, place) for item in value]
    if hasattr(value, "tolist"):
        return _encoded(value.tolist(), place)
    raise RecordingError(f"{place.lstrip('.')}: a {type(value).__name__} cannot be recorded; report numbers and texts")


def _decoded(pairs: list[tuple[str, Any]]) -> Any:
    item = dict(pairs)
    if len(item) < len(pairs):
        raise ValueError("a key stands twice in one object")
    if item.keys() == {"$float"}:
        if item["$float"] not in ("nan", "inf", "-inf"):
            raise ValueError('"$float" is "nan", "inf" or "-inf"')
        return float(item["$float"])
    return item


def _refused(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


class Tensors:
    """Tensors by place; equal ones once.

    stored  place: tensor, as in the file
    equal   place: the place at which the same tensor is stored
    """

    def __init__(self, stored: dict | None = None, equal: dict[str, str] | None = None, source: str = ""):
        self.stored, self.equal, self.source = stored or {}, equal or {}, source
        self._places: dict[tuple, str] = {}
        self._taken: set[str] = set()

    def put(self, place: str, mapping: Mapping[str, Any]) -> list[str]:
        """Store the tensors of a mapping at place/NAME. Returns their names, in order."""
        import torch

        for name, value in mapping.items():
            tensor = value.detach().cpu().contiguous()
            content = hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
            here = f"{place}/{name}"
            first = self._places.setdefault((tensor.dtype, tensor.shape, content), here)
            if first == here:
                self.stored[here] = tensor.clone()
            else:
                self.equal[here] = first
        return list(mapping)

    def take(self, place: str, names: Iterable[str]) -> dict[str, Any]:
        """The mapping that was put at a place."""
        found = {}
        for name in names:
            here = f"{place}/{name}"
            stored = self.equal.get(here, here)
            if stored not in self.stored:
                raise RecordingError(f"{self.source}: the tensor {stored} is missing")
            self._taken |= {here, stored}
            found[name] = self.stored[stored]
        return found

    def check_all_taken(self) -> None:
        unknown = sorted((self.stored.keys() | self.equal.keys()) - self._taken)
        if unknown:
            more = f", and {len(unknown) - 1} more" if unknown[1:] else ""
            raise RecordingError(f"{self.source}: unknown tensor {unknown[0]}{more}")
