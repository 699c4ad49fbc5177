"""How good, how diverse and how safe to share images are."""
