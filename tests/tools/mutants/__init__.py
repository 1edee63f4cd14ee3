"""How many small mistakes in the models and operations the default tests find; `score.py` says how it is run."""
