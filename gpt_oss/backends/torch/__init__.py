"""The readable backend, in torch: network.py is the computation, weights.py what it needs of a checkpoint, cache.py the
paged keys and values, ranks.py the processes of torchrun, model.py all of them put together.

torch is imported in this package only.
"""

from gpt_oss.backends.torch.model import TorchModel, open_model

__all__ = ["TorchModel", "open_model"]
