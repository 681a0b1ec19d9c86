"""A trained network put to use: loading, galleries of predictions, ONNX, MLflow's registry and serving."""
