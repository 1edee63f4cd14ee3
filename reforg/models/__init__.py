"""A model: a config, weights and a backend put together (`creation`), and what can be asked of it (`model`, `answers`).

`backend` finds the installed backends and says what one is, `embedded` are the models that come with the package, `environment`
tells what this machine has. May import weights, images, costs and what stands below them. Start with `creation.create_model`.
"""
