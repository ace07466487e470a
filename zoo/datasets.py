"""Names to images and labels: scikit-learn's digits, TFDS's image classification sets, and a folder of your own.

Every set has the same four splits. `test` is what TFDS calls so; where TFDS has none it is TFDS's `validation`, and where
there is neither, a fixed 20 % of the images. `train` is the rest. `validation` is held out of `train`: TFDS's own where it
has one beside `test`, otherwise 5,000 images of sets with at least 50,000 training images and 10 % of smaller ones.
`train_minus_validation` is what remains. Hold-outs are stratified by class and always the same.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

from zoo.errors import DatasetError, UsageError, unknown
from zoo.specs import DatasetSpec

if TYPE_CHECKING:
    import numpy

Split = Literal["train", "test", "validation", "train_minus_validation"]
SPLITS: tuple[Split, ...] = get_args(Split)
DEFAULT_SIZE = (64, 64)
"""Height and width that images of differing size are resized to, unless the caller names a size."""
SEED = 0
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
VALIDATION_IMAGES = 5_000
LARGE = 50_000


class Dataset(NamedTuple):
    """Images with their labels.

    Attributes:
        images: uint8, shape `(n, height, width, channels)`, values 0..255.
        labels: int64, shape `(n,)`, indices into `spec.class_names`.
        spec: The record of the set that they come from.
    """

    images: numpy.ndarray
    labels: numpy.ndarray
    spec: DatasetSpec


@dataclass(frozen=True)
class _Known:
    """A TFDS set whose facts are written down here, so that they can be had without importing TFDS."""

    tfds_name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    train: int
    test: int
    homepage: str
    license: str
    light_on_dark: bool = False
    transposed: bool = False
    first_label: int = 0
    note: str = ""


_DIGITS = tuple("0123456789")
_UPPER = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_LOWER = tuple("abcdefghijklmnopqrstuvwxyz")
_CIFAR100 = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle caterpillar cattle chair "
    "chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard "
    "lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear "
    "pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail "
    "snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale "
    "willow_tree wolf woman worm"
)


def _emnist(variant: str, class_names: tuple[str, ...], train: int, test: int, first_label: int = 0) -> _Known:
    return _Known(
        tfds_name=f"emnist/{variant}",
        image_shape=(28, 28, 1),
        class_names=class_names,
        train=train,
        test=test,
        homepage="https://www.nist.gov/itl/products-and-services/emnist-dataset",
        license="none stated; made by NIST, an agency of the United States",
        light_on_dark=True,
        transposed=True,
        first_label=first_label,
        note="TFDS stores the characters transposed; here they stand upright",
    )


def _cifar(name: str, class_names: tuple[str, ...]) -> _Known:
    return _Known(name, (32, 32, 3), class_names, 50_000, 10_000, "https://www.cs.toronto.edu/~kriz/cifar.html", "none stated")


_MERGED = (*_DIGITS, *_UPPER, *"abdefghnqrt")  # letters that look alike in both cases are one class
_KNOWN: Mapping[str, _Known] = {
    "mnist": _Known("mnist", (28, 28, 1), _DIGITS, 60_000, 10_000, "http://yann.lecun.com/exdb/mnist/", "CC BY-SA 3.0", light_on_dark=True),
    "fashion_mnist": _Known(
        "fashion_mnist",
        (28, 28, 1),
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        60_000,
        10_000,
        "https://github.com/zalandoresearch/fashion-mnist",
        "MIT",
        light_on_dark=True,
    ),
    "kmnist": _Known(
        "kmnist",
        (28, 28, 1),
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        60_000,
        10_000,
        "http://codh.rois.ac.jp/kmnist/index.html.en",
        "CC BY-SA 4.0",
        light_on_dark=True,
    ),
    "emnist/balanced": _emnist("balanced", _MERGED, 112_800, 18_800),
    "emnist/byclass": _emnist("byclass", (*_DIGITS, *_UPPER, *_LOWER), 697_932, 116_323),
    "emnist/bymerge": _emnist("bymerge", _MERGED, 697_932, 116_323),
    "emnist/digits": _emnist("digits", _DIGITS, 240_000, 40_000),
    "emnist/letters": _emnist("letters", _UPPER, 88_800, 14_800, first_label=1),
    "emnist/mnist": _emnist("mnist", _DIGITS, 60_000, 10_000),
    "cifar10": _cifar("cifar10", ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")),
    "cifar100": _cifar("cifar100", tuple(_CIFAR100.split())),
    "svhn": _Known(
        "svhn_cropped",
        (32, 32, 3),
        _DIGITS,
        73_257,
        26_032,
        "http://ufldl.stanford.edu/housenumbers/",
        "for non-commercial use only",
        note="the extra training images are left out",
    ),
}
_ALIASES: Mapping[str, str] = {"svhn_cropped": "svhn", "emnist": "emnist/byclass"}  # TFDS, too, takes emnist for byclass


def list_datasets() -> list[str]:
    """Lists the data sets that are known by name; any other TFDS image classification set, and a folder, work as well.

    Example:
        >>> list_datasets()[:3]
        ['cifar10', 'cifar100', 'digits']
    """
    return sorted(["digits", *_KNOWN])


def dataset_info(name: str | os.PathLike[str], *, data_dir: str | os.PathLike[str] | None = None) -> DatasetSpec:
    """Returns what is known about a data set, without reading its images.

    Args:
        name: As `load_dataset` takes it.
        data_dir: Where TFDS keeps its data sets; only looked at for sets that `list_datasets` does not list.

    Raises:
        UnknownNameError: Neither a data set nor a folder.
        DatasetError: The set is not one for image classification, or the folder is malformed.

    Example:
        >>> dataset_info("emnist/letters").num_classes
        26
    """
    return _source(name, data_dir, None, False).spec


def load_dataset(
    name: str | os.PathLike[str],
    split: Split | str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    manual_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    image_size: int | tuple[int, int] | None = None,
) -> Dataset:
    """Reads one split of a data set into memory.

    Args:
        name: One of `list_datasets()`, another TFDS image classification set by its TFDS name, or the path of a folder
            with one subfolder of images per class (inside `train` and `test` where the split is yours).
        split: `train`, `test`, or for choosing among models `validation` and `train_minus_validation`.
        data_dir: Where TFDS keeps its data sets; the variable TFDS_DATA_DIR, then TFDS's default where None.
        manual_dir: A folder with the set's original files, which TFDS then reads instead of downloading them.
        download: Whether a set that is missing may be downloaded. The variable ZOO_OFFLINE=1 forbids it, too.
        image_size: Height and width, or one number for both, to resize the images to. Where None they keep their size; if
            they differ in size, they become 64 x 64.

    Returns:
        The images, their labels and the set's record, always in the same order.

    Raises:
        UnknownNameError: Neither a data set nor a folder, or no such split.
        DatasetError: The set is missing, damaged, or not one for image classification.

    Example:
        >>> digits = load_dataset("digits", "test")
        >>> digits.images.shape, digits.images.dtype, digits.spec.class_names[3]
        ((360, 8, 8, 1), dtype('uint8'), '3')
    """
    if split not in SPLITS:
        raise unknown("split", str(split), SPLITS)
    source = _source(name, data_dir, manual_dir, download)
    images, labels = source.read(split, _size(image_size))
    if not len(labels):
        raise DatasetError(f"The {split} split of {name} is empty: the set is too small for it.")
    if labels.min() < 0 or labels.max() >= source.spec.num_classes:
        raise DatasetError(f"The {split} split of {name} has images without a label, or labels outside its {source.spec.num_classes} classes.")
    return Dataset(images, labels, dataclasses.replace(source.spec, image_shape=images.shape[1:]))


class _Source(Protocol):
    """A data set, ready to be read."""

    @property
    def spec(self) -> DatasetSpec: ...

    def read(self, split: str, size: tuple[int, int] | None) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Returns the images, uint8, and the labels, int64, of a split."""


