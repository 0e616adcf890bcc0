"""What people look at: pictures of circuits and of how faithful they are.

Drawing needs matplotlib (`pip install edgewise[plot]`), which is imported only when something is drawn.
"""

from edgewise.report._curve import Point, curve
from edgewise.report._picture import draw
from edgewise.report._tradeoff import Tradeoff, tradeoff

__all__ = ["Point", "Tradeoff", "curve", "draw", "tradeoff"]
