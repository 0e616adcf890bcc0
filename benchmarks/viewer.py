"""How quick the viewer is on a large graph: python benchmarks/viewer.py [--nodes N] [--edges N] [--trace FILE].

Makes a graph, writes its page and looks at it in headless Chromium: how large the file is, how long it takes to open,
from the pointer's move to the picture, and from the slider's move to the picture. A time to a picture ends after the
frame in which it was drawn. `--trace` keeps Chromium's own trace of it all.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from edgewise.viewer import GraphArrays, page

LAYERS, TOKENS = 30, 64
MOVES, SLIDES, OPENINGS = 300, 60, 3
WATCH = """
window.delays = { pointermove: [], input: [] };
for (const kind of ["pointermove", "input"]) {
  addEventListener(kind, (event) => {
    const begun = event.timeStamp;
    requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => window.delays[kind].push(performance.now() - begun);
      port2.postMessage(0); // comes after the frame
    });
  });
}
"""


def made(n_nodes: int, n_edges: int) -> GraphArrays:
    """Features in every layer and at every token, errors, and three outputs; edges at random from lower to higher."""
    random = np.random.default_rng(0)
    n_features = n_nodes - TOKENS - LAYERS * TOKENS - 3
    kind = np.repeat([0, 3, 4, 6], [TOKENS, n_features, LAYERS * TOKENS, 3])
    inner = random.integers(0, LAYERS, n_features), random.integers(0, TOKENS, n_features)
    places = np.repeat(np.arange(LAYERS), TOKENS), np.tile(np.arange(TOKENS), LAYERS)
    layer = np.concatenate([np.full(TOKENS, -1), inner[0], places[0], np.full(3, LAYERS)])
    position = np.concatenate([np.arange(TOKENS), inner[1], places[1], np.full(3, TOKENS - 1)])
    order = np.argsort(layer, kind="stable")
    kind, layer, position = kind[order], layer[order], position[order]
    first = np.searchsorted(layer, np.arange(-1, LAYERS + 2))
    drawn = random.choice(np.flatnonzero((kind == 3) | (kind == 6)), 3 * n_edges)
    sources = (random.random(3 * n_edges) * first[layer[drawn] + 1]).astype(np.int64)
    key = np.unique((drawn * n_nodes + sources)[position[sources] <= position[drawn]])
    key = np.sort(random.choice(key, n_edges, replace=False))
    targets, sources = key // n_nodes, key % n_nodes
    root_weight = np.zeros(n_nodes)
    root_weight[kind == 6] = (0.6, 0.3, 0.1)
    return GraphArrays(
        "benchmark",
        [f" word{i}" for i in range(TOKENS)],
        kind,
        layer,
        position,
        random.random(n_nodes),
        [f"m{a}.f{i}@{b}" for i, (a, b) in enumerate(zip(layer, position, strict=True))],
        [""] * n_nodes,
        root_weight,
        np.concatenate([[0], np.cumsum(np.bincount(targets, minlength=n_nodes))]),
        sources,
        random.standard_normal(n_edges) ** 3,
    )


def opening(tab: Page, address: str) -> float:
    """Seconds from asking for the page to its first picture."""
    begun = time.perf_counter()
    tab.goto(address)
    tab.wait_for_selector("#app[data-ready]")
    tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    return time.perf_counter() - begun


def delays(tab: Page, kind: str) -> dict[str, float]:
    """Milliseconds to the picture, after the moves of one kind."""
    found = np.array(tab.evaluate("kind => window.delays[kind]", kind))
    return {"n": len(found), "median_ms": float(np.median(found)), "p95_ms": float(np.quantile(found, 0.95))}


def measured(address: str, chromium: str, trace: str | None) -> dict[str, object]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1440, "height": 900})
        tab.add_init_script(WATCH)
        times = [opening(tab, address) for _ in range(OPENINGS)]
        if trace:
            browser.start_tracing(page=tab, path=trace)
        random = np.random.default_rng(0)
        slider = tab.get_by_label("Share of all influence")
        slider.fill("1000")  # every node is shown
        for x, y in random.uniform((60, 100), (980, 840), (MOVES, 2)):
            tab.mouse.move(float(x), float(y))
        pointer = delays(tab, "pointermove")
        tab.evaluate("() => { window.delays.input = [] }")
        for value in random.integers(100, 1000, SLIDES):
            slider.fill(str(value))
        found = {"open_s": sorted(times)[OPENINGS // 2], "pointer": pointer, "slider": delays(tab, "input")}
        if trace:
            browser.stop_tracing()
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=50_000)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--trace", help="where to write Chromium's trace, to be opened in its own viewer of traces")
    chosen = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        parser.error("no chromium is installed")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_text(page([made(chosen.nodes, chosen.edges)]), encoding="utf-8")
        found = {"nodes": chosen.nodes, "edges": chosen.edges, "file_mb": path.stat().st_size / 1e6}
        print(json.dumps(found | measured(path.as_uri(), chromium, chosen.trace), indent=2))


if __name__ == "__main__":
    main()
