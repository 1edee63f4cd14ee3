"""Files to weights, and back into files.

The way in: `loading` opens a source (`checkpoints` read files, `hub` repositories), `containers` find where in it the weights are,
`contents` tell what else was there, `spellings` give them the official names (`spelling_tables` have a table for each program),
`fitting` makes them those of a config, and `mismatch` says whose they are where they do not fit. `convert` writes one plain file,
by way of `array_files`, the one writer of arrays by name.
May import images, the catalog and what stands below them. Start with `loading`, then `fitting`.
"""
