"""`python -m sftspec.properties.revisions`: write the words of this revision, and say what is still undeclared.

… retired ID "WHY" SUCCESSOR …   the id is no more; these carry its demand on
… reworded ID "WHY"              the sentence reads otherwise and demands the same
"""

from __future__ import annotations

import sys

from sftspec.properties import revisions


def main(arguments: list[str]) -> int:
    kind, *words = arguments or ["write"]
    if kind == "retired" and len(words) > 2:
        revisions.declare(kind, words[0], {"successors": words[2:], "why": words[1]})
    elif kind == "reworded" and len(words) == 2:
        revisions.declare(kind, *words)
    elif kind != "write":
        print(__doc__, file=sys.stderr)
        return 2
    revisions.write()
    found = list(revisions.undeclared(revisions.current(), revisions.earlier(), revisions.changes()))
    print("\n".join([*found, f"{len(found)} undeclared changes"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
