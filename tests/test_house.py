"""The rules of the house: who imports whom, where block arithmetic and the norm's formula are, how wide."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "edgewise"

ORDER = [
    "_errors",
    "_plugins",
    "runs",
    "graph",
    "circuit",
    "models",
    "transcoders",
    "engine",
    "_load",
    "tasks",
    "discovery",
    "exchange",
    "attribution",
    "evaluation",
    "tracr",
    "bench",
    "report",
    "viewer",
    "cli",
    "__main__",
]
"""The rooms, from the ground floor up: each imports only from those before it."""

BLOCK_ARITHMETIC = re.compile(
    r"2 \* \(?(\w+\.)*(layer|number|index|i|n_layers|len)\b"  # a layer's blocks
    r"|\b(number|block|layer|reader|column)\w* (//|%) 2\b"  # a block's layer, and its kind
    r"|n_heads \+ 1\b"  # a layer's writers
)
NORM = re.compile(r"rsqrt|(square\(\)|pow\(2\)|\*\* ?2\)?)\.mean\(-1|mean_square")

_USED = re.compile(r"\bew\.([a-z]\w*)\.(\w+)")


@cache
def trees() -> dict[str, ast.Module]:
    """Every module's syntax tree, by its dotted name without `edgewise.`; a room's own is its name alone."""
    found = {}
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text("utf-8"))
    return found


@cache
def exports(package: str) -> dict[str, str]:
    """The module that each public name of a room comes from, as its stub says."""
    stub = SRC.joinpath(*package.split(".")) / "__init__.pyi"
    tree = ast.parse(stub.read_text("utf-8")) if stub.is_file() else ast.Module([], [])
    return {
        alias.asname or alias.name: ".".join(filter(None, (package, node.module)))
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def statements(tree: ast.AST, everywhere: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements: all of them, or those that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if not everywhere and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif everywhere or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from statements(node, everywhere)


def origin(package: str, name: str, seen: tuple[str, ...] = ()) -> str:
    """The module that a name of a package is defined in."""
    joined = f"{package}.{name}" if package else name
    if joined in trees():
        return joined
    source = exports(package).get(name, package)
    return source if source == package or source in seen else origin(source, name, (*seen, source))


@cache
def imports(module: str, *, everywhere: bool = True) -> set[tuple[str, str]]:
    """Edgewise's modules that a module imports: as it says, and where what it names is defined."""
    found = set()
    for node in statements(trees()[module], everywhere):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names if alias.name.split(".")[0] == "edgewise"]
            found |= {(name.removeprefix("edgewise").lstrip("."),) * 2 for name in named}
        elif node.module and node.module.split(".")[0] == "edgewise":
            package = node.module.removeprefix("edgewise").lstrip(".")
            for alias in node.names:
                source = origin(package, alias.name)
                found.add((source if source == f"{package}.{alias.name}".lstrip(".") else package, source))
    return found


def room(module: str) -> str:
    """The room that a module is in."""
    return module.split(".")[0]


def package_of(module: str) -> str:
    """The innermost package that a module is in."""
    return module if (SRC.joinpath(*module.split(".")) / "__init__.py").is_file() else module.rpartition(".")[0]


def test_every_room_is_on_a_floor():
    assert {room(module) for module in trees() if module} <= set(ORDER)


def test_the_page_lists_the_rooms_in_this_order():
    text = (SRC.parents[1] / "docs" / "architecture.md").read_text("utf-8")
    listed = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", text.split("## The rooms")[1].split("\n## ")[0], re.MULTILINE)
    assert listed == [name for name in ORDER if not name.startswith("_")]


def test_a_room_imports_only_from_rooms_above_it_in_the_list():
    wrong = [
        f"{module} imports {source}"
        for module in trees()
        if module
        for _, source in sorted(imports(module))
        if source and room(source) != room(module) and ORDER.index(room(source)) > ORDER.index(room(module))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_room_imports_anothers_private_module():
    """Private is what begins with an underscore; a room within a room may use the outer one's, not the other way."""
    wrong = [
        f"{module} imports {said}"
        for module in trees()
        for said, _ in sorted(imports(module))
        if said.rpartition(".")[2].startswith("_") and said not in ("_errors", "_load", "_plugins")
        if not f"{package_of(module)}.".startswith(f"{said.rpartition('.')[0]}.")
    ]
    assert not wrong, "\n".join(wrong)


def test_commands_use_what_rooms_export():
    """A room's other modules are there only if something else has imported them before."""
    used = {
        (path.name, *found) for path in (SRC / "cli").glob("*.py") for found in _USED.findall(path.read_text("utf-8"))
    }
    wrong = [each for each in sorted(used) if exports(each[1]) and each[2] not in exports(each[1])]
    assert used and not wrong, wrong


@pytest.mark.parametrize("everywhere", [False, True], ids=["at import", "within functions too"])
def test_no_import_goes_in_a_circle(everywhere: bool):
    """A room's own `__init__` is lazy, so a name leads to the module that defines it."""
    after = {m: {source for _, source in imports(m, everywhere=everywhere)} - {m} for m in trees()}
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module not in done:
            for source in sorted(after.get(module, ())):
                walk(source, (*path, module))
            done.add(module)

    for module in after:
        walk(module, ())


def lines_with(pattern: re.Pattern[str], *allowed: str) -> list[str]:
    """Lines of code that a pattern is found on, comments excluded, but for the places allowed."""
    return [
        f"{path.relative_to(SRC)}:{number}: {line.strip()}"
        for path in sorted(SRC.rglob("*.py"))
        if not path.relative_to(SRC).as_posix().startswith(allowed)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if pattern.search(line.split("#")[0])
    ]


def test_block_arithmetic_is_in_the_graph_alone():
    assert not lines_with(BLOCK_ARITHMETIC, "graph/")


def test_the_norms_formula_stands_once_outside_the_reference():
    found = {line.split(":")[0] for line in lines_with(NORM, "engine/_reference.py")}
    assert len(found) == 1, found
    assert sum("rsqrt" in line for line in lines_with(NORM, "engine/_reference.py")) == 1


def signatures(module: str) -> Iterator[tuple[str, int]]:
    """Each function of a module and how many parameters it has, `self` and `cls` not counted."""
    for node in ast.walk(trees()[module]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            spec = node.args
            named = [
                each.arg for each in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg) if each
            ]
            yield node.name, len([name for name in named if name not in ("self", "cls")])


@pytest.mark.parametrize("where", ["engine", "discovery"])
def test_no_signature_has_more_than_eight_parameters(where: str):
    found = {
        f"{module}.{name}": n for module in trees() if room(module) == where for name, n in signatures(module) if n > 8
    }
    assert not found
