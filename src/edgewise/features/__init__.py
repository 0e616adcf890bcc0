"""Features: activations of a model, training transcoders on them, judging them, and putting them in the MLPs' place."""

from edgewise.features._cache import CachedActivations as CachedActivations
from edgewise.features._cache import write_cache as write_cache
from edgewise.features._capture import capture as capture
from edgewise.features._config import TrainingConfig as TrainingConfig
from edgewise.features._judge import Judged as Judged
from edgewise.features._judge import Loss as Loss
from edgewise.features._judge import TranscoderEvaluation as TranscoderEvaluation
from edgewise.features._judge import evaluate_transcoders as evaluate_transcoders
from edgewise.features._replacement import Replacement as Replacement
from edgewise.features._sweep import Sweep as Sweep
from edgewise.features._sweep import sweep as sweep
from edgewise.features._text import TokenRows as TokenRows
from edgewise.features._text import read_tokens as read_tokens
from edgewise.features._train import Trained as Trained
from edgewise.features._train import train as train
