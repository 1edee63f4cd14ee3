"""Pictures to arrays: which there are (`inputs`), decoded (`decode`, `colours`), resized, cropped and normalised (`transforms`).

May import the catalog and what stands below it. Start with `prepare`, whose `preprocess` is the whole way.
"""
