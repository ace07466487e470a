"""Names to images and labels: scikit-learn's digits, TFDS's image classification sets, and a folder of your own.

Every set has the same four splits. `test` is what TFDS calls so; where TFDS has none it is TFDS's `validation`, and where
there is neither, a fixed 20 % of the images. `train` is the rest. `validation` is held out of `train`: TFDS's own where it
has one beside `test`, otherwise 5,000 images of sets with at least 50,000 training images and 10 % of smaller ones.
`train_minus_validation` is what remains. A folder's subfolders `train`, `test` and `validation` are taken likewise.
Hold-outs are stratified by class and always the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import logging
import math
import os
import re
import sys
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

from zoo.errors import DatasetError, ImageError, UnknownNameError, UsageError, closest, unknown
from zoo.images import read_image, resize_image
from zoo.specs import DatasetSpec

if TYPE_CHECKING:
    import numpy
    import tensorflow as tf

logger = logging.getLogger("zoo")

StrPath = str | os.PathLike[str]
Split = Literal["train", "test", "validation", "train_minus_validation"]
SPLITS: tuple[Split, ...] = get_args(Split)
DEFAULT_SIZE = (64, 64)
"""Height and width that images of differing size are resized to, unless the caller names a size."""
SEED = 0
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
VALIDATION_IMAGES = 5_000
LARGE = 50_000
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")


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
    ink_box: float | None = None
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
        ink_box=24 / 28,  # two pixels of margin all around
        transposed=True,
        first_label=first_label,
        note="TFDS stores the characters transposed; here they stand upright",
    )


def _cifar(name: str, class_names: tuple[str, ...]) -> _Known:
    return _Known(name, (32, 32, 3), class_names, 50_000, 10_000, "https://www.cs.toronto.edu/~kriz/cifar.html", "none stated")


_MERGED = (*_DIGITS, *_UPPER, *"abdefghnqrt")  # letters that look alike in both cases are one class
_KNOWN: Mapping[str, _Known] = {
    "mnist": _Known(
        "mnist", (28, 28, 1), _DIGITS, 60_000, 10_000, "http://yann.lecun.com/exdb/mnist/", "CC BY-SA 3.0", light_on_dark=True, ink_box=20 / 28
    ),
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
        ink_box=1.0,
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


def dataset_info(name: StrPath, *, data_dir: StrPath | None = None) -> DatasetSpec:
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
    name: StrPath,
    split: Split | str,
    *,
    data_dir: StrPath | None = None,
    manual_dir: StrPath | None = None,
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
        raise DatasetError(f"The {split} split of {name} is empty: the set is too small to be split.")
    spec = source.spec
    if labels.min() < 0 or labels.max() >= spec.num_classes:
        raise DatasetError(f"The {split} split of {name} has images without a label, or with one outside its {spec.num_classes} classes.")
    return Dataset(images, labels, dataclasses.replace(spec, image_shape=images.shape[1:]))


class _Source(Protocol):
    """A data set, ready to be read."""

    @property
    def spec(self) -> DatasetSpec: ...

    def read(self, split: str, size: tuple[int, int] | None) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Returns the images, uint8, and the labels, int64, of a split."""


def _source(name: StrPath, data_dir: StrPath | None, manual_dir: StrPath | None, download: bool) -> _Source:
    text = os.fspath(name)
    base = text.partition(":")[0]  # TFDS takes a version, as in mnist:3.0.1
    known = _KNOWN.get(_ALIASES.get(base, base))
    if text == "digits":
        return _Digits()
    folder = Path(text).expanduser()
    if known is None and text and folder.is_dir():
        return _Folder(text, folder)
    if known is None and not re.fullmatch(r"\w+(/[\w.+-]+)?(:\d+\.\d+\.\d+)?", text):
        if os.sep in text or text.startswith((".", "~")):
            raise _no_folder(text)
        raise _unknown(text, [])
    online = download and os.environ.get("ZOO_OFFLINE", "") in ("", "0")
    return _Tfds(text, known, data_dir or os.environ.get("TFDS_DATA_DIR") or None, manual_dir, online)


def _no_folder(name: str) -> UnknownNameError:
    return UnknownNameError(f"The folder {name!r} does not exist, or is not a folder. Expected one with a subfolder of images for each class.")


