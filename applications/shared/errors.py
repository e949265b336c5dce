"""What can go wrong in a run, each an `ImplayerError` and the matching built-in, with the exit code it leads to."""

from implayer.errors import ImplayerError


class InputError(ImplayerError, ValueError):
    """An argument or a file given by the user cannot be used. The program ends with exit code 2."""


class ImageReadError(InputError):
    """A file is not a picture, is damaged, or is too large or too small to be used."""


class ArrayReadError(InputError):
    """A NumPy file is damaged, or does not hold the pictures that were asked for."""


class SoundReadError(InputError):
    """A file is not a sound, is damaged, or is too long, too short or silent."""


class VideoReadError(InputError):
    """A file or folder is not a video, is damaged, or is too large."""


class RunFolderError(InputError):
    """The output folder cannot be used, or does not hold the run that was asked for."""


class ConfigChangedError(InputError):
    """A run was to go on with another configuration than it was started with."""


class CheckpointError(InputError):
    """A saved model is damaged, belongs to another model, or was written by a newer version."""


class CheckpointWriteError(ImplayerError, OSError):
    """A file of the run could not be written; what was saved before is intact. Exit code 1."""


class NonfiniteError(ImplayerError, ArithmeticError):
    """Training produced NaN or infinity; the last checkpoint is intact. Exit code 1."""


class Interrupted(ImplayerError):
    """The user stopped the run; everything is saved, and how to go on has been said. Exit code 130."""
