from ._exchange import FORMATS as FORMATS
from ._exchange import Format as Format
from ._exchange import read as read
from ._exchange import unlike as unlike
from ._exchange import write as write
from ._native import load as load
from ._native import save as save
