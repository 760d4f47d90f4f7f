"""Which trainer: a name, `path/to/file.py:Name` or `package.module:Name`, made with the settings asked for.

A name is built in, or another package offers it as an entry point of the group `sftspec.trainers`.

A trainer is whatever has a `train(job)` method (sftspec.trainer.Trainer). A class or a function that is named is called
with `--set KEY=VALUE` as its keyword arguments, converted by their annotations or defaults; an object that is named
gets them as attributes. A wrong name, key or value is refused with the list of what there is: a setting that is ignored
in silence would put its verdict on another trainer.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import importlib.util
import inspect
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from sftspec.conformance.adapters.field import FIELD
from sftspec.conformance.witness.shadowing import FILE_PREFIX, with_hint


class TrainerError(ValueError):
    """The trainer that was asked for cannot be had; says why, and what there is."""


@dataclasses.dataclass(frozen=True)
class BuiltIn:
    """An adapter that comes with sftspec, the modules that have to be installed for it, and how they get there."""

    place: str
    requires: tuple[str, ...] = ()
    hint: str = "pip install 'sftspec[trl]'"


BUILT_IN = {
    "reference": BuiltIn("sftspec.trainer:Pipeline"),
    "transformers": BuiltIn(
        "sftspec.conformance.adapters.transformers_trainer:TransformersTrainer",
        ("transformers", "accelerate", "datasets"),
    ),
    "trl": BuiltIn("sftspec.conformance.adapters.trl:TRL", ("trl", "accelerate", "datasets")),
    **{
        name: BuiltIn(f"sftspec.conformance.adapters.{place}", requires, f"sftspec env create {name}")
        for name, (place, requires, _) in FIELD.items()
    },
    "packers": BuiltIn("sftspec.conformance.adapters.field.packers:Packers"),
}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A trainer, the place it was named by, and the settings asked for: as text, and converted."""

    trainer: Any
    place: str
    asked: Mapping[str, str] = dataclasses.field(default_factory=dict)
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def command(self) -> str:
        """The command line that puts it on trial."""
        sets = [word for key, text in self.asked.items() for word in ("--set", f"{key}={text}")]
        return shlex.join(["sftspec", "check", self.place, *sets])

    @property
    def setting(self) -> dict[str, Any]:
        """Its settings by name, also those that were not asked for."""
        return {**setting_of(self.trainer), **self.chosen}


def resolve(place: str, asked: Mapping[str, str] | None = None) -> Candidate:
    """The trainer at a place, made with these settings. Raises TrainerError."""
    asked = dict(asked or {})
    target = find(place)
    options = options_of(target)
    unknown = [key for key in asked if key not in options]
    if unknown:
        known = ", ".join(f"{key}={default!r}" for key, (_, default) in options.items()) or "none"
        raise TrainerError(f"{place} has no setting {unknown[0]!r}; its settings and their defaults: {known}")
    chosen = {key: convert(f"{key}={text}", text, options[key][0]) for key, text in asked.items()}
    try:
        trainer = make(target, chosen)
    except Exception as error:
        raise TrainerError(f"{place} cannot be made: {error or type(error).__name__}") from error
    if not callable(getattr(trainer, "train", None)):
        raise TrainerError(f"{place} is a {type(trainer).__name__} without a method train(job)")
    return Candidate(trainer, place, asked, chosen)


def candidate_for(trainer: Any, settings: Mapping[str, Any]) -> Candidate:
    """A trainer that is at hand, or named by its place, with settings as values. Raises TrainerError."""
    asked = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in settings.items()}
    if isinstance(trainer, str):
        return resolve(trainer, asked)
    source = trainer if is_recipe(trainer) else type(trainer)
    place = f"{source.__module__.removeprefix(FILE_PREFIX)}:{source.__qualname__}"
    known = options_of(trainer)
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise TrainerError(f"{place} has no setting {unknown[0]!r}; its settings: {', '.join(known) or 'none'}")
    made = make(trainer, settings)
    if not callable(getattr(made, "train", None)):
        raise TrainerError(f"{place} is a {type(made).__name__} without a method train(job)")
    return Candidate(made, place, asked, settings)


ENTRY_POINTS = "sftspec.trainers"  # of another package: its trainer's name in `sftspec check NAME`


def installed() -> dict[str, EntryPoint]:
    """The trainers that other packages offer, by name."""
    if sys.version_info < (3, 10):
        return {item.name: item for item in entry_points().get(ENTRY_POINTS, ())}
    return {item.name: item for item in entry_points(group=ENTRY_POINTS)}


def find(place: str) -> Any:
    """The class, function or object at a place."""
    if place not in BUILT_IN and place in (offered := installed()):
        place = offered[place].value
    if place in BUILT_IN:
        built_in = BUILT_IN[place]
        missing = [name for name in built_in.requires if importlib.util.find_spec(name) is None]
        if missing:
            raise TrainerError(f"{place} needs {', '.join(missing)}, not installed here: {built_in.hint}")
        place = built_in.place
    module_name, _, name = place.rpartition(":") if ":" in place else (place, "", "")
    if not module_name.endswith(".py") and Path(place).exists() and Path(place).suffix:
        raise TrainerError(f"{place} is no Python file: a trainer is a class in path/to/file.py")
    if module_name.endswith(".py"):
        module = import_file(Path(module_name))
    elif ":" in place or "." in place:
        module = import_module(module_name)
    else:
        known = ", ".join([*BUILT_IN, *installed()])
        raise TrainerError(f"unknown trainer {place!r}; known: {known}, path/to/file.py:Name, package.module:Name")
    trainers = [
        key
        for key, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and callable(getattr(value, "train", None))
    ]
    if not name and len(trainers) != 1:
        found = (
            f"it defines {', '.join(trainers)}: add :Name" if trainers else "it defines no class with a method train"
        )
        raise TrainerError(f"which trainer in {module_name}? {found}")
    if not hasattr(module, name or trainers[0]):
        raise TrainerError(f"{module_name} has no {name!r}; with a method train: {', '.join(trainers) or 'none'}")
    return getattr(module, name or trainers[0])


