from ._notebook import notebook_html as notebook_html
from ._page import page as page
from ._read import Viewed as Viewed
from ._read import read as read
from ._view import view as view
