from ._cache import CachedActivations as CachedActivations
from ._cache import write_cache as write_cache
from ._config import TrainingConfig as TrainingConfig
from ._precision import fastest_precision as fastest_precision
from ._sweep import Sweep as Sweep
from ._sweep import sweep as sweep
from ._train import Trained as Trained
from ._train import train as train
