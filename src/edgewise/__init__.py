"""edgewise finds circuits in transformers: the few edges between components that carry one behaviour."""

from importlib.metadata import version as _version

from edgewise import bench as bench
from edgewise import features as features
from edgewise import tasks as tasks
from edgewise import tracr as tracr
from edgewise import transcoders as transcoders
from edgewise._errors import InputError as InputError
from edgewise._load import load_model as load_model
from edgewise.circuit import Circuit as Circuit
from edgewise.discovery import EdgePruningConfig as EdgePruningConfig
from edgewise.discovery import NodePruningConfig as NodePruningConfig
from edgewise.discovery import OptimalConfig as OptimalConfig
from edgewise.discovery import RankingConfig as RankingConfig
from edgewise.discovery import RunOptions as RunOptions
from edgewise.discovery import Scores as Scores
from edgewise.discovery import acdc as acdc
from edgewise.discovery import atp_star as atp_star
from edgewise.discovery import choose_features as choose_features
from edgewise.discovery import eap as eap
from edgewise.discovery import eap_ig as eap_ig
from edgewise.discovery import edge_pruning as edge_pruning
from edgewise.discovery import ensemble as ensemble
from edgewise.discovery import exact as exact
from edgewise.discovery import feature_effects as feature_effects
from edgewise.discovery import flow as flow
from edgewise.discovery import learn_ranking as learn_ranking
from edgewise.discovery import learn_rankings as learn_rankings
from edgewise.discovery import learned_engine as learned_engine
from edgewise.discovery import load_constants as load_constants
from edgewise.discovery import mask_ig as mask_ig
from edgewise.discovery import missed as missed
from edgewise.discovery import node_eap as node_eap
from edgewise.discovery import node_ig as node_ig
from edgewise.discovery import node_pruning as node_pruning
from edgewise.discovery import optimal_constants as optimal_constants
from edgewise.discovery import polish as polish
from edgewise.discovery import random_scores as random_scores
from edgewise.discovery import relevance as relevance
from edgewise.discovery import save_constants as save_constants
from edgewise.engine import Ablation as Ablation
from edgewise.engine import Engine as Engine
from edgewise.evaluation import Evaluation as Evaluation
from edgewise.evaluation import Stability as Stability
from edgewise.evaluation import compare as compare
from edgewise.evaluation import evaluate as evaluate
from edgewise.evaluation import size_curve as size_curve
from edgewise.evaluation import stability as stability
from edgewise.graph import Graph as Graph
from edgewise.graph import GraphSpec as GraphSpec
from edgewise.models import Model as Model
from edgewise.report import draw as draw
from edgewise.report import draw_curve as draw_curve
from edgewise.report import draw_recovery as draw_recovery

__version__ = _version("edgewise")
