"""The one error that a user's input can raise."""


class InputError(ValueError):
    """Something the user gave is wrong: one line that names it, says what is wrong and what would be right.

    The command line prints the message alone and exits with status 2.
    """

    def __init__(self, message: str = "") -> None:
        """Line breaks become blanks, so that it is one line whatever a file's names hold."""
        super().__init__(" ".join(message.splitlines()))
