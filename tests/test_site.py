"""The site's pages: all of them are reached, their links lead somewhere, every public name says what it is."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

FIGURE = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e-\d+)?")
VERDICTS = ("reproduced", "partly", "not reproduced", "not tested yet", "not testable here")


def loaded(name: str) -> ModuleType:
    """A script of `site-src` as a module."""
    path = Path(__file__).parents[1] / "site-src" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"site_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site() -> ModuleType:
    return loaded("build")


@pytest.fixture(scope="module")
def outside() -> ModuleType:
    return loaded("links")


def test_every_page_stands_once_in_the_navigation(site: ModuleType):
    assert sorted(site.navigation()) == sorted(site.pages())


def test_links_lead_to_files_of_the_tree(site: ModuleType):
    assert sum(len(list(site.links(path))) for path in site.markdown()) > 100


def test_links_lead_where_the_site_has_the_files(site: ModuleType):
    start, extending = site.page("README.md"), site.page("docs/extending.md")
    assert "](tasks.md#your-own-pairs)" in start and "](changelog.md)" in start and "](images/viewer.png)" in start
    assert "](source/LICENSE.md)" in start
    assert "](source/tests/models/own_family.py.md)" in extending and "](#add-a-method)" in extending
    assert "](../tracr.md)" in site.page("docs/results/tracr.md")


def test_brackets_in_code_are_no_links(site: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.md").write_text(
        "`x[0](y)`\n\n```python\nf[0](z)\n```\n\n[`a`](a.md#there) [b](https://b.example/c.md)\n"
    )
    monkeypatch.setattr(site, "ROOT", tmp_path)
    assert [file for _, file in site.links("a.md")] == ["a.md"]


def test_a_link_to_no_file_is_named_with_its_line(site: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.md").write_text("first\n\n[b](b.md)\n")
    monkeypatch.setattr(site, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"a\.md:3: a link to b\.md"):
        list(site.links("a.md"))


def test_claims_stand_beside_figures_of_the_pages_they_name(site: ModuleType):
    """A page that is written anew must not leave old figures of it beside the papers' claims."""
    page, seen = site.ROOT / "docs" / "results" / "index.md", 0
    for line in page.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 5 or cells[0] in ("claim", "---"):
            continue
        claim, _, ours, named, verdict = cells
        assert verdict.startswith(VERDICTS), claim
        sources = [page.parent / target for target in re.findall(r"\]\(([^)#]+)", named)]
        there = {figure for source in sources for figure in FIGURE.findall(source.read_text("utf-8"))}
        figures = FIGURE.findall(ours)
        assert there.issuperset(figures), f"{claim}: not on {named}: {set(figures) - there}"
        seen += len(figures)
    assert seen > 100


def test_every_public_name_says_what_it_is(site: ModuleType):
    names = [(room, name) for room in site.rooms() for name in site.exports(room)]
    silent = [f"{room}.{name}" for room, name in names if not site.docstring(name, site.definition(room, name)[1])]
    assert len(names) > 300 and not silent, silent


def test_addresses_elsewhere_are_well_formed_and_of_known_hosts(outside: ModuleType):
    """Whether they are there only `make links` can tell."""
    found = list(outside.addresses())
    wrong = [f"{place}: {address}: {said}" for place, address in found if (said := outside.fault(address))]
    assert not wrong, "\n".join(wrong)
    assert {place.split(":")[0] for place, _ in found} >= {"CHANGELOG.md", "docs/command-line.md"}


def test_an_address_is_read_without_what_surrounds_it(outside: ModuleType, tmp_path: Path):
    (tmp_path / "a.md").write_text(
        "[b](https://b.example/c.md), <http://d.example/e?f=1#g>.\nSee https://h.example/i.\n"
    )
    found = dict(outside.addresses(tmp_path))
    assert found == {"a.md:1": "http://d.example/e?f=1#g", "a.md:2": "https://h.example/i"}
    assert len(list(outside.addresses(tmp_path))) == 3
    assert outside.fault("http://d.example/e?f=1#g") == "not https" and "d.example" in outside.fault(
        "https://d.example"
    )
