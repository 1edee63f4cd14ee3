"""Images to answers: which images there are, what a model says about each, and how that is written down."""

from reforg.classification.pipeline import Answer, Classifier, answers, predicted

__all__ = ["Answer", "Classifier", "answers", "predicted"]
