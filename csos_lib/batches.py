"""A data set in batches, in a new order for each pass."""

from collections.abc import Iterator

import torch
from torch import Tensor

from csos_lib.datasets import Dataset, check_data


class Batches:
    """The training half of a Dataset, checked as a whole and shuffled anew by each pass.

    Args:
        dataset: its training half is used.
        size: rows in a batch, at least 1. The last batch may be smaller; a single row left over joins the one
            before it, since batch normalisation cannot do with one.
        shuffle: draws the orders, on the CPU.
        device: where the batches are.

    Raises:
        ValueError: the data is out of range.

    Chapter 3.
    """

    def __init__(self, dataset: Dataset, size: int, shuffle: torch.Generator, device: torch.device) -> None:
        check_data(dataset.train_images, dataset.train_labels)
        self.images, self.labels = dataset.train_images.to(device), dataset.train_labels.to(device)
        self.largest = int(dataset.train_labels.max())
        self.sizes = [size] * (len(self.labels) // size)
        rest = len(self.labels) - sum(self.sizes)
        if rest == 1 and self.sizes:
            self.sizes[-1] += 1
        elif rest:
            self.sizes.append(rest)
        self.shuffle = shuffle

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels), generator=self.shuffle).to(self.labels.device)
        for batch in order.split(self.sizes):
            yield self.images[batch], self.labels[batch]
