"""Items as short codes that follow the stream: hashed content and learned behaviour, quantised by residual k-means."""

from learners.tokenizer.config import TokenizerConfig
from learners.tokenizer.learner import TokenizerLearner

__all__ = ["TokenizerConfig", "TokenizerLearner"]
