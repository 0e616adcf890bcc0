from ._choose import export as export
from ._choose import import_graph as import_graph
from ._tables import edge_table as edge_table
from ._tables import to_networkx as to_networkx
