"""Networks: float RGB images 0..1 (B, 3, H, W) in, logits (B, K, H, W) out."""

from classmix_core.models.build import build_model, head_prefixes

__all__ = ["build_model", "head_prefixes"]
