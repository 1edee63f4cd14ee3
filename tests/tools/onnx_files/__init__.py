"""ONNX files to verify: exported from torch modules (`export`), and changed as other exporters write them (`changes`)."""
