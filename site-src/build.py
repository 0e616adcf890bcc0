"""Build the site: lay out its pages, let Zensical render them, and fail on whatever it warns of.

Pages stay where a forge shows them. A tutorial that `make tutorials` has run is shown with what it printed. Laid out
here is what Zensical does not find in `docs/`: the pages of the root
folder, the sources that pages link to, each as a page, and a page for every room with its public names.
"""

import ast
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src"
SITE = ROOT / "build" / "docs"
RUN = ROOT / "build"
"""Below it, tutorials as they were run, by their paths in the tree without `docs/`."""
SETTINGS = Path(__file__).with_name("zensical.toml")
STYLE = Path(__file__).with_name("style.css")

AT_ROOT = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Pages outside `docs/`, and what the site calls them."""
# Code comes first, so that brackets in it are no links.
LINK = re.compile(r"^```.*?^```|`[^`]+`|(?<=\]\()(?P<target>[^)\s#]+)(?=[)#])", re.DOTALL | re.MULTILINE)
ELSEWHERE = re.compile(r"[a-z]+:")
# The loggers of what reads the sources; Zensical's strict mode does not count their warnings.
WARNING = re.compile(r"^(?:WARNING|griffe|mkdocstrings)\b.*", re.MULTILINE)


def markdown() -> list[str]:
    """The pages that people wrote, by their paths in the tree."""
    return [*AT_ROOT, *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))]


def dotted(folder: Path) -> str:
    """A package's name."""
    return ".".join(folder.relative_to(SOURCES).parts)


@cache
def rooms() -> dict[str, Path]:
    """The stub of every room, by the room's dotted name."""
    stubs = sorted((SOURCES / "edgewise").rglob("__init__.pyi"))
    return {dotted(stub.parent): stub for stub in stubs}


def place(path: str) -> str:
    """Where the site has a file of the tree; a source becomes a page."""
    if path in AT_ROOT:
        return AT_ROOT[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}.md"


def pages() -> list[str]:
    """The pages that the navigation must lead to."""
    return [*map(place, markdown()), *(f"api/{room}.md" for room in rooms())]


def navigation(entries: list | None = None) -> Iterator[str]:
    """The pages that the navigation leads to, in its order."""
    if entries is None:
        entries = tomllib.loads(SETTINGS.read_text("utf-8"))["project"]["nav"]
    for entry in entries:
        for at in entry.values():
            yield from [at] if isinstance(at, str) else navigation(at)


def run_of(path: str) -> Path:
    """Where a tutorial lies as it was run, if it was."""
    return RUN / path.removeprefix("docs/") if path.startswith("docs/tutorials/") else ROOT / path


def text_of(path: str) -> str:
    """A page's text; of a tutorial that was run, with what it printed."""
    run = run_of(path)
    return (run if run.is_file() else ROOT / path).read_text("utf-8").strip() + "\n"


def links(path: str) -> Iterator[tuple[re.Match[str], str]]:
    """Each link of a page to a file of the tree: where it stands, and the file's path in the tree.

    Raises:
        FileNotFoundError: a file is not there.
    """
    text = text_of(path)
    for found in LINK.finditer(text):
        target = found["target"]
        if target is None or ELSEWHERE.match(target):
            continue
        file = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if not (ROOT / file).is_file():
            line = text.count("\n", 0, found.start()) + 1
            raise FileNotFoundError(f"{path}:{line}: a link to {target}, which is no file")
        yield found, file


def page(path: str) -> str:
    """A page's text, its links leading to where the site has the files."""
    text, here = text_of(path), posixpath.dirname(place(path))
    for found, file in reversed(list(links(path))):
        text = text[: found.start()] + posixpath.relpath(place(file), here or ".") + text[found.end() :]
    if run_of(path).with_suffix(".ipynb").is_file():
        text = text.replace("\n", f"\n\n[This page as a notebook]({Path(path).stem}.ipynb)\n", 1)
    return text


def source_page(path: str) -> str:
    """A source as a page."""
    language = {".py": "python", ".md": "markdown"}.get(Path(path).suffix, "")
    return f"# {path}\n\n````{language}\n{(ROOT / path).read_text('utf-8')}````\n"


