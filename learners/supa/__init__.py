"""SUPA: instant representation learning over the graph of who met what, one edge at a time."""

from learners.supa.config import SupaConfig
from learners.supa.learner import SupaLearner

__all__ = ["SupaConfig", "SupaLearner"]
