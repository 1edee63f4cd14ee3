"""What a candidate has computed, by the names of a trace: arrays, files, functions, torch modules, ONNX files.

May import the error model and the findings. Start with `recording`.
"""
