"""What operators watch: every metric stands in `monitoring.metrics`."""
