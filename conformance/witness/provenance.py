"""Where does a position come from? Every message carries words that exist nowhere else in the corpus.

Rows of a batch are aligned with the token streams of the examples through those words: a stretch of four tokens that
occurs once in all streams names its example and its place, and is extended to both sides for as long as row and stream
agree. So a position is resolved whatever shuffling, packing, truncation and padding did to it; one that resolves to
nothing was not in any conversation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

WORD = 4
Origin = tuple[int, int]
NOWHERE: Origin = (-1, -1)


class Gap(NamedTuple):
    """Columns [start, stop) of a row that come from nowhere, between two tokens of one example.

    Its tokens (first, last) of the example stand to both sides; those between them are not in the row.
    """

    row: int
    start: int
    stop: int
    example: int
    first: int
    last: int


def gaps(resolved: Sequence[Sequence[Origin]]) -> Iterator[Gap]:
    """Where an example breaks off in a row, and goes on in it with something else in place of some of its tokens."""
    for number, origins in enumerate(resolved):
        before = None  # the last column that comes from somewhere
        for column, (example, offset) in enumerate(origins):
            if example < 0:
                continue
            if before is not None and column > before + 1 and origins[before][0] == example:
                first = origins[before][1]
                if offset > first + 1:
                    yield Gap(number, before + 1, column, example, first, offset)
            before = column


class Provenance:
    """Resolves positions to (example, offset in its token stream).

    streams: token ids of every example, as the specification encodes them.
    pad, limit: the padding's id, and the length at which examples are cut (None: they are not).
    alphabet: ids of the single-character tokens that nonces are made of; substitutes are drawn from it.
    """

    def __init__(
        self,
        streams: Sequence[Sequence[int]],
        alphabet: Sequence[int],
        pad: int | None = None,
        limit: int | None = None,
    ):
        self.pad, self.limit = pad, limit
        self.streams = [list(stream) for stream in streams]
        self.alphabet = list(alphabet)
        self.next_letter = {
            token: self.alphabet[(place + 1) % len(self.alphabet)] for place, token in enumerate(alphabet)
        }
        seen: dict[tuple[int, ...], Origin] = {}
        self.first = first = {stream[0] for stream in self.streams if stream}
        known: set[tuple[int, ...]] = set()
        for example, stream in enumerate(self.streams):
            if tuple(stream) in known:
                continue  # the first of equal conversations stands for all of them
            known.add(tuple(stream))
            for offset in range(len(stream) - WORD + 1):
                gram = tuple(stream[offset : offset + WORD])
                # In a pack the end of one example and the beginning of the next could look like one that goes on.
                if first.isdisjoint(gram[1:]):
                    seen[gram] = NOWHERE if gram in seen else (example, offset)
        self.anchors = {gram: origin for gram, origin in seen.items() if origin != NOWHERE}

    def resolve(self, rows: Sequence[Sequence[int]]) -> list[list[Origin]]:
        """The origin of every position of every row; a stretch without an anchor continues what was cut before it, or
        begins what goes on behind it.
        """
        rows = list(map(list, rows))
        resolved = [self._align(row) for row in rows]
        ends = {
            (origins[place][0], origins[place][1] + 1)
            for origins in resolved
            for place in range(len(origins))
            if origins[place] != NOWHERE and (place + 1 == len(origins) or origins[place + 1] == NOWHERE)
        }
        begins = {
            origins[place]
            for origins in resolved
            for place in range(len(origins))
            if origins[place][1] > 0 and (place == 0 or origins[place - 1] == NOWHERE)
        }
        seen = Counter(origin for origins in resolved for origin in origins)
        candidates: dict[int, list[Origin]] = {}  # by the token that they begin with
        for example, offset in (*((example, 0) for example in range(len(self.streams))), *sorted(ends)):
            if offset < len(self.streams[example]):
                candidates.setdefault(self.streams[example][offset], []).append((example, offset))
        for row, origins in zip(rows, resolved):
            self._fill(row, origins, candidates, begins, seen)
        for row, origins in zip(rows, resolved):
            # Padding behind an example that was cut just before its end-of-turn looks like that token.
            for place in range(len(row) - 1, -1, -1):
                example, offset = origin = origins[place]
                is_cut = self.limit is not None and offset >= self.limit
                is_padding = origin == NOWHERE or is_cut or 0 < seen[example, offset - 1] < seen[origin]
                if row[place] != self.pad or not is_padding:
                    break
                origins[place] = NOWHERE
                seen[origin] -= 1
        return resolved

    def _align(self, row: Sequence[int]) -> list[Origin]:
        origins = [NOWHERE] * len(row)
        place = 0
        while place <= len(row) - WORD:
            anchor = self.anchors.get(tuple(row[place : place + WORD]))
            if anchor is None or origins[place] != NOWHERE:
                place += 1
                continue
            example, offset = anchor
            stream = self.streams[example]
            # The anchor itself is this example's, wherever that is cut; so each turn of the loop goes on by a word.
            left, right = 0, WORD
            while (
                place - left > 0
                and offset - left > 0
                and origins[place - left - 1] == NOWHERE
                and row[place - left - 1] == stream[offset - left - 1]
            ):
                left += 1
            while (
                place + right < len(row)
                and offset + right < len(stream)
                and row[place + right] == stream[offset + right]
                # What was cut before a turn, and the next example that begins as that turn would, look like one.
                and not (offset + right == self.limit and row[place + right] in self.first)
            ):
                right += 1
            for step in range(-left, right):
                origins[place + step] = (example, offset + step)
            place += right
        return origins

    def _fill(
        self,
        row: Sequence[int],
        origins: list[Origin],
        candidates: Mapping[int, list[Origin]],
        begins: set[Origin],
        seen: Counter[Origin],
    ) -> None:
        """Resolve stretches without an anchor that equal a whole stream, go on where another piece was cut, or are what
        another piece was cut from. Of pieces that may go on alike, the one that was seen to go on least often does.
        """
        place = 0
        while place < len(row):
            if origins[place] != NOWHERE:
                place += 1
                continue
            stop = place
            while stop < len(row) and origins[stop] == NOWHERE:
                stop += 1
            (one, before), (other, behind) = [
                origins[at] if 0 <= at < len(row) else NOWHERE for at in (place - 1, stop)
            ]
            if one == other and behind > before + 1:
                place = stop  # it stands in place of that example's own tokens, and is of no other
                continue
            # What goes on from another row stands at the beginning of this one, or behind what has an end.
            goes_behind = place == 0 or origins[place - 1] != NOWHERE or row[place - 1] == self.pad
            best: tuple[int, Origin] = (0, NOWHERE)
            for example, offset in candidates.get(row[place], ()):
                if offset > 0 and not goes_behind:
                    continue
                stream = self.streams[example]
                length = min(stop - place, len(stream) - offset)
                if row[place : place + length] != stream[offset : offset + length]:
                    continue
                part = place + length == stop and (offset > 0 or (example, length) in begins)
                whole = offset + length == len(stream) or part
                goes_on = offset > 0 and best[1][1] > 0 and seen[example, offset] < seen[best[1]]
                if whole and (length > best[0] or (length == best[0] > 0 and goes_on)):
                    best = (length, (example, offset))
            length, (example, offset) = best
            for step in range(length):
                origins[place + step] = (example, offset + step)
                seen[example, offset + step] += 1
            place += max(length, 1)

    def perturbations(self, origins: list[list[Origin]]) -> Iterator[list[list[bool]]]:
        """Masks of positions to change, one mask a replay; only letters of nonces are ever changed (see
        replaying.with_other_tokens).
        """
        examples = sorted({example for row in origins for example, _ in row if example >= 0})
        number = {example: index for index, example in enumerate(examples)}
        for bit in range(max(1, (len(examples) - 1).bit_length()) if len(examples) > 1 else 0):
            for side in (0, 1):
                yield [
                    [self._is_letter(origin) and (number[origin[0]] >> bit) & 1 == side for origin in row]
                    for row in origins
                ]
        last: dict[int, int] = {}
        for row in origins:
            for example, offset in row:
                if self._is_letter((example, offset)):
                    last[example] = max(offset, last.get(example, -1))
        yield [[origin[0] in last and origin[1] == last[origin[0]] for origin in row] for row in origins]
        padding = [[origin == NOWHERE for origin in row] for row in origins]
        for gap in gaps(origins):  # an example goes on behind it, so it is no padding
            padding[gap.row][gap.start : gap.stop] = [False] * (gap.stop - gap.start)
        yield padding

    def _is_letter(self, origin: Origin) -> bool:
        return origin != NOWHERE and self.streams[origin[0]][origin[1]] in self.next_letter

    def substitute(self, input_ids):
        """Each letter replaced by the next of the alphabet; every other token by the alphabet's first letter."""
        other = input_ids.clone().fill_(self.alphabet[0])
        for token, replacement in self.next_letter.items():
            other[input_ids == token] = replacement
        return other
