"""The ablation of CoCu: the paper's models #1 to #4, and which settings to choose."""
