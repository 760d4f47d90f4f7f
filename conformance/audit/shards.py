"""Files, folders and pipes, cut into shards that a worker reads by itself.

Rule of this file: what a file is, is read off its first bytes and not off its name, and no file is held in memory. A
shard of a plain JSON Lines file is a range of its bytes; of anything else, the records themselves. Every record keeps
its number: of the line, of the record in a JSON document, or of the row in a table.

    JSON Lines, JSON       plain, gz, bz2, xz, zst; from a file or from standard input (-)
    Parquet, Arrow         with pyarrow (the extra audit)
    a folder               of such files, or what `datasets` wrote with save_to_disk
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sftspec.conversation import ConversationError, parse_json

BYTES = 1 << 19  # of a shard; the first ones are smaller, so that something is seen at once
FIRST_BYTES = 1 << 14
ROWS = 1000
SUFFIXES = (".jsonl", ".json", ".ndjson", ".parquet", ".arrow", ".feather")
PACKED = (".gz", ".zst", ".bz2", ".xz")
# Of a file that holds no records: what it begins with, what it is, and what to do.
OTHER_FILES = {
    b"pk\x03\x04": "a zip archive; unpack it",
    b"version https://git-lfs": "a pointer of Git LFS, not the file; fetch it with git lfs pull",
    b"<!doctype": "a page of HTML, perhaps a download that failed",
    b"<html": "a page of HTML, perhaps a download that failed",
    b"sqlite format 3": "an SQLite database; export its rows as JSON Lines",
    b"\x80\x04\x95": "a pickle, which can run code and is not read; write JSON Lines",
}
NOT_DATA = {"dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json"}
CUT = (OSError, EOFError, lzma.LZMAError)  # what unpacking raises where a file ends early
UTF8_MARK = b"\xef\xbb\xbf"


class InputError(ValueError):
    """A file that cannot be read at all; says which, why and what to do."""


@dataclass(frozen=True)
class Source:
    """One file: where it is, how it is called, and what its records are."""

    path: Path | None  # None: standard input
    name: str

    def place(self, number: int, unit: str) -> str:
        return f"{self.name}:{number}" if unit == "line" else f"{self.name}, {unit} {number}"


@dataclass(frozen=True)
class Shard:
    """Some records of one file, in order.

    index       of the shard, over all files
    file        number of the file
    first, unit number of the first record, and what it is called: "line", "record" or "row"
    start, stop bytes of the file, where `data` is None
    data        the bytes of lines, or a list of the texts of records, or a table in Arrow's stream format
    size        bytes of the file that it covers, for a progress bar
    fault       why the rest of the file cannot be read
    """

    index: int
    file: int
    first: int
    unit: str
    path: str | None = None
    start: int = 0
    stop: int = 0
    data: Any = None
    size: int = 0
    fault: str = ""

    def records(self) -> Iterator[tuple[int, Any]]:
        """(number, bytes of one JSON value, or a row as a dict)."""
        if self.unit == "row":
            yield from enumerate(_rows(self.data), self.first)
        elif isinstance(self.data, list):
            yield from enumerate(self.data, self.first)
        else:
            data = self.data
            if data is None:
                with open(self.path, "rb") as file:  # type: ignore[arg-type]
                    file.seek(self.start)
                    data = file.read(self.stop - self.start)
            for number, line in enumerate(data.split(b"\n"), self.first):
                if line.strip():
                    yield number, line


TABLES = (".csv", ".tsv", ".xls", ".xlsx")  # each of whose lines would be a bad one


def find_sources(names: Iterable[str]) -> list[Source]:
    """The files that are meant. Raises InputError for what is not there, and for a folder without any."""
    sources: list[Source] = []
    for name in names:
        path = Path(name)
        if name == "-":
            sources.append(Source(None, "stdin"))
        elif path.is_dir():
            found = sorted(item for item in path.rglob("*") if _is_data(item))
            if not found:
                raise InputError(f"{name}: no file of conversations there ({', '.join(SUFFIXES)}; also packed)")
            sources += [Source(item.absolute(), str(item.relative_to(path.parent))) for item in found]
        elif path.is_file():
            if path.suffix.lower() in TABLES:
                raise InputError(
                    f"{name}: a table of text is not read; write JSON Lines, one object a line with its messages, or "
                    "prompt and response"
                )
            sources.append(Source(path.absolute(), path.name))
        else:
            raise InputError(f"{name}: there is no such file or folder")
    doubled = {source.name for source in sources if sum(other.name == source.name for other in sources) > 1}
    return [Source(item.path, str(item.path) if item.name in doubled else item.name) for item in sources]


def _is_data(path: Path) -> bool:
    stem = path.name
    for suffix in PACKED:
        stem = stem.removesuffix(suffix)
    hidden = any(part.startswith(".") for part in path.parts[-1:]) or path.name.startswith("cache-")
    return path.is_file() and not hidden and path.name not in NOT_DATA and stem.endswith(SUFFIXES)


def cut(sources: list[Source]) -> Iterator[Shard]:
    """All shards of all files, in order."""
    index = 0
    for number, source in enumerate(sources):
        for parts in _shards_of(source):
            yield Shard(index=index, file=number, **parts)
            index += 1


def total_bytes(sources: list[Source]) -> int | None:
    """The size of all files; None where one comes through a pipe."""
    if any(source.path is None for source in sources):
        return None
    return sum(source.path.stat().st_size for source in sources if source.path is not None)


def _shards_of(source: Source) -> Iterator[dict[str, Any]]:
    try:
        raw: Any = sys.stdin.buffer if source.path is None else open(source.path, "rb")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{source.name}: {error.strerror or error}") from error
    with raw:
        buffered = raw if hasattr(raw, "peek") else io.BufferedReader(raw)
        head = buffered.peek(64)[:64]
        try:
            if head[:4] == b"PAR1" or head[:6] == b"ARROW1" or head[:4] == b"\xff\xff\xff\xff":
                yield from _table_shards(source, buffered, head)
            elif head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in (head[0:1], head[1:2]):
                yield _fault(1, "line", "the file is UTF-16; save it as UTF-8")
            elif other := next((what for mark, what in OTHER_FILES.items() if head.lower().startswith(mark)), ""):
                yield _fault(1, "line", f"the file is {other}")
            else:
                yield from _text_shards(source, _unpacked(buffered, head, source), plain=_packing(head) is None)
        except CUT as error:
            yield _fault(1, "line", f"the file cannot be unpacked any further: {error}")


def _fault(first: int, unit: str, said: str) -> dict[str, Any]:
    return {"first": first, "unit": unit, "data": [], "fault": said}


def _packing(head: bytes) -> str | None:
    marks = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}
    return next((name for mark, name in marks.items() if head.startswith(mark)), None)


def _unpacked(raw: Any, head: bytes, source: Source) -> IO[bytes]:
    packing = _packing(head)
    if packing == "zstd":
        return _UntilCut(io.BufferedReader(_pyarrow(source, "zst").CompressedInputStream(raw, "zstd")))  # type: ignore
    openers: dict[str, Any] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    return _UntilCut(openers[packing](raw)) if packing else raw  # type: ignore[return-value]


class _UntilCut:
    """A packed file that gives all that can be unpacked before it says that the rest cannot."""

    def __init__(self, packed: Any):
        self.packed = packed
        self.error: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        left = size
        while left and self.error is None:
            try:
                part = self.packed.read1(min(left, BYTES) if left > 0 else BYTES)
            except CUT as error:
                self.error = error
                break
            if not part:
                break
            parts.append(part)
            left -= len(part)
        if self.error is not None and not parts:
            raise self.error
        return b"".join(parts)


def _pyarrow(source: Source, what: str) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise InputError(f"{source.name}: reading {what} needs pyarrow: pip install 'sftspec[audit]'") from None
    return pyarrow


def _text_shards(source: Source, file: Any, plain: bool) -> Iterator[dict[str, Any]]:
    head = file.read(1 << 20).removeprefix(UTF8_MARK)
    opening = head.lstrip()[:1]
    if _is_document(head, source, opening):
        text = io.BytesIO(head + file.read()) if opening == b"{" else _Chained(head, file)
        yield from _document_shards(text, opening)
        return
    if plain and source.path is not None:
        with open(source.path, "rb") as whole:
            skipped = len(UTF8_MARK) if whole.read(3) == UTF8_MARK else 0
            whole.seek(skipped)
            yield from _line_shards(whole, str(source.path))
    else:
        yield from _line_shards(_Chained(head, file), None)


class _Chained:
    """What was read of a file already, then the rest of it."""

    def __init__(self, head: bytes, rest: Any):
        self.head, self.rest = head, rest

    def read(self, size: int) -> bytes:
        part, self.head = self.head[:size], self.head[size:]
        return part or self.rest.read(size)


def _is_document(head: bytes, source: Source, opening: bytes) -> bool:
    """One JSON value over the whole file, and not one on each line."""
    if opening not in (b"[", b"{"):
        return False
    line, newline, rest = head.lstrip().partition(b"\n")
    if not newline and len(head) == 1 << 20:
        return opening == b"["  # one line of a megabyte: a list of records, or one record
    try:
        first = json.loads(line)
    except RecursionError:
        return False
    except ValueError:
        # A line that holds no whole value: the value goes on in the next one, or the line is broken.
        return line.strip() in (b"[", b"{") or (opening == b"[" and not _looks_like_lines(rest))
    if isinstance(first, list):
        return bool(first) and isinstance(first[0], dict) and "role" not in first[0]
    return not rest.strip() and source.path is not None and source.path.suffix == ".json"


def _looks_like_lines(rest: bytes) -> bool:
    lines = [line for line in rest.split(b"\n")[:3] if line.strip()]
    return bool(lines) and all(line.lstrip()[:1] == b"[" for line in lines)


def _line_shards(file: Any, path: str | None) -> Iterator[dict[str, Any]]:
    """Whole lines; from a path only where they are, else the bytes themselves."""
    start, first, rest, size = file.tell() if path else 0, 1, b"", FIRST_BYTES
    while True:
        try:
            block = file.read(size)
        except CUT as error:
            yield _fault(first, "line", f"the file cannot be unpacked any further: {error}")
            return
        data = rest + block
        end = len(data) if not block else data.rfind(b"\n") + 1
        piece, rest = data[:end], data[end:]
        if piece:
            place: dict[str, Any] = {"path": path, "start": start, "stop": start + end} if path else {"data": piece}
            yield {"first": first, "unit": "line", "size": end, **place}
            start, first, size = start + end, first + piece.count(b"\n"), min(2 * size, BYTES)
        if not block:
            return


def _document_shards(file: Any, opening: bytes) -> Iterator[dict[str, Any]]:
    """The records of one JSON value: those of a list one after the other, as they come."""
    if opening == b"{":
        data = file.read()
        yield {"first": 0, "unit": "record", "data": [data], "size": len(data)}
        return
    decoder = json.JSONDecoder()
    first, held, ended, fault = 0, 0, False, "it ends early"
    records: list[bytes] = []
    stream = io.TextIOWrapper(io.BufferedReader(_Raw(file)), encoding="utf-8", errors="surrogateescape")
    text = stream.read(BYTES).lstrip()[1:]
    position = 0
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        if position < len(text) and text[position] == "]":
            ended = True
            break
        try:
            _, end = decoder.raw_decode(text, position)
            is_whole = end < len(text)  # a number may go on in the next block
        except (ValueError, RecursionError) as error:
            is_whole, end, fault = False, position, str(error)
        if is_whole:
            records.append(text[position:end].encode("utf-8", "surrogateescape"))
            held += end - position
            position = end
            if held >= BYTES:
                yield {"first": first, "unit": "record", "data": records, "size": held}
                first, records, held = first + len(records), [], 0
            continue
        more = stream.read(max(BYTES, len(text) - position))  # doubling: a long record is not read again and again
        if not more:
            break
        text, position = text[position:] + more, 0
    fault = "" if ended else f"the list does not go on as JSON: {fault}"
    yield {"first": first, "unit": "record", "data": records, "size": held, "fault": fault}


class _Raw(io.RawIOBase):
    def __init__(self, file: Any):
        self.file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _table_shards(source: Source, raw: Any, head: bytes) -> Iterator[dict[str, Any]]:
    arrow = _pyarrow(source, "Parquet and Arrow")
    from pyarrow import ipc, parquet

    seekable = raw if raw.seekable() else io.BytesIO(raw.read())
    try:
        if head[:4] == b"PAR1":
            batches = parquet.ParquetFile(seekable).iter_batches(batch_size=ROWS)
        elif head[:6] == b"ARROW1":
            reader = ipc.open_file(seekable)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            batches = iter(ipc.open_stream(seekable))
        first = 0
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS):
                part = batch.slice(start, ROWS)
                sink = arrow.BufferOutputStream()
                with ipc.new_stream(sink, part.schema) as writer:
                    writer.write_batch(part)
                data = sink.getvalue().to_pybytes()
                yield {"first": first, "unit": "row", "data": data, "size": part.nbytes}
                first += part.num_rows
    except arrow.ArrowException as error:
        yield _fault(0, "row", f"the table cannot be read: {error}")


def _rows(data: Any) -> list[dict]:
    if not data:
        return []
    from pyarrow import ipc

    return ipc.open_stream(data).read_all().to_pylist()


def parsed(record: Any, source: str) -> Any:
    """The value of a record: bytes of JSON, or a row that is one already. Raises ConversationError."""
    if not isinstance(record, bytes):
        return record
    if b"\0" in record:
        raise ConversationError(f"{source}: a zero byte, which is no text; save the file as UTF-8")
    return parse_json(record, source)
