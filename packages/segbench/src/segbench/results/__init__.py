"""What an evaluation found: files, tables, comparisons, pictures."""
