"""The engine: run a model under masks on its edges, forwards and backwards."""

from edgewise.engine._ablation import Ablation as Ablation
from edgewise.engine._check import Check as Check
from edgewise.engine._check import check as check
from edgewise.engine._check import require as require
from edgewise.engine._constants import Prompts as Prompts
from edgewise.engine._downstream import Downstream as Downstream
from edgewise.engine._downstream import reader_blocks as reader_blocks
from edgewise.engine._engine import Engine as Engine
from edgewise.engine._features import FeatureLayer as FeatureLayer
from edgewise.engine._features import activate as activate
from edgewise.engine._features import check_features as check_features
from edgewise.engine._footprint import Footprint as Footprint
from edgewise.engine._footprint import footprint as footprint
from edgewise.engine._formulas import PLAIN as PLAIN
from edgewise.engine._formulas import RELEVANCE as RELEVANCE
from edgewise.engine._formulas import Rules as Rules
from edgewise.engine._means import mean_writes as mean_writes
from edgewise.engine._qk_fix import query_and_key_effects as query_and_key_effects
from edgewise.engine._stream import CHUNK_BYTES as CHUNK_BYTES
from edgewise.engine._stream import Component as Component
from edgewise.engine._stream import Objective as Objective
from edgewise.engine._stream import Stream as Stream
from edgewise.engine._stream import StreamRun as StreamRun
from edgewise.engine._writes import Writes as Writes
from edgewise.engine._writes import constant_writes as constant_writes
