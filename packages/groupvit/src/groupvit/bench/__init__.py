"""Speed and memory against the originals, Hugging Face and the machine's own limits.

python -m groupvit.bench --device cuda
"""
