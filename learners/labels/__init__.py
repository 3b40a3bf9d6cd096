"""Labels that arrive late: an online logistic regression per label, and the weights that undo what the delay does to it."""

from learners.labels.buckets import bucket_of, buckets_of
from learners.labels.config import LogisticConfig
from learners.labels.learner import LabelLearner
from learners.labels.model import OnlineLogistic

__all__ = ["LabelLearner", "LogisticConfig", "OnlineLogistic", "bucket_of", "buckets_of"]
