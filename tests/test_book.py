"""The book: every id has its place, every link within leads somewhere, the Markdown is the same each time."""

from __future__ import annotations

import posixpath
import re
import subprocess
import sys

import pytest

from sftspec.conformance.book import BookError, Page, prose
from sftspec.conformance.book.places import places
from sftspec.conformance.book.site import build, config, navigation, pages, write
from sftspec.conformance.commands.cli import main
from sftspec.conformance.sensitivity.mutants import load_mutants
from sftspec.properties.articles import articles
from sftspec.properties.catalogue import catalogue
from sftspec.properties.revisions import changes

LINK = re.compile(r"\]\(([^)\s:]+)\)")
ANCHOR = re.compile(r"^#+ .*\{:? .*?#([\w-]+).*\}$", re.M)


@pytest.fixture(scope="module")
def book() -> dict[str, Page]:
    return {page.path: page for page in pages()}


def anchors(page: Page) -> set[str]:
    return set(ANCHOR.findall(page.text))


def broken_links(book: dict[str, Page]) -> list[str]:
    """Each link within the book that leads nowhere."""
    there = {path: anchors(page) for path, page in book.items()}
    broken = []
    for path, page in book.items():
        for target in LINK.findall(re.sub(r"```.*?```", "", page.text, flags=re.S)):
            file, _, name = target.partition("#")
            found = posixpath.normpath(posixpath.join(posixpath.dirname(path), file)) if file else path
            if found not in there or (name and name not in there[found]):
                broken.append(f"{path}: {target}")
    return broken


def test_every_id_has_its_place(book):
    ids = [item.id for item in catalogue()] + list(articles()) + list(changes()["retired"])
    for name in [*ids, *(f"mutant {item.name}" for item in load_mutants())]:
        path, _, anchor = places()[name].partition("#")
        assert path in book, name
        assert not anchor or anchor in anchors(book[path]), name


def test_no_anchor_stands_twice(book):
    for path, page in book.items():
        found = ANCHOR.findall(page.text)
        assert len(found) == len(set(found)), path


def test_links_within_the_book_lead_somewhere(book):
    assert not broken_links(book)


def test_a_link_that_leads_nowhere_is_found(book):
    wrong = Page("traps.md", "Traps", "[gone](bounds.md#bound-gone) and [gone](gone.md)")
    assert len(broken_links({**book, "traps.md": wrong})) >= 2


def test_a_property_stands_with_its_law_its_bugs_and_its_code(book):
    text = book["masking/end-of-turn-is-trained.md"].text
    for part in ("Every trained assistant turn", "laws.md#mk-eot", "bounds.md#bound-exact", "Effect:", "Fix:", "@must"):
        assert part in text
    assert "planted.md#planted-end-of-turn-masked" in text


def test_the_navigation_holds_every_page_once(book):
    def paths(item):
        if isinstance(item, str):
            return [item]
        return [path for below in (item.values() if isinstance(item, dict) else item) for path in paths(below)]

    assert sorted(paths(navigation(book.values()))) == sorted(book)


@pytest.mark.long
def test_the_markdown_is_the_same_in_another_process(book, tmp_path):
    write(tmp_path / "here", book.values())
    code = (
        "import sys; from pathlib import Path; from sftspec.conformance.book.site import pages, write; "
        "write(Path(sys.argv[1]), pages())"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], check=True)
    here, there = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "here", tmp_path / "there")
    )
    assert here == there


def test_a_folder_of_something_else_is_left_alone(tmp_path, book):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BookError, match="name a new folder"):
        write(tmp_path, book.values())


def test_a_missing_generator_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BookError, match=re.escape("sftspec[book]")):
        build(tmp_path)


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("<|im_end|> is 1 * x", "&#60;&#124;im&#95;end&#124;&#62; is 1 &#42; x"),
        ("see H16", "see [H16](../traps.md#h16)"),
        ("[BOUND-LOSS](BOUNDS.md#bound-loss)", "[BOUND-LOSS](../bounds.md#bound-loss)"),
        ("a bug (trl#976)", "a bug ([trl&#35;976](https://github.com/huggingface/trl/issues/976))"),
    ],
)
def test_text_reads_as_it_is_and_ids_are_links(text, markdown):
    assert prose.prose(text, "step/laws.md") == markdown


def test_indices_are_lowered_and_exponents_raised():
    said = prose.formula("`z_s^2 + Σ_k x_(i) + add_tokens`", "laws.md")
    assert "z<sub>s</sub><sup>2</sup>" in said and "x<sub>(i)</sub>" in said and "add&#95;tokens" in said


def test_nothing_is_loaded_from_elsewhere(book):
    theme = config(book.values())["theme"]
    assert theme["font"] is False
    assert not [page.path for page in book.values() if re.search(r"!\[|<(img|script|link|iframe)\b", _shown(page.text))]


def _shown(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.S)


def test_one_file_holds_every_id_and_every_link_leads_to_one(book):
    pytest.importorskip("markdown")
    from sftspec.conformance.book.single import single

    html = single(book.values())
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids)), {name for name in ids if ids.count(name) > 1}
    assert not {name for name in re.findall(r'href="#([^"]+)"', html)} - set(ids)
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", html)


def test_the_command_makes_a_site_and_one_file(tmp_path, capsys):
    pytest.importorskip("material")
    assert main(["book", "--out", str(tmp_path / "book")]) == 0
    site = tmp_path / "book" / "site"
    assert (site / "step" / "laws.html").read_text(encoding="utf-8").count('id="st-dup"') == 1
    loaded = re.compile(r'<(?:script[^>]+src|link[^>]+rel="?stylesheet"?[^>]+href)="?https?:')
    assert not loaded.search((site / "index.html").read_text(encoding="utf-8"))
    assert "site:" in capsys.readouterr().out
