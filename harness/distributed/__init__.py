"""All of ray.train: the connection to Ray, a TorchTrainer over several workers, and their contexts."""
