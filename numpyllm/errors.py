"""The one exception for bad input: raised at the door, printed as one line, exit code 2 on the command line."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message states what must hold, what was received, and what to do, in one line.
    """
