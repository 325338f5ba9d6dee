"""How good is a set of label maps: counts, the figures that follow, and how sure they are."""
