"""Models: the user's own modules, and where their parts are."""

from edgewise.models._compiled import SHIPPED as SHIPPED
from edgewise.models._compiled import CompiledTransformer as CompiledTransformer
from edgewise.models._compiled import Program as Program
from edgewise.models._compiled import ProgramTokenizer as ProgramTokenizer
from edgewise.models._compiled import load_compiled as load_compiled
from edgewise.models._compiled import save_compiled as save_compiled
from edgewise.models._default import DEFAULT_MODELS as DEFAULT_MODELS
from edgewise.models._load import Model as Model
from edgewise.models._load import from_config as from_config
from edgewise.models._load import load as load
from edgewise.models._load import load_tokenizer as load_tokenizer
from edgewise.models._load import supported as supported
from edgewise.models._load import weights_hash as weights_hash
from edgewise.models._load import wrap as wrap
from edgewise.models._parts import Attention as Attention
from edgewise.models._parts import Heads as Heads
from edgewise.models._parts import Layer as Layer
from edgewise.models._parts import Mlp as Mlp
from edgewise.models._parts import Norm as Norm
from edgewise.models._parts import Parts as Parts
from edgewise.models._parts import Rotary as Rotary
from edgewise.models._plain import PlainConfig as PlainConfig
from edgewise.models._plain import PlainTransformer as PlainTransformer
from edgewise.models._tokens import Tokens as Tokens
