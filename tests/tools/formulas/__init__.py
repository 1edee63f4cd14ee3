"""What a forward pass costs, by formulas: written from the papers' structure, shape by shape, without running any model file.

This is the independent count that `reforg.cost` is held against: it shares nothing with `reforg.costs`, knows nothing of the model
files, and takes from `reforg` only the configs, the shapes of the weights and EViT's schedule. Start with `count.cost`.
"""