def _unknown(name: str, others: Iterable[str]) -> UnknownNameError:
    matches = closest(name, {*list_datasets(), *others})
    hint = f" Did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""
    return UnknownNameError(
        f"Unknown data set {name!r}.{hint} Valid data sets: {', '.join(list_datasets())}, "
        "any other image classification set of TensorFlow Datasets, or a folder with one subfolder of images per class."
    )


def _size(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is not None and (len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size)):
        raise UsageError(f"image_size must be a whole number above 0, or (height, width). Received: {image_size!r}.")
    return None if size is None else (size[0], size[1])


# --- splits ------------------------------------------------------------------------------------------------------------

Order = Callable[["numpy.ndarray"], "numpy.ndarray"]
"""Of some rows, the places in the order in which they are held out."""


def _split_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """The number of images in each split, of a set that brings `train`, and perhaps `test` and `validation`."""
    train = sizes.get("train", 0)
    test = sizes["test"] if "test" in sizes else math.ceil(TEST_SHARE * train)
    train -= 0 if "test" in sizes else test
    validation = sizes["validation"] if "validation" in sizes else _validation_size(train)
    train += sizes.get("validation", 0)
    return {"train": train, "test": test, "validation": validation, "train_minus_validation": train - validation}


def _validation_size(images: int) -> int:
    return VALIDATION_IMAGES if images >= LARGE else math.ceil(VALIDATION_SHARE * images)


def _random_order(rows: numpy.ndarray) -> numpy.ndarray:
    import numpy

    return numpy.random.RandomState(SEED).permutation(len(rows))


def _choose(split: str, parts: Container[str], labels: Callable[[str], numpy.ndarray], order: Order = _random_order) -> dict[str, numpy.ndarray]:
    """Finds the images of a split.

    Args:
        split: One of `SPLITS`.
        parts: What the set brings: `train`, and perhaps `test` and `validation`.
        labels: Part -> the labels of its images.
        order: What is held out first.

    Returns:
        Part -> the rows of its images that belong to the split.
    """
    import numpy

    def everything(part: str) -> numpy.ndarray:
        return numpy.arange(len(labels(part)))

    if split in ("test", "validation") and split in parts:
        return {split: everything(split)}
    rows = everything("train")
    if "test" not in parts:
        test = _held_out(labels("train"), math.ceil(TEST_SHARE * len(rows)), order(rows))
        if split == "test":
            return {"train": rows[test]}
        rows = rows[~test]
    if split == "train":
        return {"train": rows, **({"validation": everything("validation")} if "validation" in parts else {})}
    if "validation" in parts:
        return {"train": rows}
    validation = _held_out(labels("train")[rows], _validation_size(len(rows)), order(rows))
    return {"train": rows[validation] if split == "validation" else rows[~validation]}


def _held_out(labels: numpy.ndarray, images: int, order: numpy.ndarray) -> numpy.ndarray:
    """Marks `images` images, of each class its share: at least one, but never all of them."""
    import numpy

    _, inverse, counts = numpy.unique(labels, return_inverse=True, return_counts=True)
    share = counts * images / max(len(labels), 1)
    quota = numpy.floor(share).astype(int)
    quota[numpy.argsort(quota - share, kind="stable")[: images - quota.sum()]] += 1
    quota = numpy.minimum(numpy.maximum(quota, 1), counts - 1)
    marked = numpy.zeros(len(labels), bool)
    for index, count in enumerate(quota):
        marked[order[inverse[order] == index][:count]] = True
    return marked


# --- scikit-learn's digits ---------------------------------------------------------------------------------------------


