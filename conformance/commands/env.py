"""`sftspec env create NAME`, `sftspec env list`: the pinned environment of a trainer, in which `check NAME` runs it."""

from __future__ import annotations

import argparse
from pathlib import Path

from sftspec.conformance.environments.build import create, default_place, state_of
from sftspec.conformance.environments.lock import locks, read_lock
from sftspec.counted import counted


def add_env_arguments(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    making = actions.add_parser("create", help="make it with venv and pip, exactly as its lock file says")
    making.add_argument("names", metavar="NAME", nargs="+", help="of a trainer; see `sftspec env list`")
    making.add_argument("--again", action="store_true", help="begin anew where there is one")
    listing = actions.add_parser("list", help="the environments that can be made, and those that are there")
    for item in (making, listing):
        item.add_argument(
            "--at", metavar="DIR", type=Path, default=None,
            help="where environments lie (default $SFTSPEC_ENVS, else the user's cache directory)",
        )  # fmt: skip


def run_env(args: argparse.Namespace) -> int:
    place = (args.at or default_place()).absolute()
    if args.action == "list":
        return list_environments(place)
    chosen = [read_lock(name) for name in args.names]  # a typo is told before the first one is made
    for lock in chosen:
        text = locks()[lock.name].read_text(encoding="utf-8")
        python = create(lock, text, place, print, args.again)
        hint = "" if place == default_place() else f"export SFTSPEC_ENVS={place}; "
        print(f"{python}\ntry: {hint}sftspec check {lock.name}")
        for note in lock.notes:
            print(f"note: {note}")
    return 0


def list_environments(place: Path) -> int:
    names = sorted(locks())
    width = max(len(name) for name in names)
    for name in names:
        lock = read_lock(name)
        print(
            f"{name:{width}}  {state_of(name, place):12}  {counted(len(lock.pins), 'distribution')}, {lock.framework}"
        )
    print(f"in {place}")
    return 0
