"""Circuits in the formats of others, and under other conventions; what a conversion changed is said."""

from edgewise.exchange._convert import convert as convert
from edgewise.exchange._hub import pull as pull
from edgewise.exchange._hub import push as push
from edgewise.exchange._mib import read_mib as read_mib
from edgewise.exchange._mib import write_mib as write_mib
from edgewise.exchange._official import read_edges as read_edges
from edgewise.exchange._official import write_edges as write_edges
from edgewise.exchange._published import PUBLISHED as PUBLISHED
from edgewise.exchange._published import greater_than_hanna as greater_than_hanna
from edgewise.exchange._published import ioi_wang as ioi_wang
from edgewise.exchange._tables import edge_table as edge_table
from edgewise.exchange._tables import from_edge_table as from_edge_table
from edgewise.exchange._tables import to_networkx as to_networkx
