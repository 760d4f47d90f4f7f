"""The tokenizer and the template that a file is shown with: what was named, or a clear error."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from sftspec.conformance.commands.show import ShowError
from sftspec.conformance.report.token_strip import visible
from sftspec.spans import TemplateError
from sftspec.templates import Template, find_template
from sftspec.vocabulary import vocabulary_of


class Tokens:
    """A tokenizer as a strip reads it: the text of one token, control tokens and leading spaces included."""

    def __init__(self, inner: Any, name: str):
        self.inner = inner
        self.name = name
        self.vocabulary = vocabulary_of(inner)
        self.is_byte_level = self.vocabulary.normal_form is not None
        self.text = lru_cache(maxsize=None)(lambda token: visible(self, token))

    def decode(self, ids: Sequence[int]) -> str:
        if self.is_byte_level:
            return self.inner.decode(list(ids), skip_special_tokens=False)
        return "".join(_of_piece(self.inner.id_to_token(token)) for token in ids)

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.inner.id_to_token(token)


def _of_piece(piece: str) -> str:
    """The text of a SentencePiece token; of a byte that is no character by itself, its escape."""
    byte = re.fullmatch("<0x([0-9A-F]{2})>", piece)
    if byte is None:
        return piece.replace("▁", " ")
    number = int(byte[1], 16)
    return chr(number) if number < 128 else f"\\x{number:02x}"


def load_tokenizer(place: str) -> Tokens:
    """The small tokenizer, a tokenizer.json, or the one of a directory. Raises ShowError."""
    from tokenizers import Tokenizer

    from sftspec.golden import small_tokenizer

    path = small_tokenizer.PATH if place == "small" else Path(place)
    if path.is_dir():
        path /= "tokenizer.json"
    if not path.is_file():
        raise ShowError(f"--tokenizer {place}: no {path.name} there; give small, a tokenizer.json or a folder with one")
    try:
        return Tokens(Tokenizer.from_file(str(path)), Path(place).name)
    except Exception as error:  # the Rust side raises Exception itself
        raise ShowError(f"--tokenizer {place}: not a tokenizer.json that can be read: {error}") from error


def special_tokens_of(place: str) -> dict[str, str]:
    """bos_token, eos_token and their like, as the tokenizer's directory states them: variables of a chat template."""
    path = Path(place) if place != "small" else Path()
    config = (path if path.is_dir() else path.parent) / "tokenizer_config.json"
    if place == "small" or not config.is_file():
        return {}
    found = json.loads(config.read_text(encoding="utf-8"))
    texts = {key: value.get("content") if isinstance(value, dict) else value for key, value in found.items()}
    return {key: text for key, text in texts.items() if key.endswith("_token") and isinstance(text, str)}


def choose_template(name: str | None, tokenizer: str) -> Template:
    """The template asked for; else the one of the tokenizer's directory; else plain ChatML. Raises ShowError."""
    from sftspec.jinja_templates import load_jinja_template

    folder = Path(tokenizer)
    own = tokenizer != "small" and folder.is_dir() and any(folder.glob("chat_template.jinja"))
    try:
        if name is not None and Path(name).exists():
            return load_jinja_template(Path(name), **special_tokens_of(tokenizer))
        if name is None and (own or "chat_template" in _config(folder)):
            return load_jinja_template(folder)
        return find_template(name or "chatml/openai")
    except (TemplateError, OSError, ValueError) as error:
        raise ShowError(f"--template {name or tokenizer}: {error}") from error


def _config(folder: Path) -> str:
    path = folder / "tokenizer_config.json"
    return path.read_text(encoding="utf-8") if path.is_file() else ""