@cache
def exports(room: str) -> dict[str, Path]:
    """The public names of a room, each with the file it comes from: a module, or another room's stub."""
    found = {}
    for node in ast.parse(rooms()[room].read_text("utf-8")).body:
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            at = rooms()[room].parent.joinpath(*(node.module or alias.name).split("."))
            found[alias.name] = at / "__init__.pyi" if at.is_dir() else at.with_suffix(".py")
    return found


@cache
def parsed(module: Path) -> ast.Module:
    """A module's syntax tree."""
    return ast.parse(module.read_text("utf-8"))


def definition(room: str, name: str) -> tuple[str, Path]:
    """The room that defines what another may show too, and the module there."""
    at = exports(room)[name]
    if at.suffix == ".pyi":
        inner = dotted(at.parent)
        return (inner, at.with_suffix(".py")) if inner == f"{room}.{name}" else definition(inner, name)
    for node in parsed(at).body:
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            module = str(node.module)
            if module in rooms():
                return definition(module, name)
            return room, SOURCES.joinpath(*module.split(".")).with_suffix(".py")
    return room, at


def statements(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, ast.stmt]]:
    """Each statement with the one after it, those under an `if` as well."""
    for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        yield node, after
        if isinstance(node, ast.If):
            yield from statements(node.body)


def docstring(name: str, module: Path) -> str:
    """What a module says of itself, or of a class, a function or a constant in it; empty where it says nothing."""
    tree = parsed(module)
    if name == (module.parent.name if module.stem == "__init__" else module.stem):
        return ast.get_docstring(tree) or ""
    for node, after in statements(tree.body):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return ast.get_docstring(node) or ""
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if name in [target.id for target in targets if isinstance(target, ast.Name)]:
            said = after.value if isinstance(after, ast.Expr) else None
            return str(said.value) if isinstance(said, ast.Constant) else ""
    return ""


def room_page(room: str) -> str:
    """A room's page: what it is for, a table of its names, and each name that it defines."""
    rows, own = [], []
    for name in sorted(exports(room), key=str.lower):
        home, module = definition(room, name)
        link = f"[`{name}`]({home}.md)" if module.stem == "__init__" else f"[`{name}`][{home}.{name}]"
        what = " ".join(docstring(name, module).split("\n\n")[0].split()).replace("|", "\\|")
        rows.append(f"| {link} | {what} |")
        own += [name] if home == room else []
    about = docstring(room.rpartition(".")[2], rooms()[room].with_suffix(".py"))
    table = "\n".join(["| name | what it is |", "|---|---|", *rows])
    return f"# {room}\n\n{about}\n\n{table}\n\n::: {room}\n    options:\n      members: {own}\n"


def lay_out(folder: Path) -> None:
    """Write all pages, with the pictures and files that they show, into an empty folder."""
    shutil.copytree(ROOT / "docs", folder, ignore=shutil.ignore_patterns("*.md"))
    shutil.copy(STYLE, folder)
    for path in filter(Path.is_file, map(run_of, markdown())):
        if (notebook := path.with_suffix(".ipynb")).is_file():
            shutil.copy(notebook, folder / "tutorials")
    written = {place(path): page(path) for path in markdown()}
    linked = {file for path in markdown() for _, file in links(path)} - {*markdown()}
    written |= {place(file): source_page(file) for file in linked if not file.startswith("docs/")}
    written |= {f"api/{room}.md": room_page(room) for room in rooms()}
    for name, text in written.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")


def main() -> None:
    """Build the site into `build/docs/site`."""
    if lost := {*pages()} ^ {*navigation()}:
        sys.exit(f"the navigation in {SETTINGS.name} and the pages differ by: {', '.join(sorted(lost))}")
    shutil.rmtree(SITE, ignore_errors=True)
    try:
        lay_out(SITE / "pages")
    except FileNotFoundError as error:
        sys.exit(str(error))
    shutil.copy(SETTINGS, SITE)
    zensical = Path(sys.executable).with_name("zensical")
    command = [zensical, "build", "--strict"]
    done = subprocess.run(command, cwd=SITE, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    print(said)
    if done.returncode or WARNING.search(said):
        sys.exit("the site has warnings")


if __name__ == "__main__":
    main()
