"""What crosses between a site and the coordinator: one signed envelope, and fixed sentences for refusals.

Data in: a header, the bytes of tensors, an Ed25519 key. Data out: bytes that the other side checks before it
reads them. Nothing here can carry an exception text, a path or an image; nothing imports torch or NumPy.
"""
