"""What a learnt cluster means: nearest class names, maps of prompts and names, pictures."""
