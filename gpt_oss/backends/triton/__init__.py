"""The fast backend for GPUs: kernels in Triton, experts kept as MXFP4, answers computed by CUDA graphs.

One file a kernel (mxfp4, experts, route, attention, norm, rotary, sampling), each with its roofline; network.py is the
row of them, weights.py the loading, model.py all put together. docs/triton.md is for users. triton is imported in this
package only.
"""

from gpt_oss.backends.triton.model import TritonModel, open_model

__all__ = ["TritonModel", "open_model"]
