"""Evaluation: what a circuit's numbers are worth, beside the full model's, the empty circuit's and chance."""

from edgewise.evaluation._areas import MIB_SHARES as MIB_SHARES
from edgewise.evaluation._areas import Areas as Areas
from edgewise.evaluation._areas import MibScores as MibScores
from edgewise.evaluation._areas import areas as areas
from edgewise.evaluation._areas import faithfulness as faithfulness
from edgewise.evaluation._areas import mib_scores as mib_scores
from edgewise.evaluation._curve import Point as Point
from edgewise.evaluation._curve import SizeCurve as SizeCurve
from edgewise.evaluation._curve import size_curve as size_curve
from edgewise.evaluation._evaluate import Evaluation as Evaluation
from edgewise.evaluation._evaluate import Measured as Measured
from edgewise.evaluation._evaluate import best_attribution as best_attribution
from edgewise.evaluation._evaluate import evaluate as evaluate
from edgewise.evaluation._evaluate import judge as judge
from edgewise.evaluation._evaluate import recorded_ablation as recorded_ablation
from edgewise.evaluation._hypotheses import Verdict as Verdict
from edgewise.evaluation._hypotheses import equivalence as equivalence
from edgewise.evaluation._hypotheses import hypothesis_tests as hypothesis_tests
from edgewise.evaluation._hypotheses import independence as independence
from edgewise.evaluation._hypotheses import minimality as minimality
from edgewise.evaluation._hypotheses import partial_necessity as partial_necessity
from edgewise.evaluation._hypotheses import sufficiency as sufficiency
from edgewise.evaluation._stability import Stability as Stability
from edgewise.evaluation._stability import stability as stability
from edgewise.evaluation._statistics import Interval as Interval
from edgewise.evaluation._statistics import bootstrap as bootstrap
