"""ClassMix (Olsson et al., WACV 2021) in plain PyTorch: torch, torchvision, numpy and nothing else."""
