"""Somebody's code from a path, or a part of it where the rest cannot be imported here."""

from __future__ import annotations

import ast
import importlib.util
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Copies:
    """Where the oracles lie: one folder for each, named as below (`python -m sftspec.golden.generate --help`)."""

    root: Path

    def __truediv__(self, name: str) -> Path:
        path = self.root / name
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; generate.py --help says what belongs there")
        return path


def load_module(path: Path, name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, f"{path} is no module"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def one_function(source: str, name: str, names: dict) -> Any:
    """One function of a module whose other imports are not to be had."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            for argument in (*node.args.args, *node.args.kwonlyargs):
                argument.annotation = None
            node.returns = None
            namespace = dict(names)
            exec(compile(ast.Module([node], []), name, "exec"), namespace)
            return namespace[name]
    raise LookupError(name)


def returned_string(source: str, cls: str, name: str, names: dict) -> str:
    """The template string that a property of a class builds (transformers: default_chat_template)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and node.name == cls:
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == name:
                    item.decorator_list = []
                    namespace = dict(names)
                    exec(compile(ast.Module([item], []), name, "exec"), namespace)
                    return namespace[name](types.SimpleNamespace(use_default_system_prompt=False))
    raise LookupError(f"{cls}.{name}")


def string_constant(source: str, key: str) -> str:
    """The value of a string entry of a dict literal in a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            for name, value in zip(node.keys, node.values, strict=True):
                if isinstance(name, ast.Constant) and name.value == key and isinstance(value, ast.Constant):
                    return str(value.value)
    raise LookupError(key)
