"""Small repairs of seams between verl, vLLM, TransferQueue and torchvision.

One module per guard. Each says what goes wrong without it and when it can go; each is idempotent,
does nothing where there is nothing to repair, and has a test in `tests/contract` that fails when the
patched seam changes its shape.
"""
