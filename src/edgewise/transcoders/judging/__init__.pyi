from ._judge import Judged as Judged
from ._judge import Loss as Loss
from ._judge import TranscoderEvaluation as TranscoderEvaluation
from ._judge import evaluate_transcoders as evaluate_transcoders
from ._rules import RuleScore as RuleScore
from ._rules import RuleScores as RuleScores
from ._rules import score_rules as score_rules
