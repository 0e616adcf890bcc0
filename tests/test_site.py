"""The site's pages: all of them are reached, their links lead somewhere, every public name says what it is."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def site() -> ModuleType:
    path = Path(__file__).parents[1] / "site-src" / "build.py"
    spec = importlib.util.spec_from_file_location("site_build", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_every_public_name_says_what_it_is(site: ModuleType):
    names = [(room, name) for room in site.rooms() for name in site.exports(room)]
    silent = [f"{room}.{name}" for room, name in names if not site.docstring(name, site.definition(room, name)[1])]
    assert len(names) > 300 and not silent, silent
