"""What may end a script without a traceback. Any other exception is a defect of this project and shows its own."""


class UserError(ValueError):
    """What a user gave is wrong: the message names the value and the remedy. One line, exit code 2."""


class RunError(RuntimeError):
    """A run cannot go on for a reason outside its flags: a worker was killed, say. One line, exit code 1."""
