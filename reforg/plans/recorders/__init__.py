"""How the pieces of each family become steps: functions with their pieces' signatures, and symbols for arrays.

A recorder has a table `PIECES`: the piece that it takes over -> its function, and the pieces inside that go with it.
May import the modules of reforg.plans above this folder, reforg.ops and reforg.config. Start with `vit`.
"""
