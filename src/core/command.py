"""The command that this process runs, for the record of where its results come from."""

_command = ""


def record_command(command: str) -> None:
    """Remember the command line, without secrets."""
    global _command
    _command = command


def recorded_command() -> str:
    """Return the command line that was remembered last; "" if no command runs."""
    return _command
