"""Moves events: topics and codecs, ingest, the Faust and replay hosts, checkpoints, the embedded broker, CLI and HTTP."""
