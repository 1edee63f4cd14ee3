"""The fault bench: torch modules that share no code with reforg, faults to plant in them, and what a verification should find."""
