"""How a mistake's sentence is compared: all of it, or, where it ends in "…", its beginning; the rest is the system's or typer's."""


def says(err: str, sentence: str) -> bool:
    """Whether standard error holds this one sentence, on a line of its own."""
    beginning, dots, _ = sentence.partition("…")
    whole = err == f"{sentence}\n"
    return whole if not dots else err.startswith(beginning) and err.count("\n") == 1 and err.endswith("\n")
