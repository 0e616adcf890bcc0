"""The one error that a user's input can raise."""


class InputError(ValueError):
    """Something the user gave is wrong: one line that names it, says what is wrong and what would be right.

    The command line prints the message alone and exits with status 2.
    """

    def __init__(self, message: str = "") -> None:
        """What breaks lines in a name that a file says does not break them here."""
        super().__init__(" ".join(message.splitlines()))
