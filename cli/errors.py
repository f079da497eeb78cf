"""What a command may end with besides success. Kept free of imports: every start of the command line loads it."""


class CommandError(Exception):
    """The command cannot do what was asked; the message is one line that says why and what to do."""

    exit_code = 1


class WrongUsageError(CommandError):
    """What the person gave cannot be meant: an argument, a file, a setting."""

    exit_code = 2