class _Digits:
    spec = DatasetSpec(
        name="digits",
        image_shape=(8, 8, 1),
        class_names=_DIGITS,
        splits=_split_sizes({"train": 1797}),
        source="scikit-learn's digits: the test part of UCI's Optical Recognition of Handwritten Digits, values scaled from 0..16 to 0..255",
        light_on_dark=True,
        ink_box=1.0,
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
        rows = _choose(split, {"train"}, lambda _: labels)["train"]
        return images[rows] if size in (None, (8, 8)) else _resize(images[rows], size).numpy(), labels[rows]


# --- TensorFlow Datasets -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tfds:
    name: str
    known: _Known | None
    data_dir: StrPath | None
    manual_dir: StrPath | None
    online: bool

    @property
    def tfds_name(self) -> str:
        return self.known.tfds_name + self.name[len(self.name.partition(":")[0]) :] if self.known else self.name

    @property
    def place(self) -> StrPath:
        return self.data_dir or Path("~/tensorflow_datasets").expanduser()

    @property
    def how_to_get(self) -> str:
        return f"python -c \"import zoo; zoo.load_dataset({self.name!r}, 'test')\""

    @functools.cached_property
    def spec(self) -> DatasetSpec:
        known = self.known
        if known is None:
            return self._derived_spec(self._prepared() or self._code())
        return DatasetSpec(
            name=self.name,
            image_shape=known.image_shape,
            class_names=known.class_names,
            splits=_split_sizes({"train": known.train, "test": known.test}),
            source="; ".join(filter(None, [f"TensorFlow Datasets, {self.tfds_name}", known.note])),
            light_on_dark=known.light_on_dark,
            ink_box=known.ink_box,
            homepage=known.homepage,
            license=known.license,
            how_to_get=self.how_to_get,
        )

    def read(self, split: str, size: tuple[int, int] | None) -> tuple[numpy.ndarray, numpy.ndarray]:
        import numpy
        import tensorflow as tf

        builder = self._prepared() or self._prepare()
        if (file_format := builder.info.file_format.value) != "tfrecord":
            raise DatasetError(
                f"{self.name} lies in {builder.data_path} as {file_format}. Expected tfrecord: name another data_dir to prepare it in."
            )
        self.__dict__["spec"] = spec = self.spec if self.known else self._derived_spec(builder)
        image, label = self._keys(builder)
        names = _parts(builder.info.splits)
        if split != "test" and "train" not in names:
            raise DatasetError(f"{self.name} has no training images. Its splits in TFDS: {', '.join(builder.info.splits) or 'none'}.")

        def decode() -> tuple[numpy.ndarray, numpy.ndarray]:
            read = functools.cache(lambda part: _records(builder, names[part], image, label))
            chosen = _choose(split, names, lambda part: read(part)[1])
            encoded, labels = (numpy.concatenate([read(part)[column][rows] for part, rows in chosen.items()]) for column in (0, 1))
            return _decoded(encoded, spec.image_shape, size), labels

        try:
            files = _state(builder)
            images, labels = _KEPT.find((split, size, *files), decode) if files else decode()
        except (tf.errors.OpError, OSError) as error:
            raise DatasetError(
                f"{self.name} is damaged: {_line(error)} Remove {builder.data_path} and get the set again: {self.how_to_get}"
            ) from error
        if self.known and self.known.transposed:
            images = numpy.ascontiguousarray(images.transpose(0, 2, 1, 3))
        return images, labels - (self.known.first_label if self.known else 0)

    def _prepared(self) -> Any:
        """The set's builder where the set lies on the disk, otherwise None."""
        import tensorflow_datasets as tfds

        try:
            return tfds.core.read_only_builder.builder_from_files(self.tfds_name, data_dir=self.data_dir)
        except tfds.core.DatasetNotFoundError:
            return None
        except Exception as error:
            raise DatasetError(f"What TFDS keeps of {self.name} in {self.place} cannot be read: {_line(error)}") from error

    def _code(self) -> Any:
        """The builder that TFDS has the code of, whether or not the set lies on the disk."""
        import tensorflow_datasets as tfds

        base, slash, config = self.tfds_name.partition(":")[0].partition("/")
        try:
            configs = tfds.builder_cls(base).builder_configs
        except tfds.core.DatasetNotFoundError:
            raise _no_folder(self.name) if slash else _unknown(self.name, tfds.list_builders(with_community_datasets=False)) from None
        if slash and config not in configs:
            raise _unknown(self.name, [f"{base}/{name}" for name in configs])
        try:
            return tfds.builder(self.tfds_name, data_dir=self.data_dir)
        except Exception as error:  # each set's code fails in its own way: an unknown configuration, a module that is missing
            raise DatasetError(f"TFDS cannot open {self.name}: {_line(error)}") from error

    def _prepare(self) -> Any:
        """Has TFDS download the set, or read its original files in `manual_dir`, and write it to the disk."""
        import tensorflow_datasets as tfds

        builder = self._code()
        self._keys(builder)  # tells before a long download that the set is not for image classification
        self._check_reach(builder)
        # TFDS finds extracted files again by their names alone, and MNIST's and Fashion-MNIST's are the same.
        name = Path(builder.info.full_name)
        downloads = Path(builder.data_dir).parents[len(name.parts) - 1] / "downloads" / "-".join(name.parts)
        logger.warning("TFDS prepares %s in %s. This happens once.", self.name, builder.data_path)
        config = tfds.download.DownloadConfig(manual_dir=self.manual_dir)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # TFDS prints; standard output is for results
                builder.download_and_prepare(download_dir=downloads, download_config=config)
        except Exception as error:  # each set's code fails in its own way
            advice = (
                "Check the files there."
                if self.manual_dir
                else "Check the network, or put the original files into a folder and name it as manual_dir."
            )
            raise DatasetError(f"TFDS could not prepare {self.name} in {self.place}: {_line(error)} {advice}") from error
        return builder

    def _check_reach(self, builder: Any) -> None:
        """Raises where the set would have to be downloaded and must not be."""
        manual = Path(self.manual_dir).expanduser() if self.manual_dir else None
        if manual and not manual.is_dir():
            raise DatasetError(f"manual_dir {manual} is not a folder. Expected one with the original files of {self.name}.")
        if self.online:
            if manual is None:
                self._check_network(builder)
            return
        if manual is None:
            raise DatasetError(
                f"The data set {self.name!r} is not in {self.place}, and downloads are off (ZOO_OFFLINE or download=False). "
                f"Set TFDS_DATA_DIR to where it is, or get it with: {self.how_to_get}"
            )
        files = sorted({str(info.filename) for info in builder.url_infos.values()})
        if missing := [file for file in files if not (manual / file).is_file()]:
            raise DatasetError(f"Downloads are off, and manual_dir {manual} lacks original files of {self.name}: {', '.join(missing)}.")

    def _check_network(self, builder: Any) -> None:
        """Raises where the set's server cannot be reached: TFDS itself would go on trying for minutes."""
        import urllib.error
        import urllib.request

        url = next((url for url in builder.url_infos if url.startswith("http")), None)
        if url is None:
            return
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=30).close()
        except urllib.error.HTTPError:
            pass  # it answers, and TFDS asks differently
        except OSError as error:
            raise DatasetError(
                f"The data set {self.name!r} is not in {self.place} and cannot be downloaded from {url}: {_line(error)} "
                "Set TFDS_DATA_DIR to where it is, or put the original files into a folder and name it as manual_dir."
            ) from None

    def _keys(self, builder: Any) -> tuple[str, str]:
        """The names of the image and of the label among the set's features."""
        import numpy
        import tensorflow_datasets as tfds

        features = builder.info.features if isinstance(builder.info.features, tfds.features.FeaturesDict) else {}
        images = [key for key, feature in features.items() if type(feature) is tfds.features.Image]
        labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
        supervised = builder.info.supervised_keys or ()
        image = _preferred(images, [*supervised, "image"])
        label = _preferred(labels, [*supervised, "label"])
        if image is None or label is None:
            found = ", ".join(sorted(features)) or "neither"
            raise DatasetError(f"{self.name} is not an image classification set: expected one image and one class label; it has {found}.")
        if (dtype := numpy.dtype(features[image].np_dtype)) != numpy.uint8:
            raise DatasetError(f"{self.name} has images of {dtype}. Expected uint8.")
        return image, label

    def _derived_spec(self, builder: Any) -> DatasetSpec:
        """The set's record as TFDS describes it."""
        image, label = self._keys(builder)
        info = builder.info
        height, width, channels = info.features[image].shape
        feature = info.features[label]
        names = _parts(info.splits)
        sizes = {part: info.splits[split].num_examples for part, split in names.items()}
        return DatasetSpec(
            name=self.name,
            image_shape=(height, width, 1 if channels == 1 else 3),
            class_names=tuple(feature.names or map(str, range(feature.num_classes or 0))),
            splits=_split_sizes(sizes) if "train" in sizes else sizes,
            source=f"TensorFlow Datasets, {info.full_name}",
            homepage=info.homepage or "",
            license=info.redistribution_info.license if info.redistribution_info and info.redistribution_info.license else "",
            how_to_get=self.how_to_get,
        )


