"""What can be wrong with a model."""


class CheckpointError(Exception):
    """A checkpoint that cannot be served; the message says what is wrong and what would help."""
