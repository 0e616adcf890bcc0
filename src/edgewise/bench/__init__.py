"""Studies that take hours: many circuits found and judged, resumable cell by cell."""

from edgewise.bench._config import BenchConfig as BenchConfig
from edgewise.bench._config import MethodSpec as MethodSpec
from edgewise.bench._config import TaskSpec as TaskSpec
from edgewise.bench._methods import METHODS as METHODS
from edgewise.bench._prompting import Prompting as Prompting
from edgewise.bench._prompting import prompting_page as prompting_page
from edgewise.bench._prompting import study_prompting as study_prompting
from edgewise.bench._run import Pass as Pass
from edgewise.bench._run import gather as gather
from edgewise.bench._run import run_bench as run_bench
from edgewise.bench._table import BenchPoint as BenchPoint
from edgewise.bench._table import BenchTable as BenchTable
from edgewise.bench._table import is_attribution as is_attribution
from edgewise.bench._table import is_empty as is_empty
