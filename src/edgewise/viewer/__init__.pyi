from ._graphs import ForeignFile as ForeignFile
from ._graphs import GraphArrays as GraphArrays
from ._graphs import read_foreign as read_foreign
from ._notebook import notebook_html as notebook_html
from ._page import page as page
from ._read import Viewed as Viewed
from ._read import read as read
from ._view import view as view
