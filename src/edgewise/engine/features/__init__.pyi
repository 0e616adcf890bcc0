from ._layers import FeatureLayer as FeatureLayer
from ._layers import activate as activate
from ._layers import check_features as check_features
