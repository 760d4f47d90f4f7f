"""The book as files: Markdown with a configuration, the site that MkDocs makes of it, and the book of one file.

    OUT/mkdocs.yml     the configuration (JSON, which is YAML)
    OUT/markdown/      one file a page
    OUT/site/          the site; nothing in it is loaded from elsewhere
    OUT/sftspec.html   all pages in one file

The Markdown is the same, byte for byte, whenever the code is. A link that leads nowhere fails the build (--strict).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sftspec.conformance.book import BookError, Page, chapters, frame, planted, results, written
from sftspec.conformance.book.places import AREA_TITLES

CONFIG = "mkdocs.yml"
STYLE = Path(__file__).with_name("site.css")
TABS = ("Laws and bounds", *AREA_TITLES.values(), "Results", "Evidence", "Reference")


def pages() -> list[Page]:
    """Every page: first those of no section, then by section in the order of TABS."""
    made = [*frame.opening(), *written.pages(), *chapters.pages(), *planted.pages(), *results.pages(), *frame.pages()]
    order = {title: number for number, title in enumerate(TABS, 1)}
    return sorted(made, key=lambda page: order[page.section[0]] if page.section else 0)


def config(made: Iterable[Page]) -> dict[str, Any]:
    """What MkDocs is told."""
    return {
        "site_name": "sftspec",
        "site_description": "The executable specification of LLM supervised fine-tuning",
        "docs_dir": "markdown",
        "site_dir": "site",
        "use_directory_urls": False,  # links lead to files, also from a disk
        "theme": {
            "name": "material",
            "font": False,  # those of the reader's machine: nothing is loaded from elsewhere
            "palette": [
                _palette("default", "light", "slate", "weather-night"),
                _palette("slate", "dark", "default", "weather-sunny"),
            ],
            "icon": {"logo": "material/scale-balance"},
            "features": [
                "navigation.tabs", "navigation.tabs.sticky", "navigation.indexes", "navigation.prune",
                "navigation.top", "navigation.footer", "search.suggest", "search.highlight", "toc.follow",
            ],
        },
        "extra": {"generator": False},
        "extra_css": ["site.css"],
        "plugins": ["search"],
        "markdown_extensions": [
            "attr_list", "md_in_html", "tables", "pymdownx.superfences",
            {"pymdownx.highlight": {"use_pygments": True}},
            {"toc": {"permalink": True, "toc_depth": 3}},
        ],
        "validation": {"links": {"anchors": "warn"}},
        "nav": navigation(made),
    }  # fmt: skip


def _palette(scheme: str, prefers: str, other: str, icon: str) -> dict[str, Any]:
    toggle = {"icon": f"material/{icon}", "name": f"Switch to {'dark' if other == 'slate' else 'light'}"}
    media = f"(prefers-color-scheme: {prefers})"
    return {"media": media, "scheme": scheme, "primary": "indigo", "accent": "indigo", "toggle": toggle}


def navigation(made: Iterable[Page]) -> list[Any]:
    """The pages under their sections; a page that is an index stands for its section."""
    top: list[Any] = []
    for page in made:
        place = top
        for title in page.section:
            below: list[Any] = next((item[title] for item in place if isinstance(item, dict) and title in item), [])
            if not below:
                place.append({title: below})
            place = below
        place.append(page.path if page.path.endswith("/index.md") else {page.title: page.path})
    return top


def write(out: Path, made: Iterable[Page]) -> None:
    """Write the Markdown and the configuration. Raises BookError for a folder that holds something else."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / CONFIG).exists())):
        raise BookError(f"{out} holds something that is no book: name a new folder")
    made = list(made)
    shutil.rmtree(out / "markdown", ignore_errors=True)
    for page in made:
        path = out / "markdown" / page.path
        path.parent.mkdir(parents=True, exist_ok=True)
        head = f"---\nsearch:\n  boost: {page.boost:g}\n---\n\n" if page.boost != 1 else ""
        path.write_text(f"{head}# {page.title}\n\n{page.text}\n", encoding="utf-8")
    shutil.copyfile(STYLE, out / "markdown" / "site.css")
    (out / CONFIG).write_text(json.dumps(config(made), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def build(out: Path) -> None:
    """Make the site. Raises BookError where the generator is missing, or where it refuses a page."""
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        raise BookError(f"the pages are in {out / 'markdown'}; the site needs: pip install 'sftspec[book]'")
    flags = ["--strict", "--quiet", "--clean", "--config-file", str(out / CONFIG)]
    command = [sys.executable, "-m", "mkdocs", "build", *flags]
    done = subprocess.run(command, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise BookError(f"MkDocs refuses the pages in {out / 'markdown'}:\n{(done.stdout + done.stderr).strip()}")