def _source(
    name: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None, manual_dir: str | os.PathLike[str] | None, download: bool
) -> _Source:
    text = os.fspath(name)
    known = _ALIASES.get(text, text)
    if text == "digits":
        return _Digits()
    if known not in _KNOWN and Path(text).expanduser().is_dir():
        raise NotImplementedError
    online = download and os.environ.get("ZOO_OFFLINE", "0") in ("", "0")
    return _Tfds(text, _KNOWN.get(known), data_dir or os.environ.get("TFDS_DATA_DIR"), manual_dir, online)


def _size(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is not None and (len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size)):
        raise UsageError(f"image_size must be a whole number above 0, or (height, width). Received: {image_size!r}.")
    return None if size is None else (size[0], size[1])


# --- splits ------------------------------------------------------------------------------------------------------------


def _split_sizes(images: int, test: int | None = None) -> dict[str, int]:
    """The number of images in each split, of `images` for training, or of all where the set brings no test images."""
    if test is None:
        test = math.ceil(TEST_SHARE * images)
        images -= test
    validation = _validation_size(images)
    return {"train": images, "test": test, "validation": validation, "train_minus_validation": images - validation}


def _validation_size(images: int) -> int:
    return VALIDATION_IMAGES if images >= LARGE else math.ceil(VALIDATION_SHARE * images)


