"""Telling that a device has no memory for a batch, in the words of each library, and giving memory back."""

import sys

from clipmill.schemas.recipe import Recipe

_WORDS = (
    "out of memory",  # CUDA, in PyTorch's and onnxruntime's messages
    "can't allocate memory",  # PyTorch's allocator of the CPU
    "Failed to allocate memory",  # onnxruntime
    "_STATUS_ALLOC_FAILED",  # cuBLAS and cuDNN
)


class BatchTooLargeError(Exception):
    """The device has no memory for a forward pass of `batch_windows` windows of `recipe`."""

    def __init__(self, recipe: Recipe, batch_windows: int, message: str) -> None:
        super().__init__(f"{recipe.name}: no memory for {batch_windows} windows: {message}")
        self.recipe = recipe
        self.batch_windows = batch_windows


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether an extractor failed for want of memory (`torch.cuda.OutOfMemoryError` is one of these)."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def empty_cache() -> None:
    """Gives the memory that PyTorch keeps for later back to the device."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        from clipmill.extractors.transfers import forget_uploads

        forget_uploads()
        torch.cuda.empty_cache()
