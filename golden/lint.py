"""Check the golden files: `python -m sftspec.golden.lint`.

Rule of this file: what can be wrong with a golden without any tokenizer is found here: its schema, its id, an empty
confirmation, ranges outside the ids, a case that repeats another one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from sftspec.golden.loader import CASES, GoldenCase, GoldenError, read_case

SCHEMA = Path(__file__).with_name("schema.json")


def faults(folder: Path = CASES) -> Iterator[str]:
    """Everything that is wrong, one line each."""
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    seen: dict[str, str] = {}
    for path in sorted(folder.glob("*.json")):
        records = json.loads(path.read_text(encoding="utf-8"))
        for error in validator.iter_errors(records):
            yield f"{path.name}: {error.json_path}: {error.message[:200]}"
        for record in records:
            try:
                case = read_case(record)
            except GoldenError as error:
                yield f"{path.name}: {error}"
                continue
            yield from (f"{path.name}: {case.id}: {fault}" for fault in _of_case(case, path))
            question = json.dumps([record[key] for key in QUESTION], sort_keys=True)
            if question in seen:
                yield f"{path.name}: {case.id} asks the same as {seen[question]}"
            seen[question] = case.id


QUESTION = ("template", "special_tokens", "tokenization", "add_generation_prompt", "messages", "tools")


def _of_case(case: GoldenCase, path: Path) -> Iterator[str]:
    if not case.id.startswith(case.template + "/") or path.stem != case.template.replace("/", "-"):
        yield "does not stand in the file of its template"
    answered = [case.text is not None, case.input_ids is not None]
    if case.rejected is not None:
        if any(answered) or case.trained is not None:
            yield "is rejected and has an answer"
        return
    if case.text is None or case.input_ids is None:
        yield "has neither an answer nor a reason for its rejection"
        return
    ends = [0, *(end for span in case.trained or () for end in span), len(case.input_ids)]
    if ends != sorted(ends) or any(start >= stop for start, stop in case.trained or ()):
        yield f"trained ranges {case.trained} are not in order inside {len(case.input_ids)} ids"
    answers = sum(message["role"] == "assistant" for message in case.messages)
    if case.trained is not None and len(case.trained) != answers:
        yield f"{len(case.trained)} trained ranges for {answers} answers"
    if not case.second and not case.disagreements:
        yield "nobody was asked to confirm it"


if __name__ == "__main__":
    found = list(faults())
    print("\n".join(found) or "no fault")
    sys.exit(bool(found))