def _parts(splits: Container[str]) -> dict[str, str]:
    """`train`, `test` and `validation`, as far as a set brings them, each with the set's own name of it."""
    validation = next((name for name in ("validation", "valid", "val") if name in splits), None)
    parts = {name: name for name in ("train", "test") if name in splits}
    if validation is not None:
        parts["validation" if "test" in parts else "test"] = validation
    return parts


def _preferred(names: list[str], preferences: Iterable[Any]) -> str | None:
    """The first preference that is among the names, or else the only name."""
    return next((name for name in preferences if name in names), names[0] if len(names) == 1 else None)


def _line(error: BaseException) -> str:
    """The first line of an error's message, as a sentence."""
    line = next((line.strip().rstrip(":") for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if line.endswith((".", "!", "?")) else f"{line}."


class _Recent:
    """The splits that were decoded last, so that a second look at one takes no time.

    Args:
        limit: Bytes that are kept; a larger split is not.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.lock = limit, threading.Lock()
        self.splits: OrderedDict[Any, tuple[numpy.ndarray, numpy.ndarray]] = OrderedDict()

    def find(self, key: Any, decode: Callable[[], tuple[numpy.ndarray, numpy.ndarray]]) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Returns the images and labels of a key, the caller's own to change."""
        with self.lock:
            images, labels = self.splits.pop(key) if key in self.splits else decode()
            if images.nbytes > self.limit:
                return images, labels
            self.splits[key] = images, labels
            while sum(kept.nbytes for kept, _ in self.splits.values()) > self.limit:
                self.splits.popitem(last=False)
            return images.copy(), labels.copy()


_KEPT = _Recent(2**28)


def _state(builder: Any) -> list[tuple[str, int, int]]:
    """The files of a prepared set, as they are now; none where one is not a file of this machine."""
    paths = [Path(str(path)) for split in builder.info.splits.values() for path in split.filepaths]
    return [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in paths] if all(path.is_file() for path in paths) else []


def _records(builder: Any, split: str, image: str, label: str) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Reads the encoded images and the labels of one TFDS split, in the order in which they were written."""
    import numpy
    import tensorflow as tf

    features = {image: tf.io.FixedLenFeature([], tf.string), label: tf.io.FixedLenFeature([], tf.int64)}
    files = [str(path) for path in builder.info.splits[split].filepaths]
    # Parsing whole batches takes a tenth of the time that TFDS's own reader takes.
    batches = tf.data.TFRecordDataset(files).batch(1000).map(lambda records: tf.io.parse_example(records, features))
    columns = [(batch[image], batch[label]) for batch in batches.as_numpy_iterator()]
    return numpy.concatenate([column[0] for column in columns]), numpy.concatenate([column[1] for column in columns])


def _decoded(encoded: numpy.ndarray, shape: tuple[int | None, int | None, int], size: tuple[int, int] | None) -> numpy.ndarray:
    """Decodes images of the given shape, and resizes them where a size is given or they differ in size."""
    import numpy
    import tensorflow as tf

    height, width, channels = shape
    target = size or ((height, width) if height and width else DEFAULT_SIZE)

    def decode(data: tf.Tensor) -> tf.Tensor:
        image = tf.ensure_shape(tf.io.decode_image(data, channels, expand_animations=False), shape)
        return image if target == (height, width) else _resize(image, target)

    def decode_batch(batch: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(decode, batch, fn_output_signature=tf.TensorSpec((*target, channels), tf.uint8))

    images = numpy.empty((len(encoded), *target, channels), numpy.uint8)
    batches = tf.data.Dataset.from_tensor_slices(encoded).batch(500).map(decode_batch, num_parallel_calls=tf.data.AUTOTUNE)
    for index, batch in enumerate(batches.as_numpy_iterator()):
        images[500 * index : 500 * index + len(batch)] = batch
    return images


def _resize(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    import tensorflow as tf

    return tf.cast(tf.clip_by_value(tf.round(resize_image(image, *size)), 0, 255), tf.uint8)


# --- a folder ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Folder:
    name: str
    root: Path

    @functools.cached_property
    def parts(self) -> dict[str, str]:
        """Part -> the subfolder with its classes; one part in the folder itself where there is no split."""
        parts = _parts([path.name for path in _subfolders(self.root) if _subfolders(path)])
        return parts if {"train", "test"} <= set(parts) else {"train": "."}

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        names = {part: sorted(path.name for path in _subfolders(self.root / folder)) for part, folder in self.parts.items()}
        for part, found in names.items():
            if different := sorted(set(found) ^ set(names["train"])):
                raise DatasetError(f"The classes of {part} and train in {self.name} differ: {', '.join(different)}.")
        if len(names["train"]) < 2:
            raise DatasetError(
                f"{self.root / self.parts['train']} has {len(names['train'])} subfolders. Expected one with images for each of at least 2 classes."
            )
        return tuple(names["train"])

    @functools.cached_property
    def files(self) -> dict[str, list[tuple[str, int]]]:
        """Part -> the path of each image relative to the folder, in alphabetical order, and its label."""
        files = {}
        for part, folder in self.parts.items():
            classes = [_image_files(self.root / folder / name) for name in self.class_names]
            if empty := [name for name, images in zip(self.class_names, classes, strict=True) if not images]:
                raise DatasetError(f"No images in {self.root / folder} for {', '.join(empty)}. Expected files of {', '.join(SUFFIXES)}.")
            pairs = [(path.relative_to(self.root).as_posix(), label) for label, images in enumerate(classes) for path in images]
            files[part] = sorted(pairs)
        return files

    @functools.cached_property
    def shape(self) -> tuple[int | None, int | None, int]:
        paths = [self.root / path for files in self.files.values() for path, _ in files]
        return _common_shape(tuple((path, path.stat().st_mtime_ns) for path in paths))

    @functools.cached_property
    def spec(self) -> DatasetSpec:
        return DatasetSpec(
            name=self.name,
            image_shape=self.shape,
            class_names=self.class_names,
            splits={split: sum(map(len, self._rows(split).values())) for split in SPLITS},
            source=f"the folder {self.root.resolve()}",
            how_to_get="your own",
        )

    def read(self, split: str, size: tuple[int, int] | None) -> tuple[numpy.ndarray, numpy.ndarray]:
        import numpy

        chosen = [self.files[part][row] for part, rows in self._rows(split).items() for row in rows]
        height, width, channels = self.shape
        target = size or ((height, width) if height and width else DEFAULT_SIZE)

        def read(path: str) -> numpy.ndarray:
            image = _read(self.root / path)
            image = image if image.shape[:2] == target else _resize(image, target).numpy()
            return numpy.broadcast_to(image, (*target, 3))[..., :channels]

        images = numpy.empty((len(chosen), *target, channels), numpy.uint8)
        with ThreadPoolExecutor() as pool:
            for index, image in enumerate(pool.map(read, [path for path, _ in chosen])):
                images[index] = image
        return images, numpy.array([label for _, label in chosen], numpy.int64)

    def _rows(self, split: str) -> dict[str, numpy.ndarray]:
        """The rows of a split; what a file's name hashes to decides alone on its turn to be held out."""
        import numpy

        digests = [hashlib.sha256(unicodedata.normalize("NFC", path).encode()).digest() for path, _ in self.files["train"]]

        def order(rows: numpy.ndarray) -> numpy.ndarray:
            return numpy.array(sorted(range(len(rows)), key=lambda place: digests[rows[place]]))

        return _choose(split, self.parts, lambda part: numpy.array([label for _, label in self.files[part]]), order)


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _image_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")]


def _read(path: Path) -> numpy.ndarray:
    try:
        return read_image(path).numpy()
    except ImageError as error:
        raise DatasetError(str(error)) from None


@functools.lru_cache(maxsize=4)
def _common_shape(files: tuple[tuple[Path, int], ...]) -> tuple[int | None, int | None, int]:
    """The images' shape: height and width None where they differ, one channel where no image has a colour.

    Args:
        files: Paths, with the times of their last change, so that a changed file is looked at anew.
    """

    def look(path: Path) -> tuple[tuple[int, int], bool]:
        image = _read(path)
        return image.shape[:2], bool((image == image[..., :1]).all())

    with ThreadPoolExecutor() as pool:
        sizes, gray = zip(*pool.map(look, [path for path, _ in files]), strict=True)
    height, width = sizes[0] if len(set(sizes)) == 1 else (None, None)
    return height, width, 1 if all(gray) else 3
