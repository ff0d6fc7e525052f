"""Mistakes that the user can mend, as opposed to failures of ours.

Everything that a person caused and can put right (a key, a file, an annotation, a full disk) is raised as a
`UserError` whose text is complete by itself: it names the file, the item, what is allowed and what to do. The
command line prints that text alone and exits with 2; any other exception is a failure and exits with 1.
"""


class UserError(Exception):
    """A mistake whose message tells the user what to change. Shown without a traceback."""


class DataError(UserError):
    """A data set, image or annotation that cannot be used as it is."""


class WeightsError(UserError):
    """A weights file that cannot be read or does not fit the model."""


class OutputError(UserError):
    """Results that cannot be written (read-only folder, full disk). Nothing saved earlier is lost."""
