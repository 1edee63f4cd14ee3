"""`reforg demo`: real images through three trained models, and a picture of what EViT kept of them.

May import models and what stands below them. Start with `demonstration`, which measures; `picture` draws.
"""
