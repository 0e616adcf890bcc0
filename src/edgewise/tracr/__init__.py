"""Programs whose circuit is known: compiled with Tracr, their true edges computed, found circuits held against them."""

from edgewise.evaluation import auroc as auroc
from edgewise.tracr._agreement import Agreement as Agreement
from edgewise.tracr._compile import compile_program as compile_program
from edgewise.tracr._compile import load_source as load_source
from edgewise.tracr._library import LIBRARY as LIBRARY
from edgewise.tracr._library import compile_library as compile_library
from edgewise.tracr._live import live_edges as live_edges
from edgewise.tracr._recovery import Recovery as Recovery
from edgewise.tracr._recovery import agreeing_size as agreeing_size
from edgewise.tracr._recovery import compare as compare
from edgewise.tracr._recovery import smallest_agreeing as smallest_agreeing
from edgewise.tracr._search import eliminate as eliminate
from edgewise.tracr._search import idle_edges as idle_edges
from edgewise.tracr._search import prune_program as prune_program
from edgewise.tracr._search import rank_program as rank_program
from edgewise.tracr._truth import Truth as Truth
from edgewise.tracr._truth import find_truth as find_truth
