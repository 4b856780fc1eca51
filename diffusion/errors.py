"""Errors that a person can act on; each has its exit status (see README, "Exit statuses")."""


class UserError(Exception):
    """An error whose message is the whole report: no traceback is shown."""

    status = 1


class ConfigError(UserError):
    """A config or command line that cannot run. Exit 2."""

    status = 2

    def __init__(self, field: str, problem: str):
        super().__init__(f"{field}: {problem}")
        self.field = field


class DataError(UserError):
    """Bad data: exit 2 when found before step 0, 1 when met during the run."""

    status = 1


class DiskError(UserError):
    """The disk is full, or refuses to be written. Exit 1; what was saved before stands."""

    status = 1


class PeerError(UserError):
    """Another process of this run is gone or did not come; no collective is possible any more. Exit 1."""

    status = 1


class NonFiniteError(UserError):
    """Too many non-finite steps in a row; a healthy state was saved. Exit 3."""

    status = 3


class MismatchError(UserError):
    """The checkpoint or workdir does not fit this config; nothing was touched. Exit 4."""

    status = 4


class NoValidCheckpoint(UserError):
    """Checkpoints exist, none is valid. Exit 5."""

    status = 5


class Stopped(UserError):
    """Stopped on request after saving; the same command goes on. Exit 75."""

    status = 75
