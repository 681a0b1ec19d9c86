"""MLflow: what goes there, and what happens where its store is away."""
