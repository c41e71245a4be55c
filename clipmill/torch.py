"""Stored features as data sets of PyTorch, for a training loop of one's own.

```python
from torch.utils.data import DataLoader

from clipmill.torch import FeatureDataset, GlobalBatches, collate

dataset = FeatureDataset("out/topics70", "c3d", "clip", part="train", split={"from": "random", "seed": 0})
batches = GlobalBatches(len(dataset), batch=70, seed=0)
loader = DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=2, pin_memory=True)
```

See docs/torch.md.
"""

from clipmill.pipelines.datasets.torch_features import (
    FeatureDataset,
    FeatureStream,
    GlobalBatches,
    Item,
    collate,
)

__all__ = ["FeatureDataset", "FeatureStream", "GlobalBatches", "Item", "collate"]