def import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TrainerError(f"{path}: no such file")
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = f"{FILE_PREFIX}{path.stem}"
    module = sys.modules[name] = ModuleType(name)
    module.__file__ = str(path)

    def load() -> ModuleType:
        SourceFileLoader(name, str(path)).exec_module(module)
        return module

    return _imported(str(path), load)


def import_module(name: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")
    return _imported(name, lambda: importlib.import_module(name))


def _imported(name: str, load: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load()
    except Exception as error:
        raise TrainerError(with_hint(f"{name} cannot be imported: {type(error).__name__}: {error}", error)) from error


def is_recipe(target: Any) -> bool:
    """A class or a function makes a trainer; anything else is one."""
    return inspect.isclass(target) or inspect.isroutine(target)


def options_of(target: Any) -> dict[str, tuple[tuple[str, ...], Any]]:
    """The settings that a class, function or object takes: by name, the kinds of value it may have, and its default."""
    options = {key: (kinds_of("", value), value) for key, value in plain_attributes(target).items()}
    if is_recipe(target):
        for item in inspect.signature(target).parameters.values():
            if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY):
                default = None if item.default is item.empty else item.default
                options[item.name] = (kinds_of(item.annotation, default), default)
    return {key: (kinds, default) for key, (kinds, default) in options.items() if kinds}


KINDS = ("None", "bool", "int", "float", "str")


def kinds_of(annotation: Any, default: Any) -> tuple[str, ...]:
    """What text may be converted to: "int | None" gives ("None", "int"); without annotation, the default's type."""
    text = annotation.__name__ if inspect.isclass(annotation) else str(annotation)
    words = {{"Optional": "None", "NoneType": "None"}.get(word, word) for word in re.findall(r"\w+", text)}
    kinds = tuple(kind for kind in KINDS if kind in words)
    if set(kinds) - {"None"}:
        return kinds
    if default is None and words <= {"_empty"}:
        return KINDS
    return tuple(kind for kind in KINDS[1:] if type(default).__name__ == kind)


def convert(place: str, text: str, kinds: Sequence[str]) -> Any:
    """Text as the first of the kinds that it can be. Raises TrainerError with the kinds."""
    words = {"true": True, "false": False}
    if "None" in kinds and text.lower() == "none":
        return None
    if "bool" in kinds and text.lower() in words:
        return words[text.lower()]
    for kind, read in (("int", int), ("float", float), ("str", str)):
        if kind in kinds:
            try:
                return read(text)
            except ValueError:
                continue
    shown = {"bool": "true or false", "int": "a whole number", "float": "a number", "None": "none"}
    raise TrainerError(f"{place}: expected {' or '.join(shown[kind] for kind in reversed(kinds))}")


def make(target: Any, chosen: Mapping[str, Any]) -> Any:
    """Call what makes a trainer with the settings that are its parameters; the others become attributes."""
    if not is_recipe(target):
        trainer, attributes = copy.copy(target), dict(chosen)
    else:
        parameters = inspect.signature(target).parameters
        trainer = target(**{key: value for key, value in chosen.items() if key in parameters})
        attributes = {key: value for key, value in chosen.items() if key not in parameters}
    if dataclasses.is_dataclass(trainer) and not inspect.isclass(trainer) and attributes:
        return dataclasses.replace(trainer, **attributes)
    for key, value in attributes.items():
        setattr(trainer, key, value)
    return trainer


NOT_A_SETTING = frozenset({"name", "version", "setting", "claims", "conventions"})


def plain_attributes(target: Any) -> dict[str, Any]:
    """Public attributes that are None, a bool, a number or a text: of an object, and of the classes it is made from."""
    classes = target.__mro__ if inspect.isclass(target) else type(target).__mro__
    found: dict[str, Any] = {}
    for holder in (*reversed([vars(item) for item in classes if item is not object]), getattr(target, "__dict__", {})):
        found.update(holder)
    return {
        key: value
        for key, value in found.items()
        if not key.startswith("_")
        and key not in NOT_A_SETTING
        and (value is None or isinstance(value, (bool, int, float, str)))
    }


def setting_of(trainer: Any) -> dict[str, Any]:
    """What a trainer states as its setting; else its plain attributes, and the functions put in place of its own."""
    stated = getattr(trainer, "setting", None)
    if isinstance(stated, Mapping):
        return dict(stated)
    setting = plain_attributes(trainer)
    for field in dataclasses.fields(trainer) if dataclasses.is_dataclass(trainer) else ():
        value = getattr(trainer, field.name)
        if inspect.isroutine(value) and value is not field.default:
            setting[field.name] = f"{value.__module__.removeprefix(FILE_PREFIX)}.{value.__qualname__}"
    return setting
