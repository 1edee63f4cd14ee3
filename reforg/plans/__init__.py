"""Plans: a forward pass recorded as steps between matrices, which backends lower to what their machine does fastest.

Nothing here computes, and nothing knows a machine or an array library: how matrices lie is a `Layout` that the engine gives.
May import reforg.ops and reforg.config. Start with `recording`, which calls a forward pass and returns its program; `steps` has
what a program is made of, and `recorders` how the pieces of each family of models become steps.
"""
