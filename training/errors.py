"""Errors that a user can mend. Each is one line: what was expected, what came, what to do."""


class UserError(Exception):
    """Something that the user can mend; `training.command.run_command` prints it as one line."""


class NoSuchModel(UserError):
    """The networks of a configuration cannot take or make images of that shape."""


class NotFinite(UserError):
    """A loss, a weight or a latent variable is infinite or not a number."""
