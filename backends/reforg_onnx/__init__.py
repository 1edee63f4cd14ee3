"""Programs that run ONNX graphs, beside which `reforg bench` measures reforg.

No backend: no operation runs here. May import reforg.config, onnxruntime and OpenVINO. Start with `peer`.
"""
