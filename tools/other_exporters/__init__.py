"""Files of exporters that are not among the project's own dependencies, and what bqc makes of them."""
