"""The error a user can cause and mend."""


class InputError(ValueError):
    """What was expected, what came, what to do, in one line.

    The command line prints the line and leaves with `exit_code`; any other exception is a fault of ours.
    """

    exit_code = 2
