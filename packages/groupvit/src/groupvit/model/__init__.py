"""The grouping vision transformer, its text tower and its losses."""
