"""The evaluation host: drives the stages over a log, and judges what they serve before they learn it."""

from streams.evaluate.host import Evaluation, Options
from streams.evaluate.labels import Labels

__all__ = ["Evaluation", "Labels", "Options"]
