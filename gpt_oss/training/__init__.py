"""Fine-tuning: conversations to tokens, a network with gradients, the loop, LoRA, and checkpoints out of it.

Knows nothing of how models are served. torch is imported by the modules that need it, not by this one.
"""
