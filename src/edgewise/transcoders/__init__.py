"""Transcoders: sparse features that stand for an MLP; their mathematics, and everybody's files."""

from edgewise.transcoders._activation import Activation as Activation
from edgewise.transcoders._exchange import FORMATS as FORMATS
from edgewise.transcoders._exchange import Format as Format
from edgewise.transcoders._exchange import read as read
from edgewise.transcoders._exchange import unlike as unlike
from edgewise.transcoders._exchange import write as write
from edgewise.transcoders._gradients import NORMALIZATIONS as NORMALIZATIONS
from edgewise.transcoders._gradients import Objective as Objective
from edgewise.transcoders._gradients import Outcome as Outcome
from edgewise.transcoders._gradients import loss_and_gradients as loss_and_gradients
from edgewise.transcoders._native import load as load
from edgewise.transcoders._native import save as save
from edgewise.transcoders._on_model import centre as centre
from edgewise.transcoders._on_model import check_site as check_site
from edgewise.transcoders._on_model import check_transcoder as check_transcoder
from edgewise.transcoders._on_model import input_at as input_at
from edgewise.transcoders._on_model import reads_no_mean as reads_no_mean
from edgewise.transcoders._on_model import special_tokens as special_tokens
from edgewise.transcoders._ranks import ALONE as ALONE
from edgewise.transcoders._ranks import Ranks as Ranks
from edgewise.transcoders._sites import CAPTURED as CAPTURED
from edgewise.transcoders._sites import Site as Site
from edgewise.transcoders._sparse import Codes as Codes
from edgewise.transcoders._transcoder import Transcoder as Transcoder
from edgewise.transcoders._transcoder import TranscoderSpec as TranscoderSpec
