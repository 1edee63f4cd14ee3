"""ONNX files as candidates: run by onnxruntime, their nodes matched with the steps of the reference.

May import models, the error model and what stands below them, onnx and onnxruntime. Start with `files`, which calls the rest.
"""