def _rows(split: str, labels: numpy.ndarray, *, brings_test: bool) -> numpy.ndarray:
    """Which images belong to a split: of the training images, or of all where the set brings no test images."""
    import numpy

    rows = numpy.arange(len(labels))
    if not brings_test:
        test = _held_out(labels, math.ceil(TEST_SHARE * len(labels)))
        if split == "test":
            return rows[test]
        rows = rows[~test]
    if split == "train":
        return rows
    validation = _held_out(labels[rows], _validation_size(len(rows)))
    return rows[validation] if split == "validation" else rows[~validation]


def _held_out(labels: numpy.ndarray, images: int) -> numpy.ndarray:
    """Marks `images` images, of each class its share."""
    import numpy

    classes, inverse, counts = numpy.unique(labels, return_inverse=True, return_counts=True)
    share = counts * images / len(labels)
    quota = numpy.floor(share).astype(int)
    quota[numpy.argsort(quota - share, kind="stable")[: images - quota.sum()]] += 1
    order = numpy.random.RandomState(SEED).permutation(len(labels))
    marked = numpy.zeros(len(labels), bool)
    for index in range(len(classes)):
        marked[order[inverse[order] == index][: quota[index]]] = True
    return marked


# --- scikit-learn's digits ---------------------------------------------------------------------------------------------


class _Digits:
    spec = DatasetSpec(
        name="digits",
        image_shape=(8, 8, 1),
        class_names=_DIGITS,
        splits=_split_sizes(1797),
        source="scikit-learn's digits: the test part of UCI's Optical Recognition of Handwritten Digits, values scaled from 0..16 to 0..255",
        light_on_dark=True,
        homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        license="CC BY 4.0",
        how_to_get="comes with scikit-learn",
    )

    def read(self, split: str, size: tuple[int, int] | None) -> tuple[numpy.ndarray, numpy.ndarray]:
        import numpy
        from sklearn.datasets import load_digits

        data = load_digits()
        images = numpy.rint(data.images[..., None] * (255 / 16)).astype(numpy.uint8)
        labels = data.target.astype(numpy.int64)
        rows = _rows(split, labels, brings_test=False)
        return images[rows], labels[rows]


# --- TensorFlow Datasets -----------------------------------------------------------------------------------------------


@dataclass
class _Tfds:
    name: str
    known: _Known | None
    data_dir: str | os.PathLike[str] | None
    manual_dir: str | os.PathLike[str] | None
    download: bool

    @property
    def spec(self) -> DatasetSpec:
        if self.known is None:
            raise unknown("data set", self.name, list_datasets())
        return DatasetSpec(
            name=self.name,
            image_shape=self.known.image_shape,
            class_names=self.known.class_names,
            splits=_split_sizes(self.known.train, self.known.test),
            source="TensorFlow Datasets, " + "; ".join(filter(None, [self.known.tfds_name, self.known.note])),
            light_on_dark=self.known.light_on_dark,
            homepage=self.known.homepage,
            license=self.known.license,
        )

    def read(self, split: str, size: tuple[int, int] | None) -> tuple[numpy.ndarray, numpy.ndarray]:
        import numpy
        import tensorflow_datasets as tfds

        spec, known = self.spec, self.known
        assert known is not None
        builder = tfds.core.read_only_builder.builder_from_files(known.tfds_name, data_dir=self.data_dir)
        images, labels = _read_records(
            [str(path) for path in builder.info.splits["test" if split == "test" else "train"].filepaths], spec.image_shape
        )
        labels = labels - known.first_label
        images = numpy.ascontiguousarray(images.transpose(0, 2, 1, 3)) if known.transposed else images
        if split != "test":
            rows = _rows(split, labels, brings_test=True)
            images, labels = images[rows], labels[rows]
        return images, labels


def _read_records(files: list[str], shape: Any) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Decodes TFDS's records a batch at a time, four times as fast as one by one."""
    import numpy
    import tensorflow as tf

    features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def decode(records: Any) -> Any:
        example = tf.io.parse_example(records, features)
        images = tf.map_fn(
            lambda data: tf.io.decode_png(data, channels=shape[-1]), example["image"], fn_output_signature=tf.TensorSpec(shape, tf.uint8)
        )
        return images, example["label"]

    batches = tf.data.TFRecordDataset(files).batch(1000).map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return numpy.concatenate(images), numpy.concatenate(labels)
