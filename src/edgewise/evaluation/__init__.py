"""Evaluation: what a circuit's numbers are worth, beside the full model's, the empty circuit's and chance."""

from edgewise.evaluation._curve import Point as Point
from edgewise.evaluation._curve import SizeCurve as SizeCurve
from edgewise.evaluation._curve import size_curve as size_curve
from edgewise.evaluation._evaluate import Evaluation as Evaluation
from edgewise.evaluation._evaluate import Measured as Measured
from edgewise.evaluation._evaluate import best_attribution as best_attribution
from edgewise.evaluation._evaluate import evaluate as evaluate
from edgewise.evaluation._evaluate import judge as judge
from edgewise.evaluation._evaluate import recorded_ablation as recorded_ablation
from edgewise.evaluation._stability import Stability as Stability
from edgewise.evaluation._stability import stability as stability
from edgewise.evaluation._statistics import Interval as Interval
from edgewise.evaluation._statistics import bootstrap as bootstrap
