"""Discovery: one file per method; each takes an engine and a task and gives scores or a circuit."""

from edgewise.discovery._attribution import eap as eap
from edgewise.discovery._attribution import mask_ig as mask_ig
from edgewise.discovery._edge_pruning import EdgePruningConfig as EdgePruningConfig
from edgewise.discovery._edge_pruning import edge_pruning as edge_pruning
from edgewise.discovery._polish import polish as polish
from edgewise.discovery._random import random_scores as random_scores
from edgewise.discovery._ranking import RankingConfig as RankingConfig
from edgewise.discovery._ranking import learn_ranking as learn_ranking
from edgewise.discovery._ranking import learn_rankings as learn_rankings
from edgewise.discovery._scores import Scores as Scores
from edgewise.discovery._scores import edges_at as edges_at
from edgewise.discovery._training import RunOptions as RunOptions
