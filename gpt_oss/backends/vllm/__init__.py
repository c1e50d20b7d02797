"""vLLM as the engine: in this process (in_process.py), or behind one URL or several (served.py).

Both get token ids and give token ids; Harmony, tools and the conversation stay ours. vllm is imported in in_process.py
only.
"""
