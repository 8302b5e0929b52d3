"""What a command says, in one line, when it cannot do as asked."""


class CommandError(Exception):
    """Shown on stderr without a traceback; the command exits with code 2."""
