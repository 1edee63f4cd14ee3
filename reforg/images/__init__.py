"""Pictures to arrays: found (`inputs`), opened (`decode`), brought to sRGB (`colours`), resized, cropped and normalised
(`transforms`) as a record says (`preprocessing`).

May import the catalog and what stands below it. Start with `prepare`, whose `preprocess` is the whole way.
"""
