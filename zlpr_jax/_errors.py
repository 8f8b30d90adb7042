"""The error for input that its owner has to mend."""


class InputError(ValueError):
    """A file, a setting or a run folder is not what was expected.

    The message is one line that says what was expected, what came, where, and what to
    do. The command line prints it without a traceback and exits with status 2.
    """
