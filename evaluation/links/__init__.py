"""Link prediction on temporal graphs: with a model as of the end of training (`static`), and while it learns (`temporal`)."""

from evaluation.links.graph import Edges, Graph, read_graph
from evaluation.links.scores import Parts, Score
from evaluation.links.static import LinkRanks, LinkScores, Scores, evaluate, rank_links
from evaluation.links.temporal import Stream, StreamScores, TemporalModel, evaluate_stream, read_stream

__all__ = [
    "Edges", "Graph", "LinkRanks", "LinkScores", "Parts", "Score", "Scores", "Stream", "StreamScores", "TemporalModel", "evaluate",
    "evaluate_stream", "rank_links", "read_graph", "read_stream",
]  # fmt: skip
