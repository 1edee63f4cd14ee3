"""A model: a config, weights and a backend put together (`creation`), and what can be asked of it (`model`, `answers`).

May import weights, images, costs and what stands below them. Start with `creation.create_model`.
"""
