"""A whole dashboard as a user makes it: how long it takes, how large the page is, and what a browser makes of it.

    python benchmarks/dashboard_whole.py runs/set --layer 12 --text builtin --text TEXT --tokens 2000000 \\
        --threads 2 --out runs/dashboard-whole

Runs `edgewise transcoder dashboard` on the texts and then on the sources of the standard library (some ten million
tokens, of which as many are taken as are still wanted), and looks at the page in headless Chromium. TEXT is a folder
with WikiText-2's validation and test texts. A run that was cut short goes on; its time is then that of the last part.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

from edgewise.runs import write_atomically

LOOKED_AT = 20  # features, drawn at random


def sources(path: Path) -> Path:
    """The standard library's sources, its tests too, a file a line; written once."""
    if not path.is_file():
        files = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
        lines = []
        for file in files:
            if "site-packages" not in file.parts:
                text = file.read_bytes().decode("utf-8", "replace")  # the tests of encodings hold broken bytes
                lines.append(json.dumps({"text": text}))
        order = np.random.default_rng(0).permutation(len(lines))
        write_atomically(path, "\n".join(lines[i] for i in order) + "\n")
    return path


def made(args: argparse.Namespace) -> dict[str, Any]:
    """Run the command; seconds, processor seconds, and the largest memory."""
    texts = [*args.text, str(sources(args.out / "sources.jsonl"))]
    command = [sys.executable, "-m", "edgewise", "transcoder", "dashboard", *args.transcoders]
    command += ["--layers", str(args.layer), "--limit", str(args.tokens), "--out", str(args.out)]
    command += [part for text in texts for part in ("--text", text)]
    begin = time.monotonic()
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": str(args.threads)})
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "tokens": args.tokens,
        "threads": args.threads,
        "minutes": (time.monotonic() - begin) / 60,
        "processor_minutes": (used.ru_utime + used.ru_stime) / 60,
        "memory_gb": used.ru_maxrss / 1e6,
    }


def looked_at(path: Path, chromium: str) -> dict[str, Any]:
    """Open the page and some of its features. Ends with an error if the page asks the network, fails, or lets text be
    more than text.
    """
    wrong = list[str]()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1440, "height": 900})
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("request", lambda r: None if r.url.startswith(("file:", "blob:", "data:")) else wrong.append(r.url))
        opened, clicks = opening(tab, path), list[float]()
        n = tab.evaluate("() => JSON.parse(document.getElementById('edgewise-header').textContent).features[0].n")
        for i in np.random.default_rng(0).choice(n, LOOKED_AT, replace=False).tolist():
            begin = time.perf_counter()
            tab.evaluate("i => { location.hash = 'feature=' + i }", i)
            tab.wait_for_function(
                "end => document.querySelector('.dashboard h2').innerText.trim().split(' ')[0].endsWith(end)",
                arg=f".f{i}",
            )
            clicks.append(time.perf_counter() - begin)
        images = tab.locator("img").count()
        tab.screenshot(path=path.with_suffix(".png"))
        browser.close()
    if wrong or images:
        raise SystemExit(f"the page: {wrong[:3]}, {images} images")
    return {
        "megabytes": path.stat().st_size / 1e6,
        "features": n,
        "open_s": opened,
        "feature_s": float(np.median(clicks)),
    }


def opening(tab: Page, path: Path) -> float:
    """Seconds from asking for the page to its first picture."""
    begin = time.perf_counter()
    tab.goto(path.resolve().as_uri())
    tab.wait_for_selector("#app[data-ready]")
    tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    return time.perf_counter() - begin


def main() -> None:
    """Parse, make, look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("transcoders", nargs="+")
    parser.add_argument("--layer", type=int, required=True)
    parser.add_argument("--text", action="append", required=True)
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/dashboard-whole"))
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no browser: install chromium, which looks at the page in the end")
    args.out.mkdir(parents=True, exist_ok=True)
    found = made(args)
    print(json.dumps(found), file=sys.stderr, flush=True)
    (path,) = args.out.glob(f"layer{args.layer}.*.html")
    found |= looked_at(path, chromium)
    write_atomically(args.out / "whole.json", json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
