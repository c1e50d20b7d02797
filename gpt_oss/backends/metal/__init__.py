"""Apple silicon, in mlx: network.py is the computation, weights.py and mapping.py what it needs of a checkpoint,
cache.py the paged keys and values, drawing.py the tokens drawn in the step, model.py all of them put together.

mlx is imported in this package only. Its CPU build on Linux runs the same code in float32, for tests.
"""

from gpt_oss.backends.metal.model import MetalModel, open_model

__all__ = ["MetalModel", "open_model"]
