"""Every address outside the tree that pages, docstrings and settings name, each asked whether it is there.

Needs the network; `make docs` checks the links within the tree without it. Fails on an address that is gone, and on one
that could not be reached from here, since that was not checked.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

ROOT = Path(__file__).parents[1]
PATTERNS = (
    "*.md",
    "*.toml",
    "*.cff",
    "docs/**/*.md",
    "src/**/*.py",
    "src/**/*.pyi",
    "site-src/*.toml",
    ".github/**/*.[my]*",
)
HOSTS = {
    "arxiv.org",
    "github.com",
    "keepachangelog.com",
    "no-color.org",
    "semver.org",
    "typer.tiangolo.com",
    "zensical.org",
}
"""Whose pages we link to: a new one is a decision, and a misspelt one is found without the network."""
ADDRESS = re.compile(r"\bhttps?://[^\s<>\"'`()\[\]{}|\\]+")
GONE = (404, 410)
SECONDS = 20


def addresses(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Each place (`file:line`) that names an address, and the address."""
    for path in sorted({path for pattern in PATTERNS for path in root.glob(pattern) if path.is_file()}):
        for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
            for found in ADDRESS.finditer(line):
                yield f"{path.relative_to(root).as_posix()}:{number}", found[0].rstrip(".,;:!?")


def fault(address: str) -> str | None:
    """What is wrong with an address as it is written; None if nothing."""
    parts = urlsplit(address)
    if parts.scheme != "https":
        return "not https"
    return None if parts.hostname in HOSTS else f"{parts.hostname} is not among the hosts of site-src/links.py"


def answer(address: str) -> int | None:
    """The status that its host answers; None if it cannot be reached."""
    for method in ("HEAD", "GET"):
        try:
            with urlopen(Request(address, method=method, headers={"User-Agent": "edgewise"}), timeout=SECONDS) as page:
                return page.status
        except HTTPError as error:
            if method == "GET" or error.code in GONE:
                return error.code
        except (URLError, OSError):
            return None
    return None


def main() -> None:
    """Print each address with what was found, and fail unless all are there."""
    places: dict[str, list[str]] = {}
    for place, address in addresses():
        places.setdefault(address, []).append(place)
    wrong, unreached = 0, 0
    for address, where in places.items():
        said = fault(address)
        status = None if said else answer(address)
        print(f"{said or status or 'not reached':12} {address}  ({', '.join(where)})")
        wrong += said is not None or status in GONE
        unreached += said is None and status is None
    if wrong or unreached:
        sys.exit(f"of {len(places)} addresses {wrong} are wrong, and {unreached} were not reached, so not checked")


if __name__ == "__main__":
    main()
