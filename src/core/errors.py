"""Errors that a user can mend."""


class UserError(Exception):
    """Something the user gave, or a file or folder the user owns, is not usable as it is.

    The message is one line: what was wrong, the value, what to do. Entry points print it and
    exit with code 2; earlier results stay as they were.
    """
