"""ONNX files as candidates: run by onnxruntime, their nodes matched with the steps of the reference.

May import the error model, the findings and the families. Start with `files`.
"""
