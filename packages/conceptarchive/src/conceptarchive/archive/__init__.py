"""The concept archive on disk: its files, reading them, checking them, drawing from them."""
