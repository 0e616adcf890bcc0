"""What people look at: pictures of circuits and of how faithful they are.

Drawing needs matplotlib (`pip install edgewise[plot]`), which is imported only when something is drawn.
"""

from edgewise.evaluation import Point
from edgewise.report._bench_page import bench_page, write_bench
from edgewise.report._canvas import check_path
from edgewise.report._curve import curve, draw_curve
from edgewise.report._panels import draw_bench
from edgewise.report._picture import draw
from edgewise.report._recovery import draw_recovery
from edgewise.report._tradeoff import Tradeoff, tradeoff

__all__ = [
    "Point",
    "Tradeoff",
    "bench_page",
    "check_path",
    "curve",
    "draw",
    "draw_bench",
    "draw_curve",
    "draw_recovery",
    "tradeoff",
    "write_bench",
]
