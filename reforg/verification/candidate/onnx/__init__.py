"""ONNX files as candidates: run by onnxruntime, their nodes matched with the steps of the reference.

Start with `files`.
"""
