"""Chat templates by place: a .jinja file, a tokenizer's folder, a folder of templates, or those of a library.

    qwen.jinja                 one file
    path/to/model              a folder with chat_template.jinja, or with chat_template in tokenizer_config.json
    path/to/templates          a folder of .jinja files: each of them
    trl, trl:qwen3             all that are bundled with TRL, or one
    chatml/qwen2.5             a named variant of sftspec itself

A template is read as text and never imported: what it can do is decided by the sandbox that renders it.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from sftspec.conformance.adapters import TrainerError
from sftspec.spans import Piece, TemplateError
from sftspec.templates import TEMPLATES, Template

# Libraries that ship templates as files: the folder inside the package.
LIBRARIES = {"trl": "chat_templates"}

# What a template is given where no tokenizer says it, by a marker in its source.
TOKENS = {
    "<|start_header_id|>": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "<|im_start|>": {"eos_token": "<|im_end|>"},
    "": {"bos_token": "<s>", "eos_token": "</s>"},
}


def templates_at(place: str, variables: Mapping[str, str] | None = None) -> Iterator[tuple[str, Template]]:
    """(name, template) of everything at a place. variables: bos_token and its like, as a tokenizer states them.

    Raises TrainerError where there is none.
    """
    library, _, name = place.partition(":")
    path = Path(place)
    if path.is_dir() and not _has_template(path):
        yield from _of_folder(path, "", place, variables)
    elif path.exists():
        yield path.name, _read(path, variables)
    elif place in TEMPLATES:
        yield place, TEMPLATES[place]
    elif library in LIBRARIES:
        yield from _of_folder(_folder_of(library), name, library, variables, f"{library}:")
    else:
        known = ", ".join([*LIBRARIES, *(f"{library}:NAME" for library in LIBRARIES), *TEMPLATES])
        raise TrainerError(f"no template at {place}: give a .jinja file, a folder, or one of {known}")


def places_at(place: str) -> Iterator[tuple[str, str]]:
    """(place, name) of each of them alone; nothing is read yet."""
    library, _, name = place.partition(":")
    path = Path(place)
    if path.is_dir() and not _has_template(path):
        for stem, file in _paths(path, "", place):
            yield str(file), stem
    elif library in LIBRARIES and not path.exists():
        for stem, _ in _paths(_folder_of(library), name, library):
            yield f"{library}:{stem}", f"{library}:{stem}"
    else:
        yield place, path.name if path.exists() else place


def _has_template(folder: Path) -> bool:
    config = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").exists() or (config.exists() and "chat_template" in _json(config))


def _json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrainerError(f"{path}: not valid JSON ({error})") from error
    return found if isinstance(found, dict) else {}


def _folder_of(library: str) -> Path:
    spec = importlib.util.find_spec(library)
    if spec is None or not spec.submodule_search_locations:
        raise TrainerError(f"{library} is not installed here: pip install {library}")
    return Path(spec.submodule_search_locations[0]) / LIBRARIES[library]


def _of_folder(
    folder: Path, name: str, place: str, variables: Mapping[str, str] | None, prefix: str = ""
) -> Iterator[tuple[str, Template]]:
    for stem, path in _paths(folder, name, place):
        yield prefix + stem, _read(path, variables)


def _paths(folder: Path, name: str, place: str) -> list[tuple[str, Path]]:
    """(stem, file) of each template in a folder, or of the one of this name."""
    paths = {path.stem: path for path in sorted(folder.glob("*.jinja"))}
    if not paths:
        raise TrainerError(f"{place}: no .jinja file, no chat_template.jinja and no tokenizer_config.json with one")
    if name and name not in paths:
        close = difflib.get_close_matches(name, paths, 3, 0.4) or list(paths)
        raise TrainerError(f"{place} has no template {name!r}; did you mean {', '.join(close)}?")
    return [(stem, path) for stem, path in paths.items() if name in ("", stem)]


def _read(path: Path, variables: Mapping[str, str] | None) -> Template:
    from sftspec.jinja_templates import RenderBudgetError, load_jinja_template

    try:
        if path.is_file() and path.suffix == ".jinja" and not variables:
            source = path.read_text(encoding="utf-8")
            variables = next(tokens for marker, tokens in TOKENS.items() if marker in source)
        return load_jinja_template(path, **(variables or {}))
    except RenderBudgetError as error:  # it is on trial all the same: it renders nothing
        return Template(path.stem, _refusing(error), (), "")
    except (TemplateError, OSError, ValueError) as error:
        raise TrainerError(f"{path}: {error}") from error


def _refusing(error: TemplateError) -> Callable[[list[dict], bool], Iterator[Piece]]:
    def pieces(messages: list[dict], add_generation_prompt: bool) -> Iterator[Piece]:
        raise error

    return pieces
