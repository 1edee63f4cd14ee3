"""What a forward pass costs: the forward pass itself, over arrays that have shapes and no values.

Nothing here knows a family of models. May import catalog, families and what stands below them. Start with `cost.cost`: it runs
the family's `forward` with the operations of `operations` over the arrays of `shaped`, and `ledger` keeps what they do.
"""
