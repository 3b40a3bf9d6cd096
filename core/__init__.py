"""The leaf that every part shares: stages, positions, schemas, event time, counter-based randomness.

Imports none of the other folders, so that a stage can be read, tested and replayed without Kafka, Faust or a clock.
"""
