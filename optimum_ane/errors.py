"""What can go wrong in a user's hands. Each message says what was wrong, where, and what to do, in one line."""


class ANEError(Exception):
    """Base of every error that a user can mend; the command line prints it without a traceback and exits with 1."""


class CheckpointError(ANEError, ValueError):
    """The source checkpoint is missing, truncated, or contradicts its own configuration."""


class UnsupportedModelError(ANEError, ValueError):
    """No Neural Engine implementation is registered for this architecture, or not for this task."""


class ShapeError(ANEError, ValueError):
    """A shape that cannot work: the message holds the number asked for and the number that is the limit."""


class OutputError(ANEError, OSError):
    """The output cannot be written: it exists already, the disk is full, or permission is lacking."""


class ValidationError(ANEError, RuntimeError):
    """An export that does not answer as the original does. Nothing is left in the output's place."""


class PackageError(ANEError, ValueError):
    """A package on disk is damaged, incomplete, or hostile; the message names the package and the place."""


class UnsupportedOperationError(PackageError):
    """A program contains operations that the runtime lacks; the message names them and where they are used."""


class InputError(ANEError, ValueError):
    """Inputs of a prediction that do not match the package: the message says what was expected and what came."""


class ExecutionError(ANEError, RuntimeError):
    """A prediction that an operation refused, an index out of range say; the message names the operation."""


class RuntimeUnavailableError(ANEError, RuntimeError):
    """The runtime asked for cannot run on this machine."""


class DatasetError(ANEError, ValueError):
    """A dataset that cannot be evaluated; the message names file, row and column."""


class CompressionError(ANEError, ValueError):
    """A compression recipe that is not known, contradicts itself, or does not fit the package."""


class PublishError(ANEError, RuntimeError):
    """A package that was not published, or a Hub that refused it; the message says what stands on the Hub now."""


class CardError(ANEError, ValueError):
    """A card's template that cannot be read or rendered; the message names its line."""
