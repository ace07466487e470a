"""Fine-tunes pretrained weights on a folder of images, one subfolder per class, and exports the result.

python fine_tune_folder.py photographs
python fine_tune_folder.py photographs --weights cnn.mnist --epochs 30 --augment shift --run my-run --to saved_models

The export is served with `zoo serve saved_models`. `zoo train photographs-run` goes on with a run that was stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import zoo
from zoo.specs import AUGMENTATIONS


def fine_tune(folder: Path, weights: str, epochs: int, batch_size: int, augment: list[str], run: Path, to: Path) -> Path:
    """Trains on the folder's images, resized to what the weights take, prints what came of it, and returns the export's directory."""
    images = zoo.dataset_info(folder)
    print(f"{images.splits['train']} training images of {', '.join(images.class_names)}")
    card = zoo.train(
        zoo.Recipe(
            model=weights.partition(".")[0],
            dataset=str(folder),
            initial_weights=weights,
            image_size=zoo.create_model(weights).input_shape[1],
            augmentation=tuple(AUGMENTATIONS[name]() for name in augment),
            epochs=epochs,
            batch_size=batch_size,
            validate=True,
        ),
        run,
    )
    low, high = card.results["test"]["accuracy_interval"]
    print(f"{100 * card.results['test']['accuracy']:.2f} % of the test images ({100 * low:.2f} - {100 * high:.2f})")
    for row in card.results["test"]["classes"]:
        print(f"  {row['name']}: {100 * row['recall']:.0f} % of {row['images']} found")
    return zoo.export_model(run, to=to, name=folder.resolve().name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="images, one subfolder per class")
    parser.add_argument("--weights", default="cnn_bn.mnist", help="pretrained weights to start from (default: cnn_bn.mnist)")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--augment", nargs="*", default=[], choices=list(AUGMENTATIONS))
    parser.add_argument("--run", type=Path, help="the run's directory (default: <folder>-run)")
    parser.add_argument("--to", type=Path, default=Path("saved_models"), help="the model repository (default: saved_models)")
    arguments = parser.parse_args()
    run = arguments.run or Path(f"{arguments.folder.resolve().name}-run")
    try:
        version = fine_tune(arguments.folder, arguments.weights, arguments.epochs, arguments.batch_size, arguments.augment, run, arguments.to)
    except zoo.ZooError as error:
        parser.exit(1, f"{error}\n")
    print(f"exported to {version}; serve it with: zoo serve {arguments.to}")


if __name__ == "__main__":
    main()
