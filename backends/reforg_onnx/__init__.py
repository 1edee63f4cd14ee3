"""Programs that run ONNX graphs, beside which `reforg bench` measures reforg."""
