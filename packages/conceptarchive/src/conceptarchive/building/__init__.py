"""Building an archive in stages, on one machine or many."""
