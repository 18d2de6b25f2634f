"""How fast, how large and how right is an engine beside torch, on the GPU of this machine? `make gpu` asks.

torch lives in one interpreter, TensorRT in another; a bundle on disk and lines of JSON are what they share.
"""
