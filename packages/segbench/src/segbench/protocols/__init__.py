"""How a model is asked and how its scores become labels; the TOML files name every choice."""
