"""Canary: a FastConformer encoder and a Transformer decoder that is told by a prompt what to write."""
