"""Errors of the log protocol. Each says which setting or command is the way out."""


class FreshetError(Exception):
    """Base of every error that Freshet raises on purpose."""


class SettingsError(FreshetError):
    """A setting is missing or cannot be used; the message names it."""


class GapError(FreshetError):
    """A record starts behind the next expected position: rows between the two are missing."""


class PositionLostError(FreshetError):
    """A stored position cannot be continued: below the log's start, or of a topic that was made anew."""


class SnapshotError(FreshetError):
    """A checkpoint is incomplete, damaged, or was made by other settings."""


class SendError(FreshetError):
    """A send failed. The writer stops at the first one, or a hole would stand behind the tail for ever."""
